"""A layer norm per modality between two normalisations, trained inside a model: the "+LN" rows of I0T's Table 1.

Shapes: B rows, D embedding width.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor, nn

from i0t.gap_reducers.base import GapReducer
from i0t.gap_reducers.errors import NotAffineError
from i0t.gap_reducers.strength import check_strength


class RowNorm(nn.Module):
    """``nn.LayerNorm`` that subtracts ``strength`` times the row's own mean.

    **State:** ``weight``, ``bias`` (D,) parameters.

    Args:
        dim: D.
        eps: Added to the variance.
        strength: Share of the mean that is subtracted; the variance is about the whole mean whatever it is.
    """

    def __init__(self, dim: int, *, eps: float, strength: float) -> None:
        super().__init__()
        self.eps = eps
        self.strength = strength
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, rows: Tensor) -> Tensor:
        """``(B, D)`` to ``(B, D)``."""
        variance, mean = torch.var_mean(rows, dim=-1, correction=0, keepdim=True)
        return (rows - self.strength * mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class LayerNorm(GapReducer):
    """L2 -> layer norm of each modality -> L2 -> loss (arXiv 2412.14384, Table 1, "+ LN").

    It closes no gap: a layer norm subtracts each row's own mean over the dimensions, one number, where a modality's
    mean differs between dimensions; its deviation drops out in the second normalisation. What could close the gap is
    its trained shift, which at the paper's learning rate of 1e-6 hardly moves: 1.0070 -> 1.0068 in the paper.

    Nothing is fitted. It is the run's own reducer (``train.py gap_reducer=layer_norm``), trained with the model and
    kept in its checkpoint, from which ``eval.py`` measures it. As a row of ``compare``, untrained, it is the fixed map
    N(LN(x)). It divides by each row's own deviation before it shifts, so it is not N(scale * N(x) + shift), and a saved
    one is used from torch.

    **DDP:** no communication of its own.

    **State:** ``image_norm``, ``text_norm``, see :class:`RowNorm`.

    Args:
        dim: D.
        eps: Added to the variance. That of unit vectors is near 1/D, 2e-3 at D = 512: 1e-5 hardly matters.
        strength: Share of each row's mean that is subtracted.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> LayerNorm(2).reduce_image(torch.tensor([[3.0, 4.0]])).detach().round(decimals=4)
        tensor([[-0.7071,  0.7071]])
    """

    trainable = True

    def __init__(self, dim: int, *, eps: float = 1e-5, strength: float = 1.0) -> None:
        super().__init__(dim)
        if not 0 < eps < float("inf"):
            raise ValueError(f"eps must be above 0 and finite, got {eps}")
        check_strength(strength)
        self.eps = eps
        self.strength = strength
        self.image_norm = RowNorm(dim, eps=eps, strength=strength)
        self.text_norm = RowNorm(dim, eps=eps, strength=strength)
        self.eval()

    def _reduce_image(self, unit_rows: Tensor) -> Tensor:
        reduced: Tensor = self.image_norm(unit_rows)
        return reduced

    def _reduce_text(self, unit_rows: Tensor) -> Tensor:
        reduced: Tensor = self.text_norm(unit_rows)
        return reduced

    def affine_image(self) -> NoReturn:
        """Always raises.

        Raises:
            NotAffineError: With how it is used instead.
        """
        raise NotAffineError(
            "LayerNorm is not of the form N(scale * N(x) + shift): it takes each row's own mean and deviation. Train "
            "it inside a model (train.py gap_reducer=layer_norm) and measure it from the checkpoint, or load it in "
            "torch"
        )

    def affine_text(self) -> NoReturn:
        """As :meth:`affine_image`."""
        self.affine_image()
