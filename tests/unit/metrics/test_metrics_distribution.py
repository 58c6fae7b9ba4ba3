import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i0t.metrics import functional as F
from i0t.metrics.functional import distribution

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def naive_uniformity(x):
    terms = [math.exp(-2 * math.dist(x[i], x[j]) ** 2) for i in range(len(x)) for j in range(i + 1, len(x))]
    return math.log(np.mean(terms))


def naive_entropy(x, y, scale):
    entropies = []
    for row in x:
        weights = np.exp(scale * (y @ row) - max(scale * (y @ row)))
        p = weights / weights.sum()
        entropies.append(-sum(value * math.log(value) for value in p if value > 0))
    return np.mean(entropies)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("captions", [1, 5])
def test_against_loops(paired_set, dtype, captions):
    image, text, index = paired_set(9, captions, dtype=dtype)
    x, y = image.double().numpy(), text.double().numpy()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    squared = [math.dist(x[i], y[k]) ** 2 for k, i in enumerate(index.tolist())]
    assert float(F.alignment(image, text, index)) == pytest.approx(np.mean(squared), abs=tolerance)
    assert float(F.uniformity(text)) == pytest.approx(naive_uniformity(y), abs=tolerance)
    for scale in (1.0, 100.0):
        value = F.logit_entropy(image, text, scale)
        assert float(value) == pytest.approx(naive_entropy(x, y, scale), abs=tolerance)


def test_blocks_do_not_change_the_values(paired_set, monkeypatch):
    image, text, _ = paired_set(40, 2, dtype=torch.float64)
    expected = F.uniformity(text), F.logit_entropy(image, text, 20.0)
    monkeypatch.setattr(distribution, "block_size", lambda *_, **__: 7)
    monkeypatch.setattr(distribution, "TILE_ROWS", 7)
    monkeypatch.setattr(distribution, "TILE_COLUMNS", 5)
    torch.testing.assert_close((F.uniformity(text), F.logit_entropy(image, text, 20.0)), expected)


def test_contributions_to_uniformity(paired_set, monkeypatch):
    image, _, _ = paired_set(40, dtype=torch.float64)
    monkeypatch.setattr(distribution, "TILE_ROWS", 7)
    monkeypatch.setattr(distribution, "TILE_COLUMNS", 11)
    found = F.uniformity_contributions(image)
    assert float(found.mean()) == pytest.approx(float(F.uniformity(image)), abs=1e-12)
    # They are the derivative: leaving one row out a little changes the logarithm as they say.
    x = image.numpy()
    affinity = np.array([[math.exp(-2 * math.dist(a, b) ** 2) for b in x] for a in x])
    np.fill_diagonal(affinity, 0)
    for row in (0, 17):
        weights = np.ones(40)
        weights[row] += 1e-5
        pair_weights = np.outer(weights, weights) - np.diag(weights**2)
        change = math.log((affinity * pair_weights).sum() / pair_weights.sum()) - naive_uniformity(x)
        to_first_order = (weights @ found.numpy()) / weights.sum() - float(found.mean())
        assert change / 1e-5 == pytest.approx(to_first_order / 1e-5, rel=0.06)


def test_replicates_of_uniformity_spread_like_recomputed_ones(paired_set):
    image, _, _ = paired_set(80, dtype=torch.float64)
    counts = F.resample_counts(80, num_resamples=400)
    replicates = F.resampled_means(F.uniformity_contributions(image), torch.arange(80), counts)
    x = image.numpy()
    affinity = np.exp(-2 * np.square(x[:, None] - x).sum(2))
    np.fill_diagonal(affinity, 0)
    w = counts.double().numpy()
    pairs = w.sum(1) ** 2 - (w**2).sum(1)
    recomputed = np.log(np.einsum("ri,ij,rj->r", w, affinity, w) / pairs)
    assert np.corrcoef(recomputed, replicates.numpy())[0, 1] > 0.97
    assert float(replicates.std()) == pytest.approx(recomputed.std(), rel=0.1)


def test_collapsed_rows():
    rows = torch.tensor([[0.6, 0.8]]).repeat(5, 1)
    assert float(F.uniformity(rows)) == pytest.approx(0, abs=1e-6)
    assert float(F.logit_entropy(rows, rows, 100.0)) == pytest.approx(math.log(5), abs=1e-6)
    assert float(F.alignment(rows, -rows)) == pytest.approx(4.0)


def test_sharp_and_flat_scales(paired_set):
    image, text, _ = paired_set(20, 3)
    assert float(F.logit_entropy(image, text, 1e5)) == pytest.approx(0, abs=1e-3)
    assert float(F.logit_entropy(image, text, torch.tensor(1e-5))) == pytest.approx(math.log(60), abs=1e-5)
    for scale in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="logit_scale must be a positive finite factor"):
            F.logit_entropy(image, text, scale)


def test_near_duplicates_keep_their_alignment():
    # 2 - 2 cos would give 0 or 1.2e-7 here.
    image = torch.tensor([[1.0, 0.0]], dtype=torch.float32)
    text = torch.tensor([[1.0, 1e-5]], dtype=torch.float32)
    assert float(F.alignment(image, text)) == pytest.approx(1e-10, rel=1e-3)


def test_one_row_has_no_uniformity():
    with pytest.raises(ValueError, match="two rows at least, got 1"):
        F.uniformity(torch.eye(2)[:1])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), num_images=st.integers(2, 12))
def test_ranges(paired_set, seed, num_images):
    image, text, _ = paired_set(num_images, 2, seed=seed, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert -8 <= float(F.uniformity(image)) <= 0
    assert 0 <= float(F.logit_entropy(image, text, 14.0)) <= math.log(2 * num_images)
    torch.testing.assert_close(F.uniformity(image @ rotation), F.uniformity(image))


@pytest.mark.parametrize("dtype", DTYPES)
def test_entropies_of_both_directions_against_loops(paired_set, monkeypatch, dtype):
    image, text, _ = paired_set(9, 3, dtype=dtype)
    x, y = image.double().numpy(), text.double().numpy()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    for block in (1, 4, 100):
        monkeypatch.setattr(distribution, "block_size", lambda *_, block=block, **__: block)
        to_text, to_image = F.logit_entropies(image, text, 20.0), F.logit_entropies(text, image, 20.0)
        assert to_text.dtype == torch.float64
        assert to_text.tolist() == pytest.approx([naive_entropy(row[None], y, 20.0) for row in x], abs=tolerance)
        assert to_image.tolist() == pytest.approx([naive_entropy(row[None], x, 20.0) for row in y], abs=tolerance)
