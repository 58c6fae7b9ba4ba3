import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from i0t.gap_reducers import AsyncBatchNorm, GapReducer, LayerNorm, MeanShift, NoReducer, NotFittedError, Posthoc
from i0t.gap_reducers.fit_rows import CHUNK_ROWS, select_fit_rows, unit_moments
from i0t.losses.clip import ClipLoss

CPU = torch.device("cpu")
DIM = 8


def posthoc(**arguments):
    return Posthoc(DIM, **{"fit_split": "val", **arguments})


def async_bn(**arguments):
    return AsyncBatchNorm(DIM, **{"loss": ClipLoss(), "batch_size": 4, "learning_rate": 1e-2, **arguments})


KINDS = {
    "none": lambda: NoReducer(DIM),
    "posthoc": posthoc,
    "async_bn": async_bn,
    "mean_shift": lambda: MeanShift(DIM, fit_split="val"),
    "layer_norm": lambda: LayerNorm(DIM),
}
FITTED_KINDS = ("posthoc", "async_bn", "mean_shift")
kinds = pytest.mark.parametrize("kind", KINDS)
fitted_kinds = pytest.mark.parametrize("kind", FITTED_KINDS)


@pytest.fixture
def embeddings(make):
    return make(12, DIM, captions=2)


# --- what every reducer does ---


@kinds
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_returns_unit_vectors_of_the_same_shape(kind, embeddings, dtype):
    reducer = KINDS[kind]()
    reducer.fit(embeddings)
    image, text = reducer(embeddings.image_features.to(dtype), embeddings.text_features.to(dtype).view(4, 6, DIM))
    assert image.shape == (12, DIM)
    assert text.shape == (4, 6, DIM)
    assert image.dtype == text.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for rows in (image, text):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(rows.shape[:-1], dtype=rows.dtype), rtol=0, atol=1e-6)


@kinds
def test_does_not_depend_on_the_input_norms(kind, embeddings):
    reducer = KINDS[kind]()
    reducer.fit(embeddings)
    norms = torch.logspace(-3, 3, 12)[:, None]
    expected = reducer.reduce_image(embeddings.image_features)
    torch.testing.assert_close(reducer.reduce_image(embeddings.image_features * norms), expected)


@kinds
def test_checkpoint_round_trip_with_weights_only(kind, embeddings):
    reducer, file = KINDS[kind](), io.BytesIO()
    reducer.fit(embeddings)
    torch.save(reducer.state_dict(), file)
    file.seek(0)
    loaded = KINDS[kind]()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert bool(loaded.fitted) == (kind in FITTED_KINDS)
    assert int(loaded.num_fit_images) == (12 if kind in FITTED_KINDS else 0)
    before, after = (r(embeddings.image_features, embeddings.text_features) for r in (reducer, loaded))
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a, b)


@kinds
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_unusable_rows_raise_in_eval_mode_only(kind, embeddings, bad):
    reducer = KINDS[kind]()
    reducer.fit(embeddings)
    broken = embeddings.image_features.clone()
    broken[3, 1] = bad
    with pytest.raises(ValueError, match=r"1 of 12 image features are zero, NaN or infinite.*first at row 3$"):
        reducer.reduce_image(broken)
    broken[3] = 0
    with pytest.raises(ValueError, match=r"1 of 12 text features .*first at row 3$"):
        reducer.reduce_text(broken)
    reducer.train()
    assert reducer.reduce_image(broken).shape == broken.shape


@kinds
def test_wrong_width_is_an_error_in_both_modes(kind, embeddings):
    reducer = KINDS[kind]()
    reducer.fit(embeddings)
    for mode in (False, True):
        with pytest.raises(ValueError, match=r"image features have shape \(3, 5\).* width 8"):
            reducer.train(mode).reduce_image(torch.ones(3, 5))


