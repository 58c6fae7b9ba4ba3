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
    """Sum of the rows ``(N, D)`` as ``(D,)`` float64."""
    return features.sum(dim=0, dtype=torch.float64)


def squared_norm_sum(features: Tensor) -> Tensor:
    """Sum of the squared norms of the rows ``(N, D)`` as a float64 scalar."""
    return features.square().sum(dtype=torch.float64)


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


def matched_squared_distances(image: Tensor, text: Tensor, image_of_text: Tensor) -> Tensor:
    """Squared Euclidean distance of every text to its image, from differences.

    Differences rather than ``2 - 2 cos``, which loses all digits where the two nearly agree.

    Args:
        image: ``(N, D)``.
        text: ``(M, D)``.
        image_of_text: ``(M,)`` int64.

    Returns:
        ``(M,)`` float64.
    """
    blocks = [
        (text[rows].double() - image[image_of_text[rows]].double()).square().sum(dim=1)
        for rows in row_blocks(len(text))
    ]
    return torch.cat(blocks)


def matched_cosine_mean(image: Tensor, text: Tensor, image_of_text: Tensor) -> Tensor:
    """Mean cosine of matched pairs, float64 scalar; arguments as in :func:`matched_squared_distances`."""
    total = torch.zeros((), dtype=torch.float64, device=text.device)
    for rows in row_blocks(len(text)):
        total += (text[rows].double() * image[image_of_text[rows]].double()).sum()
    return total / len(text)
