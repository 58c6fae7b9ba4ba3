"""The contrastive loss of a batch with itself, both directions from one product.

Shapes: N pairs, D embedding width.
"""

from __future__ import annotations

from functools import cached_property
from itertools import product
from math import ceil

import torch
from torch import Tensor

from i0t.losses.tiles import (
    GAIN,
    PanelGradients,
    add_product,
    multiply,
    operand_dtype,
    reduced_products,
    shifted_exp,
    spans,
    tile_sizes,
)


class SymmetricContrastive:
    """Sum of the cross entropies of all rows and all columns of one matrix of logits, tile by tile.

    The first pass over the tiles finds the running maximum and the sum of exponentials of each row and each column,
    the second the weights (softmax over the row + softmax over the column - targets) and both gradients. Tiles that
    the byte budget has room for are kept in between, the others computed again: 3 to 4 matrix products.

    Args:
        image: ``(N, D)``.
        text: ``(N, D)``, row i belonging to image i.
        scale: ``()``.
        smoothing: Share of the target spread over all columns.
        products: What products may be computed in.
    """

    def __init__(self, image: Tensor, text: Tensor, scale: Tensor, smoothing: float, products: torch.dtype) -> None:
        self.image, self.text, self.scale, self.smoothing, self.products = image, text, scale, smoothing, products
        self.operand = operand_dtype(image, products)
        self.sizes = tile_sizes(len(image), len(text), image, self.operand)
        self.text_low = text.to(self.operand)
        self.tile_elements = min(self.sizes.side, len(image)) ** 2
        self.scratch = image.new_empty(self.tile_elements)
        self.kept: dict[int, Tensor] = {}
        self.row_peak, self.column_peak = image.new_full((2, len(image)), -torch.inf).unbind()
        self.row_total, self.column_total, self.own = image.new_zeros(3, len(image)).unbind()

    def run(self, *, with_gradients: bool) -> PanelGradients:
        """The sum over rows and columns, and its gradients."""
        with reduced_products(self.image, self.products):
            for number, (rows, columns) in enumerate(self._tiles()):
                self._observe(number, rows, columns, keep=with_gradients and number < self.sizes.num_kept)
            if not with_gradients:
                nothing = self.image.new_zeros(0, self.image.shape[1])
                return PanelGradients(self._value(), nothing, nothing.clone(), self.image.new_zeros(()))
            by_image, by_text = torch.zeros_like(self.image), torch.zeros_like(self.text)
            for number, (rows, columns) in enumerate(self._tiles()):
                self._add_gradients(number, rows, columns, by_image, by_text)
        return self._finish(by_image, by_text)

    def _tiles(self) -> product[tuple[slice, slice]]:
        size = self.sizes.side
        return product(spans(len(self.image), size), spans(len(self.text), size))

    @cached_property
    def _passing(self) -> Tensor:
        """For logits that are not kept; never allocated where all are."""
        return self.image.new_empty(self.tile_elements)

    @cached_property
    def _keeping(self) -> Tensor:
        """For logits that are kept: one piece, which the system has back at once, where freed tiles stay scattered."""
        tiles = ceil(len(self.image) / self.sizes.side) ** 2
        return self.image.new_empty(min(self.sizes.num_kept, tiles), self.tile_elements)

    def _logits(self, number: int, rows: slice, columns: slice, *, keep: bool) -> Tensor:
        left, right = (self.image[rows] * self.scale).to(self.operand), self.text_low[columns].T
        if self.operand != self.image.dtype:  # halves are multiplied into a new tensor
            return multiply(left, right, self.image.dtype)
        memory = self._keeping[number] if keep else self._passing
        return torch.mm(left, right, out=_tile(memory, rows, columns))

    def _observe(self, number: int, rows: slice, columns: slice, *, keep: bool) -> None:
        """Running maxima and sums."""
        logits = self._logits(number, rows, columns, keep=keep)
        if keep:
            self.kept[number] = logits
        if rows == columns:
            self.own[rows] = logits.diagonal()
        scratch = _tile(self.scratch, rows, columns)
        _update(self.row_peak[rows], self.row_total[rows], logits, 1, scratch)
        _update(self.column_peak[columns], self.column_total[columns], logits, 0, scratch)

    def _weights(self, number: int, rows: slice, columns: slice) -> Tensor:
        """GAIN times the derivative of the sum by a tile's logits, but for the targets."""
        logits = self.kept.pop(number, None)
        if logits is None:
            logits = self._logits(number, rows, columns, keep=False)
        weights = shifted_exp(logits, self.row_peak[rows, None], _tile(self.scratch, rows, columns))
        weights.mul_(GAIN / self.row_total[rows, None])
        by_column = shifted_exp(logits, self.column_peak[columns], logits)
        weights.addcmul_(by_column, GAIN / self.column_total[columns])
        return weights

    def _add_gradients(self, number: int, rows: slice, columns: slice, by_image: Tensor, by_text: Tensor) -> None:
        weights = self._weights(number, rows, columns)
        if rows == columns:  # a pair's own weight outweighs the others: it is not rounded, nor are its operands
            own = (weights.diagonal() - 2 * GAIN * (1 - self.smoothing)).unsqueeze(1)
            weights.diagonal().zero_()
            by_image[rows].addcmul_(own, self.text[rows])
            by_text[rows].addcmul_(own, self.image[rows])
        weights = weights.to(self.operand)
        add_product(by_image[rows], weights, self.text_low[columns])
        add_product(by_text[columns], weights.T, self.image[rows].to(self.operand))

    def _value(self) -> Tensor:
        # The own logit is subtracted from the maximum, not from the logsumexp: at scale 100 that loses digits.
        row_sum = (self.row_peak - self.own + self.row_total.log()).sum()
        value = row_sum + (self.column_peak - self.own + self.column_total.log()).sum()
        if self.smoothing:
            mean_logit = self.scale * (self.image.mean(dim=0) * self.text.mean(dim=0)).sum()
            value += 2 * self.smoothing * (self.own - mean_logit).sum()
        return value

    def _finish(self, by_image: Tensor, by_text: Tensor) -> PanelGradients:
        """Smoothing's constant part, the scale's gradient, and the factors that were left out."""
        if self.smoothing:
            by_image.sub_(2 * GAIN * self.smoothing * self.text.mean(dim=0))
            by_text.sub_(2 * GAIN * self.smoothing * self.image.mean(dim=0))
        by_scale = self.image.new_zeros(())
        for rows in spans(len(self.image), self.sizes.side):
            by_scale += (by_image[rows] * self.image[rows]).sum()
        factor = self.scale / GAIN
        return PanelGradients(self._value(), by_image.mul_(factor), by_text.mul_(factor), by_scale / GAIN)


def _tile(memory: Tensor, rows: slice, columns: slice) -> Tensor:
    """The beginning of a buffer in the shape of a tile."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    return memory[: height * width].view(height, width)


def _update(peak: Tensor, total: Tensor, logits: Tensor, dim: int, scratch: Tensor) -> None:
    """Takes a tile into the running maxima and the sums of exponentials relative to them, in place."""
    higher = torch.maximum(peak, logits.amax(dim))
    added = shifted_exp(logits, higher.unsqueeze(dim), scratch).sum(dim)
    total.mul_(torch.exp(peak - higher)).add_(added)
    peak.copy_(higher)
