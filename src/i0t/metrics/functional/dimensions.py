"""Few dimensions: how many of them carry the distance of the modalities' means, and what is left without them."""

# N images, M texts, D feature width, R resamples, S random directions.
import torch
from torch import Tensor

from i0t.metrics.functional.bootstrap import unit_sums, weighted_sums
from i0t.metrics.functional.checks import check_both
from i0t.metrics.functional.redraws import Redraws

# A unit row of which no more than this is left lay in the dropped dimensions: the rest is rounding, not a direction.
MIN_REMAINING_NORM = 1e-6
_ROUNDING = 1e-12  # of a sum of squares in float64, so that a share that is reached exactly counts as reached


def mean_differences(image_features: Tensor, text_features: Tensor, redraws: Redraws) -> Tensor:
    """Mean image row minus mean text row, dimension by dimension (arXiv 2404.07983), in every resample.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised; need not be paired with the images.
        redraws: Resamples of these rows; the first of ``redraws.with_original()`` is the set itself.

    Returns:
        ``(R, D)`` float64 on the CPU.

    Raises:
        ValueError: If a row is not a unit vector or the widths differ.
    """
    image, text = check_both(image_features, text_features)
    means = [
        _resampled_mean(rows, units, counts)
        for rows, units, counts in (
            (image, redraws.image_units, redraws.image_counts),
            (text, redraws.text_units, redraws.text_counts),
        )
    ]
    return means[0] - means[1]


def squares_without_resampling_bias(differences: Tensor, original: Tensor) -> Tensor:
    """Squared differences of every resample, freed of the noise that resampling adds on top of the sample's own.

    In each dimension the mean square of the replicates exceeds the square of the sample by the variance of the means.
    Spread over all dimensions, that excess would make any gap look as if it lay in more dimensions than it does.

    Args:
        differences: ``(R, D)``.
        original: ``(D,)`` the same of the set itself.

    Returns:
        ``(R, D)`` zero or more.
    """
    squares = differences.square()
    return (squares - (squares.nanmean(dim=0) - original.square())).clamp_min(0)


def num_carrying_dimensions(squares: Tensor, share: float) -> Tensor:
    """The fewest dimensions that together hold a share of the sum of squares.

    Args:
        squares: ``(…, D)`` zero or more, such as squared differences of means.
        share: In ``(0, 1]``.

    Returns:
        ``(…)`` float64, in ``[1, D]``; NaN where the sum is zero (or NaN).

    Raises:
        ValueError: If the share is out of range.

    Example:
        >>> num_carrying_dimensions(torch.tensor([1.0, 4.0, 0.0, 5.0]), 0.9)
        tensor(2., dtype=torch.float64)
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    upto = squares.double().sort(dim=-1, descending=True).values.cumsum(dim=-1)
    total = upto[..., -1]
    missing = upto < (share * (1 - _ROUNDING) * total)[..., None]
    return (missing.sum(dim=-1) + 1).double().where(total > 0, torch.nan)


def isotropic_squares(dim: int, *, num_draws: int = 1000, seed: int = 0) -> Tensor:
    """Squared entries of random directions, each direction the largest first: what chance gives.

    A difference of means that favours no axis is such a direction, for which ``num_carrying_dimensions`` is large
    (of 512 dimensions about 63 carry half of the sum).

    Args:
        dim: D.
        num_draws: S, directions drawn uniformly (normalised Gaussian vectors).
        seed: Of the draws.

    Returns:
        ``(S, D)`` float64; rows sum to 1.

    Raises:
        ValueError: If a number is not positive.
    """
    if dim < 1 or num_draws < 1:
        raise ValueError(f"dim and num_draws must be positive, got {dim} and {num_draws}")
    generator = torch.Generator().manual_seed(seed)
    squares = torch.randn(num_draws, dim, generator=generator, dtype=torch.float64).square()
    return (squares / squares.sum(dim=1, keepdim=True)).sort(dim=1, descending=True).values


def without_dimensions(features: Tensor, dropped: Tensor) -> Tensor:
    """Unit rows without some of their dimensions, normalised again (arXiv 2404.07983, ablation of dimensions).

    Args:
        features: ``(…, D)`` float, L2-normalised in the last dimension.
        dropped: ``(n,)`` int64 dimensions from 0, n < D.

    Returns:
        ``(…, D - n)`` unit rows; zero where nothing above 1e-6 is left, so that the row has no direction.

    Raises:
        ValueError: If no dimension would be left.

    Example:
        >>> without_dimensions(torch.tensor([[0.6, 0.8, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([1]))
        tensor([[1., 0.],
                [0., 0.]])
    """
    keep = torch.ones(features.shape[-1], dtype=torch.bool, device=features.device)
    keep[dropped.to(features.device)] = False
    if not bool(keep.any()):
        raise ValueError(f"all {features.shape[-1]} dimensions are dropped; keep one at least")
    rows = features.index_select(-1, keep.nonzero().squeeze(1))
    norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return (rows / norms).masked_fill_(norms <= MIN_REMAINING_NORM, 0)


def _resampled_mean(rows: Tensor, units: Tensor, counts: Tensor) -> Tensor:
    units, num_units = units.to(rows.device), counts.shape[1]
    sizes = torch.bincount(units, minlength=num_units).double()
    sums = weighted_sums(counts, torch.cat([unit_sums(rows, units, num_units), sizes[:, None]], dim=1).cpu())
    return sums[:, :-1] / sums[:, -1:]
