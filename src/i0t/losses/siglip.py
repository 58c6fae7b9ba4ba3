"""SigLIP's pairwise sigmoid loss.

Shapes: B rows of this rank, N columns (W * B over all W ranks, or B with local negatives), D embedding width.
"""

from __future__ import annotations

from torch import Tensor, nn

from i0t.losses.checks import as_loss_rows
from i0t.losses.negatives import Negatives, check_negatives, gather_columns, own_column
from i0t.losses.operators import sigmoid_rows


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    logit_bias: Tensor | None,
    negatives: Negatives = "global",
) -> dict[str, Tensor]:
    r"""Every image with every text as a yes-no question (Zhai et al. 2023, arXiv 2303.15343, §3.2).

    -1/B sum_i sum_j log sigmoid(z_ij (t x_i.y_j + b)), z_ij = 1 for a pair and -1 otherwise: over this rank's images
    and all texts, so that the average over the ranks is the loss of the whole batch. (The published code passes texts
    around the ranks instead of gathering them; the sum is the same.) Tile by tile, see :mod:`i0t.losses.operators`.

    Args:
        image_features: ``(B, D)`` unit rows of this rank.
        text_features: ``(B, D)`` unit rows, row i belonging to image i.
        logit_scale: t, ``()``, already exponentiated.
        logit_bias: b, ``()``. Not optional: without one, the N - 1 negatives of each pair start out as the whole loss.
        negatives: ``"global"`` or ``"local"``, see :class:`SigLipLoss`.

    Returns:
        ``"loss"`` and, the same, ``"sigmoid"``: ``()``, nats, a sum over columns and a mean over this rank's rows.

    Raises:
        ValueError: Without ``logit_bias``, if the shapes differ, or ranks hold different numbers of rows.

    Example:
        >>> import torch
        >>> x = torch.eye(2)
        >>> siglip_loss(x, x, torch.tensor(10.0), logit_bias=torch.tensor(-5.0))["loss"]
        tensor(0.0134)
    """
    if logit_bias is None:
        raise ValueError(
            "the sigmoid loss needs a model with a logit bias, and this one has none: set model.logit_bias=-10, "
            "the value that SigLIP starts from (and model.logit_scale=10)"
        )
    image, text = as_loss_rows(image_features, text_features)
    (all_text,) = gather_columns(text, negatives=negatives)
    total = sigmoid_rows(
        image, all_text, own_column(image, negatives), logit_scale.to(image.dtype), logit_bias.to(image.dtype)
    )
    loss = total / len(image)
    return {"loss": loss, "sigmoid": loss}


class SigLipLoss(nn.Module):
    """SigLIP's loss, see :func:`siglip_loss`.

    **DDP:** with global negatives one all-gather of the text features per step, with gradients; with local ones none,
    and the average of the ranks' losses is that of W separate batches.

    Args:
        negatives: ``"global"``: texts of all ranks, as published. ``"local"``: each rank's own.

    Raises:
        ValueError: If ``negatives`` is neither.

    Example:
        >>> import torch
        >>> x = torch.eye(2)
        >>> round(SigLipLoss()(x, x, torch.tensor(10.0), torch.tensor(-5.0))["loss"].item(), 4)
        0.0134
    """

    def __init__(self, negatives: Negatives = "global") -> None:
        super().__init__()
        check_negatives(negatives)
        self.negatives = negatives

    def forward(
        self, image_features: Tensor, text_features: Tensor, logit_scale: Tensor, logit_bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """See :func:`siglip_loss`."""
        return siglip_loss(image_features, text_features, logit_scale, logit_bias=logit_bias, negatives=self.negatives)
