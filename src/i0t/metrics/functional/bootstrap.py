"""Confidence intervals of means of per-sample values."""

# N samples, G groups, R resamples.
import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_labels
from i0t.metrics.functional.sums import block_size, row_blocks


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
    if not 0 < confidence < 1 or num_resamples < 1:
        raise ValueError(
            f"confidence must lie in (0, 1) and num_resamples be positive, got {confidence} and {num_resamples}"
        )
    given = torch.arange(len(values), device=values.device) if groups is None else groups
    members, num_groups = check_labels(given, len(values), "groups")
    if num_groups < 2:
        raise ValueError(f"a bootstrap interval needs two groups at least, got {num_groups}")
    sums, sizes = torch.zeros(2, num_groups, dtype=torch.float64, device=values.device)
    members = members.to(values.device)
    sums.index_add_(0, members, values.detach().double())
    sizes.index_add_(0, members, torch.ones_like(values, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    means = []
    for resamples in row_blocks(num_resamples, block_size(num_groups)):
        shape = (resamples.stop - resamples.start, num_groups)
        drawn = torch.randint(num_groups, shape, generator=generator).to(values.device)
        means.append(sums[drawn].sum(dim=1) / sizes[drawn].sum(dim=1))
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64, device=values.device)
    low, high = torch.cat(means).quantile(tails)
    dtype = values.dtype if values.dtype == torch.float64 else torch.float32
    return {"mean": (sums.sum() / len(values)).to(dtype), "low": low.to(dtype), "high": high.to(dtype)}
