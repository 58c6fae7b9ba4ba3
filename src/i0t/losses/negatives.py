"""Whose rows are the negatives: those of all ranks, or each rank's own.

Shapes: B rows of this rank, N columns that they are compared with (W * B over all W ranks, or B), D embedding width.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from i0t.distributed import all_gather_with_grad, all_reduce_sum_with_grad, is_distributed, rank

Negatives = Literal["global", "local"]


def check_negatives(negatives: str) -> None:
    """Rejects what is neither ``"global"`` nor ``"local"``.

    Raises:
        ValueError: With the value.
    """
    if negatives not in get_args(Negatives):
        raise ValueError(f"negatives must be 'global' (all devices' rows) or 'local' (each its own), got {negatives!r}")


def gather_columns(*rows: Tensor, negatives: Negatives) -> tuple[Tensor, ...]:
    """The columns that this rank's rows are compared with, in one collective for all arguments.

    Args:
        *rows: ``(B, D)`` each, row i of all of them belonging together.
        negatives: ``"global"`` gathers, with gradients; ``"local"`` does not communicate.

    Returns:
        ``(N, D)`` each, in rank order; the arguments themselves where nothing is gathered.

    Raises:
        ValueError: If ``negatives`` is neither, or ranks hold different numbers of rows.
    """
    check_negatives(negatives)
    if negatives == "local" or not is_distributed():
        return rows
    return all_gather_with_grad(torch.stack(rows, dim=1)).unbind(dim=1)


def own_column(rows: Tensor, negatives: Negatives) -> Tensor:
    """Column that belongs to each of this rank's rows, ``(B,)`` int64.

    Args:
        rows: ``(B, D)`` of this rank.
        negatives: As given to :func:`gather_columns`.
    """
    first = rank() * len(rows) if negatives == "global" else 0
    return torch.arange(first, first + len(rows), device=rows.device)


def sum_over_batch(sums: Tensor, negatives: Negatives) -> Tensor:
    """Sums over this rank's rows -> sums over all rows that count as one batch, with gradients.

    Args:
        sums: Any shape, the same on every rank.
        negatives: ``"global"`` adds up the ranks, ``"local"`` returns ``sums``.
    """
    return all_reduce_sum_with_grad(sums) if negatives == "global" else sums
