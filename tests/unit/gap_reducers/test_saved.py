"""Saving, loading, the NumPy side without torch, and fitting one modality at a time."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from i0t.gap_reducers import (
    AsyncBatchNorm,
    GapReducer,
    LayerNorm,
    MeanShift,
    NoReducer,
    NotFittedError,
    Posthoc,
    load,
)
from i0t.gap_reducers.errors import NotAffineError
from i0t.losses.clip import ClipLoss
from i0t.losses.cyclip import CyClipLoss

DIM = 24


def posthoc():
    return Posthoc(DIM, fit_split="val", strength=0.8, fit_samples=30, seed=5)


def async_bn():
    return AsyncBatchNorm(
        DIM, loss=CyClipLoss(), batch_size=8, learning_rate=0.05, momentum=0.2, eps=1e-4, strength=0.7
    )


def layer_norm():
    reducer = LayerNorm(DIM, strength=0.6)
    generator = torch.Generator().manual_seed(0)
    for parameter in reducer.parameters():  # as if it were trained
        parameter.data += 0.3 * torch.randn(DIM, generator=generator)
    return reducer


KINDS = {
    "none": lambda: NoReducer(DIM),
    "posthoc": posthoc,
    "async_bn": async_bn,
    "mean_shift": lambda: MeanShift(DIM, fit_split="test", direction="difference", strength=-0.4),
    "mean_shift_unit": lambda: MeanShift(DIM, fit_split="test", strength=0.5),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def embeddings(make):
    return make(40, DIM, captions=2)


def fitted(kind, embeddings):
    reducer = KINDS[kind]()
    reducer.fit(embeddings)
    return reducer


def direct(reducer, features, modality):
    with torch.no_grad():
        rows = torch.from_numpy(np.asarray(features))
        return (reducer.reduce_image(rows) if modality == "image" else reducer.reduce_text(rows)).numpy()


# --- the NumPy side ---


@kinds
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_numpy_equals_the_torch_reducer(kind, dtype, modality, embeddings, tmp_path):
    reducer = fitted(kind, embeddings)
    saved = load(reducer.save(tmp_path / "r.safetensors"))
    rows = np.random.default_rng(0).normal(1, 2, size=(7000, DIM)).astype(dtype)  # several blocks and a rest
    apply = saved.image if modality == "image" else saved.text
    reduced = apply(rows)
    expected = direct(reducer.double() if dtype == np.float64 else reducer, rows, modality)
    assert reduced.dtype == (np.float64 if dtype == np.float64 else np.float32)
    np.testing.assert_allclose(reduced, expected, rtol=0, atol=1e-12 if dtype == np.float64 else 3e-7)
    np.testing.assert_array_equal(apply(rows[3]), reduced[3])
    half = np.empty(rows.shape, np.float16)
    assert apply(rows, out=half) is half
    np.testing.assert_array_equal(half, reduced.astype(np.float16))
    assert apply(rows[:0]).shape == (0, DIM)


def test_numpy_by_hand(tmp_path):
    """Images (1, 0) and (0, 1) have the mean (.5, .5): what is left of (3, 4) points along (.1, .3)."""
    reducer = Posthoc(2, fit_split="train")
    reducer.fit_image(torch.tensor([[2.0, 0.0], [0.0, 7.0]]))
    reduced = load(reducer.save(tmp_path / "r.safetensors")).image(np.array([3.0, 4.0]))
    np.testing.assert_allclose(reduced, np.array([0.1, 0.3]) / np.sqrt(0.1), atol=1e-12)


def test_input_is_left_alone_and_may_be_any_view(embeddings, tmp_path):
    saved = load(fitted("posthoc", embeddings).save(tmp_path / "r.safetensors"))
    rows = np.random.default_rng(0).normal(size=(2 * DIM, 60)).astype(np.float32)
    before = rows.copy()
    view = rows.T[::2, ::2]
    np.testing.assert_array_equal(saved.image(view), saved.image(np.ascontiguousarray(view)))
    np.testing.assert_array_equal(rows, before)
    in_place = np.ascontiguousarray(view)
    np.testing.assert_array_equal(saved.image(in_place, out=in_place), saved.image(view))


def test_unusable_rows_and_shapes(embeddings, tmp_path):
    saved = load(fitted("posthoc", embeddings).save(tmp_path / "r.safetensors"))
    rows = np.ones((9000, DIM), np.float32) + np.arange(DIM)
    for bad in (np.nan, np.inf, 0):
        broken = rows.copy()
        broken[[7007, 8000]] = bad
        with pytest.raises(ValueError, match=r"image features are zero, NaN or infinite.*first at row 7007$"):
            saved.image(broken)
    for wrong in (rows[:, :3], rows[None], np.ones((2, DIM), int), np.float32(1)):
        with pytest.raises(ValueError, match=rf"text features must be floating \(N, {DIM}\) or \({DIM},\), got"):
            saved.text(wrong)
    with pytest.raises(ValueError, match="out must be floating"):
        saved.image(rows, out=np.empty((9000, DIM), int))
    own_mean = Posthoc(DIM, fit_split="test")
    own_mean.fit_text(torch.ones(3, DIM))
    with pytest.raises(ValueError, match="1 of 1 reduced text features are zero"):
        load(own_mean.save(tmp_path / "own.safetensors")).text(np.ones(DIM, np.float32))


def test_nothing_of_it_imports_torch(embeddings, tmp_path):
    path = fitted("async_bn", embeddings).save(tmp_path / "r.safetensors")
    code = f"""
