import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from i0t.metrics import functional as F

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SETS = [(7, 1), (6, 5), (2, 1)]


def as_lists(image, text, index):
    return image.double().numpy(), text.double().numpy(), index.tolist()


def naive_unbiased(x, y, index):
    xx = [x[i] @ x[j] for i in range(len(x)) for j in range(len(x)) if i != j]
    yy = [y[k] @ y[m] for k in range(len(y)) for m in range(len(y)) if index[k] != index[m]]
    xy = [x[i] @ y[k] for i in range(len(x)) for k in range(len(y)) if index[k] != i]
    return np.mean(xx) + np.mean(yy) - 2 * np.mean(xy)


def naive_rmg(x, y, index, include_diagonal=False):
    def distance(cosines):
        return (1 - np.mean(cosines)) / 2

    def spread(z):
        n = range(len(z))
        return distance([z[i] @ z[j] for i in n for j in n if include_diagonal or i != j])

    matched = distance([x[index[k]] @ y[k] for k in range(len(y))])
    matched = matched if matched > 0 else 1e-3
    return matched / (matched + 0.5 * (spread(x) + spread(y)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_images", "captions"), SETS)
def test_against_loops(paired_set, dtype, num_images, captions):
    image, text, index = paired_set(num_images, captions, dtype=dtype)
    x, y, matches = as_lists(image, text, index)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    distances = [math.dist(x[matches[k]], y[k]) for k in range(len(y))]
    expected = {
        F.centroid_distance(image, text): math.dist(x.mean(0), y.mean(0)),
        F.unbiased_centroid_distance(image, text, index): naive_unbiased(x, y, matches),
        F.instance_distance(image, text, index): np.mean(distances),
        F.relative_modality_gap(image, text, index): naive_rmg(x, y, matches),
        F.relative_modality_gap(image, text, index, include_diagonal=True): naive_rmg(x, y, matches, True),
    }
    for value, oracle in expected.items():
        assert value.shape == ()
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert float(value) == pytest.approx(oracle, abs=tolerance)


def test_images_without_text_and_uneven_captions_against_loops(paired_set):
    image, text, _ = paired_set(6, 1, dtype=torch.float64)
    index = torch.tensor([4, 0, 4, 2, 4, 0])  # images 1, 3 and 5 have none
    x, y, matches = as_lists(image, text, index)
    assert float(F.unbiased_centroid_distance(image, text, index)) == pytest.approx(naive_unbiased(x, y, matches))
    assert float(F.relative_modality_gap(image, text, index)) == pytest.approx(naive_rmg(x, y, matches))


def test_unpaired_sets_have_a_centroid_distance(paired_set):
    image, text, _ = paired_set(5, 3)
    assert float(F.centroid_distance(image, text)) == pytest.approx(float((image.mean(0) - text.mean(0)).norm()))


def test_rmg_by_hand():
    # Matched cosines 0 and 0: P = 1/2. Image rows: cos 0, D_I = 1/2. Text rows: cos 0, D_T = 1/2. RMG = 1/2.
    image, text = torch.eye(2), torch.eye(2).flip(0)
    assert float(F.relative_modality_gap(image, text)) == pytest.approx(0.5)
    # With the diagonal the mean cosine inside a modality is 1/2: D = 1/4, RMG = (1/2) / (3/4).
    assert float(F.relative_modality_gap(image, text, include_diagonal=True)) == pytest.approx(2 / 3)
    # Perfect agreement: P is floored to .001 beside D = 1/2.
    assert float(F.relative_modality_gap(image, image)) == pytest.approx(0.001 / 0.501)
    # Two captions of image 0 at cos 1 and 0, one of image 1 at cos 1: P = (1 - 2/3)/2 = 1/6; text rows e0, e1, e1:
    # cosines 0, 0, 1, D_T = (1 - 1/3)/2 = 1/3, same-image captions counted; D_I = 1/2. 1/6 / (1/6 + 5/12) = 2/7.
    text, index = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 0, 1])
    assert float(F.relative_modality_gap(image, text, index)) == pytest.approx(2 / 7)


