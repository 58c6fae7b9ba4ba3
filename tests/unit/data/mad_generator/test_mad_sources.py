"""Digit sources and the cache of generated images."""

import gzip
import importlib
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from i0t.data.mad_generator import MorphologyParameters, draw, generate, load_source, render_variants


def write_idx(path, array, *, compress=False, declared=None, cut=0):
    shape = declared or array.shape
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *shape) + array.astype(np.uint8).tobytes()
    data = data[: len(data) - cut]
    path.write_bytes(gzip.compress(data) if compress else data)


def write_mnist(folder, stem, num, *, seed=0, compress=False):
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (num, 28, 28), dtype=np.uint8)
    labels = np.arange(num) % 10
    suffix = ".gz" if compress else ""
    write_idx(folder / f"{stem}-images-idx3-ubyte{suffix}", images, compress=compress)
    write_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}", labels, compress=compress)
    return images, labels


def test_digits_are_split_70_10_20_without_overlap():
    parts = {split: load_source("digits", split, seed=0) for split in ("train", "val", "test")}
    assert {split: len(part.labels) for split, part in parts.items()} == {"train": 1259, "val": 179, "test": 359}
    indices = np.concatenate([part.indices for part in parts.values()])
    assert sorted(indices.tolist()) == list(range(1797))
    for part in parts.values():
        share = np.bincount(part.labels, minlength=10) / len(part.labels)
        assert np.abs(share - 0.1).max() < 0.015
    again, other = (load_source("digits", "test", seed=seed).indices for seed in (0, 1))
    assert np.array_equal(again, parts["test"].indices)
    assert not np.array_equal(other, again)


def test_digits_look_like_mnist():
    from sklearn.datasets import load_digits

    source = load_source("digits", "train")
    assert source.images.shape == (1259, 28, 28)
    assert source.images.dtype == np.uint8
    border = source.images.copy()
    border[:, 2:26, 2:26] = 0
    assert border.max() == 0
    assert source.images.max() == 255
    digits = load_digits()
    assert np.array_equal(source.labels, digits.target[source.indices])
    # An enlarged digit averages over blocks to about the original raised to 1.8.
    blocks = source.images[:, 2:26, 2:26].reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4)) / 255
    expected = (digits.images[source.indices] / 16) ** 1.8
    assert np.corrcoef(blocks.ravel(), expected.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("place", [".", "MNIST/raw"])
def test_mnist_files(tmp_path, compress, place):
    images, labels = write_mnist(tmp_path / place, "train", 200, compress=compress)
    test_images, test_labels = write_mnist(tmp_path / place, "t10k", 50, seed=1, compress=compress)
    train, val, test = (load_source("mnist", split, root=tmp_path) for split in ("train", "val", "test"))
    assert sorted([*train.indices, *val.indices]) == list(range(200))
    assert len(val.indices) == 20
    assert np.bincount(val.labels).tolist() == [2] * 10
    for part in (train, val):
        assert np.array_equal(part.images, images[part.indices])
        assert np.array_equal(part.labels, labels[part.indices])
    assert np.array_equal(test.images, test_images)
    assert np.array_equal(test.labels, test_labels)
    assert test.indices.tolist() == list(range(60_000, 60_050))


def test_mnist_test_files_alone_are_split_with_a_warning(tmp_path, caplog):
    images, _ = write_mnist(tmp_path, "t10k", 200)
    with caplog.at_level(logging.WARNING):
        parts = [load_source("mnist", split, root=tmp_path) for split in ("train", "val", "test")]
    assert "200 digits are split 70/10/20" in caplog.text
    assert [len(part.labels) for part in parts] == [140, 20, 40]
    assert sorted(np.concatenate([part.indices for part in parts]).tolist()) == list(range(60_000, 60_200))
    for part in parts:
        assert np.array_equal(part.images, images[part.indices - 60_000])


def truncate(folder):
    write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((50, 28, 28)), cut=5)


def lengthen(folder):
    write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((50, 28, 28)), declared=(49, 28, 28))


def damage_gzip(folder):
    packed = gzip.compress(b"\0\0\x08\x01" + bytes(4000))
    (folder / "t10k-images-idx3-ubyte").write_bytes(packed[:-9])


def wrong_file(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"<html>not found</html>")


def fewer_labels(folder):
    write_idx(folder / "t10k-labels-idx1-ubyte", np.zeros(49))


def other_size(folder):
    write_idx(folder / "t10k-images-idx3-ubyte", np.zeros((50, 20, 20)))


def eleventh_digit(folder):
    write_idx(folder / "t10k-labels-idx1-ubyte", np.full(50, 10))


