"""CyCLIP's loss: contrastive, plus cross-modal and in-modal cyclic consistency; the loss of I0T.

Shapes: B rows of this rank, N rows of the batch (W * B over all W ranks, or B with local negatives), D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i0t.losses.checks import as_loss_rows, check_label_smoothing, check_weights
from i0t.losses.clip import contrastive_loss
from i0t.losses.cyclic import cyclic_terms_gram, cyclic_terms_tiled
from i0t.losses.negatives import Negatives, check_negatives, gather_columns, own_column


def cyclip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    logit_bias: Tensor | None = None,
    cross_weight: float = 0.25,
    intra_weight: float = 0.25,
    reference_batch: int | None = 64,
    label_smoothing: float = 0.0,
    negatives: Negatives = "global",
) -> dict[str, Tensor]:
    """Contrastive loss plus two cyclic terms (Goel et al. 2022, Eq. 2-4; I0T, arXiv 2412.14384, §4.1).

    cross = 1/N sum_ij (x_i.y_j - x_j.y_i)^2 and intra = 1/N sum_ij (x_i.x_j - y_i.y_j)^2 over the batch; the published
    code multiplies by the logit scale and divides it out again. Each is a sum of N^2 entries over N, so it grows with
    the batch: ``reference_batch / N`` keeps its size at the one it has for a batch of ``reference_batch``.

    Args:
        image_features: ``(B, D)`` unit rows of this rank.
        text_features: ``(B, D)`` unit rows, row i belonging to image i.
        logit_scale: ``()``, already exponentiated.
        logit_bias: ``()`` or ``None``, see :func:`i0t.losses.clip.clip_loss`.
        cross_weight: Weight of the cross-modal term.
        intra_weight: Weight of the in-modal term.
        reference_batch: Batch at which the weights hold (I0T trains with 64 per GPU and no global negatives);
            ``None`` leaves the terms as published.
        label_smoothing: Of the contrastive part.
        negatives: ``"global"`` or ``"local"``, see :class:`CyClipLoss`.

    Returns:
        ``"loss"`` and the parts that it is the sum of, weights included: ``"contrastive"``, ``"cross_modal"``,
        ``"in_modal"``; all ``()``. With global negatives their averages over the ranks are the values of the
        whole batch.

    Raises:
        ValueError: If the shapes differ, ``negatives`` is neither, or ranks hold different numbers of rows.

    Example:
        >>> x, y = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
        >>> parts = cyclip_loss(x, y, torch.tensor(1.0), reference_batch=None)
        >>> round(parts["cross_modal"].item(), 4), round(parts["in_modal"].item(), 4)
        (0.09, 0.09)
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
    batch, width = all_image.shape
    scale = 1.0 if reference_batch is None else reference_batch / batch
    weights = {"cross_weight": cross_weight * scale, "intra_weight": intra_weight * scale}
    with torch.autocast(image.device.type, enabled=False):
        # Time and memory: N x N tiles cost B N, the Gram form D x D.
        if batch < width:
            terms = cyclic_terms_tiled(image, text, all_image, all_text, **weights)
        else:
            terms = cyclic_terms_gram(image, text, negatives=negatives, **weights)
    return {
        "loss": contrastive + terms.total,
        "contrastive": contrastive,
        "cross_modal": weights["cross_weight"] * terms.cross,
        "in_modal": weights["intra_weight"] * terms.intra,
    }


class CyClipLoss(nn.Module):
    """CyCLIP's loss, see :func:`cyclip_loss`.

    **DDP:** with global negatives one all-gather of the features per step and, for N >= D, all-reduces of ``(3, D, D)``
    forward and of three numbers backward; with gradients. With local ones none, and the average of the ranks' losses is
    that of W separate batches of B pairs, B being what ``reference_batch`` is compared with.

    Args:
        cross_weight: Weight of the cross-modal term.
        intra_weight: Weight of the in-modal term.
        reference_batch: Batch at which the weights hold; ``None`` leaves the terms as published.
        label_smoothing: Of the contrastive part.
        negatives: ``"global"``: rows of all ranks. ``"local"``: each rank's own, in the contrastive and in the cyclic
            terms: I0T's published code trains so, with 64 rows per GPU, since the rows it gathers are never used.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> x, y = torch.eye(2), torch.eye(2)[[1, 0]]
        >>> parts = CyClipLoss(reference_batch=None)(x, y, torch.tensor(1.0))
        >>> round(parts["cross_modal"].item(), 4)
        0.0
    """

    def __init__(
        self,
        cross_weight: float = 0.25,
        intra_weight: float = 0.25,
        reference_batch: int | None = 64,
        label_smoothing: float = 0.0,
        negatives: Negatives = "global",
    ) -> None:
        super().__init__()
        check_weights({"cross_weight": cross_weight, "intra_weight": intra_weight})
        if reference_batch is not None and reference_batch < 1:
            raise ValueError(f"reference_batch must be at least 1, or null for none, got {reference_batch}")
        check_label_smoothing(label_smoothing)
        check_negatives(negatives)
        self.cross_weight = cross_weight
        self.intra_weight = intra_weight
        self.reference_batch = reference_batch
        self.label_smoothing = label_smoothing
        self.negatives = negatives

    def forward(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :func:`cyclip_loss`."""
        return cyclip_loss(
            image_features,
            text_features,
            logit_scale,
            logit_bias=logit_bias,
            cross_weight=self.cross_weight,
            intra_weight=self.intra_weight,
            reference_batch=self.reference_batch,
            label_smoothing=self.label_smoothing,
            negatives=self.negatives,
        )
