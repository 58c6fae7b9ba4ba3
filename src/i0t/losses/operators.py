"""The tiled sums that the losses are made of, as operators that autograd and torch.compile go through.

Each is an operator of its own (``torch.ops.i0t``), so that ``torch.compile`` takes it as one node and does not unroll
its loop over tiles. Its further outputs are the value's gradients: the tiles that give the one give the other, nothing
of size B x N waits for a backward pass, and that has only to multiply by the incoming number.

Shapes: B rows of this rank, N columns, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from i0t.losses.checks import refuse_second_derivative
from i0t.losses.symmetric import SymmetricContrastive
from i0t.losses.tiles import GAIN, PanelGradients, one_way, product_dtype, shifted_exp, sum_of_pieces


def contrastive_rows(rows: Tensor, columns: Tensor, own: Tensor, scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """Sum over rows of the cross entropy of ``scale * rows @ columns.T`` with the own columns.

    Args:
        rows: ``(B, D)``, float32 or better.
        columns: ``(N, D)``, of the same dtype.
        own: ``(B,)`` int64, each row's own column.
        scale: ``()``, of the same dtype.
        smoothing: Share of the target spread over all columns.

    Returns:
        ``()``, nats.

    Example:
        >>> x = torch.eye(2)
        >>> contrastive_rows(x, x, torch.tensor([0, 1]), torch.tensor(1.0))
        tensor(0.6265)
    """
    return _sum(torch.ops.i0t.contrastive_rows, rows, columns, scale, own, smoothing)


def contrastive_pairs(image: Tensor, text: Tensor, scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """Both directions' :func:`contrastive_rows` of a batch with itself, added, from one matrix of logits.

    Args:
        image: ``(N, D)``, float32 or better.
        text: ``(N, D)``, row i belonging to image i, of the same dtype.
        scale: ``()``, of the same dtype.
        smoothing: Share of the target spread over all columns.

    Returns:
        ``()``, nats.
    """
    return _sum(torch.ops.i0t.contrastive_pairs, image, text, scale, smoothing)


def sigmoid_rows(rows: Tensor, columns: Tensor, own: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Sum of ``-log sigmoid`` of the own logits and of the others' negatives, over ``scale * rows @ columns.T + bias``.

    Args:
        rows: ``(B, D)``, float32 or better.
        columns: ``(N, D)``, of the same dtype.
        own: ``(B,)`` int64, each row's own column.
        scale: ``()``, of the same dtype.
        bias: ``()``, of the same dtype.

    Returns:
        ``()``, nats.

    Example:
        >>> sigmoid_rows(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor(0.0), torch.tensor(0.0))
        tensor(2.7726)
    """
    return _sum(torch.ops.i0t.sigmoid_rows, rows, columns, scale, bias, own)


def loob_rows(rows: Tensor, columns: Tensor, own: Tensor, scale: Tensor) -> Tensor:
    """Sum over rows of the logsumexp over the other columns minus the own column's logit (InfoLOOB).

    Args:
        rows: ``(B, D)``, float32 or better.
        columns: ``(N, D)``, N >= 2, of the same dtype.
        own: ``(B,)`` int64, each row's own column.
        scale: ``()``, of the same dtype.

    Returns:
        ``()``, nats; of any sign.

    Example:
        >>> loob_rows(torch.tensor([[2.0, 0.5], [1.0, 3.0]]), torch.eye(2), torch.tensor([0, 1]), torch.tensor(1.0))
        tensor(-3.5000)
    """
    return _sum(torch.ops.i0t.loob_rows, rows, columns, scale, own)


def affinity_rows(rows: Tensor, columns: Tensor, own: Tensor) -> Tensor:
    """Sum of ``exp(-2 ||r_i - c_j||^2)`` over all rows and all columns but each row's own.

    Args:
        rows: ``(B, D)``, float32 or better, of norms near 1: at distances above 6 the exponential is zero.
        columns: ``(N, D)``, of the same dtype.
        own: ``(B,)`` int64, each row's own column.

    Returns:
        ``()``.

    Example:
        >>> affinity_rows(torch.eye(2), torch.eye(2), torch.tensor([0, 1])).log()
        tensor(-3.3069)
    """
    return _sum(torch.ops.i0t.affinity_rows, rows, columns, own)


def _sum(operator: Callable[..., tuple[Tensor, ...]], *arguments: Any) -> Tensor:
    """The operator's value in autograd's graph; tensors that want gradients come first, in the order of its outputs."""
    tensors = [each for each in arguments if isinstance(each, Tensor)]
    products = product_dtype(tensors[0])
    with_gradients = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
    # Without gradients too: torch.func and forward mode are refused by a function, but pass an operator by unseen.
    value: Tensor = _WithGradients.apply(operator, *arguments, products, with_gradients)
    return value


class _WithGradients(torch.autograd.Function):
    """An operator whose further outputs are the gradients of its first by its first inputs."""

    @staticmethod
    def forward(ctx: Any, operator: Callable[..., tuple[Tensor, ...]], *arguments: Any) -> Tensor:
        value, *gradients = operator(*arguments)
        ctx.save_for_backward(*gradients)
        ctx.num_others = len(arguments) - len(gradients)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        wanted = ctx.needs_input_grad[1:]
        found = [gradient * x if wants else None for x, wants in zip(ctx.saved_tensors, wanted, strict=False)]
        return (None, *found, *[None] * ctx.num_others)