import sys
import numpy as np
import i0t.gap_reducers
reducer = i0t.gap_reducers.load({str(path)!r})
print(np.linalg.norm(reducer.text(np.ones((3, {DIM}), np.float16)), axis=1).round(4).tolist())
print([m for m in ("torch", "hydra", "scipy") if m in sys.modules])
from i0t.gap_reducers import Posthoc
print("torch" in sys.modules, Posthoc.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[1.0, 1.0, 1.0]", "[]", "True Posthoc"]


# --- files ---


@pytest.mark.parametrize("kind", [*KINDS, "layer_norm"])
def test_a_torch_reducer_comes_back_with_all_its_state(kind, embeddings, tmp_path):
    reducer = layer_norm() if kind == "layer_norm" else fitted(kind, embeddings)
    path = reducer.save(tmp_path / "r.safetensors", provenance={"files": {"image": "a.npy"}})
    for cls in (type(reducer), GapReducer):
        again = cls.load(path)
        assert type(again) is type(reducer)
        assert not again.training
        for name, value in reducer.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name
        for name in ("dim", "fit_split", "fit_samples", "seed", "strength", "direction", "exact_statistics"):
            assert getattr(again, name, None) == getattr(reducer, name, None)
        for a, b in zip(
            *(r(embeddings.image_features, embeddings.text_features) for r in (reducer, again)), strict=True
        ):
            assert torch.equal(a, b)
    saved_again = again.save(tmp_path / "again.safetensors")  # without its loss
    assert torch.equal(GapReducer.load(saved_again).fitted, reducer.fitted)


def test_the_description_says_what_it_is(embeddings, tmp_path):
    fitted("posthoc", embeddings).save(tmp_path / "r.safetensors", provenance={"files": {"image": "a.npy"}})
    description = json.loads((tmp_path / "r.json").read_text())
    assert description == load(tmp_path / "r.json").description
    assert description["class"] == "i0t.gap_reducers.posthoc.Posthoc"
    assert description["arguments"] == {"dim": DIM, "fit_split": "val", "fit_samples": 30, "strength": 0.8, "seed": 5}
    assert (description["num_fit_images"], description["num_fit_texts"]) == (30, 60)
    assert description["protocol"] == "inductive, statistics from held-out data"
    assert description["provenance"] == {"files": {"image": "a.npy"}}
    assert set(description["versions"]) == {"i0t", "torch", "numpy"}
    assert (tmp_path / "r.safetensors").stat().st_size < 8192


def test_a_loss_is_given_again_to_fit_again(embeddings, tmp_path):
    path = fitted("async_bn", embeddings).save(tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match=r"has no loss to train with: give load\(…, modules="):
        GapReducer.load(path).fit(embeddings)
    again = AsyncBatchNorm.load(path, modules={"loss": ClipLoss()})
    again.fit(embeddings)
    assert isinstance(again.loss, ClipLoss)
    with pytest.raises(ValueError, match=r"takes no argument \['looss'\]"):
        AsyncBatchNorm.load(path, modules={"looss": ClipLoss()})


def test_damaged_and_foreign_files(embeddings, tmp_path, monkeypatch):
    path = fitted("posthoc", embeddings).save(tmp_path / "r.safetensors")
    content = path.read_bytes()
    damaged = tmp_path / "x.safetensors"
    for broken, message in [
        (content[:-8], "is damaged or not a saved reducer"),
        (content[:-1] + bytes([content[-1] ^ 1]), "is damaged: its tensors are not those that were saved"),
        (b"nothing", "is damaged or not a saved reducer"),
        (content.replace(b'\\"format\\": 1', b'\\"format\\": 9'), "is not a saved reducer of format 1"),
    ]:
        assert broken != content
        damaged.write_bytes(broken)
        for read in (load, GapReducer.load):
            with pytest.raises(ValueError, match=message):
                read(damaged)
    with pytest.raises(ValueError, match="there is no saved reducer"):
        load(tmp_path / "none.safetensors")
    with pytest.raises(
        ValueError, match=r"holds a i0t\.gap_reducers\.posthoc\.Posthoc: .* Posthoc\.load, not NoReducer"
    ):
        NoReducer.load(path)


def test_a_file_is_written_whole_or_not_at_all(embeddings, tmp_path, monkeypatch):
    reducer = fitted("posthoc", embeddings)
    path = reducer.save(tmp_path / "r.safetensors")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fails(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fails)
    reducer.fit_image(torch.eye(DIM)[[0] * 30])
    with pytest.raises(OSError, match="disk full"):
        reducer.save(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_cannot_be_saved(tmp_path):
    with pytest.raises(NotFittedError, match="there is nothing to save: Posthoc is not fitted"):
        posthoc().save(tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match=r"is saved as \.safetensors, got .*r\.npz"):
        NoReducer(3).save(tmp_path / "r.npz")
    with pytest.raises(ValueError, match="there is no folder"):
        NoReducer(3).save(tmp_path / "none" / "r.safetensors")
    assert list(tmp_path.iterdir()) == []


# --- kinds of other people ---


class Flip(GapReducer):
    """Not affine after normalisation: the square of each value."""

    needs_fit = True

    def __init__(self, dim, *, fit_split="train", sign=-1.0):
        super().__init__(dim, fit_split=fit_split)
        self.sign = sign

    def _fit(self, rows):
        pass

    def _reduce_image(self, unit_rows):
        return self.sign * unit_rows.square()

    def _reduce_text(self, unit_rows):
        return unit_rows


def test_a_kind_that_is_not_affine_is_saved_for_torch_alone(embeddings, tmp_path):
    flip = Flip(DIM, sign=2.0)
    flip.fit(embeddings)
    path = flip.save(tmp_path / "r.safetensors")
    with pytest.raises(NotAffineError, match=r"Flip is not of the form N\(scale \* N\(x\) \+ shift\)"):
        flip.affine_image()
    with pytest.raises(ValueError, match=r"Flip is not of the form .* cannot be used from NumPy alone"):
        load(path)
    assert Flip.load(path).sign == 2.0
    with pytest.raises(ValueError, match=r"Flip: import that class and call Flip\.load, not GapReducer\.load"):
        GapReducer.load(path)
    with pytest.raises(ValueError, match="Flip is fitted on images and texts together, not on images alone"):
        flip.fit_image(embeddings.image_features)


def test_a_layer_norm_is_saved_for_torch_alone_and_says_how_it_is_used(tmp_path):
    path = layer_norm().save(tmp_path / "r.safetensors")
    assert json.loads((tmp_path / "r.json").read_text())["affine"] is False
    with pytest.raises(ValueError, match=r"LayerNorm is not of the form .* cannot be used from NumPy alone"):
        load(path)
    for affine in (GapReducer.load(path).affine_image, GapReducer.load(path).affine_text):
        with pytest.raises(
            NotAffineError, match=r"its? .*own mean and deviation\. Train it inside a model \(train\.py"
        ):
            affine()


@pytest.mark.parametrize(("kind", "later"), [("async_bn", {"strength", "exact_statistics"}), ("posthoc", {"strength"})])
def test_files_from_before_an_argument_existed_load_with_its_default(kind, later, embeddings, tmp_path):
    path = fitted(kind, embeddings).save(tmp_path / "r.safetensors")
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        description = json.loads(file.metadata()["i0t"])
    assert later < description["arguments"].keys()
    description["arguments"] = {k: v for k, v in description["arguments"].items() if k not in later}
    save_file(tensors, path, {"i0t": json.dumps(description)})
    again = GapReducer.load(path)
    assert again.strength == 1
    assert getattr(again, "exact_statistics", True) is True
    np.testing.assert_array_equal(load(path).maps["image"].scale, tensors["image.scale"])


def test_an_argument_that_is_no_attribute_is_named(tmp_path):
    class Forgets(NoReducer):
        def __init__(self, dim, *, amount=1):
            super().__init__(dim)

    with pytest.raises(ValueError, match="must keep its argument 'amount' as an attribute"):
        Forgets(3).save(tmp_path / "r.safetensors")


# --- one modality at a time ---


def test_fitting_one_modality_after_the_other_is_fitting_an_unpaired_set(embeddings):
    embeddings.pairs = embeddings.pairs[:0]
    for kind in (posthoc, lambda: AsyncBatchNorm(DIM, loss=None, epochs=0, fit_samples=20, seed=2)):
        together, apart = kind(), kind()
        together.fit(embeddings)
        apart.fit_text(embeddings.text_features)
        assert apart.fitted_modalities == ("text",)
        assert apart.calibration_means is None
        apart.fit_image(embeddings.image_features)
        for name, value in together.state_dict().items():
            assert torch.equal(apart.state_dict()[name], value), name
        assert apart.fitted_modalities == ("image", "text")


def test_the_other_modality_raises_until_it_is_fitted(embeddings, tmp_path):
    reducer = Posthoc(DIM, fit_split="train")
    assert reducer.fitted_modalities == ()
    reducer.fit_image(embeddings.image_features)
    both = Posthoc(DIM, fit_split="train")
    both.fit(embeddings)
    reduced = reducer.reduce_image(embeddings.image_features)
    assert torch.equal(reduced, both.reduce_image(embeddings.image_features))
    with pytest.raises(NotFittedError, match=r"Posthoc is fitted on images alone: call fit_text\(\) as well"):
        reducer.reduce_text(embeddings.text_features)
    saved = load(reducer.save(tmp_path / "r.safetensors"))
    with pytest.raises(ValueError, match="was fitted on image alone and has no text map"):
        saved.text(np.ones(DIM))
    np.testing.assert_allclose(saved.image(embeddings.image_features.numpy()), reduced, atol=3e-7)
    again = GapReducer.load(tmp_path / "r.safetensors")
    again.fit_text(embeddings.text_features)
    assert torch.equal(again.text_mean, both.text_mean)


def test_async_bn_trains_on_pairs_only(embeddings):
    with pytest.raises(ValueError, match="trains on pairs and cannot be fitted on texts alone; epochs=0"):
        async_bn().fit_text(embeddings.text_features)


def test_calibration_means_are_those_of_unit_rows(embeddings):
    def mean(rows):
        rows = rows.double().numpy()
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)

    for reducer in (Posthoc(DIM, fit_split="test"), AsyncBatchNorm(DIM, loss=None, epochs=0)):
        assert reducer.calibration_means is None
        reducer.fit(embeddings)
        image, text = reducer.calibration_means
        np.testing.assert_allclose(image, mean(embeddings.image_features), atol=1e-7)
        np.testing.assert_allclose(text, mean(embeddings.text_features), atol=1e-7)
        assert (int(reducer.num_fit_images), int(reducer.num_fit_texts)) == (40, 80)


def test_what_does_not_centre_predicts_no_gap(embeddings):
    """The remaining gap is the error of the means only where both means go to zero."""
    for reducer in (
        NoReducer(DIM),
        LayerNorm(DIM),
        Posthoc(DIM, fit_split="test", strength=0.5),
        MeanShift(DIM, fit_split="test", direction="difference", strength=0.5),
        AsyncBatchNorm(DIM, loss=None, epochs=0, strength=0.9),
        AsyncBatchNorm(DIM, loss=ClipLoss(), epochs=1, batch_size=8, exact_statistics=False),
    ):
        reducer.fit(embeddings)
        assert reducer.calibration_means is None


def test_a_tensor_and_a_file_read_in_chunks_give_the_same(tmp_path, monkeypatch):
    from i0t.gap_reducers import fit_rows
    from i0t.reduce.npy_rows import NpyRows

    monkeypatch.setattr(fit_rows, "CHUNK_ROWS", 64)
    rows = np.random.default_rng(0).normal(1, 1, size=(300, DIM)).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    for arguments in ({}, {"fit_samples": 50, "seed": 3}):
        of_tensor, of_file = (Posthoc(DIM, fit_split="train", **arguments) for _ in range(2))
        of_tensor.fit_text(torch.from_numpy(rows))
        with NpyRows(tmp_path / "rows.npy") as file:
            of_file.fit_text(file)
        assert torch.equal(of_tensor.text_mean, of_file.text_mean)
        assert int(of_file.num_fit_texts) == arguments.get("fit_samples", 300)
