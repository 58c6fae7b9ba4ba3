"""The base class of all gap reducers.

Shapes: N image rows, M text rows, D embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i0t.distributed import rows_per_rank
from i0t.gap_reducers.fit_rows import Embeddings, FitRows, select_fit_rows

__all__ = ["Embeddings", "FitRows", "GapReducer", "NotFittedError"]

MIN_NORM = 1e-12  # below it F.normalize returns no unit vector
MIN_REDUCED_NORM = 1e-6  # below it the difference of two float32 unit vectors is rounding

FIT_SPLITS = {
    "train": "inductive, statistics from training data",
    "val": "inductive, statistics from held-out data",
    "test": "transductive, statistics from the very data it is tested on: the I0T paper's protocol",
}


class NotFittedError(RuntimeError):
    """A reducer that needs fitting was used before :meth:`GapReducer.fit`."""


class GapReducer(nn.Module, ABC):
    """Maps image and text features so that the modality gap shrinks; takes raw features, returns unit vectors.

    A subclass writes :meth:`_reduce_image` and :meth:`_reduce_text`, from unit rows to rows of any norm, and, if it
    has statistics, :meth:`_fit`. All its state is in buffers and parameters of fixed shape from construction, so that
    a checkpoint carries it.

    A reducer starts in eval mode, and ``fit`` leaves the mode as it is: library use never depends on a forgotten
    ``.eval()`` (a subclass with submodules calls ``self.eval()`` last). Whoever trains calls ``.train()``. In train
    mode inputs are not checked (that would wait for the device at every step), and a kind that is fitted but not
    trained only normalises.

    **DDP:** ``fit`` takes each rank's disjoint shard, uneven ones too; every rank ends with the statistics of all rows.

    **State:** ``fitted`` () bool; ``num_fit_images`` () int64, images of all ranks that it was fitted on.

    Args:
        dim: D.
        fit_split: Split it is fitted on, ``"train"``, ``"val"`` or ``"test"``. Kept with every number it produces.
        fit_samples: Fit on this many images, drawn by ``seed``, and their texts (I0T Table 3); ``None`` for all.
        seed: Of that draw.

    Raises:
        ValueError: If an argument is out of range, or a kind that needs fitting has no ``fit_split``.
    """

    trainable: ClassVar[bool] = False
    needs_fit: ClassVar[bool] = False
    fitted: Tensor
    num_fit_images: Tensor

    def __init__(
        self, dim: int, *, fit_split: str | None = None, fit_samples: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if fit_samples is not None and fit_samples < 2:
            raise ValueError(f"fit_samples must be at least 2, or null for all, got {fit_samples}")
        if (self.needs_fit or fit_split is not None) and fit_split not in FIT_SPLITS:
            choices = "; ".join(f"{name} ({meaning})" for name, meaning in FIT_SPLITS.items())
            raise ValueError(f"{type(self).__name__}: fit_split must be one of: {choices}; got {fit_split!r}")
        self.dim = dim
        self.fit_split = fit_split
        self.fit_samples = fit_samples
        self.seed = seed
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("num_fit_images", torch.tensor(0, dtype=torch.int64))
        self.eval()

    def protocol(self, measured_split: str) -> str:
        """How its numbers on a split are to be read.

        Args:
            measured_split: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            ``"none"`` if nothing is fitted, ``"transductive"`` if it is fitted on the very split that is measured,
            ``"inductive"`` otherwise.
        """
        if not self.needs_fit:
            return "none"
        return "transductive" if self.fit_split == measured_split else "inductive"

    def fit(self, embeddings: Embeddings) -> None:
        """Fits the statistics, from scratch; nothing for a kind that has none.

        Args:
            embeddings: This rank's disjoint shard of the fit split.

        Raises:
            ValueError: If the features are not ``dim`` wide, not finite or zero, or too few.
        """
        if not self.needs_fit:
            return
        self._check_width(embeddings.image_features, "image")
        self._check_width(embeddings.text_features, "text")
        device = self.fitted.device
        rows = select_fit_rows(embeddings, self.fit_samples, seed=self.seed, device=device)
        self._fit(rows)
        self.num_fit_images.fill_(sum(rows_per_rank(len(rows.image_features), device)))
        self.fitted.fill_(True)

    def reduce_image(self, image_features: Tensor) -> Tensor:
        """Reduces images.

        Args:
            image_features: ``(..., D)`` un-normalised.

        Returns:
            ``(..., D)`` unit vectors, float32 or, for such input, float64.

        Raises:
            ValueError: If the width is not ``dim``; in eval mode also for rows that are zero, NaN or infinite, or
                that have no direction left after the reduction.
            NotFittedError: In eval mode, before :meth:`fit`.
        """
        unit = self._unit_rows(image_features, "image")
        reduced = (
            unit
            if self._only_normalises
            else self._to_unit(self._reduce_image(unit), "reduced image", min_norm=MIN_REDUCED_NORM)
        )
        return reduced.view(image_features.shape)

    def reduce_text(self, text_features: Tensor) -> Tensor:
        """Reduces texts, see :meth:`reduce_image`."""
        unit = self._unit_rows(text_features, "text")
        reduced = (
            unit
            if self._only_normalises
            else self._to_unit(self._reduce_text(unit), "reduced text", min_norm=MIN_REDUCED_NORM)
        )
        return reduced.view(text_features.shape)

    def forward(self, image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
        """``(reduce_image(image_features), reduce_text(text_features))``; the row counts may differ."""
        return self.reduce_image(image_features), self.reduce_text(text_features)

    def _fit(self, rows: FitRows) -> None:
        """Sets the statistics from this rank's rows. Written by kinds with ``needs_fit``."""
        raise NotImplementedError(f"{type(self).__name__} has needs_fit = True and must write _fit")

    @abstractmethod
    def _reduce_image(self, unit_rows: Tensor) -> Tensor:
        """``(N, D)`` unit rows to ``(N, D)`` rows of any norm."""

    @abstractmethod
    def _reduce_text(self, unit_rows: Tensor) -> Tensor:
        """``(M, D)`` unit rows to ``(M, D)`` rows of any norm."""

    @property
    def _only_normalises(self) -> bool:
        return self.training and self.needs_fit and not self.trainable

    def _unit_rows(self, features: Tensor, modality: str) -> Tensor:
        """``(..., D)`` checked, to ``(rows, D)`` unit rows of at least float32."""
        if self.needs_fit and not self.training and not bool(self.fitted):
            raise NotFittedError(
                f"{type(self).__name__} is not fitted: call fit() with the embeddings of its fit_split "
                f"({self.fit_split!r}), or load a checkpoint in which it is fitted"
            )
        self._check_width(features, modality)
        rows = features.reshape(-1, self.dim)
        return self._to_unit(rows.to(torch.promote_types(rows.dtype, torch.float32)), modality)

    def _check_width(self, features: Tensor, modality: str) -> None:
        if features.ndim < 1 or features.shape[-1] != self.dim:
            raise ValueError(
                f"{modality} features have shape {tuple(features.shape)}, but this reducer is for width {self.dim}"
            )

    def _to_unit(self, rows: Tensor, what: str, *, min_norm: float = MIN_NORM) -> Tensor:
        if not self.training:
            norm = torch.linalg.vector_norm(rows.detach(), dim=-1)
            bad = ~(torch.isfinite(norm) & (norm > min_norm))
            if bool(bad.any()):
                raise ValueError(
                    f"{int(bad.sum())} of {len(bad)} {what} features are zero, NaN or infinite and have no direction, "
                    f"first at row {int(bad.nonzero()[0])}"
                )
        return F.normalize(rows, dim=-1)
