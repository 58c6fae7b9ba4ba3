"""Contrastive loss plus alignment of pairs and uniformity of each modality.

Shapes: B rows of this rank, N columns (W * B over all W ranks, or B with local negatives), D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i0t.losses.checks import as_loss_rows, check_label_smoothing, check_num_pairs, check_weights
from i0t.losses.clip import contrastive_loss
from i0t.losses.negatives import Negatives, check_negatives, gather_columns, own_column, sum_over_batch
from i0t.losses.operators import affinity_rows


def uniformity_alignment_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    logit_bias: Tensor | None = None,
    alignment_weight: float = 1.0,
    image_uniformity_weight: float = 1.0,
    text_uniformity_weight: float = 1.0,
    cross_uniformity_weight: float = 0.0,
    label_smoothing: float = 0.1,
    negatives: Negatives = "global",
) -> dict[str, Tensor]:
    """Contrastive + alignment + uniformity (Wang & Isola 2020; for CLIP, Fahim et al. 2024, arXiv 2405.18570).

    Alignment is mean_i ||x_i - y_i||^2; uniformity of a modality is log mean_{i<j} exp(-2 ||x_i - x_j||^2), of the
    cross-modal kind log mean_{i != j} exp(-2 ||x_i - y_j||^2). I0T's published code adds U_I + U_T for its baseline,
    Fahim et al. (U_I + U_T) / 2 and, in a variant, the cross-modal term. I0T's code takes the contrastive part over all
    ranks but alignment and uniformity over each rank's rows; here all parts see the same batch, and the logarithm is
    that of the mean over all its pairs, not a mean of the ranks' logarithms.

    Args:
        image_features: ``(B, D)`` unit rows of this rank.
        text_features: ``(B, D)`` unit rows, row i belonging to image i.
        logit_scale: ``()``, already exponentiated.
        logit_bias: ``()`` or ``None``, see :func:`i0t.losses.clip.clip_loss`.
        alignment_weight: Weight of the alignment.
        image_uniformity_weight: Weight of U_I.
        text_uniformity_weight: Weight of U_T.
        cross_uniformity_weight: Weight of the cross-modal uniformity.
        label_smoothing: Of the contrastive part; 0.1 in I0T's code.
        negatives: ``"global"`` or ``"local"``, see :class:`UniformityAlignmentLoss`.

    Returns:
        ``"loss"`` and the parts that it is the sum of, weights included: ``"contrastive"``, ``"alignment"``,
        ``"image_uniformity"``, ``"text_uniformity"``, ``"cross_uniformity"``; all ``()``. A part of weight 0 is not
        computed and not there. With global negatives the parts' averages over the ranks are the values of the whole
        batch.

    Raises:
        ValueError: If the shapes differ, there is a single pair, or ranks hold different numbers of rows.

    Example:
        >>> x = torch.eye(2)
        >>> parts = uniformity_alignment_loss(x, x, torch.tensor(1.0))
        >>> round(parts["alignment"].item(), 4), round(parts["image_uniformity"].item(), 4)
        (0.0, -4.0)
    """
    image, text = as_loss_rows(image_features, text_features)
    all_image, all_text = gather_columns(image, text, negatives=negatives)
    check_num_pairs(len(all_image), "uniformity")
    own = own_column(image, negatives)
    contrastive = contrastive_loss(
        image,
        text,
        all_image,
        all_text,
        own_column=own,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        label_smoothing=label_smoothing,
    )
    parts = {"contrastive": contrastive}
    if alignment_weight:
        parts["alignment"] = alignment_weight * (image - text).square().sum(dim=1).mean()
    terms = {
        "image_uniformity": (image_uniformity_weight, image, all_image),
        "text_uniformity": (text_uniformity_weight, text, all_text),
        "cross_uniformity": (cross_uniformity_weight, image, all_text),
    }
    # A view: torch.compile does not take one tensor twice.
    sums = {
        name: affinity_rows(rows, columns.view_as(columns), own)
        for name, (weight, rows, columns) in terms.items()
        if weight
    }
    num_pairs = len(all_image) * (len(all_image) - 1)
    for name, total in _sum_all_over_batch(sums, negatives).items():
        parts[name] = terms[name][0] * (total / num_pairs).log()
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}


def _sum_all_over_batch(sums: dict[str, Tensor], negatives: Negatives) -> dict[str, Tensor]:
    """Several sums in one collective."""
    if not sums:
        return {}
    return dict(zip(sums, sum_over_batch(torch.stack(list(sums.values())), negatives).unbind(), strict=True))


class UniformityAlignmentLoss(nn.Module):
    """Contrastive loss, alignment and uniformity, see :func:`uniformity_alignment_loss`.

    **DDP:** with global negatives one all-gather of the features and one all-reduce of at most three sums per step,
    with gradients; with local ones none, and the average of the ranks' losses is that of W separate batches.

    Args:
        alignment_weight: Weight of the alignment.
        image_uniformity_weight: Weight of the images' uniformity.
        text_uniformity_weight: Weight of the texts' uniformity.
        cross_uniformity_weight: Weight of the uniformity between images and texts of other pairs.
        label_smoothing: Of the contrastive part.
        negatives: ``"global"``: all parts over the rows of all ranks. ``"local"``: each rank's own.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> x = torch.eye(2)
        >>> sorted(UniformityAlignmentLoss()(x, x, torch.tensor(1.0)))
        ['alignment', 'contrastive', 'image_uniformity', 'loss', 'text_uniformity']
    """

    def __init__(
        self,
        alignment_weight: float = 1.0,
        image_uniformity_weight: float = 1.0,
        text_uniformity_weight: float = 1.0,
        cross_uniformity_weight: float = 0.0,
        label_smoothing: float = 0.1,
        negatives: Negatives = "global",
    ) -> None:
        super().__init__()
        self.weights = {
            "alignment_weight": alignment_weight,
            "image_uniformity_weight": image_uniformity_weight,
            "text_uniformity_weight": text_uniformity_weight,
            "cross_uniformity_weight": cross_uniformity_weight,
        }
        check_weights(self.weights)
        check_label_smoothing(label_smoothing)
        check_negatives(negatives)
        self.label_smoothing = label_smoothing
        self.negatives = negatives

    def forward(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :func:`uniformity_alignment_loss`."""
        return uniformity_alignment_loss(
            image_features,
            text_features,
            logit_scale,
            logit_bias=logit_bias,
            label_smoothing=self.label_smoothing,
            negatives=self.negatives,
            **self.weights,
        )
