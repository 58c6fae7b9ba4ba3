"""Few dimensions as pure functions, beside plain NumPy."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from i0t.metrics import functional as metrics
from i0t.metrics.functional.dimensions import (
    isotropic_squares,
    mean_differences,
    num_carrying_dimensions,
    squares_without_resampling_bias,
    without_dimensions,
)


def naive_num_carrying(squares, share):
    ordered, total = sorted(squares, reverse=True), math.fsum(squares)
    for count in range(1, len(ordered) + 1):
        if math.fsum(ordered[:count]) >= share * total * (1 - 1e-12):
            return count
    raise AssertionError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mean_differences_of_the_set_and_of_resamples_equal_plain_means_of_repeated_rows(paired_set, dtype):
    image, text, index = paired_set(9, 3, 6, dtype=dtype)
    redraws = metrics.redraw_set(9, 27, image_of_text=index, has_pairs=True, num_resamples=7).with_original()
    found = mean_differences(image, text, redraws)
    assert found.shape == (8, 6)
    assert found.dtype == torch.float64
    x, y = image.double().numpy(), text.double().numpy()
    np.testing.assert_allclose(found[0], x.mean(0) - y.mean(0), atol=1e-12)
    for counts, difference in zip(redraws.image_counts.tolist(), found, strict=True):
        drawn_x = [row for row, count in zip(x, counts, strict=True) for _ in range(count)]
        drawn_y = [row for row, i in zip(y, index.tolist(), strict=True) for _ in range(counts[i])]
        np.testing.assert_allclose(difference, np.mean(drawn_x, axis=0) - np.mean(drawn_y, axis=0), atol=1e-12)


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_num_carrying_dimensions_equals_a_loop(share):
    squares = torch.rand(20, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    expected = [naive_num_carrying(row, share) for row in squares.tolist()]
    assert num_carrying_dimensions(squares, share).tolist() == expected


def test_ties_shares_reached_exactly_and_no_difference_at_all():
    assert num_carrying_dimensions(torch.ones(10), 0.5) == 5
    assert num_carrying_dimensions(torch.full((10,), 0.1, dtype=torch.float64), 0.9) == 9
    assert num_carrying_dimensions(torch.tensor([0.0, 3.0, 0.0]), 0.9) == 1
    assert num_carrying_dimensions(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), 0.9).isnan().tolist() == [True, False]
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match=rf"share must lie in \(0, 1\], got {share}"):
            num_carrying_dimensions(torch.ones(2), share)


def test_the_bias_of_resampling_is_taken_out_of_every_dimension():
    generator = torch.Generator().manual_seed(0)
    original = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64)
    noise = 0.02 * torch.randn(400, 3, generator=generator, dtype=torch.float64)
    squares = squares_without_resampling_bias(original + noise, original)
    np.testing.assert_allclose(squares.mean(0), original.square(), rtol=0.02)
    plain = (original + noise).square()
    np.testing.assert_allclose(squares, (plain - plain.mean(0) + original.square()).clamp_min(0), atol=1e-12)


def test_random_directions_are_unit_vectors_whose_largest_shares_follow_the_normal_distribution():
    squares = isotropic_squares(512, num_draws=300)
    assert squares.shape == (300, 512)
    np.testing.assert_allclose(squares.sum(1), 1, atol=1e-12)
    assert bool((squares[:, 1:] <= squares[:, :-1]).all())
    assert torch.equal(squares, isotropic_squares(512, num_draws=300))
    assert not torch.equal(squares, isotropic_squares(512, num_draws=300, seed=1))
    # Many dimensions: the share 2 (t phi(t) + Q(t)) of the sum lies in the part 2 Q(t) of dimensions that exceed t.
    for share in (0.5, 0.9):
        low, high = 0.0, 6.0
        for _ in range(60):
            t = (low + high) / 2
            tail = math.erfc(t / math.sqrt(2)) / 2
            above = 2 * (t * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) + tail)
            low, high = (t, high) if above > share else (low, t)
        assert float(num_carrying_dimensions(squares, share).mean()) == pytest.approx(2 * tail * 512, abs=1.5)
    assert isotropic_squares(1, num_draws=2).tolist() == [[1.0], [1.0]]
    with pytest.raises(ValueError, match="must be positive, got 0 and 5"):
        isotropic_squares(0, num_draws=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (3, 2)])
def test_without_dimensions_equals_deleting_columns_and_normalising(dtype, shape):
    rows = normalize(torch.randn(*shape, 6, generator=torch.Generator().manual_seed(0), dtype=dtype), dim=-1)
    found = without_dimensions(rows, torch.tensor([4, 0]))
    expected = np.delete(rows.numpy(), [0, 4], axis=-1)
    expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(without_dimensions(rows, torch.tensor([], dtype=torch.int64)), rows, atol=1e-6)


def test_a_row_with_nothing_left_is_zero_and_never_nan():
    rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-8, 0.0], [0.6, 0.8, 0.0]])
    assert without_dimensions(rows, torch.tensor([0])).tolist() == [[0, 0], [0, 0], [1, 0]]
    with pytest.raises(ValueError, match="all 3 dimensions are dropped"):
        without_dimensions(rows, torch.arange(3))
