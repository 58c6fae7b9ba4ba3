"""What the losses accept: rows in pairs, and arguments in range."""

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
        ValueError: If they are not two matrices of the same shape.
    """
    if image_features.ndim != 2 or image_features.shape != text_features.shape:
        raise ValueError(
            f"the loss needs one text per image, two (B, D) matrices, but got image features "
            f"{tuple(image_features.shape)} and text features {tuple(text_features.shape)}"
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
