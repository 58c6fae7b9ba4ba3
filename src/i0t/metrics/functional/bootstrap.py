"""Bootstrap over units: the same redraws for every number and every method, so that differences can be tested.

A *unit* is what was sampled independently: an image with its texts, or a group of images that are not independent. A
resample draws as many units as there are, with replacement; it is a row of *counts*, how often each unit was drawn.
"""

# N rows, G units, R resamples, D width, K columns.
from typing import NamedTuple

import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_labels
from i0t.metrics.functional.sums import block_size, row_blocks


class BootstrapTest(NamedTuple):
    """A paired comparison of two methods: interval of the difference, and two-sided p."""

    low: float
    high: float
    p_value: float


def resample_counts(num_units: int, *, num_resamples: int, seed: int = 0) -> Tensor:
    """How often each unit is drawn in each resample of a multinomial bootstrap.

    Args:
        num_units: G, two at least.
        num_resamples: R.
        seed: Of the draws; the same seed and G give the same resamples, on every device.

    Returns:
        ``(R, G)`` uint8 on the CPU; every row sums to G.

    Raises:
        ValueError: If there are fewer than two units, or no resamples.

    Example:
        >>> counts = resample_counts(4, num_resamples=2)
        >>> counts.sum(dim=1)
        tensor([4, 4])
    """
    if num_units < 2:
        raise ValueError(f"a bootstrap interval needs two groups at least, got {num_units}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be positive, got {num_resamples}")
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(num_resamples, num_units, dtype=torch.uint8)
    one = torch.ones(1, 1, dtype=torch.uint8)
    for rows in row_blocks(num_resamples, block_size(num_units)):
        drawn = torch.randint(num_units, (rows.stop - rows.start, num_units), generator=generator)
        counts[rows].scatter_add_(1, drawn, one.expand(drawn.shape))
    return counts


def unit_sums(values: Tensor, units: Tensor, num_units: int) -> Tensor:
    """Sum of the values of each unit.

    Args:
        values: ``(N,)`` or ``(N, D)``.
        units: ``(N,)`` int64 in ``[0, G)``.
        num_units: G.

    Returns:
        ``(G,)`` or ``(G, D)`` float64; zero where a unit has no row.
    """
    sums = torch.zeros(num_units, *values.shape[1:], dtype=torch.float64, device=values.device)
    for rows in row_blocks(len(values)):
        sums.index_add_(0, units[rows], values[rows].double())
    return sums


def weighted_sums(counts: Tensor, per_unit: Tensor, *, power: int = 1) -> Tensor:
    """``sum_g counts[r, g]^power * per_unit[g]`` for every resample, without keeping the counts in float.

    Args:
        counts: ``(R, G)`` of any type.
        per_unit: ``(G,)`` or ``(G, D)`` float64.
        power: 2 weighs what is made of two rows of one unit.

    Returns:
        ``(R,)`` or ``(R, D)`` float64.

    Example:
        >>> weighted_sums(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([1.0, 3.0]))
        tensor([4., 2.])
    """
    blocks = [
        counts[rows].to(per_unit).pow_(power) @ per_unit
        for rows in row_blocks(len(counts), block_size(counts.shape[1], entries=2**23))
    ]
    return torch.cat(blocks)


def weighted_histograms(counts: Tensor, units: Tensor, columns: Tensor, num_columns: int) -> Tensor:
    """How many rows of each column every resample holds.

    Args:
        counts: ``(R, G)``.
        units: ``(N,)`` int64, unit of every row.
        columns: ``(N,)`` int64 in ``[0, K)``, e.g. the class of every row.
        num_columns: K.

    Returns:
        ``(R, K)`` float64.
    """
    from scipy.sparse import csr_array  # imported here: it would cost every start half a second

    shape = (num_columns, counts.shape[1])
    ones = torch.ones(len(units), dtype=torch.float64)
    table = csr_array((ones.numpy(), (columns.cpu().numpy(), units.cpu().numpy())), shape=shape)
    blocks = [
        torch.from_numpy(table @ counts[rows].cpu().double().T.contiguous().numpy()).T
        for rows in row_blocks(len(counts), block_size(counts.shape[1], entries=2**23))
    ]
    return torch.cat(blocks)


