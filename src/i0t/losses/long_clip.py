"""Long-CLIP's loss: whole images against long captions, and their principal components against short ones.

Shapes: B rows of this rank, N columns (W * B over all W ranks, or B with local negatives), D embedding width, K
components, R = min(B, D) singular values.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from i0t.losses.checks import as_loss_rows, check_label_smoothing, refuse_second_derivative
from i0t.losses.clip import contrastive_loss
from i0t.losses.negatives import Negatives, check_negatives, gather_columns, own_column

# Relative gap of squared singular values below which a gradient is damped. On 40 to 100 CLIP images, whose gap after
# the 32nd component is 2 to 13 %, it changes the gradient by .01 to 1 %; it keeps it below some 500 times its input.
GAP_TOLERANCE = 1e-3


def long_clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    *,
    short_text_features: Tensor,
    logit_bias: Tensor | None = None,
    num_components: int = 32,
    label_smoothing: float = 0.1,
    negatives: Negatives = "global",
) -> dict[str, Tensor]:
    """Contrastive loss of (image, long caption) plus that of (coarse image, short caption).

    Long-CLIP's primary component matching (Zhang et al. 2024, arXiv 2403.15378, and its code). The coarse image is
    :func:`principal_reconstruction` of this rank's unit image features and, as published, is not normalised again. Its
    components are those of this rank's batch whatever the negatives are, so that, unlike the other losses, the value
    depends on how a global batch is cut into ranks.

    Args:
        image_features: ``(B, D)`` unit rows of this rank.
        text_features: ``(B, D)`` unit rows of the long captions, row i belonging to image i.
        logit_scale: ``()``, already exponentiated.
        short_text_features: ``(B, D)`` unit rows of the short captions (the first sentences of the long ones).
        logit_bias: ``()`` or ``None``, see :func:`i0t.losses.clip.clip_loss`.
        num_components: K.
        label_smoothing: Of both.
        negatives: ``"global"`` or ``"local"``, see :class:`LongClipLoss`.

    Returns:
        ``"loss"`` and the two parts that it is the sum of, ``"long"`` and ``"short"``: ``()``, nats, means over this
        rank's rows.

    Raises:
        ValueError: If shapes differ, an argument is out of range, or ranks hold different numbers of rows.

    Example:
        >>> x = torch.eye(4)
        >>> parts = long_clip_loss(x, x, torch.tensor(1.0), short_text_features=x, num_components=4)
        >>> bool(parts["long"] == parts["short"])
        True
    """
    image, long_text = as_loss_rows(image_features, text_features)
    _, short_text = as_loss_rows(image_features, short_text_features)
    rows = (image, long_text, principal_reconstruction(image, num_components), short_text.to(image.dtype))
    columns = gather_columns(*rows, negatives=negatives)
    own = own_column(image, negatives)
    long, short = (
        contrastive_loss(
            *rows[branch],
            *columns[branch],
            own_column=own,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            label_smoothing=label_smoothing,
        )
        for branch in (slice(0, 2), slice(2, 4))
    )
    return {"loss": long + short, "long": long, "short": short}


def principal_reconstruction(features: Tensor, num_components: int) -> Tensor:
    """The batch mean plus the projection of the centred rows on their leading right singular vectors.

    **Gradient:** that of the whole function, components included, as in the published code. Stopping it at the
    components is no small change: on real CLIP features the gradient of the short branch is then confined to the span
    of the batch, a third as long, and at a cosine of .3 to .5 to this one. Through ``torch.linalg.svd`` it is NaN where
    any two singular values agree, as zeros do when images repeat. But the function only depends on which K directions
    are kept: the formula here divides by gaps *across* the K-th value alone. At a tie there no gradient exists; the
    damped formula then lets the tied directions not turn into each other.

    Args:
        features: ``(B, D)``, of any norm.
        num_components: K. If K components span the centred batch (K >= min(B - 1, D)), it comes back as it is.

    Returns:
        ``(B, D)``, not unit, in float32 or better.

    Raises:
        ValueError: If ``features`` is not a matrix or K is below 1.

    Example:
        >>> principal_reconstruction(torch.tensor([[0.0, 3.0], [0.0, -3.0], [1.0, 0.0], [-1.0, 0.0]]), 1)[0]
        tensor([0., 3.])
    """
    _check_num_components(num_components)
    if features.ndim != 2:
        raise ValueError(f"principal components need a (B, D) matrix, got shape {tuple(features.shape)}")
    with torch.autocast(features.device.type, enabled=False):
        rows = features.to(torch.promote_types(features.dtype, torch.float32))
        if num_components >= min(len(rows) - 1, rows.shape[1]):
            return rows
        mean = rows.mean(dim=0)
        reconstruction: Tensor = _TopComponents.apply(rows - mean, num_components)
        return mean + reconstruction


def _check_num_components(num_components: int) -> None:
    if num_components < 1:
        raise ValueError(f"num_components must be at least 1, got {num_components}")


class _TopComponents(torch.autograd.Function):
    """The best approximation of rank K.

    With C = U S V', the map keeps the singular values f_i = s_i for i <= K and drops the others. For a spectral map
    the differential in the singular bases, E = U' dC V, has the entries (f_i - f_j)/(s_i - s_j) (E_ij + E_ji)/2 +
    (f_i + f_j)/(s_i + s_j) (E_ij - E_ji)/2 (Candès et al. 2013): E_ij where both are kept, 0 where neither is, and
    for i <= K < j, with q = s_j / s_i,

        (E_ij + q E_ji) / (1 - q^2)  and, transposed,  (E_ji + q E_ij) / (1 - q^2).

    1/(1 - q^2) = 1 + q^2/(1 - q^2): the 1 needs no basis of the dropped space, the rest vanishes outside the R computed
    singular vectors. This map of E is symmetric, hence its own adjoint.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, num_components: int) -> Tensor:
        left, values, right = torch.linalg.svd(rows, full_matrices=False)  # (B, R), (R,), (R, D)
        ctx.save_for_backward(left, values, right)
        ctx.num_components = num_components
        kept = right[:num_components]
        return rows @ kept.T @ kept

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative()
        with torch.autocast(gradient.device.type, enabled=False):  # a compiled backward has the caller's
            return _top_components_gradient(ctx, gradient), None


