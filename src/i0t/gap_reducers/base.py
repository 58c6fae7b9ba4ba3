"""The base class of all gap reducers.

Shapes: N image rows, M text rows, D embedding width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from i0t.distributed import rows_per_rank
from i0t.gap_reducers.errors import NotAffineError, NotFittedError, half_fitted, not_fitted
from i0t.gap_reducers.fit_rows import Embeddings, FitRows, Rows, draw_unpaired, select_fit_rows
from i0t.gap_reducers.fit_splits import check_fit_split
from i0t.gap_reducers.saved import MIN_NORM, MIN_REDUCED_NORM
from i0t.gap_reducers.saving import load_reducer, save_reducer
from i0t.gap_reducers.unit_rows import to_unit

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Embeddings", "FitRows", "GapReducer", "NotAffineError", "NotFittedError", "Rows"]


class GapReducer(nn.Module, ABC):
    """Maps image and text features so that the modality gap shrinks; takes raw features, returns unit vectors.

    A subclass writes :meth:`_reduce_image` and :meth:`_reduce_text`, from unit rows to rows of any norm; if it has
    statistics, :meth:`_fit_image` and :meth:`_fit_text`, or :meth:`_fit` if it needs both modalities at once; if it is
    of the form N(scale * N(x) + shift), :meth:`affine_image` and :meth:`affine_text`. All its state is in buffers and
    parameters of fixed shape from construction, so that a checkpoint carries it, and every argument of its constructor
    is kept as an attribute of the same name, so that it can be saved.

    A reducer starts in eval mode (a subclass with submodules calls ``self.eval()`` last), and ``fit`` leaves the mode
    as it is. Whoever trains calls ``.train()``: inputs are then not checked (that would wait for the device at every
    step), and a kind that is fitted but not trained only normalises.

    **DDP:** ``fit`` takes each rank's disjoint shard, uneven ones too; every rank ends with the statistics of all rows.

    **State:** ``fitted`` () bool; ``num_fit_images``, ``num_fit_texts`` () int64, rows of all ranks that it was
    fitted on (0 where it was trained inside a model, or fitted on the other modality alone).

    Args:
        dim: D.
        fit_split: Split it is fitted on, ``"train"``, ``"val"`` or ``"test"``. Kept with every number it produces.
        fit_samples: Fit on this many images, drawn by ``seed``, and their texts (I0T Table 3); ``None`` for all.
        seed: Of that draw.

    Raises:
        ValueError: If an argument is out of range, or a kind that needs fitting has no ``fit_split``.

    Example:
        >>> class Halve(GapReducer):
        ...     def _reduce_image(self, unit_rows):
        ...         return unit_rows * torch.tensor([0.5, 1.0])
        ...     def _reduce_text(self, unit_rows):
        ...         return unit_rows
        >>> Halve(2).reduce_image(torch.tensor([[3.0, 2.0]])).round(decimals=4)
        tensor([[0.6000, 0.8000]])
    """

    trainable: ClassVar[bool] = False
    needs_fit: ClassVar[bool] = False
    fitted: Tensor
    num_fit_images: Tensor
    num_fit_texts: Tensor

    def __init__(
        self, dim: int, *, fit_split: str | None = None, fit_samples: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if fit_samples is not None and fit_samples < 2:
            raise ValueError(f"fit_samples must be at least 2, or null for all, got {fit_samples}")
        if self.needs_fit or fit_split is not None:
            check_fit_split(fit_split, type(self).__name__)
        self.dim = dim
        self.fit_split = fit_split
        self.fit_samples = fit_samples
        self.seed = seed
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("num_fit_images", torch.tensor(0, dtype=torch.int64))
        self.register_buffer("num_fit_texts", torch.tensor(0, dtype=torch.int64))
        self.eval()

    @property
    def calibration_means(self) -> tuple[Tensor, Tensor] | None:
        """Means (D,) of unit rows, if they are what it centres on, wholly, so that only their error is left."""
        return None

    @property
    def fitted_modalities(self) -> tuple[str, ...]:
        """What it can reduce now: ``"image"``, ``"text"``, both, or nothing before it is fitted."""
        if not self.needs_fit:
            return ("image", "text")
        if not bool(self.fitted):
            return ()
        num_images, num_texts = int(self.num_fit_images), int(self.num_fit_texts)
        if bool(num_images) == bool(num_texts):  # both 0: trained inside a model
            return ("image", "text")
        return ("image",) if num_images else ("text",)

    def protocol(self, measured_split: str) -> str:
        """How its numbers on a split are to be read.

        Args:
            measured_split: ``"train"``, ``"val"`` or ``"test"``.

        Returns:
            ``"none"`` if nothing is fitted, ``"transductive"`` if it is on the measured split, or ``"inductive"``.
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
        self._fit_with(self._fit, embeddings)

    @property
    def recalibrates(self) -> bool:
        """Whether :meth:`recalibrate` does anything: nobody needs to encode a split for nothing."""
        return False

    def recalibrate(self, embeddings: Embeddings) -> None:
        """Replaces running statistics by exact ones, after a training inside a model.

        Args:
            embeddings: This rank's disjoint shard of the fit split, encoded with the final weights.

        Raises:
            ValueError: As :meth:`fit`.
        """

    def _fit_with(self, fit: Callable[[FitRows], None], embeddings: Embeddings) -> None:
        self._check_width(embeddings.image_features, "image")
        self._check_width(embeddings.text_features, "text")
        rows = select_fit_rows(embeddings, self.fit_samples, seed=self.seed, device=self.fitted.device)
        fit(rows)
        self._note_fitted(rows.image_features, self.num_fit_images)
        self._note_fitted(rows.text_features, self.num_fit_texts)

    def _note_fitted(self, features: Rows, count: Tensor) -> None:
        count.fill_(sum(rows_per_rank(len(features), self.fitted.device)))
        self.fitted.fill_(True)

    def fit_image(self, image_features: Rows) -> None:
        """Fits the images' statistics alone; those of texts stay as they are, fitted or not.

        Args:
            image_features: ``(N, D)`` this rank's rows: a tensor, or rows that are read in chunks.

        Raises:
            ValueError: As :meth:`fit`; also if this kind is fitted on both modalities together only.
        """
        self._fit_one(image_features, "image", self._fit_image, self.num_fit_images, seed=self.seed)

    def fit_text(self, text_features: Rows) -> None:
        """Fits the texts' statistics alone, see :meth:`fit_image`."""
        self._fit_one(text_features, "text", self._fit_text, self.num_fit_texts, seed=self.seed + 1)

    def _fit_one(self, features: Rows, modality: str, fit: Callable[[Rows], None], count: Tensor, *, seed: int) -> None:
        if not self.needs_fit:
            return
        self._check_width(features, modality)
        device = self.fitted.device
        features = draw_unpaired(features, self.fit_samples, f"{modality}s", seed=seed, device=device)
        fit(features)
        self._note_fitted(features, count)

    def affine_image(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (D,) of images, for a kind that is N(scale * N(x) + shift).

        Raises:
            NotAffineError: If this kind is not of this form.
        """
        raise NotAffineError(f"{type(self).__name__} is not of the form N(scale * N(x) + shift)")

    def affine_text(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (D,) of texts, see :meth:`affine_image`."""
        raise NotAffineError(f"{type(self).__name__} is not of the form N(scale * N(x) + shift)")

    def save(self, path: str | Path, *, provenance: Mapping[str, Any] | None = None) -> Path:
        """Writes it to one safetensors file, whole or not at all, and its description as JSON beside it.

        :func:`i0t.gap_reducers.load` reads it for NumPy, :meth:`load` as this class. Modules (a loss) are not saved.

        Args:
            path: Ends in ``.safetensors``.
            provenance: What to note beside class, arguments, split, counts and versions; plain containers.

        Raises:
            ValueError: If the path or the class does not allow it.
            NotFittedError: If it needs fitting and is not fitted.
        """
        if not self.fitted_modalities:
            raise NotFittedError(f"there is nothing to save: {self._not_fitted()}")
        return save_reducer(self, path, provenance=provenance)

    @classmethod
    def load(cls, path: str | Path, *, modules: Mapping[str, nn.Module] | None = None) -> Self:
        """Reads what :meth:`save` wrote, in eval mode on the CPU.

        ``GapReducer.load`` reads any kind that i0t ships, and a class of your own is read by its own ``load``, since no
        file decides which code is imported.

        Args:
            path: The ``.safetensors`` file.
            modules: Arguments that are modules, by name (``{"loss": …}``), to fit again.

        Raises:
            ValueError: If there is no such file, it is damaged, or of another class.
        """
        reducer = load_reducer(cls, path, modules=modules)
        assert isinstance(reducer, cls)
        return reducer

    def reduce_image(self, image_features: Tensor) -> Tensor:
        """Reduces images.

        Args:
            image_features: ``(..., D)`` un-normalised.

        Returns:
            ``(..., D)`` unit vectors, float32 or, for such input, float64.

        Raises:
            ValueError: If the width is not ``dim``; in eval mode also for rows that have no direction, or none left.
            NotFittedError: In eval mode, before :meth:`fit`.
        """
        return self._reduce(image_features, "image", self._reduce_image)

    def reduce_text(self, text_features: Tensor) -> Tensor:
        """Reduces texts, see :meth:`reduce_image`."""
        return self._reduce(text_features, "text", self._reduce_text)

    def forward(self, image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
        """Both modalities; the row counts may differ."""
        return self.reduce_image(image_features), self.reduce_text(text_features)

    def _fit(self, rows: FitRows) -> None:
        """Sets the statistics from this rank's rows. Written by kinds that need both modalities at once."""
        self._fit_image(rows.image_features)
        self._fit_text(rows.text_features)

    def _fit_image(self, image_features: Rows) -> None:
        """Sets the images' statistics. Written by kinds that fit each modality for itself."""
        self._refuse_to_fit_alone("image")

    def _fit_text(self, text_features: Rows) -> None:
        """Sets the texts' statistics, see :meth:`_fit_image`."""
        self._refuse_to_fit_alone("text")

    def _refuse_to_fit_alone(self, modality: str) -> NoReturn:
        name = type(self).__name__
        if type(self)._fit is GapReducer._fit:
            raise NotImplementedError(f"{name} has needs_fit = True and must write _fit or _fit_{modality}")
        raise ValueError(f"{name} is fitted on images and texts together, not on {modality}s alone")

    @abstractmethod
    def _reduce_image(self, unit_rows: Tensor) -> Tensor:
        """``(N, D)`` unit rows to ``(N, D)`` rows of any norm."""

    @abstractmethod
    def _reduce_text(self, unit_rows: Tensor) -> Tensor:
        """``(M, D)`` unit rows to ``(M, D)`` rows of any norm."""

    def _reduce(self, features: Tensor, modality: str, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        check = not self.training
        if check and modality not in self.fitted_modalities:
            raise self._not_fitted()
        self._check_width(features, modality)
        rows = features.reshape(-1, self.dim)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        rows = to_unit(rows, modality, min_norm=MIN_NORM, check=check)
        only_normalises = self.training and self.needs_fit and not self.trainable
        if not only_normalises:
            rows = to_unit(reduce(rows), f"reduced {modality}", min_norm=MIN_REDUCED_NORM, check=check)
        return rows.view(features.shape)

    def _not_fitted(self) -> NotFittedError:
        name = type(self).__name__
        if bool(self.fitted):
            return half_fitted(name, "image" if int(self.num_fit_images) else "text")
        return not_fitted(name, self.fit_split)

    def _check_width(self, features: Tensor | Rows, modality: str) -> None:
        if len(features.shape) < 1 or features.shape[-1] != self.dim:
            raise ValueError(
                f"{modality} features have shape {tuple(features.shape)}, but this reducer is for width {self.dim}"
            )
