"""Kendall's rank correlation of scores with ratings, of a set and of all its resamples at once."""

# J scored items, R ratings of each, n observations (an item with one of its ratings), L distinct ratings,
# S distinct scores, G units, B resamples.
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from i0t.metrics.functional.bootstrap import weighted_histograms
from i0t.metrics.functional.checks import check_row_numbers
from i0t.metrics.functional.sums import block_size, row_blocks

VARIANTS = ("b", "c")


class KendallTaus(NamedTuple):
    """Both variants on every resample, ``(B,)`` float64 in [-1, 1]; NaN where it has but one rating or score."""

    b: Tensor
    c: Tensor


class _Pass(NamedTuple):
    """One bit of the ratings' ranks: the pairs of observations whose ranks differ first in this bit.

    Observations are in order of (node, score); those of a node have equal higher bits.
    """

    lower: Tensor  # (n - u,) observations without the bit
    upper: Tensor  # (u,) observations with it
    edges: Tensor  # (4, u) how many of `lower` stand before its score's start and end, its node's start and end


def kendall_tau(scores: Tensor, ratings: Tensor, *, variant: str = "b") -> Tensor:
    """Kendall's tau of scores with human ratings, every rating an observation of its own (Hessel et al. 2021, Sec. 4).

    ``scipy.stats.kendalltau`` on the pairs (score of the item, rating); ratings that are NaN are skipped, and so are
    items without a score.

    Args:
        scores: ``(J,)``.
        ratings: ``(J, R)`` or ``(J,)``, NaN where there is none.
        variant: ``"b"`` (Flickr8k-CF) or ``"c"`` (Flickr8k-Expert, Composite).

    Returns:
        Scalar ``()`` float64 in [-1, 1] (papers print it times 100); NaN if scores or ratings are all equal.

    Raises:
        ValueError: If the shapes do not fit or the variant is neither.

    Example:
        >>> kendall_tau(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, torch.nan]]))
        tensor(0.8018, dtype=torch.float64)
    """
    from scipy.stats import kendalltau  # imported here: it would cost every start a second

    if variant not in VARIANTS:
        raise ValueError(f"variant must be 'b' or 'c', got {variant!r}")
    item, rating = _observations(scores, ratings)
    if len(item) < 2 or bool((rating == rating[0]).all()) or bool((scores[item] == scores[item][0]).all()):
        return torch.tensor(torch.nan, dtype=torch.float64)
    found = kendalltau(scores.detach().cpu()[item].numpy(), rating.numpy(), variant=variant)
    return torch.tensor(float(found.statistic), dtype=torch.float64)


