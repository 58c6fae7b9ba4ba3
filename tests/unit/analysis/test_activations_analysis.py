import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.analysis.activations import (
    MIN_RELATIVE_SIZE,
    MIN_ROBUST_Z,
    ActivationProfile,
    activation_profile,
    peak_share,
    robust_z_scores,
)


def planted(*, rows: int, dim: int, peaks: dict[int, float], seed: int) -> torch.Tensor:
    features = 0.02 * torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    for dimension, value in peaks.items():
        features[:, dimension - 1] += value
    return F.normalize(features, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finds_the_planted_dimensions_counted_from_one(dtype: torch.dtype) -> None:
    images = planted(rows=400, dim=512, peaks={93: -0.62}, seed=0).to(dtype)
    texts = planted(rows=700, dim=512, peaks={134: 0.5, 313: 0.4}, seed=1).to(dtype)
    profile = activation_profile(images, texts)
    assert [peak.index_from_1 for peak in profile.image_peaks] == [93]
    assert [peak.index_from_1 for peak in profile.text_peaks] == [134, 313]
    expected = np.stack([row / np.linalg.norm(row) for row in images.double().numpy()]).mean(axis=0)
    np.testing.assert_allclose(profile.image_means.double().numpy(), expected, atol=1e-6)
    assert profile.image_peaks[0].mean == pytest.approx(expected[92], abs=1e-6)


def test_even_means_have_no_peak_and_max_peaks_caps_them() -> None:
    noise = planted(rows=500, dim=256, peaks={}, seed=2)
    many = planted(rows=500, dim=256, peaks={7: 0.5, 9: 0.4, 200: -0.3, 256: 0.2}, seed=3)
    assert activation_profile(noise, noise).image_peaks == ()
    assert [p.index_from_1 for p in activation_profile(many, noise).image_peaks] == [7, 9, 200, 256]
    assert [p.index_from_1 for p in activation_profile(many, noise, max_peaks=3).image_peaks] == [7, 9, 200]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rows", [1, 3, 30, 1000])
def test_noise_alone_names_no_peak_however_few_rows(rows: int, seed: int) -> None:
    noise = planted(rows=rows, dim=300, peaks={}, seed=10 * seed + rows)
    profile = activation_profile(noise, noise)
    assert profile.image_peaks == profile.text_peaks == ()


def test_a_sharp_but_tiny_mean_is_no_peak() -> None:
    # The means themselves: one far outside the others, at either side of twice 1/sqrt(D).
    least = MIN_RELATIVE_SIZE / np.sqrt(400)
    for size, expected in ((0.97 * least, []), (1.03 * least, [50])):
        rows = 0.02 * torch.randn(2000, 400, generator=torch.Generator().manual_seed(0))
        rows = F.normalize(rows - rows.mean(0), dim=1)
        rows[:, 49] = 0
        rows = F.normalize(rows, dim=1) * np.sqrt(1 - size**2)
        rows[:, 49] = size
        profile = activation_profile(rows, rows)
        assert float(robust_z_scores(profile.image_means)[49]) > 10 * MIN_ROBUST_Z
        assert [p.index_from_1 for p in profile.image_peaks] == expected


def test_share_of_the_peaks_against_a_loop() -> None:
    images = planted(rows=400, dim=128, peaks={93: -0.62, 5: 0.4}, seed=0)
    texts = planted(rows=300, dim=128, peaks={93: 0.3, 17: 0.4}, seed=1)
    profile = activation_profile(images, texts)
    squares = [(float(a) - float(b)) ** 2 for a, b in zip(images.mean(0), texts.mean(0), strict=True)]
    assert peak_share(profile) == pytest.approx((squares[92] + squares[4] + squares[16]) / sum(squares), rel=1e-5)
    assert 0.9 < peak_share(profile) < 1
    without = ActivationProfile(profile.image_means, profile.text_means, (), ())
    assert peak_share(without) == 0
    assert np.isnan(peak_share(activation_profile(images, images)))


def test_two_dimensions_and_two_rows_are_enough() -> None:
    profile = activation_profile(torch.eye(2), torch.eye(2))
    assert profile.image_means.tolist() == [0.5, 0.5]
    assert profile.image_peaks == ()


def test_robust_z_scores_match_a_plain_computation() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 3.0, 104.0])
    # Median 2, absolute deviations 2 1 0 1 102 with median 1.
    np.testing.assert_allclose(robust_z_scores(values).numpy(), np.array([2, 1, 0, 1, 102]) / 1.4826, rtol=1e-6)
    constant_but_one = robust_z_scores(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert constant_but_one.tolist() == [0, 0, 0, float("inf")]
    assert MIN_ROBUST_Z > 5


def test_rejects_rows_that_are_not_unit_and_unequal_widths() -> None:
    with pytest.raises(ValueError, match="norm"):
        activation_profile(2 * torch.eye(3), torch.eye(3))
    with pytest.raises(ValueError, match="width"):
        activation_profile(torch.eye(3), torch.eye(4))
