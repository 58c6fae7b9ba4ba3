"""Sums over rows, which replace matrices over pairs of rows.

The sum of all cosines between two sets is the dot product of the sets' sums, so means over pairs cost one pass over the
rows. Sums are taken in float64: the pairs' mean is a small difference of large numbers.
"""

# N rows, D width, G groups.
from collections.abc import Iterator

import torch
from torch import Tensor

ROWS_AT_ONCE = 8192


def row_blocks(num_rows: int, block: int = ROWS_AT_ONCE) -> Iterator[slice]:
    """Consecutive slices of at most ``block`` rows that cover ``num_rows`` rows."""
    for start in range(0, num_rows, block):
        yield slice(start, min(start + block, num_rows))


def block_size(row_length: int, *, entries: int = 2**22) -> int:
    """How many rows of ``row_length`` entries fit a block of ``entries`` (16 MiB in float32), at least one."""
    return max(1, entries // max(row_length, 1))


def row_sum(features: Tensor) -> Tensor:
    """Sum of the rows ``(N, D)`` as ``(D,)`` float64; by blocks, for torch copies what it sums in another precision."""
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for rows in row_blocks(len(features)):
        total += features[rows].sum(dim=0, dtype=torch.float64)
    return total


def squared_norms(features: Tensor) -> Tensor:
    """Squared norm of every row ``(N, D)``, ``(N,)`` float64."""
    blocks = [features[rows].double().square().sum(dim=1) for rows in row_blocks(len(features))]
    return torch.cat(blocks)


def squared_norm_sum(features: Tensor) -> Tensor:
    """Sum of the squared norms of the rows ``(N, D)`` as a float64 scalar."""
    return squared_norms(features).sum()


def group_sums(features: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Sum of the rows of each group.

    Args:
        features: ``(N, D)`` float.
        groups: ``(N,)`` int64 in ``[0, G)``.
        num_groups: G.

    Returns:
        ``(G, D)`` float64; zero where a group has no rows.
    """
    sums = torch.zeros(num_groups, features.shape[1], dtype=torch.float64, device=features.device)
    for rows in row_blocks(len(features)):
        sums.index_add_(0, groups[rows], features[rows].double())
    return sums