@fitted_kinds
def test_unfitted_use_raises_without_a_call_to_eval(kind, embeddings):
    reducer = KINDS[kind]()
    for reduce in (reducer.reduce_image, reducer.reduce_text):
        with pytest.raises(NotFittedError, match=r"call fit\(\) with the embeddings of its fit_split"):
            reduce(embeddings.image_features)
    assert issubclass(NotFittedError, RuntimeError)
    assert issubclass(NotFittedError, ValueError)


@kinds
def test_fit_leaves_the_mode_and_gradients_alone(kind, embeddings):
    for mode in (False, True):
        reducer = KINDS[kind]().train(mode)
        with torch.inference_mode():  # Lightning validates in it
            reducer.fit(embeddings)
        assert all(module.training == mode for module in reducer.modules())
    image = embeddings.image_features.clone().requires_grad_()
    reducer.eval().reduce_image(image).square().mean(0).sum().backward()
    assert image.grad.abs().max() > 0


@fitted_kinds
def test_fit_takes_inference_tensors_and_features_with_gradients(kind, embeddings):
    expected = KINDS[kind]()
    expected.fit(embeddings)
    with torch.inference_mode():
        embeddings.image_features = embeddings.image_features.clone()
        embeddings.text_features = embeddings.text_features.clone()
    inside = KINDS[kind]()
    with torch.inference_mode():
        inside.fit(embeddings)
    leaf = KINDS[kind]()
    embeddings.image_features = embeddings.image_features.clone().requires_grad_()
    leaf.fit(embeddings)
    assert embeddings.image_features.grad is None
    for other in (inside, leaf):
        for name, value in expected.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name


@fitted_kinds
def test_fitting_twice_equals_fitting_once(kind, make, embeddings):
    once, twice = KINDS[kind](), KINDS[kind]()
    twice.fit(make(9, DIM, seed=4))
    for reducer in (once, twice):
        reducer.fit(embeddings)
    for name, value in once.state_dict().items():
        assert torch.equal(twice.state_dict()[name], value), name


@fitted_kinds
def test_fit_rejects_unusable_features(kind, embeddings):
    embeddings.text_features[5] = math.nan
    reducer = KINDS[kind]()
    with pytest.raises(ValueError, match="1 of 24 text features are zero, NaN or infinite"):
        reducer.fit(embeddings)
    assert not bool(reducer.fitted)
    embeddings.text_features = torch.ones(3, 7)
    with pytest.raises(ValueError, match=r"text features have shape \(3, 7\)"):
        reducer.fit(embeddings)
    embeddings.text_features = torch.ones(0, DIM)
    with pytest.raises(ValueError, match="no text features"):
        reducer.fit(embeddings)


# --- constructor ---


def test_fit_split_and_protocol():
    for measured in ("train", "val", "test"):
        for fitted in ("train", "val", "test"):
            expected = "transductive" if fitted == measured else "inductive"
            assert posthoc(fit_split=fitted).protocol(measured) == expected
    assert posthoc(fit_split="val").fit_split == "val"
    assert NoReducer(3).protocol("test") == "none"
    assert NoReducer(3).fit_split is None


@pytest.mark.parametrize("fit_split", [None, "Train", "all"])
def test_missing_or_unknown_fit_split_lists_the_choices(fit_split):
    with pytest.raises(
        ValueError, match=r"Posthoc: .*train \(inductive.*val \(ind.*test \(transductive.*got "
    ) as error:
        posthoc(fit_split=fit_split)
    assert repr(fit_split) in str(error.value)


@pytest.mark.parametrize(("arguments", "named"), [({"fit_samples": 1}, "fit_samples"), ({"strength": -1}, "strength")])
def test_bad_arguments(arguments, named):
    with pytest.raises(ValueError, match=named):
        posthoc(**arguments)
    with pytest.raises(ValueError, match="dim"):
        NoReducer(0)


