"""CLIP's symmetric contrastive loss.

Shapes: B rows of this rank, N columns (W * B over all W ranks, or B with local negatives), D embedding width.
"""

from __future__ import annotations

from torch import Tensor, nn

from i0t.losses.checks import as_loss_rows, check_label_smoothing
from i0t.losses.negatives import Negatives, check_negatives, gather_columns, own_column
from i0t.losses.operators import contrastive_pairs, contrastive_rows


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    logit_bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    negatives: Negatives = "global",
) -> dict[str, Tensor]:
    """Mean of the image-to-text and the text-to-image cross entropy (Radford et al. 2021, Fig. 3).

    Row i of this rank is told from the texts (images) of all ranks, or of this rank alone. The value and its gradients
    are computed tile by tile, see :mod:`i0t.losses.operators`: memory grows with N, not with its square. Everything is
    float32 or better but, under autocast, the operands of matrix products: their sums and results stay float32, since
    at a logit scale of 100 bfloat16 logits are wrong by up to 0.25.

    Args:
        image_features: ``(B, D)`` unit rows of this rank.
        text_features: ``(B, D)`` unit rows, row i belonging to image i.
        logit_scale: ``()``, already exponentiated.
        logit_bias: ``()`` or ``None``. The softmax does not see a constant: it is added only so that a model that has
            this parameter finds it in the graph (DDP stops at parameters without gradient).
        label_smoothing: Share of the target spread over all N columns (Long-CLIP: 0.1; I0T's cyclic path: 0).
        negatives: ``"global"`` or ``"local"``, see :class:`ClipLoss`.

    Returns:
        ``"loss"`` and, the same, ``"contrastive"``: ``()``, nats, the mean over this rank's rows.

    Raises:
        ValueError: If the shapes differ, ``negatives`` is neither, or ranks hold different numbers of rows.

    Example:
        >>> import torch
        >>> x = torch.eye(2)
        >>> round(clip_loss(x, x, torch.tensor(1.0))["loss"].item(), 4)
        0.3133
    """
    image, text = as_loss_rows(image_features, text_features)
    all_image, all_text = gather_columns(image, text, negatives=negatives)
    contrastive = contrastive_loss(
        image,
        text,
        all_image,
        all_text,
        own_column=own_column(image, negatives),
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        label_smoothing=label_smoothing,
    )
    return {"loss": contrastive, "contrastive": contrastive}


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    all_image: Tensor,
    all_text: Tensor,
    *,
    own_column: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None,
    label_smoothing: float,
) -> Tensor:
    """This rank's rows against all columns, in both directions.

    Where the columns are the rows themselves (the same tensors), row i's own column is i and one product serves both
    directions. Call it under autocast as training does: it takes care of precision itself.

    Args:
        image: ``(B, D)`` of this rank.
        text: ``(B, D)`` of this rank.
        all_image: ``(N, D)``.
        all_text: ``(N, D)``.
        own_column: ``(B,)`` int64, the column of each row's own pair.
        logit_scale: ``()``.
        logit_bias: ``()`` or ``None``.
        label_smoothing: In ``[0, 1)``.

    Returns:
        ``()``, the mean over this rank's rows and both directions.
    """
    scale = logit_scale.to(image.dtype)
    if all_image is image and all_text is text:
        total = contrastive_pairs(image, text, scale, label_smoothing)
    else:
        total = contrastive_rows(image, all_text, own_column, scale, label_smoothing)
        total = total + contrastive_rows(text, all_image, own_column, scale, label_smoothing)
    loss = total / (2 * len(image))
    return loss if logit_bias is None else loss + 0 * logit_bias.to(loss.dtype)


class ClipLoss(nn.Module):
    """CLIP's contrastive loss, see :func:`clip_loss`.

    **DDP:** with global negatives one all-gather of the features per step, with gradients; with local ones none, and
    the average of the ranks' losses is that of W separate batches.

    Args:
        label_smoothing: Share of the target spread over all columns.
        negatives: ``"global"``: rows of all ranks, as published for the contrastive loss alone. ``"local"``: each
            rank's own, see :class:`~i0t.losses.cyclip.CyClipLoss`.

    Raises:
        ValueError: If ``label_smoothing`` is outside ``[0, 1)`` or ``negatives`` is neither.

    Example:
        >>> import torch
        >>> x = torch.eye(2)
        >>> round(ClipLoss()(x, x, torch.tensor(1.0))["loss"].item(), 4)
        0.3133
    """

    def __init__(self, label_smoothing: float = 0.0, negatives: Negatives = "global") -> None:
        super().__init__()
        check_label_smoothing(label_smoothing)
        check_negatives(negatives)
        self.label_smoothing = label_smoothing
        self.negatives = negatives

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
            negatives=self.negatives,
        )