def resampled_kendall_taus(scores: Tensor, ratings: Tensor, units: Tensor, counts: Tensor) -> KendallTaus:
    """:func:`kendall_tau` of every resample, as if each item stood there as often as its unit was drawn.

    Sorting is done once. An observation's rating is a rank of log2(L) bits; each pair with different ratings is counted
    at the highest bit in which they differ, from running sums of weights in order of score: O(n log L) per resample.

    Args:
        scores: ``(J,)``.
        ratings: ``(J, R)`` or ``(J,)``, NaN where there is none.
        units: ``(J,)`` int64 in ``[0, G)``, unit of every item.
        counts: ``(B, G)`` how often each unit is drawn.

    Returns:
        Both variants, equal to SciPy's on the repeated items.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> scores = torch.tensor([1.0, 2.0, 3.0])
        >>> resampled_kendall_taus(scores, scores, torch.arange(3), torch.ones(1, 3)).b
        tensor([1.], dtype=torch.float64)
    """
    if units.shape != scores.shape:
        raise ValueError(f"units must name the unit of every score: {tuple(units.shape)} for {tuple(scores.shape)}")
    item, rating = _observations(scores, ratings)
    unit = check_row_numbers(units, counts.shape[1], "units").cpu()[item]
    score_rank = torch.unique(scores.detach().cpu()[item], return_inverse=True)[1]
    rating_rank = torch.unique(rating, return_inverse=True)[1]
    passes = _passes(score_rank, rating_rank)
    empty = torch.zeros(0, dtype=torch.float64)
    blocks = [KendallTaus(empty, empty)]
    for rows in row_blocks(len(counts), block_size(len(item), entries=2**23)):
        drawn = counts[rows].cpu()
        blocks.append(_taus(drawn, unit, score_rank, rating_rank, passes))
    return KendallTaus(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def _observations(scores: Tensor, ratings: Tensor) -> tuple[Tensor, Tensor]:
    """``(n,)`` item and ``(n,)`` rating of everything that was rated, on the CPU."""
    table = ratings[:, None] if ratings.ndim == 1 else ratings
    if scores.ndim != 1 or table.ndim != 2 or len(table) != len(scores):
        raise ValueError(
            f"ratings must have one row for each score, got shape {tuple(ratings.shape)} for {tuple(scores.shape)}"
        )
    table = table.detach().cpu()
    known = ~table.isnan() & ~scores.detach().cpu().isnan()[:, None]
    return known.nonzero()[:, 0], table[known]


def _passes(score_rank: Tensor, rating_rank: Tensor) -> list[_Pass]:
    """One for each bit of the largest rank; none where all ratings are equal."""
    top = int(rating_rank.max()) if len(rating_rank) > 0 else 0
    num_scores = int(score_rank.max()) + 1 if len(score_rank) > 0 else 1
    passes = []
    for bit in reversed(range(top.bit_length())):
        node = rating_rank >> (bit + 1)
        key = node * num_scores + score_rank
        order = torch.argsort(key, stable=True)
        is_upper = (rating_rank[order] >> bit & 1).bool()
        edges = torch.cat([_group_edges(key[order]), _group_edges(node[order])])[:, is_upper]
        num_lower = torch.cat([order.new_zeros(1), (~is_upper).cumsum(0)])
        passes.append(_Pass(order[~is_upper], order[is_upper], num_lower[edges]))
    return passes


def _group_edges(ordered: Tensor) -> Tensor:
    """``(2, n)`` first position of every entry's run of equal entries, and the one behind its last."""
    _, run, sizes = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    ends = sizes.cumsum(0)
    return torch.stack([(ends - sizes)[run], ends[run]])


def _taus(counts: Tensor, unit: Tensor, score_rank: Tensor, rating_rank: Tensor, passes: list[_Pass]) -> KendallTaus:
    """Both variants on some resamples; the formulas are those of SciPy's documentation."""
    # Whole numbers are exact in float32 up to 2^24, at half the memory.
    largest = int(counts.max()) ** 2 * len(unit)
    weights = counts.T.to(torch.float32 if largest < 2**24 else torch.float64)[unit]  # (n, B)
    surplus = torch.zeros(len(counts), dtype=torch.float64)  # concordant pairs less discordant ones
    for one in passes:
        below = weights.new_zeros(len(one.lower) + 1, len(counts))
        torch.cumsum(weights[one.lower], dim=0, out=below[1:])
        start, end, node_start, node_end = one.edges
        # Weight of the worse rated with a lower score, less that of those with a higher score.
        balance = below[start].add_(below[end]).sub_(below[node_start]).sub_(below[node_end])
        surplus += balance.mul_(weights[one.upper]).sum(dim=0, dtype=torch.float64)
    size = weights.sum(dim=0, dtype=torch.float64)
    pairs = size * (size - 1) / 2
    untied, classes = [], []
    for rank in (score_rank, rating_rank):
        groups = weighted_histograms(counts, unit, rank, int(rank.max()) + 1 if len(rank) > 0 else 1)
        untied.append(pairs - (groups * (groups - 1) / 2).sum(dim=1))
        classes.append((groups > 0).sum(dim=1))
    fewest = torch.minimum(*classes).double()
    undefined = torch.minimum(*untied) <= 0
    tau_b = surplus / untied[0].sqrt() / untied[1].sqrt()
    tau_c = 2 * surplus / (size.square() * (fewest - 1) / fewest)
    return KendallTaus(*(tau.clamp(-1, 1).masked_fill(undefined, torch.nan) for tau in (tau_b, tau_c)))
