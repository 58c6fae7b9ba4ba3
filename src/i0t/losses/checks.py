"""What the losses accept: rows in pairs, arguments in range, first derivatives."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def as_loss_rows(image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
    """Both inputs in one dtype of at least float32.

    Args:
        image_features: ``(B, D)``.
        text_features: ``(B, D)``.

    Raises:
        ValueError: If they are not two matrices of the same shape, or have no rows.
    """
    if image_features.ndim != 2 or image_features.shape != text_features.shape:
        raise ValueError(
            f"the loss needs one text per image, two (B, D) matrices, but got image features "
            f"{tuple(image_features.shape)} and text features {tuple(text_features.shape)}"
        )
    if not len(image_features):
        raise ValueError(
            f"the loss of no pairs is not defined, but the features have shape {tuple(image_features.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(image_features.dtype, text_features.dtype), torch.float32)
    return image_features.to(dtype), text_features.to(dtype)


def check_label_smoothing(label_smoothing: float) -> None:
    """Rejects what is outside ``[0, 1)``.

    Raises:
        ValueError: With the value.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")


def check_weights(weights: Mapping[str, float]) -> None:
    """Rejects negative weights and NaN.

    Raises:
        ValueError: With the first bad one's name and value.
    """
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must be at least 0, got {weight}")


def check_num_pairs(num_pairs: int, loss: str) -> None:
    """Rejects a batch of one pair, which has no negatives.

    Args:
        num_pairs: N.
        loss: Name for the message.

    Raises:
        ValueError: With the number.
    """
    if num_pairs < 2:
        raise ValueError(f"{loss} compares pairs with others: it needs at least 2 in a batch, got {num_pairs}")


def refuse_second_derivative() -> None:
    """For the ``backward`` of a function whose gradients are constants to autograd, where that would be wrong.

    ``once_differentiable`` is not enough: it asks whether the *incoming* gradient has one, and that of a loss is 1. So
    ``torch.autograd.grad(loss, weights, create_graph=True)`` would pass, and its derivative lack the loss's part.
    A compiled function needs no check: torch refuses to differentiate it twice.

    Raises:
        RuntimeError: If the backward pass is one that records a graph.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "this loss has no second derivative: its gradients are computed in the forward pass, outside autograd; "
            "leave create_graph=True away, or use the plain formula for gradient penalties and Hessians"
        )