def _contrastive_rows(
    rows: Tensor, columns: Tensor, scale: Tensor, own: Tensor, smoothing: float, products: torch.dtype, gradients: bool
) -> PanelGradients:
    def weigh(panel: Tensor, span: slice) -> Tensor:
        target = own[span, None]
        own_logit, peak = panel.gather(1, target), panel.amax(dim=1, keepdim=True)
        loss = peak - own_logit  # not logsumexp - own: at scale 100 that loses digits
        if smoothing:
            loss += smoothing * (own_logit - panel.mean(dim=1, keepdim=True))
        total = shifted_exp(panel, peak, panel).sum(dim=1, keepdim=True)
        panel.mul_(GAIN / total)
        panel.scatter_add_(1, target, panel.new_full((), GAIN * (smoothing - 1)).expand_as(target))
        if smoothing:
            panel.sub_(GAIN * smoothing / len(columns))
        return (loss + total.log()).sum()

    return one_way(rows, columns, scale, own, weigh, products=products, with_gradients=gradients)


def _contrastive_pairs(
    image: Tensor, text: Tensor, scale: Tensor, smoothing: float, products: torch.dtype, gradients: bool
) -> PanelGradients:
    return SymmetricContrastive(image, text, scale, smoothing, products).run(with_gradients=gradients)


def _sigmoid_rows(
    rows: Tensor, columns: Tensor, scale: Tensor, bias: Tensor, own: Tensor, products: torch.dtype, gradients: bool
) -> tuple[Tensor, ...]:
    by_bias = bias.new_zeros(())

    def weigh(panel: Tensor, span: slice) -> Tensor:
        target = own[span, None]
        panel.add_(bias)
        panel.scatter_(1, target, -panel.gather(1, target))
        # -log sigmoid(-logit), a few rows at a time: no second panel.
        loss = sum_of_pieces(panel, lambda piece: F.softplus(piece, threshold=40).sum())
        panel.sigmoid_().mul_(GAIN)
        panel.scatter_(1, target, -panel.gather(1, target))
        by_bias.add_(panel.sum() / GAIN)
        return loss

    found = one_way(rows, columns, scale, own, weigh, products=products, with_gradients=gradients)
    return (*found, by_bias)


def _loob_rows(
    rows: Tensor, columns: Tensor, scale: Tensor, own: Tensor, products: torch.dtype, gradients: bool
) -> PanelGradients:
    def weigh(panel: Tensor, span: slice) -> Tensor:
        target = own[span, None]
        own_logit = panel.gather(1, target)
        panel.scatter_(1, target, -torch.inf)
        peak = panel.amax(dim=1, keepdim=True)
        total = shifted_exp(panel, peak, panel).sum(dim=1, keepdim=True)
        panel.mul_(GAIN / total).scatter_(1, target, -GAIN)
        return (peak - own_logit + total.log()).sum()

    return one_way(rows, columns, scale, own, weigh, products=products, with_gradients=gradients)


def _affinity_rows(
    rows: Tensor, columns: Tensor, own: Tensor, products: torch.dtype, gradients: bool
) -> tuple[Tensor, ...]:
    row_norms, column_norms = (2 * each.square().sum(dim=1) for each in (rows, columns))
    row_sums, column_sums = rows.new_zeros(len(rows)), rows.new_zeros(len(columns))

    def weigh(panel: Tensor, span: slice) -> Tensor:
        panel.sub_(row_norms[span, None]).sub_(column_norms).exp_()
        panel.scatter_(1, own[span, None], 0.0)
        row_sums[span] = panel.sum(dim=1)
        column_sums.add_(panel.sum(dim=0))
        panel.mul_(GAIN)
        return row_sums[span].sum()

    # Distances are differences: products stay in full precision.
    four = rows.new_full((), 4.0)
    found = one_way(rows, columns, four, own, weigh, products=rows.dtype, with_gradients=gradients)
    if not gradients:
        return found.value, found.rows, found.columns
    found.rows.addcmul_(row_sums[:, None], rows, value=-4)
    found.columns.addcmul_(column_sums[:, None], columns, value=-4)
    return found.value, found.rows, found.columns


def _register(name: str, schema: str, body: Callable[..., tuple[Tensor, ...]], num_tensors: int) -> None:
    """Defines ``torch.ops.i0t.<name>`` whose outputs are a number and a gradient per leading tensor."""

    def fake(*arguments: Any) -> tuple[Tensor, ...]:
        tensors, gradients = arguments[:num_tensors], arguments[-1]
        shapes = [x.shape if gradients or not x.ndim else (0, *x.shape[1:]) for x in tensors]
        return (tensors[0].new_empty(()), *(tensors[0].new_empty(shape) for shape in shapes))

    def in_given_precision(*arguments: Any) -> tuple[Tensor, ...]:
        with torch.autocast(arguments[0].device.type, enabled=False):
            return body(*arguments)

    outputs = ", ".join(["Tensor"] * (num_tensors + 1))
    torch.library.define(f"i0t::{name}", f"({schema}, ScalarType products, bool gradients) -> ({outputs})")
    torch.library.impl(f"i0t::{name}", "default", in_given_precision)
    torch.library.register_fake(f"i0t::{name}", fake)


_register(
    "contrastive_rows",
    "Tensor rows, Tensor columns, Tensor scale, Tensor own, float smoothing",
    _contrastive_rows,
    num_tensors=3,
)
_register(
    "contrastive_pairs", "Tensor image, Tensor text, Tensor scale, float smoothing", _contrastive_pairs, num_tensors=3
)
_register(
    "sigmoid_rows", "Tensor rows, Tensor columns, Tensor scale, Tensor bias, Tensor own", _sigmoid_rows, num_tensors=4
)
_register("loob_rows", "Tensor rows, Tensor columns, Tensor scale, Tensor own", _loob_rows, num_tensors=3)
_register("affinity_rows", "Tensor rows, Tensor columns, Tensor own", _affinity_rows, num_tensors=2)
