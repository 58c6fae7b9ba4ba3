"""Row by column products in tiles, for losses whose N x N matrix of logits must not be kept.

Between the products of a tile are a few elementwise operations: on a CPU a side of 512 keeps the tile in the cache, an
accelerator takes larger ones. What is kept beyond a tile and the byte budget is linear in the batch.

Shapes: B rows, N columns, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

MIB = 2**20
CPU_SIDE = 512
CPU_BYTES = 64 * MIB
ACCELERATOR_BYTES = 512 * MIB
MIN_PANEL_ROWS = 128
# Weights of a softmax over thousands are near the smallest normal float16: this power of two is taken out at the end.
GAIN = 1024.0
# Below, float32's exponential is subnormal, which costs a CPU ten times the time; e^-80 is nothing beside 1.
LOWEST_EXPONENT = -80.0


class TileSizes(NamedTuple):
    """How a matrix is cut.

    Attributes:
        side: Rows and columns of a tile.
        num_kept: Tiles that fit into the byte budget and need not be computed twice.
        panel_rows: Rows of a tile that spans all columns.
    """

    side: int
    num_kept: int
    panel_rows: int


def tile_sizes(num_rows: int, num_columns: int, rows: Tensor, operand: torch.dtype) -> TileSizes:
    """Sizes from the byte budget of the device; one tile where the whole matrix fits into it (CPU: a cached tile).

    Counted against an accelerator's budget is all that is of a tile's shape at a time: beside those kept, one of
    logits, one of weights, and their rounded copy. On a CPU these are 2 MiB, and the budget is for those kept.

    Args:
        num_rows: B.
        num_columns: N.
        rows: For device and element size.
        operand: From :func:`operand_dtype`.
    """
    is_cpu = rows.device.type == "cpu"
    element = rows.element_size()
    copy = operand.itemsize if operand != rows.dtype else 0
    budget = CPU_BYTES if is_cpu else ACCELERATOR_BYTES
    panel_rows = min(max(MIN_PANEL_ROWS, budget // (num_columns * (element + copy))), num_rows)
    if is_cpu:
        return TileSizes(CPU_SIDE, budget // (element * CPU_SIDE**2), panel_rows)
    side = max(num_rows, num_columns)
    if side**2 * (2 * element + copy) <= budget:
        return TileSizes(side, 1, panel_rows)
    side = isqrt(budget // (8 * element))
    return TileSizes(side, (budget - side**2 * (2 * element + copy)) // (element * side**2), panel_rows)


def spans(length: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` that cover ``range(length)``."""
    for first in range(0, length, size):
        yield slice(first, min(first + size, length))


def product_dtype(rows: Tensor) -> torch.dtype:
    """What matrix products may be computed in: the dtype of autocast for float32 rows, the rows' own without.

    Args:
        rows: ``(B, D)``, float32 or better.
    """
    device = rows.device.type
    if rows.dtype != torch.float32 or not torch.is_autocast_enabled(device):
        return rows.dtype
    return torch.get_autocast_dtype(device)


def operand_dtype(rows: Tensor, products: torch.dtype) -> torch.dtype:
    """The dtype that operands are rounded to; sums and results are float32 or better whatever it is.

    Only CUDA multiplies halves into float32. On a CPU operands stay float32, and :func:`reduced_products` allows
    bfloat16 inside.

    Args:
        rows: For the device and the other dtype.
        products: From :func:`product_dtype`.
    """
    return products if rows.device.type == "cuda" else rows.dtype


@contextmanager
def reduced_products(rows: Tensor, products: torch.dtype) -> Iterator[None]:
    """On a CPU with bfloat16 instructions, multiplies float32 matrices in bfloat16 with float32 sums and results.

    On one without it changes nothing: there bfloat16 takes ten times as long as float32. The flag is torch's, of the
    whole process: other threads' float32 matrix products are allowed bfloat16 for as long as this takes.

    Args:
        rows: For the device.
        products: From :func:`product_dtype`; anything but bfloat16 does nothing.
    """
    if rows.device.type != "cpu" or products != torch.bfloat16:
        yield
        return
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # the module replaces itself by an object
    saved = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = saved