def no_labels(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (truncate, "holds 39195 bytes where its header says 39200; delete it"),
        (lengthen, "holds 39200 bytes where its header says 38416"),
        (damage_gzip, "damaged gzip file"),
        (wrong_file, "is not an IDX file"),
        (fewer_labels, "has 50 images but .* has 49 labels"),
        (other_size, r"shape \(20, 20\)"),
        (eleventh_digit, "holds the label 10"),
        (no_labels, r"lacks t10k-labels-idx1-ubyte\[.gz\]"),
    ],
)
def test_damaged_mnist_files_are_named(tmp_path, harm, message):
    write_mnist(tmp_path, "t10k", 50)
    harm(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        load_source("mnist", "test", root=tmp_path)
    assert "\n" not in str(error.value)


def test_missing_mnist_and_unknown_names(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist; put t10k-images"):
        load_source("mnist", "test", root=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no MNIST files; put"):
        load_source("mnist", "test", root=tmp_path)
    with pytest.raises(ValueError, match="set root"):
        load_source("mnist", "test")
    with pytest.raises(ValueError, match="'usps' is not a source of digits; choose one of digits, mnist"):
        load_source("usps", "test")
    with pytest.raises(ValueError, match="'dev' is not a split; choose one of train, val, test"):
        load_source("digits", "dev")


def test_generated_images_are_the_rendered_ones(tmp_path):
    made = generate(tmp_path, split="val", seed=3, limit=3, progress=False)
    source = load_source("digits", "val", seed=3)
    assert made.images.shape == (3, 24, 28, 28)
    assert np.array_equal(made.labels, source.labels[:3])
    assert np.array_equal(made.source_indices, source.indices[:3])
    for image, digit, index in zip(made.images, source.images, source.indices, strict=False):
        assert np.array_equal(image, render_variants(digit, draw(3, int(index), MorphologyParameters())))
    with pytest.raises(ValueError, match="read-only"):
        made.images[0] = 0


def test_images_do_not_depend_on_the_number_of_workers(tmp_path):
    alone = generate(tmp_path / "alone", split="val", limit=30, progress=False)
    together = generate(tmp_path / "together", split="val", limit=30, num_workers=2, progress=False)
    assert np.array_equal(alone.images, together.images)
    assert alone.images.any(axis=(1, 2, 3)).all()


def listing(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_the_cache_is_used_and_keyed_by_everything(tmp_path):
    first = generate(tmp_path, split="val", limit=1, progress=False)
    stamp = (first.folder / "images.npy").stat().st_mtime_ns
    assert generate(tmp_path, split="val", limit=1, progress=False).folder == first.folder
    assert (first.folder / "images.npy").stat().st_mtime_ns == stamp
    others = [
        generate(tmp_path, split="test", limit=1, progress=False),
        generate(tmp_path, split="val", limit=2, progress=False),
        generate(tmp_path, split="val", limit=1, seed=1, progress=False),
        generate(tmp_path, split="val", limit=1, parameters=MorphologyParameters(amount=0.5), progress=False),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 5
    assert len(listing(tmp_path)) == 5
    key = json.loads((first.folder / "key.json").read_text())
    assert key["seed"] == 0
    assert len(key["source_sha256"]) == 64


def test_changed_source_files_change_the_key(tmp_path):
    folders = []
    for seed in (0, 1):
        write_mnist(tmp_path / "mnist", "t10k", 200, seed=seed)
        made = generate(tmp_path / "c", "mnist", "test", root=tmp_path / "mnist", limit=1, progress=False)
        folders.append(made.folder)
    assert folders[0] != folders[1]


@pytest.mark.parametrize("harm", ["images.npy", "labels.npy", "key.json", "missing"])
def test_damaged_caches_are_made_again(tmp_path, harm, caplog):
    made = generate(tmp_path, split="val", limit=1, progress=False)
    images = np.array(made.images)
    if harm == "missing":
        (made.folder / "images.npy").unlink()
    else:
        data = (made.folder / harm).read_bytes()
        (made.folder / harm).write_bytes(data[: len(data) // 2])
    assert np.array_equal(generate(tmp_path, split="val", limit=1, progress=False).images, images)
    assert "is made again" in caplog.text
    assert listing(tmp_path) == [made.folder.name]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    made = generate(tmp_path / "a", split="val", limit=1, progress=False)
    (tmp_path / "b" / f".{made.folder.name}.partial-dead").mkdir(parents=True)
    generate(tmp_path / "b", split="val", limit=1, progress=False)
    assert listing(tmp_path / "b") == [made.folder.name]


def test_an_error_leaves_nothing_behind(tmp_path, monkeypatch):
    # By its name: the package exports the function of the same name.
    module = importlib.import_module("i0t.data.mad_generator.generate")

    def fail(chunks, num_workers):
        yield 0
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "render_all", fail)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, split="val", limit=1, progress=False)
    assert listing(tmp_path) == []


SCRIPT = """
import sys
from i0t.data.mad_generator import generate
if __name__ == "__main__":
    print("start", flush=True)
    made = generate(sys.argv[1], split="train", limit=int(sys.argv[2]), num_workers=2, progress=False)
    print(int(made.images.sum()), "torch" in sys.modules, flush=True)
"""


def start(tmp_path, cache, limit):
    script = tmp_path / "make.py"
    script.write_text(SCRIPT)
    arguments = [sys.executable, str(script), str(cache), str(limit)]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_heed_interrupts
    )


def _heed_interrupts():
    """A suite that a shell runs in the background inherits that Ctrl-C is ignored, and would pass it on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_two_processes_make_one_cache(tmp_path):
    processes = [start(tmp_path, tmp_path / "cache", 30) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert outputs[0] == outputs[1]
    assert outputs[0][1].endswith("False")
    assert len(listing(tmp_path / "cache")) == 1


def group_is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_an_interrupt_ends_the_workers_and_removes_the_partial_cache(tmp_path):
    cache = tmp_path / "cache"
    process = start(tmp_path, cache, 1200)
    deadline = time.monotonic() + 60
    while not (cache.is_dir() and listing(cache)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(5.0)
    assert "partial" in listing(cache)[0]
    # As a terminal does: to the whole group, workers included.
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert listing(cache) == []
    while group_is_alive(process.pid) and time.monotonic() < deadline + 30:
        time.sleep(0.1)
    assert not group_is_alive(process.pid)


@pytest.mark.parametrize(
    ("name", "value"), [("seed", -1), ("num_workers", -2), ("limit", 0), ("sample", 0), ("val_digits", -1)]
)
def test_arguments_out_of_range(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}={value} must be at least"):
        generate(tmp_path, **{name: value})
