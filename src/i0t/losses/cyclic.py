"""The two cyclic terms of CyCLIP, without an N x N matrix.

Shapes: B rows of this rank, N rows of the batch (W * B over all W ranks, or B with local negatives), D embedding width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from i0t.distributed import all_reduce_sum, world_size
from i0t.losses.checks import refuse_second_derivative
from i0t.losses.full_product import full_product
from i0t.losses.negatives import Negatives


class CyclicTerms(NamedTuple):
    """Both terms, ``()`` each, and their weighted sum; all three have gradients.

    Attributes:
        total: ``cross_weight * cross + intra_weight * intra``.
        cross: Without its weight.
        intra: Without its weight.
    """

    total: Tensor
    cross: Tensor
    intra: Tensor


def cyclic_terms_gram(
    image: Tensor,
    text: Tensor,
    *,
    cross_weight: float = 1.0,
    intra_weight: float = 1.0,
    negatives: Negatives = "global",
) -> CyclicTerms:
    r"""Both cyclic terms from D x D matrices.

    With P = X + Y and M = X - Y: P M' = X X' - X Y' + Y X' - Y Y', so that

    - X X' - Y Y' = (P M' + M P') / 2, and
      N intra = \|P M' + M P'\|^2 / 4 = (\|P M'\|^2 + tr(P M' P M')) / 2 = (n + t) / 2;
    - Y X' - X Y' = (P M' - M P') / 2, and
      N cross = \|P M' - M P'\|^2 / 4 = (n - t) / 2,

    where n = \|P M'\|^2 = <P'P, M'M> and t = tr((P'M)^2). Taking the difference of the inputs first is what keeps this
    exact where the modalities agree; the difference of the Gram matrices' norms is 4 % off in float32 at
    Y = X + 0.01 noise.

    The gradients are products of what is there: dn/dP = 2 P (M'M), dn/dM = 2 M (P'P), dt/dP = 2 M (P'M) and
    dt/dM = 2 P (P'M)'. In the weighted sum t has the weight (intra_weight - cross_weight) / 2: with equal weights, as
    published, its two products are left out, and a step takes 10 N D^2 operations instead of 18.

    Args:
        image: ``(B, D)`` of this rank.
        text: ``(B, D)`` of this rank.
        cross_weight: Of the cross-modal term, in the total.
        intra_weight: Of the in-modal term, in the total.
        negatives: ``"global"`` or ``"local"``.

    Returns:
        With global negatives the same on every rank.

    **DDP:** with global negatives one all-reduce of ``(3, D, D)`` forward, and one of three numbers backward.
    """
    is_global = negatives == "global"
    batch = len(image) * (world_size() if is_global else 1)
    return CyclicTerms(*_GramTerms.apply(image, text, cross_weight / batch, intra_weight / batch, batch, is_global))


class _GramTerms(torch.autograd.Function):
    """See :func:`cyclic_terms_gram`; weights are divided by N."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, cross_weight: float, intra_weight: float, batch: int, is_global: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        plus, minus = image + text, image - text
        products = torch.stack([plus.T @ plus, minus.T @ minus, plus.T @ minus])
        if is_global:
            products = all_reduce_sum(products, in_place=True)
        plus_plus, minus_minus, plus_minus = products.unbind()
        norm = (plus_plus * minus_minus).sum()
        trace = (plus_minus * plus_minus.T).sum()
        cross, intra = (norm - trace) / 2, (norm + trace) / 2
        ctx.save_for_backward(image, text, products)
        ctx.constants = cross_weight, intra_weight, batch, is_global
        return cross_weight * cross + intra_weight * intra, cross / batch, intra / batch

    @staticmethod
    def backward(
        ctx: Any, by_total: Tensor | None, by_cross: Tensor | None, by_intra: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):  # a compiled backward has the caller's
            return (*_gram_gradients(ctx, by_total, by_cross, by_intra), None, None, None, None)


def _gram_gradients(
    ctx: Any, by_total: Tensor | None, by_cross: Tensor | None, by_intra: Tensor | None
) -> tuple[Tensor, Tensor]:
    image, text, products = ctx.saved_tensors
    cross_weight, intra_weight, batch, is_global = ctx.constants
    zero = image.new_zeros(())
    incoming = torch.stack([zero if each is None else each for each in (by_total, by_cross, by_intra)])
    if is_global:  # every rank's value depends on this rank's rows
        incoming = all_reduce_sum(incoming)
    total, cross, intra = incoming.unbind()
    norm = total * (intra_weight + cross_weight) + (intra + cross) / batch
    plus, minus = image + text, image - text
    plus_plus, minus_minus, plus_minus = products.unbind()
    by_plus, by_minus = plus @ (norm * minus_minus), minus @ (norm * plus_plus)
    if intra_weight != cross_weight or by_cross is not None or by_intra is not None:
        trace = total * (intra_weight - cross_weight) + (intra - cross) / batch
        by_plus.addmm_(minus, trace * plus_minus)
        by_minus.addmm_(plus, trace * plus_minus.T)
    return by_plus + by_minus, by_plus - by_minus


def cyclic_terms_tiled(
    image: Tensor,
    text: Tensor,
    all_image: Tensor,
    all_text: Tensor,
    *,
    cross_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> CyclicTerms:
    """Both cyclic terms from this rank's rows against all columns, for N < D: one tile, smaller than D x D.

    Args:
        image: ``(B, D)`` of this rank.
        text: ``(B, D)`` of this rank.
        all_image: ``(N, D)``.
        all_text: ``(N, D)``.
        cross_weight: Of the cross-modal term, in the total.
        intra_weight: Of the in-modal term, in the total.

    Returns:
        Means over this rank's rows of the sums over columns.
    """
    plus_minus = full_product(image + text, (all_image - all_text).T)  # (B, N), see cyclic_terms_gram
    is_own_batch = all_image is image and all_text is text
    minus_plus = plus_minus.T if is_own_batch else full_product(image - text, (all_image + all_text).T)
    cross = ((plus_minus - minus_plus) / 2).square().sum() / len(image)
    intra = ((plus_minus + minus_plus) / 2).square().sum() / len(image)
    return CyclicTerms(cross_weight * cross + intra_weight * intra, cross, intra)
