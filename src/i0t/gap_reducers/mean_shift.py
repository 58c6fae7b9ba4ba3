"""Liang et al.'s shift: both modalities move towards each other along the difference of their means."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from i0t.gap_reducers.base import GapReducer, Rows
from i0t.gap_reducers.fit_rows import unit_mean
from i0t.gap_reducers.saved import MIN_REDUCED_NORM

Direction = Literal["unit", "difference"]


class MeanShift(GapReducer):
    r"""Images N(x - strength * d), texts N(y + strength * d): the embedding shift of Liang et al. (arXiv 2203.02053).

    With the gap D = m_image - m_text, the difference of the means of unit rows, d is D itself
    (``direction="difference"``) or D / \|D\| (``"unit"``). The I0T paper's baseline rows (arXiv 2412.14384, Table 2:
    .375, .5, -.5) are of the unit form: its .5 goes past the point where the means meet, which is near strength =
    \|D\| / 2 there and .5 of the difference. A negative strength widens the gap. The published code shifts the text
    classifier of CIFAR-100 and Birdsnap once more at every batch: those two columns of its rows cannot be had.

    Unlike centring it leaves what both modalities have in common, the mean of the means.

    **DDP:** ``fit`` all-reduces sums in float64.

    **State:** ``image_mean``, ``text_mean`` (D,) float32.

    Args:
        dim: D.
        fit_split: Split of the means, see :class:`~i0t.gap_reducers.base.GapReducer`. Required.
        fit_samples: Images to take the means of, with all their texts; ``None`` for all.
        direction: ``"unit"`` or ``"difference"``.
        strength: How far each modality moves: a length of unit vectors (``"unit"``) or a share of the gap.
        seed: Of the draw of ``fit_samples``.

    Raises:
        ValueError: If ``fit_split`` is missing or an argument is out of range.

    Example:
        >>> reducer = MeanShift(2, fit_split="train", direction="difference", strength=0.5)
        >>> reducer.fit_image(torch.tensor([[1.0, 0.0]]))
        >>> reducer.fit_text(torch.tensor([[0.0, 1.0]]))
        >>> reducer.reduce_image(torch.tensor([[1.0, 0.0]]))
        tensor([[0.7071, 0.7071]])
    """

    needs_fit = True
    image_mean: Tensor
    text_mean: Tensor

    def __init__(
        self,
        dim: int,
        *,
        fit_split: str | None = None,
        fit_samples: int | None = None,
        direction: Direction = "unit",
        strength: float = 0.375,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, fit_split=fit_split, fit_samples=fit_samples, seed=seed)
        if direction not in get_args(Direction):
            raise ValueError(f"direction must be unit or difference, got {direction!r}")
        if not math.isfinite(strength):
            raise ValueError(f"strength must be finite, got {strength}")
        self.direction = direction
        self.strength = strength
        self.register_buffer("image_mean", torch.zeros(dim))
        self.register_buffer("text_mean", torch.zeros(dim))

    @property
    def fitted_modalities(self) -> tuple[str, ...]:
        """Both or nothing: either shift needs both means."""
        fitted = super().fitted_modalities
        return fitted if len(fitted) == 2 else ()

    def shift(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``(D,)``: what is subtracted from images and added to texts.

        Raises:
            ValueError: If ``direction`` is ``"unit"`` and the means coincide.
        """
        difference = self.image_mean.to(dtype) - self.text_mean.to(dtype)
        if self.direction == "difference":
            return self.strength * difference
        length = torch.linalg.vector_norm(difference)
        if not bool(length > MIN_REDUCED_NORM):
            raise ValueError("the means of images and texts coincide: there is no direction to shift along")
        return self.strength / length * difference

    def _fit_image(self, image_features: Rows) -> None:
        self.image_mean.copy_(unit_mean(image_features, "image", device=self.fitted.device))

    def _fit_text(self, text_features: Rows) -> None:
        self.text_mean.copy_(unit_mean(text_features, "text", device=self.fitted.device))

    def affine_image(self) -> tuple[Tensor, Tensor]:
        """Scale 1, shift -:meth:`shift`."""
        return torch.ones_like(self.image_mean), -self.shift(torch.float64)

    def affine_text(self) -> tuple[Tensor, Tensor]:
        """Scale 1, shift :meth:`shift`."""
        return torch.ones_like(self.text_mean), self.shift(torch.float64)

    def _reduce_image(self, unit_rows: Tensor) -> Tensor:
        return unit_rows - self.shift(unit_rows.dtype)

    def _reduce_text(self, unit_rows: Tensor) -> Tensor:
        return unit_rows + self.shift(unit_rows.dtype)