def test_a_users_reducer_needs_the_two_maps_and_fit_only_if_it_says_so(embeddings):
    class Flip(GapReducer):
        def _reduce_image(self, unit_rows):
            return -2 * unit_rows

        def _reduce_text(self, unit_rows):
            return unit_rows

    class Forgot(Flip):
        needs_fit = True

    image = embeddings.image_features
    Flip(DIM).fit(embeddings)
    torch.testing.assert_close(Flip(DIM).reduce_image(image), -nn.functional.normalize(image))
    with pytest.raises(NotImplementedError, match="Forgot has needs_fit = True and must write _fit"):
        Forgot(DIM, fit_split="test").fit(embeddings)
    with pytest.raises(TypeError, match="abstract"):
        GapReducer(DIM)


def test_only_a_kind_with_running_statistics_recalibrates(embeddings):
    for kind in KINDS:
        reducer = KINDS[kind]()
        assert reducer.recalibrates == (kind == "async_bn"), kind
        before = {name: value.clone() for name, value in reducer.state_dict().items()}
        reducer.recalibrate(embeddings)
        changed = [name for name, value in reducer.state_dict().items() if not torch.equal(before[name], value)]
        assert bool(changed) == reducer.recalibrates, kind


# --- which rows, and their statistics ---


def test_fit_samples_takes_a_seeded_choice_of_images_with_all_their_captions(make):
    embeddings = make(30, DIM, captions=3)
    rows = select_fit_rows(embeddings, 7, seed=11, device=CPU)
    chosen = torch.randperm(30, generator=torch.Generator().manual_seed(11))[:7].sort().values
    assert torch.equal(rows.image_features, embeddings.image_features[chosen])
    expected = torch.cat([embeddings.text_features[3 * i : 3 * i + 3] for i in chosen.tolist()])
    assert torch.equal(rows.text_features, expected)
    assert rows.pairs.tolist() == [[i // 3, i] for i in range(21)]


def test_fit_samples_when_texts_are_shared_and_pairs_unordered(make):
    embeddings = make(6, DIM)
    embeddings.pairs = torch.tensor([[5, 0], [1, 4], [0, 0], [3, 2], [1, 0]])
    rows = select_fit_rows(embeddings, 6, seed=0, device=CPU)
    assert torch.equal(rows.text_features, embeddings.text_features[[0, 2, 4]])
    assert rows.pairs.tolist() == [[5, 0], [1, 2], [0, 0], [3, 1], [1, 0]]


def test_fit_samples_without_pairs_draws_each_modality(make):
    embeddings = make(30, DIM, captions=2)
    embeddings.pairs = embeddings.pairs[:0]
    rows = select_fit_rows(embeddings, 10, seed=0, device=CPU)
    assert len(rows.image_features) == len(rows.text_features) == 10
    with pytest.raises(ValueError, match="fit_samples is 31, but the fit split has only 30 images"):
        select_fit_rows(embeddings, 31, seed=0, device=CPU)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_moments_of_a_memory_map_in_chunks_equal_numpy(tmp_path, dtype):
    rows = (np.random.default_rng(0).normal(size=(CHUNK_ROWS + 5, 3)) + 2).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    features = torch.from_numpy(np.load(tmp_path / "rows.npy", mmap_mode="c"))
    moments = unit_moments(features, "image", device=CPU)
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(moments.mean, unit.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, unit.var(0, ddof=1), rtol=1e-12)
    assert moments.num_rows == CHUNK_ROWS + 5


def test_moments_do_not_cancel_around_a_large_mean():
    """Unit vectors within 1e-6 of each other: a one-pass variance would be lost."""
    rows = torch.tensor([[1.0, 1e-6, 0.0], [1.0, -1e-6, 0.0]], dtype=torch.float64)
    variance = unit_moments(rows, "image", device=CPU).variance
    assert variance[1].item() == pytest.approx(2e-12, rel=1e-6)
    assert variance[0].item() < 1e-24