def _top_components_gradient(ctx: Any, gradient: Tensor) -> Tensor:
    left, values, right = ctx.saved_tensors
    num = ctx.num_components
    kept_left, other_left = left[:, :num], left[:, num:]
    kept_right, other_right = right[:num], right[num:]
    upper = kept_left.T @ gradient @ other_right.T  # (K, R - K)
    lower = (other_left.T @ gradient @ kept_right.T).T  # transposed
    ratio, inverse_gap = _ratios(values, num)
    more_upper = ratio * (ratio * upper + lower) * inverse_gap
    more_lower = ratio * (ratio * lower + upper) * inverse_gap
    dropped = gradient - kept_left @ (kept_left.T @ gradient)
    dropped = dropped - dropped @ kept_right.T @ kept_right
    added = kept_left @ more_upper @ other_right + other_left @ more_lower.T @ kept_right
    return gradient - dropped + added


def _ratios(values: Tensor, num_components: int) -> tuple[Tensor, Tensor]:
    """Dropped over kept singular values q, and 1/(1 - q^2), damped to zero at q = 1.

    Args:
        values: ``(R,)``, falling.
        num_components: K.

    Returns:
        ``(K, R - K)`` and ``(K, R - K)``.
    """
    kept, other = values[:num_components, None], values[None, num_components:]
    # A value at the level of rounding is zero, and its vectors are arbitrary: no turning into others.
    is_zero = kept <= values[0] * torch.finfo(values.dtype).eps * len(values)
    ratio = torch.where(is_zero, 0.0, other / kept.where(~is_zero, 1.0))
    gap = (1 - ratio) * (1 + ratio)
    return ratio, gap / (gap.square() + GAP_TOLERANCE**2)


class LongClipLoss(nn.Module):
    """Long-CLIP's loss with the short-caption branch, see :func:`long_clip_loss`.

    **DDP:** the principal components are those of each rank's own batch. With global negatives one all-gather of the
    four kinds of features per step, with gradients; with local ones none.

    Args:
        num_components: Principal components that a short caption is held against.
        label_smoothing: Of both branches.
        negatives: ``"global"``: rows of all ranks, as published. ``"local"``: each rank's own.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> x = torch.eye(4)
        >>> sorted(LongClipLoss(num_components=2)(x, x, torch.tensor(1.0), short_text_features=x))
        ['long', 'loss', 'short']
    """

    uses_short_captions: ClassVar[bool] = True

    def __init__(self, num_components: int = 32, label_smoothing: float = 0.1, negatives: Negatives = "global") -> None:
        super().__init__()
        _check_num_components(num_components)
        check_label_smoothing(label_smoothing)
        check_negatives(negatives)
        self.num_components = num_components
        self.label_smoothing = label_smoothing
        self.negatives = negatives

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        *,
        short_text_features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """See :func:`long_clip_loss`.

        Raises:
            ValueError: Without ``short_text_features``.
        """
        if short_text_features is None:
            raise ValueError("Long-CLIP's loss needs short captions as well: set data.short_captions=true")
        return long_clip_loss(
            image_features,
            text_features,
            logit_scale,
            short_text_features=short_text_features,
            logit_bias=logit_bias,
            num_components=self.num_components,
            label_smoothing=self.label_smoothing,
            negatives=self.negatives,
        )
