"""Nearest neighbours inside one modality: do rows of one kind find each other, and what does a reducer do to them?"""

# N rows, Q queries, D feature width, K neighbours.
import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_labels, check_unit_rows
from i0t.metrics.functional.sums import block_size, row_blocks

# Cosines closer than this many units of rounding are tied, as in retrieval across modalities.
TIE_ROUNDING_UNITS = 8


def within_modality_hits(
    features: Tensor, labels: Tensor, queries: Tensor | None = None, *, groups: Tensor | None = None
) -> Tensor:
    """Whether the nearest other row has the query's label: recall at 1 inside a modality, query by query.

    With captions as rows and their images as labels: does a caption find another caption of its image? Ties count
    against the query.

    Args:
        features: ``(N, D)`` float, L2-normalised, of one modality.
        labels: ``(N,)`` integers, or ``(N, L)`` for several kinds of label at once.
        queries: ``(Q,)`` int64 rows that ask; None: all. Every other row can answer.
        groups: ``(N,)`` integers; rows of the query's own group cannot answer (variants of one source are found without
            effort). None: only the query itself cannot.

    Returns:
        ``(Q,)`` or ``(Q, L)`` float64: 1 a hit, 0 a miss, NaN for a query whose label no row has that could answer.

    Raises:
        ValueError: If a row is not a unit vector or shapes do not fit.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, -0.8]])
        >>> within_modality_hits(rows, torch.tensor([0, 0, 1, 1])).tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    rows = check_unit_rows(features, "features")
    several = labels if labels.ndim == 2 else labels[:, None]
    kinds = [check_labels(column, len(rows), "labels")[0].to(rows.device) for column in several.unbind(dim=1)]
    own = torch.arange(len(rows), device=rows.device)
    if groups is not None:
        own = check_labels(groups, len(rows), "groups")[0].to(rows.device)
    asked = torch.arange(len(rows), device=rows.device) if queries is None else queries.to(rows.device)
    hits = torch.ones(len(asked), len(kinds), dtype=torch.float64, device=rows.device)
    for block in row_blocks(len(asked), block_size(len(rows))):
        query, nearest = _nearest_rows(rows, asked[block], own)
        for column, classes in enumerate(kinds):
            wrong = query[classes[asked[block]][query] != classes[nearest]]
            hits[block.start + wrong, column] = 0  # one wrong row among the nearest is enough: ties count against it
    for column, classes in enumerate(kinds):
        hits[~_answerable(classes, own)[asked], column] = torch.nan
    return hits if labels.ndim == 2 else hits[:, 0]


def _nearest_rows(rows: Tensor, query: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Every nearest row of each query outside its own group: numbers of queries ``(T,)`` and the rows ``(T,)``."""
    cosines = (rows[query] @ rows.T).masked_fill_(own[query, None] == own, -torch.inf)
    tolerance = TIE_ROUNDING_UNITS * torch.finfo(rows.dtype).eps
    number, nearest = (cosines >= cosines.amax(dim=1, keepdim=True) - tolerance).nonzero().unbind(dim=1)
    return number, nearest


def _answerable(classes: Tensor, own: Tensor) -> Tensor:
    """Whether a row of another group has the row's label, ``(N,)`` bool."""
    both = classes * (int(own.max()) + 1) + own
    _, place, in_both = torch.unique(both, return_inverse=True, return_counts=True)
    return torch.bincount(classes)[classes] > in_both[place]


def neighbors_kept(before: Tensor, after: Tensor, queries: Tensor | None = None, *, k: int = 10) -> Tensor:
    """Share of the k nearest neighbours that a row keeps from one embedding of a modality to another.

    A neighbour is kept if it still is as near as the k-th nearest; of equally near ones (captions that read the same)
    it does not matter which are looked at.

    Args:
        before: ``(N, D)`` float, L2-normalised, N > k.
        after: ``(N, E)`` float, L2-normalised, the same rows in another embedding.
        queries: ``(Q,)`` int64 rows whose neighbours are looked at; None: all.
        k: Number of neighbours.

    Returns:
        ``(Q,)`` float64 in ``[0, 1]``; of unrelated embeddings about ``k / (N - 1)``.

    Raises:
        ValueError: If a row is not a unit vector, the numbers of rows differ, or k is not in ``[1, N)``.

    Example:
        >>> rows = torch.nn.functional.normalize(torch.tensor([[3.0, 1.0], [2.0, 1.0], [1.0, 2.0]]), dim=1)
        >>> neighbors_kept(rows, rows.flip(1), k=1).tolist()
        [1.0, 1.0, 1.0]
    """
    first, second = check_unit_rows(before, "before"), check_unit_rows(after, "after")
    if len(first) != len(second):
        raise ValueError(f"before has {len(first)} rows and after {len(second)}; they must be the same rows")
    if not 1 <= k < len(first):
        raise ValueError(f"k must lie in 1 … {len(first) - 1}, one less than there are rows, got {k}")
    asked = torch.arange(len(first), device=first.device) if queries is None else queries.to(first.device)
    tolerance = TIE_ROUNDING_UNITS * torch.finfo(second.dtype).eps
    kept = torch.empty(len(asked), dtype=torch.float64, device=first.device)
    for block in row_blocks(len(asked), block_size(len(first))):
        query = asked[block]
        neighbors = _cosines_with_others(first, query).topk(k, dim=1).indices
        cosines = _cosines_with_others(second, query)
        kth = cosines.topk(k, dim=1).values[:, -1:]
        kept[block] = (cosines.gather(1, neighbors) >= kth - tolerance).double().mean(dim=1)
    return kept


def _cosines_with_others(rows: Tensor, query: Tensor) -> Tensor:
    """``(Q, N)``, minus infinity where a query meets itself."""
    return (rows[query] @ rows.T).scatter_(1, query[:, None], -torch.inf)