def multiply(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """``left @ right``, summed and returned in ``dtype``."""
    return torch.mm(left, right) if left.dtype == dtype else torch.mm(left, right, out_dtype=dtype)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, in the dtype of ``total``."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(multiply(left, right, total.dtype))


def shifted_exp(logits: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """``exp(logits - shift)`` into ``out``, where no exponent is above zero."""
    torch.sub(logits, shift, out=out)
    if out.device.type == "cpu" and out.dtype == torch.float32:
        out.clamp_(min=LOWEST_EXPONENT)
    return out.exp_()


def sum_of_pieces(panel: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of what ``function`` makes of a few rows of a tile at a time, so that its copies are small."""
    total = panel.new_zeros(())
    for part in spans(len(panel), max(1, len(panel) // 64)):
        total += function(panel[part])
    return total


class PanelGradients(NamedTuple):
    """What :func:`one_way` returns; the gradients are empty unless asked for.

    Attributes:
        value: ``()``, the sum of what ``weigh`` returned.
        rows: ``(B, D)`` gradient.
        columns: ``(N, D)`` gradient.
        scale: ``()`` gradient.
    """

    value: Tensor
    rows: Tensor
    columns: Tensor
    scale: Tensor


def one_way(
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    own: Tensor,
    weigh: Callable[[Tensor, slice], Tensor],
    *,
    products: torch.dtype,
    with_gradients: bool,
) -> PanelGradients:
    """A sum over entries of ``scale * rows @ columns.T`` and its gradients, in one pass of three products.

    A tile spans all columns, so whatever a row's entries have in common is known before its weights are.

    Args:
        rows: ``(B, D)``.
        columns: ``(N, D)``.
        scale: ``()``.
        own: ``(B,)`` int64, each row's own column, whose weight outweighs the others: it is not rounded.
        weigh: Takes a tile of logits, ``(b, N)``, and its rows' slice; returns its part of the value and leaves in the
            tile GAIN times the value's derivative by each logit.
        products: From :func:`product_dtype`.
        with_gradients: Whether gradients are needed.
    """
    sizes = tile_sizes(len(rows), len(columns), rows, operand_dtype(rows, products))
    panels = _Panels(rows, columns, scale, own, operand_dtype(rows, products), sizes)
    value, scale_gradient = rows.new_zeros(()), rows.new_zeros(())
    by_rows, by_columns = (x.new_zeros(x.shape if with_gradients else (0, x.shape[1])) for x in (rows, columns))
    with reduced_products(rows, products):
        for span in spans(len(rows), sizes.panel_rows):
            panel = panels.logits(span)
            value += weigh(panel, span)
            if with_gradients:
                panels.add_gradients(panel, span, by_rows, by_columns)
                scale_gradient += (by_rows[span] * rows[span]).sum()
            del panel  # before the next one: no more than one at a time
    return PanelGradients(value, by_rows.mul_(scale / GAIN), by_columns.mul_(scale / GAIN), scale_gradient / GAIN)


class _Panels:
    """The products of :func:`one_way`, on a CPU in pieces of columns that stay in the cache.

    Args:
        rows: ``(B, D)``.
        columns: ``(N, D)``.
        scale: ``()``.
        own: ``(B,)``.
        operand: From :func:`operand_dtype`.
        sizes: From :func:`tile_sizes`.
    """

    def __init__(
        self, rows: Tensor, columns: Tensor, scale: Tensor, own: Tensor, operand: torch.dtype, sizes: TileSizes
    ) -> None:
        self.rows, self.columns, self.scale, self.own, self.operand = rows, columns, scale, own, operand
        self.columns_low = columns.to(operand)
        self.parts = list(spans(len(columns), sizes.side if rows.device.type == "cpu" else len(columns)))
        # Halves are multiplied into a new tensor.
        self.buffer = rows.new_empty(sizes.panel_rows, len(columns)) if operand == rows.dtype else None

    def logits(self, span: slice) -> Tensor:
        """``(b, N)`` of some rows; overwritten by the next call's."""
        scaled = (self.rows[span] * self.scale).to(self.operand)
        if self.buffer is None:
            return multiply(scaled, self.columns_low.T, self.rows.dtype)
        panel = self.buffer[: len(scaled)]
        for part in self.parts:
            torch.mm(scaled, self.columns_low[part].T, out=panel[:, part])
        return panel

    def add_gradients(self, panel: Tensor, span: slice, by_rows: Tensor, by_columns: Tensor) -> None:
        """Adds a tile of weights times columns, and its transpose times rows; empties the own columns' entries."""
        own = self.own[span]
        own_weight = panel.gather(1, own.unsqueeze(1))
        panel.scatter_(1, own.unsqueeze(1), 0.0)
        by_rows[span].addcmul_(own_weight, self.columns[own])
        by_columns.index_add_(0, own, own_weight * self.rows[span])
        unscaled, weights = self.rows[span].to(self.operand), panel.to(self.operand)
        for part in self.parts:
            add_product(by_rows[span], weights[:, part], self.columns_low[part])
            add_product(by_columns[part], weights[:, part].T, unscaled)