def test_collapsed_modalities_on_opposite_poles_have_the_largest_gap():
    image = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    assert float(F.relative_modality_gap(image, -image)) == pytest.approx(1.0)
    assert float(F.centroid_distance(image, -image)) == pytest.approx(2.0)
    assert float(F.unbiased_centroid_distance(image, -image)) == pytest.approx(4.0)


def test_without_a_gap_the_unbiased_distance_is_zero_and_the_plain_one_is_not(paired_set):
    values = [F.unbiased_centroid_distance(*paired_set(200, 2, 32, gap=0, noise=1.5, seed=s)) for s in range(30)]
    plain = [F.centroid_distance(*paired_set(200, 2, 32, gap=0, noise=1.5, seed=s)[:2]) ** 2 for s in range(30)]
    values, plain = torch.stack(values), torch.stack(plain)
    assert abs(float(values.mean())) < 3 * float(values.std()) / 30**0.5 + 1e-5
    assert float(values.min()) < 0 < float(values.max())
    assert float(plain.mean()) > 10 * abs(float(values.mean()))


def test_unbiased_distance_recovers_a_known_gap():
    generator = torch.Generator().manual_seed(0)
    angle = torch.randn(20000, generator=generator) * 0.2
    image = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)
    text = torch.stack([angle.cos() * 0, angle.sin(), angle.cos()], 1)
    # Means are E[cos] along the first and third axis: squared distance 2 exp(-sigma^2).
    assert float(F.unbiased_centroid_distance(image, text)) == pytest.approx(2 * math.exp(-0.04), abs=2e-3)


def test_expected_residual_distance(paired_set):
    image, text, index = paired_set(9, 2)
    c = float((image[index] * text).sum(1).mean())
    value = F.expected_residual_distance(image, text, index, num_fit=250, num_test=100)
    assert float(value) == pytest.approx(math.sqrt(2 * (1 - c) * (1 / 250 + 1 / 100)), rel=1e-5)
    with pytest.raises(ValueError, match="num_fit must be at least 1, got 0"):
        F.expected_residual_distance(image, text, index, num_fit=0, num_test=3)


def test_expected_residual_distance_is_what_centring_leaves(paired_set):
    measured, predicted = [], []
    for seed in range(20):
        image, text, _ = paired_set(150, 1, 48, gap=0.6, noise=1.0, seed=seed)
        order = torch.argsort(paired_set(150, 1, 48, gap=0.6, noise=1.0, seed=seed)[2])
        text = text[order]
        x = normalize(image[100:] - image[:100].mean(0), dim=1)
        y = normalize(text[100:] - text[:100].mean(0), dim=1)
        measured.append(float(F.centroid_distance(x, y)) ** 2)
        predicted.append(float(F.expected_residual_distance(x, y, num_fit=100, num_test=50)) ** 2)
    assert np.mean(measured) == pytest.approx(np.mean(predicted), rel=0.15)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), num_images=st.integers(2, 9), captions=st.integers(1, 3))
def test_rotation_swap_and_range(paired_set, seed, num_images, captions):
    image, text, index = paired_set(num_images, captions, seed=seed, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    order = torch.randperm(len(index))
    for metric, top in (
        (F.unbiased_centroid_distance, 8.0),
        (F.instance_distance, 2.0),
        (F.relative_modality_gap, 1.0),
        (F.alignment, 4.0),
    ):
        value = metric(image, text, index)
        assert float(value) <= top
        torch.testing.assert_close(metric(image @ rotation, text @ rotation, index), value)
        torch.testing.assert_close(metric(image, text[order], index[order]), value)
        paired = text[torch.argsort(index, stable=True)][::captions]
        torch.testing.assert_close(metric(image, paired), metric(paired, image))
    assert 0 <= float(F.centroid_distance(image, text)) <= 2
    torch.testing.assert_close(F.centroid_distance(image, text), F.centroid_distance(text, image))


def test_too_few_rows_are_refused():
    one = torch.eye(2)[:1]
    with pytest.raises(ValueError, match="two image rows at least, got 1"):
        F.relative_modality_gap(one, one)
    with pytest.raises(ValueError, match="texts of two images"):
        F.unbiased_centroid_distance(torch.eye(2), torch.eye(2), torch.tensor([1, 1]))
