"""Discordant pairs of many pairs of rankings at once."""

# B rows, C columns.
import torch
from torch import Tensor

from i0t.metrics.functional.sums import block_size, row_blocks

# Cosines that differ by less are equal: two products of the same rows differ by the order of their sums.
DECIMALS = 10
# Many passes over few numbers: so few stay in a core's cache, and are not worth the start of a second thread.
CACHED_ENTRIES = 2**14


def discordant_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Pairs of columns that two matrices order differently, row by row; a pair that is tied in either is not one.

    The columns are brought into the order of one matrix; what remains is to count the inversions of the other's ranks,
    which takes ``C log C`` steps instead of a comparison of all pairs.

    Args:
        first: ``(B, C)`` float64; values equal to ten decimals are tied.
        second: ``(B, C)`` float64.

    Returns:
        ``(B,)`` int64.

    Example:
        >>> discordant_pairs(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.0, 2.0]]))
        tensor([1])
    """
    blocks = row_blocks(len(first), block_size(first.shape[1], entries=CACHED_ENTRIES))
    return torch.cat([_discordant_block(first[rows], second[rows]) for rows in blocks])


def _discordant_block(first: Tensor, second: Tensor) -> Tensor:
    """:func:`discordant_pairs` of rows that fit a processor's cache together."""
    first, second = first.round(decimals=DECIMALS), second.round(decimals=DECIMALS)
    # In order of the first, ties in order of the second: a tie in either makes no inversion.
    order = second.argsort(dim=1, stable=True)
    order = order.gather(1, first.gather(1, order).argsort(dim=1, stable=True))
    by_second = second.gather(1, order).argsort(dim=1, stable=True)
    ranks = torch.empty_like(by_second)
    ranks.scatter_(1, by_second, torch.arange(first.shape[1], device=first.device).expand_as(by_second))
    return inversions(ranks)


def inversions(ranks: Tensor) -> Tensor:
    """Pairs of columns in which the larger number comes first, row by row.

    One pass for each bit from the highest: numbers that agree in all higher bits stand together in their original
    order, every one of them with the bit that precedes one without it is an inversion, and a stable split by the bit
    prepares the next pass.

    Args:
        ranks: ``(B, C)`` int64, every row a permutation of 0 … C - 1.

    Returns:
        ``(B,)`` int64.

    Example:
        >>> inversions(torch.tensor([[2, 0, 1], [0, 1, 2]]))
        tensor([2, 0])
    """
    num_rows, num_columns = ranks.shape
    num_bits = (num_columns - 1).bit_length()
    position = torch.arange(2**num_bits, device=ranks.device)
    # Filled up to a power of two with larger numbers at the end, which invert nothing: segments have one length, and
    # half of every segment has the bit.
    line = position.repeat(num_rows, 1)
    line[:, :num_columns] = ranks
    total = torch.zeros(num_rows, dtype=torch.int64, device=ranks.device)
    for bit in reversed(range(num_bits)):
        half, start = 2**bit, position >> (bit + 1) << (bit + 1)
        with_bit = line >> bit & 1
        before = with_bit.cumsum(dim=1).sub_(start // 2)
        total += before.mul(1 - with_bit).sum(dim=1)
        with_place, without_place = before + (start + half - 1), position - before
        line = torch.empty_like(line).scatter_(1, torch.where(with_bit == 1, with_place, without_place), line)
    return total
