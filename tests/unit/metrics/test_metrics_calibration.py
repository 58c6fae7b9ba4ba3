import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from i0t.metrics import functional as F


def naive_noise(x, y, image_units, text_units):
    total = []
    num_units = max(image_units) + 1
    for unit in range(num_units):
        part = sum((x[i] - x.mean(0)) / len(x) for i in range(len(x)) if image_units[i] == unit)
        if text_units is not None:
            part = part - sum((y[k] - y.mean(0)) / len(y) for k in range(len(y)) if text_units[k] == unit)
        total.append(np.sum(np.square(part)) * num_units / (num_units - 1))
    return total


@pytest.mark.parametrize("captions", [1, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_centroid_noise_against_a_loop(paired_set, captions, shared):
    image, text, index = paired_set(10, captions, dtype=torch.float64)
    units = torch.arange(10) // 2
    text_units = None if shared else units[index]
    noise = F.centroid_noise(image, text, units, text_units)
    expected = naive_noise(image.numpy(), text.numpy(), units.tolist(), None if shared else text_units.tolist())
    assert noise.tolist() == pytest.approx(expected, abs=1e-12)


def test_with_single_captions_the_noise_is_that_of_the_matched_cosine(paired_set):
    image, text, index = paired_set(2000, 1, 32, gap=0.0, noise=1.0)
    c = float((image[index] * text).sum(1).mean())
    noise = F.centroid_noise(image, text, torch.arange(2000), index)
    assert float(noise.sum()) == pytest.approx(2 * (1 - c) / 2000, rel=0.02)


def centred_halves(seed, *, captions, group_size=1, fit=60, test=40, dim=96):
    """Raw gap, means of one half subtracted from the other; images in dependent groups.

    In few dimensions normalising after the subtraction would bring back a gap of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    num_groups = (fit + test) // group_size
    image = torch.randn(num_groups, dim, generator=generator).repeat_interleave(group_size, 0)
    image = image + 0.3 * torch.randn(image.shape, generator=generator)
    index = torch.arange(len(image)).repeat_interleave(captions)
    text = 0.6 * image[index] + torch.randn(len(index), dim, generator=generator)
    image, text = normalize(image + 1, dim=1), normalize(text - 1, dim=1)
    x = normalize(image[fit:] - image[:fit].mean(0), dim=1)
    y = normalize(text[index >= fit] - text[index < fit].mean(0), dim=1)
    return x, y, index[index >= fit] - fit


@pytest.mark.parametrize(("captions", "group_size"), [(1, 1), (5, 1), (1, 4)])
def test_what_centring_leaves_is_as_expected(captions, group_size):
    measured, unbiased, expected, expected_unbiased, simple = [], [], [], [], []
    for seed in range(120):
        x, y, index = centred_halves(seed, captions=captions, group_size=group_size)
        units = torch.arange(40) // group_size
        variance = float(F.centroid_noise(x, y, units, units[index]).sum())
        measured.append(float(F.centroid_distance(x, y)) ** 2)
        unbiased.append(float(F.unbiased_centroid_distance(x, y, index)))
        expected.append(variance * (1 + 40 / 60))
        expected_unbiased.append(variance * 40 / 60)
        simple.append(float(F.expected_residual_distance(x, y, index, num_fit=60, num_test=40)) ** 2)
    assert np.mean(measured) == pytest.approx(np.mean(expected), rel=0.07)
    if group_size == 1:  # the unbiased form takes images as independent
        assert np.mean(unbiased) == pytest.approx(np.mean(expected_unbiased), rel=0.1)
    if captions == 5:
        assert np.mean(simple) > 1.4 * np.mean(measured)
    if group_size == 4:
        assert np.mean(simple) < 0.8 * np.mean(measured)


def test_expected_residual_distance_of_an_endless_test_set(paired_set):
    image, text, index = paired_set(9, 2)
    c = float((image[index] * text).sum(1).mean())
    value = F.expected_residual_distance(image, text, index, num_fit=50, num_test=None)
    assert float(value) == pytest.approx(math.sqrt(2 * (1 - c) / 50), rel=1e-5)


def test_calibration_shift_against_a_formula(paired_set):
    rows, _, _ = paired_set(30, 1, dtype=torch.float64)
    x, mean = rows.numpy(), np.full(8, 0.05)
    distance, chance = F.calibration_shift(rows, torch.from_numpy(mean), num_fit=12)
    assert float(distance) == pytest.approx(np.linalg.norm(mean - x.mean(0)))
    trace = np.trace(np.cov(x.T))
    assert float(chance) == pytest.approx(math.sqrt(trace * (1 / 12 + 1 / 30)))
    # Rows that repeat within a unit say no more than one of them, in either set.
    again = rows.repeat_interleave(5, 0)
    repeated = F.calibration_shift(again, torch.from_numpy(mean), num_fit=60, units=torch.arange(150) // 5)
    torch.testing.assert_close(repeated, (distance, chance))


def test_shift_is_about_one_without_a_shift_and_large_with_one():
    generator = torch.Generator().manual_seed(0)

    def draw(rows, offset):
        return normalize(torch.randn(rows, 32, generator=generator) + offset, dim=1)

    ratios = [
        [float(torch.div(*F.calibration_shift(draw(80, 0.2), draw(50, offset).mean(0), num_fit=50))) for _ in range(40)]
        for offset in (0.2, 0.8)
    ]
    assert np.mean(ratios[0]) == pytest.approx(1.0, abs=0.05)
    assert max(ratios[0]) < 1.5 < min(ratios[1])


def test_bad_calibrations_are_refused(paired_set):
    rows, _, _ = paired_set(5)
    with pytest.raises(ValueError, match=r"fit_mean must have shape \(8,\), got \(3,\)"):
        F.calibration_shift(rows, torch.zeros(3), num_fit=5)
    with pytest.raises(ValueError, match="num_fit must be at least 1, got 0"):
        F.calibration_shift(rows, torch.zeros(8), num_fit=0)
    with pytest.raises(ValueError, match="two independent rows at least, got 1"):
        F.calibration_shift(rows, torch.zeros(8), num_fit=5, units=torch.zeros(5).long())
    with pytest.raises(ValueError, match="two independent units at least, got 1"):
        F.centroid_noise(rows, rows, torch.zeros(5).long(), torch.zeros(5).long())