def resampled_means(values: Tensor, units: Tensor, counts: Tensor) -> Tensor:
    """Mean of per-row values in every resample: its sum over its number of rows.

    Args:
        values: ``(N,)`` or ``(N, K)``.
        units: ``(N,)`` int64, unit of every row; several rows may share one.
        counts: ``(R, G)``.

    Returns:
        ``(R,)`` or ``(R, K)`` float64; NaN where a resample holds none of the rows.

    Example:
        >>> resampled_means(torch.tensor([1.0, 3.0]), torch.arange(2), torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
        tensor([2., 3.], dtype=torch.float64)
    """
    sums = weighted_sums(counts, unit_sums(values, units, counts.shape[1]))
    sizes = weighted_sums(counts, torch.bincount(units, minlength=counts.shape[1]).double())
    return sums / (sizes if values.ndim == 1 else sizes[:, None])


def resampled_medians(values: Tensor, units: Tensor, counts: Tensor) -> Tensor:
    """Median of per-row values in every resample; of an even number the mean of the middle two.

    Args:
        values: ``(N,)``.
        units: ``(N,)`` int64, unit of every row.
        counts: ``(R, G)``.

    Returns:
        ``(R,)`` float64; NaN where a resample holds none of the rows.

    Example:
        >>> resampled_medians(torch.tensor([1.0, 3.0, 9.0]), torch.arange(3), torch.ones(1, 3))
        tensor([3.], dtype=torch.float64)
    """
    levels, column = torch.unique(values, return_inverse=True)
    upto = weighted_histograms(counts, units, column, len(levels)).cumsum(dim=1)
    total = upto[:, -1:]
    levels = levels.double().cpu()
    middle = [torch.div(total - 1, 2, rounding_mode="floor"), torch.div(total, 2, rounding_mode="floor")]
    at = [torch.searchsorted(upto.contiguous(), m, right=True).clamp_max(len(levels) - 1) for m in middle]
    median = (levels[at[0]] + levels[at[1]]).squeeze(1) / 2
    return median.masked_fill(total.squeeze(1) == 0, torch.nan)


def balanced_mean(values: Tensor, classes: Tensor) -> Tensor:
    """Mean over the classes that occur of the mean of their rows: balanced accuracy, where the values are hits.

    Args:
        values: ``(N,)``.
        classes: ``(N,)`` int64, zero or more.

    Returns:
        Scalar ``()`` float64.

    Example:
        >>> balanced_mean(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0, 0, 0, 2]))
        tensor(0.5000, dtype=torch.float64)
    """
    num_classes = int(classes.max()) + 1
    return (unit_sums(values, classes, num_classes) / torch.bincount(classes)).nanmean()


def resampled_balanced_means(values: Tensor, classes: Tensor, units: Tensor, counts: Tensor) -> Tensor:
    """:func:`balanced_mean` in every resample, over the classes that occur in it.

    Args:
        values: ``(N,)`` 0 or 1.
        classes: ``(N,)`` int64, zero or more.
        units: ``(N,)`` int64, unit of every row.
        counts: ``(R, G)``.

    Returns:
        ``(R,)`` float64.

    Example:
        >>> values, classes = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 1])
        >>> resampled_balanced_means(values, classes, torch.arange(3), torch.ones(1, 3))
        tensor([0.7500], dtype=torch.float64)
    """
    num_classes = int(classes.max()) + 1
    hit = values > 0
    correct = weighted_histograms(counts, units[hit], classes[hit], num_classes)
    sizes = weighted_histograms(counts, units, classes, num_classes)
    return (correct / sizes).nanmean(dim=1)


