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


def tile_sizes(num_rows: int, num_columns: int, rows: Tensor) -> TileSizes:
    """Sizes from the byte budget of the device; one tile where the whole matrix fits into it (CPU: a cached tile).

    Args:
        num_rows: B.
        num_columns: N.
        rows: For device and element size.
    """
    is_cpu = rows.device.type == "cpu"
    num_elements = (CPU_BYTES if is_cpu else ACCELERATOR_BYTES) // rows.element_size()
    if is_cpu:
        side = CPU_SIDE
    else:
        side = max(num_rows, num_columns)
        if side**2 > num_elements:
            side = isqrt(num_elements // 8)
    panel_rows = max(MIN_PANEL_ROWS, num_elements // num_columns)
    return TileSizes(side, num_elements // side**2, min(panel_rows, num_rows))


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

    On one without it changes nothing: there bfloat16 takes ten times as long as float32.

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


def multiply(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """``left @ right`` in the dtype of ``out``, and in its memory where the operands have that dtype."""
    if left.dtype == out.dtype:
        return torch.mm(left, right, out=out)
    return torch.mm(left, right, out_dtype=out.dtype)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total += left @ right``, in the dtype of ``total``."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(torch.mm(left, right, out_dtype=total.dtype))


def shifted_exp(logits: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """``exp(logits - shift)`` into ``out``, where no exponent is above zero."""
    torch.sub(logits, shift, out=out)
    if out.device.type == "cpu" and out.dtype == torch.float32:
        out.clamp_(min=LOWEST_EXPONENT)
    return out.exp_()


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
        weigh: Takes a tile of logits, ``(b, N)``, and its rows' slice; returns its part of the value and leaves in the
            tile GAIN times the value's derivative by each logit.
        products: From :func:`product_dtype`.
        with_gradients: Whether gradients are needed.
    """
    sizes = tile_sizes(len(rows), len(columns), rows)
    operand = operand_dtype(rows, products)
    columns_low = columns.to(operand)
    step = sizes.side if rows.device.type == "cpu" else len(columns)
    buffer = rows.new_empty(sizes.panel_rows, len(columns))
    value, scale_gradient = rows.new_zeros(()), rows.new_zeros(())
    by_rows, by_columns = (x.new_zeros(x.shape if with_gradients else (0, x.shape[1])) for x in (rows, columns))
    with reduced_products(rows, products):
        for span in spans(len(rows), sizes.panel_rows):
            scaled = (rows[span] * scale).to(operand)
            panel = _fill(buffer[: len(scaled)], scaled, columns_low, step)
            value += weigh(panel, span)
            if not with_gradients:
                continue
            unscaled, weights = rows[span].to(operand), panel.to(operand)
            for part in spans(len(columns), step):
                add_product(by_rows[span], weights[:, part], columns_low[part])
                add_product(by_columns[part], weights[:, part].T, unscaled)
            scale_gradient += (by_rows[span] * rows[span]).sum()
    return PanelGradients(value, by_rows.mul_(scale / GAIN), by_columns.mul_(scale / GAIN), scale_gradient / GAIN)


def _fill(panel: Tensor, rows: Tensor, columns: Tensor, step: int) -> Tensor:
    """All columns' products, ``step`` columns at a time where they can be written in place."""
    if step >= len(columns) or rows.dtype != panel.dtype:
        return multiply(rows, columns.T, panel)
    for part in spans(len(columns), step):
        multiply(rows, columns[part].T, panel[:, part])
    return panel
