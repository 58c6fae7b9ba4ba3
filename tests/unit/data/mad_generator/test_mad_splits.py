"""How many digits are held out, and which a sample takes."""

import gzip
import shutil
import struct

import numpy as np
import pytest

from i0t.data.mad_generator import generate, load_source


def write_mnist(folder, stem, num):
    """Random digits with labels that go round."""
    images = np.random.default_rng(num).integers(0, 256, (num, 28, 28), dtype=np.uint8)
    for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(num, dtype=np.uint8) % 10)):
        data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))


@pytest.fixture(params=["digits", "mnist", "t10k"])
def source(request, tmp_path):
    """(loads a split, number of training digits with those held out, number of test digits)"""
    if request.param == "digits":
        return lambda split, **options: load_source("digits", split, **options), 1438, 359
    write_mnist(tmp_path, "t10k", 100)
    if request.param == "mnist":
        write_mnist(tmp_path, "train", 300)
    sizes = (300, 100) if request.param == "mnist" else (80, 20)
    return lambda split, **options: load_source("mnist", split, root=tmp_path, **options), *sizes


@pytest.mark.parametrize("val_digits", [None, 20, 50])
def test_held_out_digits_are_stratified_and_in_no_other_split(source, val_digits):
    load, num_training, num_test = source
    train, val, test = (load(split, val_digits=val_digits, seed=1) for split in ("train", "val", "test"))
    assert len(train.labels) + len(val.labels) == num_training
    assert len(test.labels) == num_test
    expected = {1438: 179, 300: 30, 80: 10}[num_training] if val_digits is None else val_digits
    assert len(val.labels) == expected
    indices = [set(part.indices.tolist()) for part in (train, val, test)]
    assert len(set.union(*indices)) == num_training + num_test
    counts = np.bincount(val.labels, minlength=10)
    assert counts.max() - counts.min() <= 2, "ten labels of about equal size"
    assert np.array_equal(load("test", val_digits=None, seed=1).indices, test.indices)


def test_no_digit_held_out_leaves_all_to_train_on_and_val_is_a_sample_of_them(source):
    load, num_training, _ = source
    train, val = load("train", val_digits=0), load("val", val_digits=0)
    assert len(train.labels) == num_training
    assert len(val.labels) == num_training // 10
    assert (np.diff(val.indices) > 0).all()
    at = np.searchsorted(train.indices, val.indices)
    assert np.array_equal(train.images[at], val.images)
    assert np.array_equal(train.labels[at], val.labels)
    assert np.array_equal(load("val", val_digits=0).indices, val.indices)
    assert not np.array_equal(load("val", val_digits=0, seed=1).indices, val.indices)
    assert val.indices.max() > train.indices[num_training // 2], "not the first ones"
    few = load("train", val_digits=0, limit=12), load("val", val_digits=0, limit=12)
    assert len(few[0].indices) == 12
    assert set(few[1].indices) <= set(few[0].indices), "of the digits that are left to train on"


def test_more_digits_than_there_are_cannot_be_held_out(source):
    load, num_training, _ = source
    for count in (num_training, num_training + 5):
        with pytest.raises(ValueError, match=f"val_digits={count} leaves none of the {num_training} training digits"):
            load("train", val_digits=count)
    for count in (3, num_training - 3):  # of ten labels, each must be on both sides
        with pytest.raises(ValueError, match=f"{count} of {num_training} digits cannot be held out label by label"):
            load("val", val_digits=count)


def test_a_sample_is_drawn_without_replacement_and_ordered():
    source = load_source("digits", "test")
    drawn = source.sample(100, seed=0)
    assert len(set(drawn.indices.tolist())) == 100
    assert (np.diff(drawn.indices) > 0).all()
    assert np.array_equal(drawn.images, source.images[np.isin(source.indices, drawn.indices)])
    assert np.array_equal(source.sample(10_000, seed=0).indices, source.indices)
    # Every digit is drawn in about 100 of 359 cases.
    counts = sum(np.isin(source.indices, source.sample(100, seed=seed).indices).astype(int) for seed in range(300))
    assert counts.mean() == pytest.approx(300 * 100 / 359)
    assert np.abs(counts - counts.mean()).max() < 6 * 7.8


def test_the_cache_knows_which_digits_it_holds(tmp_path):
    options = {"limit": 2, "progress": False}
    made = [
        generate(tmp_path, split="train", **options),
        generate(tmp_path, split="train", val_digits=0, **options),
        generate(tmp_path, split="val", **options),
        generate(tmp_path, split="val", val_digits=0, **options),
        generate(tmp_path, split="val", sample=1, **options),
    ]
    assert len({images.folder for images in made}) == 4
    assert made[0].folder == made[1].folder, "the first two digits stay in train, and are not made twice"
    assert [len(images.labels) for images in made] == [2, 2, 2, 2, 1]
    assert made[1].source_indices.tolist() == made[3].source_indices.tolist()
    assert np.array_equal(made[1].images, made[3].images)
    assert made[4].source_indices[0] in made[2].source_indices


def test_a_disk_that_is_too_full_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=2 * 18_816 - 1))
    with pytest.raises(
        ValueError, match=r"MAD's images take 0\.00 GB, but .* has 0\.00 GB left; choose another cache_dir"
    ):
        generate(tmp_path, split="val", limit=2, progress=False)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert len(generate(tmp_path, split="val", limit=1, progress=False).labels) == 1
