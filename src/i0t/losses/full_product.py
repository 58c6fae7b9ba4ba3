"""A matrix product that autocast lowers neither forward nor backward, compiled or not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def full_product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right`` in the operands' own dtype.

    ``with torch.autocast(…, enabled=False)`` around a product does as much in eager mode. But ``torch.compile`` traces
    the backward pass under the autocast that the compiled function was *entered* with, and so takes the products in
    there in bfloat16: gradients were .3 % off.

    Args:
        left: ``(A, B)``.
        right: ``(B, C)``, of the same dtype.

    Returns:
        ``(A, C)``; differentiable any number of times.
    """
    product: Tensor = _FullProduct.apply(left, right)
    return product


class _FullProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        with torch.autocast(left.device.type, enabled=False):
            return left @ right

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        wants_left, wants_right = ctx.needs_input_grad
        by_left = full_product(gradient, right.T) if wants_left else None
        by_right = full_product(left.T, gradient) if wants_right else None
        return by_left, by_right