def percentile_interval(replicates: Tensor, *, confidence: float = 0.95) -> tuple[float, float] | None:
    """Percentile bootstrap interval.

    Args:
        replicates: ``(R,)``, a number as each resample has it; NaN where it has none.
        confidence: Coverage, in ``(0, 1)``.

    Returns:
        Low and high end, or ``None`` where no replicate has a value.

    Raises:
        ValueError: If the confidence is out of range.

    Example:
        >>> percentile_interval(torch.arange(5.0), confidence=0.5)
        (1.0, 3.0)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    finite = replicates[~replicates.isnan()].double()
    if len(finite) == 0:
        return None
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64, device=finite.device)
    low, high = finite.quantile(tails).tolist()
    return low, high


def paired_bootstrap_test(first: Tensor, second: Tensor, *, confidence: float = 0.95) -> BootstrapTest | None:
    """Test of ``second - first`` on the same resamples.

    The interval is the percentile interval of the differences, and p the smallest level at which such an interval
    leaves out zero: ``2 min(#{d <= 0} + 1, #{d >= 0} + 1) / (R + 1)``, at most 1.

    Args:
        first: ``(R,)`` replicates of one method.
        second: ``(R,)`` of the other, from the same resamples.
        confidence: Coverage of the interval.

    Returns:
        The test, or ``None`` where no resample has both numbers.

    Raises:
        ValueError: If the numbers of resamples differ.

    Example:
        >>> paired_bootstrap_test(torch.zeros(999), torch.ones(999))
        BootstrapTest(low=1.0, high=1.0, p_value=0.002)
    """
    if first.shape != second.shape:
        raise ValueError(f"both need the same resamples, got {tuple(first.shape)} and {tuple(second.shape)} replicates")
    difference = (second - first).double()
    difference = difference[~difference.isnan()]
    interval = percentile_interval(difference, confidence=confidence)
    if interval is None:
        return None
    fewer = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
    return BootstrapTest(*interval, min(1.0, 2 * (fewer + 1) / (len(difference) + 1)))


def bootstrap_interval(
    values: Tensor,
    groups: Tensor | None = None,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Percentile bootstrap of the mean of per-sample values, resampling whole groups (cluster bootstrap).

    Samples that share a source (variants of one digit, captions of one image) are dependent; drawing groups with
    replacement keeps them together, and the mean of a resample is its sum over its number of samples.

    Args:
        values: ``(N,)`` finite numbers, one per sample (a hit, a reciprocal rank, a difference of two methods).
        groups: ``(N,)`` integers, the group of every sample; None makes each sample its own.
        num_resamples: R.
        confidence: Coverage, in ``(0, 1)``.
        seed: Of the resampling; the interval is the same on every device.

    Returns:
        ``mean`` of the values, ``low`` and ``high`` end of the interval; scalars ``()`` in the unit of the values.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, there are fewer than two groups, or an option is out of
            range.

    Example:
        >>> bootstrap_interval(torch.tensor([1.0, 1.0, 1.0]))["low"]
        tensor(1.)
    """
    if values.ndim != 1 or not bool(values.isfinite().all()):
        raise ValueError(f"values must be a vector of finite numbers, got shape {tuple(values.shape)}")
    given = torch.arange(len(values), device=values.device) if groups is None else groups
    units, num_units = check_labels(given, len(values), "groups")
    counts = resample_counts(num_units, num_resamples=num_resamples, seed=seed).to(values.device)
    means = resampled_means(values.detach(), units.to(values.device), counts)
    interval = percentile_interval(means, confidence=confidence)
    assert interval is not None, "every group has a sample"
    dtype = values.dtype if values.dtype == torch.float64 else torch.float32
    mean = values.detach().double().mean().to(dtype)
    return {"mean": mean, "low": mean.new_tensor(interval[0]), "high": mean.new_tensor(interval[1])}
