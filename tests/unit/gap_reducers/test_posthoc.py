import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from i0t.data.embedding_formats import read_embeddings
from i0t.embeddings import EmbeddingSet
from i0t.gap_reducers.posthoc import Posthoc

finite = st.floats(min_value=-10, max_value=10, width=32)


def normalise(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def oracle(rows, fit_rows, strength):
    return normalise(normalise(rows) - strength * normalise(fit_rows).mean(0))


def fitted(embeddings, **arguments):
    reducer = Posthoc(embeddings.image_features.shape[1], **{"fit_split": "test", **arguments})
    reducer.fit(embeddings)
    return reducer


def centroid_distance(reducer, embeddings):
    image, text = reducer(embeddings.image_features, embeddings.text_features)
    return (image.double().mean(0) - text.double().mean(0)).norm().item()


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("captions", [1, 5])
def test_equals_numpy(make, strength, captions):
    calibration, other = make(40, 6, captions=captions), make(7, 6, captions=captions, seed=1)
    reducer = fitted(calibration, strength=strength)
    image, text = reducer(other.image_features, other.text_features)
    x, y, m, n = (
        features.double().numpy()
        for features in (
            other.image_features,
            other.text_features,
            calibration.image_features,
            calibration.text_features,
        )
    )
    np.testing.assert_allclose(image, oracle(x, m, strength), atol=1e-6)
    np.testing.assert_allclose(text, oracle(y, n, strength), atol=1e-6)
    np.testing.assert_allclose(reducer.image_mean, normalise(m).mean(0), atol=1e-7)
    assert int(reducer.num_fit_images) == 40


def test_by_hand():
    """Images at 0 and 90 degrees have the mean (.5, .5); what is left points along (1, -1) and (-1, 1)."""
    x = torch.tensor([[2.0, 0.0], [0.0, 7.0]])
    y = torch.tensor([[3.0, 4.0]])
    pairs = torch.tensor([[0, 0], [1, 0]])
    reducer = fitted(EmbeddingSet(image_features=x, text_features=y, pairs=pairs))
    half = math.sqrt(0.5)
    torch.testing.assert_close(reducer.reduce_image(x), torch.tensor([[half, -half], [-half, half]]))
    torch.testing.assert_close(reducer.text_mean, torch.tensor([0.6, 0.8]))
    with pytest.raises(ValueError, match="1 of 1 reduced text features are zero"):
        reducer.reduce_text(y)  # it is its own mean


@given(hnp.arrays(np.float32, (5, 4), elements=finite).filter(lambda a: (np.linalg.norm(a, axis=1) > 1e-3).all()))
def test_strength_zero_only_normalises(rows):
    features = torch.from_numpy(rows)
    embeddings = EmbeddingSet(image_features=features, text_features=features, pairs=torch.empty(0, 2).long())
    reducer = fitted(embeddings, strength=0.0)
    np.testing.assert_allclose(reducer.reduce_image(features), normalise(rows.astype(np.float64)), atol=1e-6)


@given(seed=st.integers(0, 2**31), strength=st.floats(0, 2))
def test_rows_are_unit(seed, strength):
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed)) + 1
    embeddings = EmbeddingSet(image_features=rows, text_features=-rows, pairs=torch.empty(0, 2).long())
    for out in fitted(embeddings, strength=strength)(rows, -rows):
        np.testing.assert_allclose(out.norm(dim=1), 1, atol=1e-6)


def test_means_after_reduction_are_nearly_zero(make):
    embeddings = make(400, 64)
    before = torch.nn.functional.normalize(embeddings.image_features).mean(0).norm().item()
    image, text = fitted(embeddings)(embeddings.image_features, embeddings.text_features)
    assert before > 0.8
    assert image.mean(0).norm().item() < 0.02
    assert text.mean(0).norm().item() < 0.02


@pytest.mark.parametrize(("num_fit", "num_test"), [(50, 50), (50, 400), (400, 100)])
def test_what_is_left_on_other_data_is_the_error_of_the_means(make, num_fit, num_test):
    """CD^2 = 2 (1 - c)(1/n + 1/N), c the mean matched cosine after the reduction (here over 12 draws)."""
    measured, predicted = [], []
    for seed in range(12):
        reducer = fitted(make(num_fit, 128, seed=2 * seed), fit_split="train")
        other = make(num_test, 128, seed=2 * seed + 1)
        image, text = reducer(other.image_features, other.text_features)
        cosine = (image * text).sum(1).mean().item()
        measured.append(centroid_distance(reducer, other) ** 2)
        predicted.append(2 * (1 - cosine) * (1 / num_fit + 1 / num_test))
    assert math.sqrt(np.mean(measured)) == pytest.approx(math.sqrt(np.mean(predicted)), rel=0.1)


def test_fit_samples_and_seed_choose_the_rows(make):
    embeddings = make(50, 6, captions=2)
    reducer = fitted(embeddings, fit_samples=10, seed=4)
    chosen = torch.randperm(50, generator=torch.Generator().manual_seed(4))[:10]
    mean = normalise(embeddings.image_features[chosen].double().numpy()).mean(0)
    np.testing.assert_allclose(reducer.image_mean, mean, atol=1e-7)
    assert int(reducer.num_fit_images) == 10
    assert not torch.equal(fitted(embeddings, fit_samples=10, seed=5).image_mean, reducer.image_mean)


def test_in_train_mode_it_only_normalises_fitted_or_not(make):
    embeddings = make(10, 6)
    expected = torch.nn.functional.normalize(embeddings.image_features)
    for reducer in (Posthoc(6, fit_split="train"), fitted(embeddings)):
        reducer.train()
        torch.testing.assert_close(reducer.reduce_image(embeddings.image_features), expected)
        assert list(reducer.parameters()) == []


@pytest.mark.data
def test_real_clip_features(shared_data):
    """ViT-B/32 on 100 photos: unreduced .8430, fitted on the same .0309, on the first 50 for the last 50 .2114."""
    embeddings = read_embeddings(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz").embeddings
    assert centroid_distance(fitted(embeddings, strength=0.0), embeddings) == pytest.approx(0.8430, abs=5e-5)
    assert centroid_distance(fitted(embeddings), embeddings) == pytest.approx(0.0309, abs=5e-5)
    rows = torch.arange(100)
    reducer = fitted(embeddings.select_images(rows[:50]), fit_split="train")
    assert centroid_distance(reducer, embeddings.select_images(rows[50:])) == pytest.approx(0.2114, abs=5e-5)
