"""CyCLIP's loss: contrastive, plus cross-modal and in-modal cyclic consistency; the loss of I0T.

Shapes: B rows of this rank, N rows of the batch (W * B over all W ranks, or B with local negatives), D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i0t.distributed import world_size
from i0t.losses.checks import as_loss_rows, check_label_smoothing, check_weights
from i0t.losses.clip import contrastive_loss
from i0t.losses.negatives import Negatives, check_negatives, gather_columns, own_column, sum_over_batch


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
    """
    with torch.autocast(image_features.device.type, enabled=False):
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
        # Time and memory: N x N tiles cost B N, the Gram form D x D.
        if batch < width:
            cross, intra = cyclic_terms_tiled(image, text, all_image, all_text)
        else:
            cross, intra = cyclic_terms_gram(image, text, negatives=negatives)
    scale = 1.0 if reference_batch is None else reference_batch / batch
    cross, intra = cross_weight * scale * cross, intra_weight * scale * intra
    return {"loss": contrastive + cross + intra, "contrastive": contrastive, "cross_modal": cross, "in_modal": intra}


def cyclic_terms_gram(image: Tensor, text: Tensor, *, negatives: Negatives = "global") -> tuple[Tensor, Tensor]:
    r"""Both cyclic terms from three D x D matrices, without an N x N one.

    With P = X + Y and M = X - Y: P M' = X X' - X Y' + Y X' - Y Y', so that

    - X X' - Y Y' = (P M' + M P') / 2, and
      N intra = \|P M' + M P'\|^2 / 4 = (\|P M'\|^2 + tr(P M' P M')) / 2 = (<P'P, M'M> + tr((P'M)^2)) / 2;
    - Y X' - X Y' = (P M' - M P') / 2, and
      N cross = \|P M' - M P'\|^2 / 4 = (<P'P, M'M> - tr((P'M)^2)) / 2.

    Taking the difference of the inputs first is what keeps this exact where the modalities agree; the difference of
    the Gram matrices' norms is 4 % off in float32 at Y = X + 0.01 noise.

    Args:
        image: ``(B, D)`` of this rank.
        text: ``(B, D)`` of this rank.
        negatives: ``"global"`` or ``"local"``.

    Returns:
        (cross, intra), each ``()``; with global negatives the same on every rank.

    **DDP:** with global negatives one all-reduce of ``(3, D, D)``, with gradients.
    """
    plus, minus = image + text, image - text
    products = torch.stack([plus.T @ plus, minus.T @ minus, plus.T @ minus])
    plus_plus, minus_minus, plus_minus = sum_over_batch(products, negatives)
    norm = (plus_plus * minus_minus).sum()
    trace = (plus_minus * plus_minus.T).sum()
    batch = len(image) * (world_size() if negatives == "global" else 1)
    return (norm - trace) / (2 * batch), (norm + trace) / (2 * batch)


def cyclic_terms_tiled(image: Tensor, text: Tensor, all_image: Tensor, all_text: Tensor) -> tuple[Tensor, Tensor]:
    """Both cyclic terms from this rank's rows against all columns, for N < D.

    Args:
        image: ``(B, D)`` of this rank.
        text: ``(B, D)`` of this rank.
        all_image: ``(N, D)``.
        all_text: ``(N, D)``.

    Returns:
        (cross, intra), each ``()``: the mean over this rank's rows of the sum over columns.
    """
    plus_minus = (image + text) @ (all_image - all_text).T  # (B, N), see cyclic_terms_gram
    minus_plus = (image - text) @ (all_image + all_text).T
    cross = ((plus_minus - minus_plus) / 2).square().sum()
    intra = ((plus_minus + minus_plus) / 2).square().sum()
    return cross / len(image), intra / len(image)


class CyClipLoss(nn.Module):
    """CyCLIP's loss, see :func:`cyclip_loss`.

    **DDP:** with global negatives one all-gather of the features per step and, for N >= D, one all-reduce of
    ``(3, D, D)``; with gradients. With local ones none, and the average of the ranks' losses is that of W separate
    batches of B pairs, B being what ``reference_batch`` is compared with.

    Args:
        cross_weight: Weight of the cross-modal term.
        intra_weight: Weight of the in-modal term.
        reference_batch: Batch at which the weights hold; ``None`` leaves the terms as published.
        label_smoothing: Of the contrastive part.
        negatives: ``"global"``: rows of all ranks. ``"local"``: each rank's own, in the contrastive and in the cyclic
            terms: I0T's published code trains so, with 64 rows per GPU, since the rows it gathers are never used.

    Raises:
        ValueError: If an argument is out of range.
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
