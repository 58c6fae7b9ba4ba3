"""CLIP's symmetric contrastive loss over the global batch.

Shapes: B rows of this rank, N = W * B rows over all W ranks, D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i0t.distributed import all_gather_with_grad, rank


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    logit_bias: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Mean of the image-to-text and the text-to-image cross entropy (Radford et al. 2021, Fig. 3).

    Row i of this rank is told from the texts (images) of all ranks, so the negatives are global. Computed in float32
    or better with autocast off: at a logit scale of 100 bfloat16 logits are wrong by up to 0.25.

    Args:
        image_features: ``(B, D)`` unit rows of this rank.
        text_features: ``(B, D)`` unit rows, row i belonging to image i.
        logit_scale: ``()``, already exponentiated.
        logit_bias: ``()`` or ``None``. The softmax does not see a constant: it is added only so that a model that has
            this parameter finds it in the graph (DDP stops at parameters without gradient).
        label_smoothing: Share of the target spread over all N columns (Long-CLIP: 0.1; I0T's cyclic path: 0).

    Returns:
        ``"loss"`` and, the same, ``"contrastive"``: ``()``, nats, the mean over this rank's rows.

    Raises:
        ValueError: If the shapes differ, or ranks hold different numbers of rows.

    Example:
        >>> x = torch.eye(2)
        >>> round(clip_loss(x, x, torch.tensor(1.0))["loss"].item(), 4)
        0.3133
    """
    with torch.autocast(image_features.device.type, enabled=False):
        image, text = as_loss_rows(image_features, text_features)
        all_image, all_text = gather_pairs(image, text)
        contrastive = contrastive_loss(
            image,
            text,
            all_image,
            all_text,
            logit_scale=logit_scale.to(image.dtype),
            logit_bias=logit_bias,
            label_smoothing=label_smoothing,
        )
    return {"loss": contrastive, "contrastive": contrastive}


def as_loss_rows(image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
    """Both inputs in one dtype of at least float32.

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


def gather_pairs(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """All ranks' image and text rows, in one collective.

    Args:
        image: ``(B, D)``.
        text: ``(B, D)``.

    Returns:
        ``(N, D)`` and ``(N, D)``.
    """
    both = all_gather_with_grad(torch.stack([image, text], dim=1))  # (N, 2, D)
    return both[:, 0], both[:, 1]


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    all_image: Tensor,
    all_text: Tensor,
    *,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    label_smoothing: float,
) -> Tensor:
    """Local rows against gathered columns, in both directions.

    Args:
        image: ``(B, D)`` of this rank.
        text: ``(B, D)`` of this rank.
        all_image: ``(N, D)`` in rank order.
        all_text: ``(N, D)`` in rank order.
        logit_scale: ``()``.
        logit_bias: ``()`` or ``None``.
        label_smoothing: In ``[0, 1)``.

    Returns:
        ``()``, the mean over this rank's rows and both directions.
    """
    num_rows = len(image)
    own_column = torch.arange(num_rows, device=image.device) + rank() * num_rows
    image_logits = logit_scale * image @ all_text.T  # (B, N)
    text_logits = logit_scale * text @ all_image.T
    if logit_bias is not None:
        image_logits, text_logits = image_logits + logit_bias, text_logits + logit_bias
    image_loss = F.cross_entropy(image_logits, own_column, label_smoothing=label_smoothing)
    text_loss = F.cross_entropy(text_logits, own_column, label_smoothing=label_smoothing)
    return (image_loss + text_loss) / 2


class ClipLoss(nn.Module):
    """CLIP's contrastive loss, see :func:`clip_loss`.

    **DDP:** one all-gather of the features per step, with gradients.

    Args:
        label_smoothing: Share of the target spread over all columns.

    Raises:
        ValueError: If ``label_smoothing`` is outside ``[0, 1)``.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :func:`clip_loss`."""
        return clip_loss(
            image_features,
            text_features,
            logit_scale,
            logit_bias=logit_bias,
            label_smoothing=self.label_smoothing,
        )
