"""No reduction: the row of every comparison that the others are measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from i0t.gap_reducers.base import GapReducer


class NoReducer(GapReducer):
    """Normalises, and nothing else; there is nothing to fit.

    **DDP:** no communication. **State:** none of its own.

    Args:
        dim: D.

    Example:
        >>> import torch
        >>> NoReducer(2).reduce_image(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)

    def _reduce_image(self, unit_rows: Tensor) -> Tensor:
        return unit_rows

    def _reduce_text(self, unit_rows: Tensor) -> Tensor:
        return unit_rows

    def affine_image(self) -> tuple[Tensor, Tensor]:
        """Scale 1, shift 0."""
        return torch.ones(self.dim), torch.zeros(self.dim)

    def affine_text(self) -> tuple[Tensor, Tensor]:
        """Scale 1, shift 0."""
        return torch.ones(self.dim), torch.zeros(self.dim)
