"""The command `i0t-reduce`, called in this process; start-up is tested in one of its own."""

import functools
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from i0t.config import compose
from i0t.embedding_store import save_set
from i0t.embeddings import EmbeddingSet
from i0t.gap_reducers import AsyncBatchNorm, GapReducer, Posthoc, load
from i0t.losses.cyclip import CyClipLoss
from i0t.reduce import apply, main, npy_rows

DIM = 16


def rows(count, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(0.5, 1, size=(count, DIM)).astype(dtype)


def oracle(features, fit_features):
    """The plain formula of I0T_post in float64."""

    def normalise(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    return normalise(normalise(features.astype(float)) - normalise(fit_features.astype(float)).mean(0))


@functools.cache
def compose_once(config_name, overrides, config_dir):
    """Composing takes a third of a second, and most tests want the same."""
    return compose(config_name, overrides, config_dir=config_dir)


@pytest.fixture(autouse=True)
def fast_compose(monkeypatch):
    def cached(config_name, overrides, *, config_dir):
        return compose_once(config_name, tuple(overrides), config_dir)

    monkeypatch.setattr("i0t.reduce.fit.compose", cached)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", rows(300, np.float16, 1))
    np.save("text.npy", rows(500, np.float32, 2))
    return tmp_path


def fit(*arguments, output="r.safetensors", reducer=("gap_reducer=posthoc", "gap_reducer.fit_split=train")):
    main(["fit", *arguments, "--output", output, *reducer])
    return load(output)


def error_of(capsys, *arguments):
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("i0t-reduce: error: ")
    return message


# --- fit ---


def test_fit_on_unpaired_files_equals_the_library(folder, capsys):
    saved = fit("--image", "image.npy", "--text", "text.npy")
    assert "r.safetensors: Posthoc fitted on 300 images and 500 texts" in capsys.readouterr().out
    expected = Posthoc(DIM, fit_split="train")
    expected.fit_image(torch.from_numpy(np.load("image.npy")))
    expected.fit_text(torch.from_numpy(np.load("text.npy")))
    again = GapReducer.load("r.safetensors")
    assert torch.equal(again.image_mean, expected.image_mean)
    assert torch.equal(again.text_mean, expected.text_mean)
    assert saved.description["provenance"]["files"] == {"image": "image.npy", "text": "text.npy"}
    assert saved.description["provenance"]["config"]["_target_"] == "i0t.gap_reducers.posthoc.Posthoc"


def test_fit_on_one_modality_leaves_the_other_unusable(folder, capsys):
    saved = fit("--text", "text.npy", reducer=["gap_reducer=posthoc", "gap_reducer.fit_split=val"])
    assert list(saved.maps) == ["text"]
    message = error_of(capsys, "apply", "r.safetensors", "--image", "image.npy", "--output", "out.npy")
    assert "this reducer was fitted on text alone and has no image map" in message
    assert not (folder / "out.npy").exists()


def test_fit_with_overrides_reads_in_chunks(folder, monkeypatch):
    monkeypatch.setattr("i0t.gap_reducers.fit_rows.CHUNK_ROWS", 37)
    options = ["gap_reducer.strength=.5", "gap_reducer.fit_samples=100", "gap_reducer.seed=7"]
    fit("--image", "image.npy", reducer=["gap_reducer=posthoc", "gap_reducer.fit_split=test", *options])
    again = Posthoc.load("r.safetensors")
    assert (again.strength, again.fit_split, int(again.num_fit_images)) == (0.5, "test", 100)
    expected = Posthoc(DIM, fit_split="test", strength=0.5, fit_samples=100, seed=7)
    expected.fit_image(torch.from_numpy(np.load("image.npy")))
    torch.testing.assert_close(again.image_mean, expected.image_mean, rtol=0, atol=1e-7)


def test_fit_on_a_set_uses_the_rows_of_its_split(folder):
    image, text, index = rows(40), rows(80), np.arange(80) // 2
    split = np.where(np.arange(40) % 4 == 0, "train", "test")
    np.savez("set.npz", image=image, text=text, text_image_index=index, split=split)
    saved = fit("--data", "set.npz")
    assert (saved.description["num_fit_images"], saved.description["num_fit_texts"]) == (10, 20)
    np.testing.assert_allclose(saved.image(image), oracle(image, image[split == "train"]), atol=1e-6)
    np.savez("whole.npz", image=image, text=text)
    np.testing.assert_allclose(
        fit("--data", "whole.npz", output="w.safetensors").image(image), oracle(image, image), atol=1e-6
    )
    held = fit("--data", "whole.npz", "--holdout", ".25", "--seed", "3", output="h.safetensors")
    assert held.description["num_fit_images"] == 10
    save_set(
        EmbeddingSet.from_index(torch.from_numpy(image), torch.from_numpy(text), torch.from_numpy(index)),
        folder / "own",
    )
    assert fit("--data", "own", output="o.safetensors").description["num_fit_texts"] == 80


def test_fit_of_async_bn_takes_pairs_from_an_index(folder):
    np.save("index.npy", np.arange(500) % 300)
    options = ["gap_reducer.batch_size=32", "gap_reducer.learning_rate=.01"]
    fit(
        "--image", "image.npy", "--text", "text.npy", "--index", "index.npy", reducer=["gap_reducer=async_bn", *options]
    )
    again = AsyncBatchNorm.load("r.safetensors")
    expected = AsyncBatchNorm(DIM, loss=CyClipLoss(), batch_size=32, learning_rate=0.01)
    image, text = (torch.from_numpy(np.load(f"{name}.npy")) for name in ("image", "text"))
    expected.fit(EmbeddingSet.from_index(image, text, torch.arange(500) % 300))
    torch.testing.assert_close(again.text_norm.weight, expected.text_norm.weight)
    assert (again.text_norm.weight - 1).abs().max() > 1e-3


def test_a_reducer_of_the_user_is_found_by_its_config(folder, monkeypatch):
    (folder / "mine.py").write_text(
        "import torch\nfrom i0t.gap_reducers import GapReducer\n"
        "class Turn(GapReducer):\n"
        "    def __init__(self, dim, *, sign=1.0):\n        super().__init__(dim)\n        self.sign = sign\n"
        "    def _reduce_image(self, rows):\n        return self.sign * rows\n"
        "    def _reduce_text(self, rows):\n        return rows\n"
        "    def affine_image(self):\n        return torch.full((self.dim,), self.sign), torch.zeros(self.dim)\n"
        "    def affine_text(self):\n        return torch.ones(self.dim), torch.zeros(self.dim)\n"
    )
    (folder / "conf" / "gap_reducer").mkdir(parents=True)
    (folder / "conf" / "gap_reducer" / "turn.yaml").write_text("_target_: mine.Turn\nsign: -1.0\n")
    monkeypatch.syspath_prepend(str(folder))
    saved = fit("--image", "image.npy", "--config-dir", "conf", reducer=["gap_reducer=turn"])
    np.testing.assert_allclose(saved.image(np.full(DIM, 2.0)), np.full(DIM, -0.25))


# --- apply ---


@pytest.mark.parametrize("stored", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("wanted", [None, "float16", "float32"])
@pytest.mark.parametrize("torch_converts", [False, True])
def test_apply_equals_the_plain_formula(folder, monkeypatch, stored, wanted, torch_converts):
    monkeypatch.setattr(apply, "READ_VALUES", 50 * DIM)  # 7 reads, the last of one row
    monkeypatch.setattr(apply, "BLOCK_VALUES", 8 * DIM)
    monkeypatch.setattr(apply, "TORCH_BLOCK_VALUES", 9 * DIM)
    monkeypatch.setattr(apply, "TORCH_VALUES", 0 if torch_converts else 10**9)
    image = rows(301).astype(stored)
    np.save("in.npy", image)
    fit("--image", "image.npy")
    main(
        ["apply", "r.safetensors", "--image", "in.npy", "--output", "out.npy", *(["--dtype", wanted] if wanted else [])]
    )
    out = np.load("out.npy")
    assert out.dtype == np.dtype(wanted or stored).newbyteorder("=")
    expected = oracle(image, np.load("image.npy"))
    half_step = np.spacing(np.abs(expected).astype(np.float16)).astype(float) / 2
    assert (np.abs(out - expected) <= 2e-7 + (half_step if out.dtype == np.float16 else 0)).all()


@pytest.mark.parametrize("reducer", ["posthoc gap_reducer.fit_split=train", "async_bn gap_reducer.epochs=0"])
def test_torch_and_numpy_give_the_same_bits(folder, monkeypatch, reducer):
    saved = fit("--image", "image.npy", reducer=f"gap_reducer={reducer}".split())
    assert (saved.maps["image"].scale == 1).all() == reducer.startswith("posthoc")
    monkeypatch.setattr(npy_rows, "WRITE_BYTES", 100)  # not a whole number of rows
    for limit in (0, 10**9):
        monkeypatch.setattr(apply, "TORCH_VALUES", limit)
        main(["apply", "r.safetensors", "--image", "image.npy", "--output", "out.npy", "--overwrite"])
        np.testing.assert_array_equal(np.load("out.npy"), saved.image(np.load("image.npy")).astype(np.float16))


def test_apply_may_replace_its_input_and_takes_any_number_of_threads(folder):
    saved = fit("--image", "image.npy", "--text", "text.npy")
    text = np.load("text.npy")
    for threads in (1, 3):
        np.save("in.npy", text)
        main(
            [
                "apply",
                "r.safetensors",
                "--text",
                "in.npy",
                "--output",
                "in.npy",
                "--overwrite",
                "--threads",
                str(threads),
            ]
        )
        np.testing.assert_array_equal(np.load("in.npy"), saved.text(text))


def test_apply_to_a_set_keeps_its_other_arrays(folder):
    saved = fit("--image", "image.npy", "--text", "text.npy")
    image, text, index = rows(6, np.float16), rows(9), np.arange(9) % 6
    np.savez("set.npz", image=image, text=text, text_image_index=index, caption=np.array(list("abcdefghi")))
    main(["apply", "r.safetensors", "--data", "set.npz", "--output", "out.npz"])
    with np.load("out.npz") as out:
        assert sorted(out) == ["caption", "image", "text", "text_image_index"]
        np.testing.assert_array_equal(out["image"], saved.image(image).astype(np.float16))
        np.testing.assert_array_equal(out["text"], saved.text(text))
        np.testing.assert_array_equal(out["text_image_index"], index)


def test_a_failure_leaves_the_old_output_and_nothing_else(folder, capsys, monkeypatch):
    monkeypatch.setattr(apply, "READ_VALUES", 50 * DIM)
    fit("--image", "image.npy")
    broken = rows(300)
    broken[[222, 290]] = np.nan
    np.save("in.npy", broken)
    (folder / "out.npy").write_bytes(b"old")
    before = sorted(folder.iterdir())
    arguments = ["apply", "r.safetensors", "--image", "in.npy", "--output", "out.npy"]
    assert "out.npy exists; --overwrite replaces it" in error_of(capsys, *arguments)
    message = error_of(capsys, *arguments, "--overwrite")
    assert "in.npy: 1 of 50 image features are zero, NaN or infinite and have no direction, first at row 222" in message
    assert (folder / "out.npy").read_bytes() == b"old"
    assert sorted(folder.iterdir()) == before


def test_a_full_disk_is_known_before_the_work(folder, capsys, monkeypatch):
    fit("--image", "image.npy")
    monkeypatch.setattr(npy_rows.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    message = error_of(capsys, "apply", "r.safetensors", "--image", "image.npy", "--output", "out.npy")
    assert "out.npy needs 0 MiB, but 0 MiB are free" in message


def test_memory_does_not_grow_with_the_file(folder):
    """Peak memory of two files, one of 64 MB more than the other, in processes of their own."""
    fit("--image", "image.npy")
    peaks = []
    for count in (10_000, 1_010_000):
        np.lib.format.open_memmap("in.npy", "w+", np.float32, (count, DIM))[:] = 1 + np.arange(DIM)
        code = (
            "from i0t.reduce import main\n"
            "main(['apply', 'r.safetensors', '--image', 'in.npy', '--output', 'out.npy', '--overwrite'])\n"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 48  # blocks of two threads, which the small file does not fill
    assert peaks[1] < 200  # torch alone takes more


# --- what is wrong is one line ---


def test_wrong_commands(folder, capsys):
    good = ["gap_reducer=posthoc", "gap_reducer.fit_split=train"]
    np.savez("set.npz", image=rows(4), text=rows(4))
    np.save("flat.npy", np.ones(5))
    np.save("int.npy", np.ones((5, DIM), int))
    np.save("columns.npy", np.asfortranarray(rows(5)))
    (folder / "cut.npy").write_bytes((folder / "image.npy").read_bytes()[:-2])
    (folder / "bad.npy").write_bytes(b"what")
    for arguments, message in [
        (["--image", "image.npy", "gap_reducer=posthoc"], "gap_reducer.fit_split must be given"),
        (["--image", "image.npy", *good, "gap_reducer.strenght=1"], "did you mean 'gap_reducer.strength'?"),
        (["--image", "image.npy", "gap_reducer=posthok"], "did you mean 'posthoc'?"),
        (["--image", "image.npy", "gap_reducer=posthoc", "gap_reducer.fit_split=tset"], "fit_split must be one of"),
        (["--image", "image.npy", *good, "gap_reducer.fit_samples=301"], "fit split has only 300 images"),
        (["--image", "image.npy", "gap_reducer=async_bn"], "cannot be fitted on images alone; epochs=0"),
        (["--image", "image.npy"], "the following arguments are required: gap_reducer=NAME"),
        (good, "give --image, --text or both, or else --data"),
        (["--image", "image.npy", "--data", "set.npz", *good], "give --image, --text or both, or else --data"),
        (["--image", "image.npy", "--holdout", ".5", *good], "--holdout goes with --data"),
        (["--data", "set.npz", "--index", "x.npy", *good], "--index goes with --image and --text"),
        (["--data", "set.npz", "--holdout", "2", *good], "between 0 and 1, got 2.0"),
        (["--image", "none.npy", *good], "there is no file none.npy"),
        (["--image", "cut.npy", *good], "cannot read cut.npy"),
        (["--image", "bad.npy", *good], "cannot read bad.npy"),
        (["--image", "set.npz", *good], "set.npz is not an .npy file"),
        (["--image", "flat.npy", *good], "flat.npy must hold floating (N, D) features, got float64 (5,)"),
        (["--image", "int.npy", *good], "int.npy must hold floating"),
        (["--image", "columns.npy", *good], "columns.npy is stored column by column"),
    ]:
        assert message in error_of(capsys, "fit", "--output", "r.safetensors", *arguments)
    assert not (folder / "r.safetensors").exists()
    assert "is saved as .safetensors" in error_of(capsys, "fit", "--image", "image.npy", "--output", "r.pt", *good)
    assert "there is no folder none" in error_of(capsys, "fit", "--image", "image.npy", "--output", "none/r", *good)
    fit("--image", "image.npy", "--text", "text.npy")
    np.save("narrow.npy", rows(5)[:, :3])
    for arguments, message in [
        (["none.safetensors", "--image", "image.npy"], "there is no saved reducer none.safetensors"),
        (["r.safetensors", "--image", "narrow.npy"], "narrow.npy is 3 wide, but the reducer is for width 16"),
        (["r.safetensors", "--image", "set.npz"], "set.npz must be an .npy file here"),
        (["r.safetensors", "--data", "image.npy"], "image.npy must be an .npz file here"),
        (["r.safetensors", "--image", "image.npy", "--text", "text.npy"], "not allowed with argument --image"),
        (["r.safetensors", "--image", "image.npy", "--threads", "0"], "--threads must be at least 1"),
        (["r.safetensors", "--image", "image.npy", "--dtype", "int8"], "invalid choice: 'int8'"),
    ]:
        assert message in error_of(capsys, "apply", *arguments, "--output", "out.npy")
    assert not (folder / "out.npy").exists()


def test_show_prints_the_description(folder, capsys):
    saved = fit("--image", "image.npy")
    capsys.readouterr()
    main(["show", "r.safetensors"])
    assert json.loads(capsys.readouterr().out) == saved.description


def test_a_traceback_on_request(folder, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="there is no saved reducer"):
        main(["show", "none.safetensors"])


def test_apply_and_help_start_without_torch_and_hydra(folder):
    fit("--image", "image.npy")
    code = (
        "import sys\nfrom i0t.reduce import main\n"
        "main(['apply', 'r.safetensors', '--image', 'image.npy', '--output', 'out.npy'])\n"
        "print([m for m in ('torch', 'hydra', 'scipy', 'pytorch_lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "300 x 16 image rows, float16" in done.stdout
