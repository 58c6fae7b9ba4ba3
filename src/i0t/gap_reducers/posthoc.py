"""I0T_post: subtract each modality's mean, then normalise again."""

from __future__ import annotations

import torch
from torch import Tensor

from i0t.gap_reducers.base import GapReducer, Rows
from i0t.gap_reducers.fit_rows import unit_mean
from i0t.gap_reducers.strength import check_strength


class Posthoc(GapReducer):
    """I0T_post (arXiv 2412.14384, §4.2): N(N(f) - strength * m), m the mean of a modality's unit vectors.

    The paper fits on the test set itself (``fit_split="test"``, transductive); its §6.1 suggests training data
    (``"train"``), which is also GR-CLIP (arXiv 2507.19054). The second normalisation brings a small mean back, and
    means of n rows leave a gap of about n^-1/2: the result is near zero, not zero.

    **DDP:** ``fit`` all-reduces sums in float64.

    **State:** ``image_mean``, ``text_mean`` (D,) float32.

    Args:
        dim: D.
        fit_split: Split of the means, see :class:`~i0t.gap_reducers.base.GapReducer`. Required.
        fit_samples: Images to take the means of (I0T Table 3), with all their texts; ``None`` for all.
        strength: Share of the mean that is subtracted: 1 for I0T_post, 0 for no reduction.
        seed: Of the draw of ``fit_samples``.

    Raises:
        ValueError: If ``fit_split`` is missing or an argument is out of range.

    Example:
        >>> reducer = Posthoc(2, fit_split="train")
        >>> reducer.fit_image(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> reducer.fit_text(torch.tensor([[-1.0, 0.0], [0.0, -1.0]]))
        >>> reducer.reduce_image(torch.tensor([[2.0, 0.0]]))
        tensor([[ 0.7071, -0.7071]])
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
        strength: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, fit_split=fit_split, fit_samples=fit_samples, seed=seed)
        check_strength(strength)
        self.strength = strength
        self.register_buffer("image_mean", torch.zeros(dim))
        self.register_buffer("text_mean", torch.zeros(dim))

    @property
    def calibration_means(self) -> tuple[Tensor, Tensor] | None:
        """The means that are subtracted; ``None`` unless they are subtracted whole."""
        centres = self.strength == 1 and len(self.fitted_modalities) == 2
        return (self.image_mean, self.text_mean) if centres else None

    def _fit_image(self, image_features: Rows) -> None:
        self.image_mean.copy_(unit_mean(image_features, "image", device=self.fitted.device))

    def _fit_text(self, text_features: Rows) -> None:
        self.text_mean.copy_(unit_mean(text_features, "text", device=self.fitted.device))

    def affine_image(self) -> tuple[Tensor, Tensor]:
        """Scale 1, shift -strength * mean."""
        return torch.ones_like(self.image_mean), -self.strength * self.image_mean.double()

    def affine_text(self) -> tuple[Tensor, Tensor]:
        """Scale 1, shift -strength * mean."""
        return torch.ones_like(self.text_mean), -self.strength * self.text_mean.double()

    def _reduce_image(self, unit_rows: Tensor) -> Tensor:
        return unit_rows - self.strength * self.image_mean

    def _reduce_text(self, unit_rows: Tensor) -> Tensor:
        return unit_rows - self.strength * self.text_mean
