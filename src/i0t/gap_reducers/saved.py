"""Saved gap reducers, used from NumPy alone: this module imports no torch.

Every reducer here but ``layer_norm`` maps a row x of a modality to N(scale * N(x) + shift), N the L2 normalisation, so
that four vectors are all that a service needs.

A saved reducer is one safetensors file, whose metadata hold its description; the JSON file beside it is a copy of the
description for people to read, and is not read back.

Shapes: N rows, D embedding width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from i0t import __version__

FORMAT = 1
SUFFIX = ".safetensors"
METADATA_KEY = "i0t"
MODALITIES = ("image", "text")
MIN_NORM = 1e-12  # below it a row has no direction
MIN_REDUCED_NORM = 1e-6  # below it the difference of two float32 unit vectors is rounding
BLOCK_VALUES = 2**17  # of rows worked on at once, 512 KiB in float32: they stay in the second-level cache


@dataclass(frozen=True)
class AffineMap:
    """The map N(scale * N(x) + shift) of one modality.

    Attributes:
        scale: ``(D,)`` float64.
        shift: ``(D,)`` float64.
    """

    scale: np.ndarray
    shift: np.ndarray

    def apply_in_place(
        self,
        rows: np.ndarray,
        *,
        what: str = "",
        first_row: int = 0,
        view: Callable[[np.ndarray], Any] = np.asarray,
    ) -> None:
        """Reduces rows where they lie.

        Args:
            rows: ``(N, D)`` float32 or float64, contiguous; a block that fits the cache is fastest.
            what: Modality, for the message.
            first_row: Number of the first row, for the message.
            view: Of an array in a library that is to scale and add in NumPy's place, as ``torch.from_numpy``.

        Raises:
            ValueError: If a row is zero, NaN or infinite, or nothing is left of it.
        """
        values = view(rows)
        norms = _norms(rows)
        _check_norms(norms, f"{what} features", MIN_NORM, first_row)
        values *= view((1 / norms)[:, None])
        if not (self.scale == 1).all():
            values *= view(self.scale.astype(rows.dtype))
        if self.shift.any():
            values += view(self.shift.astype(rows.dtype))
        norms = _norms(rows)
        _check_norms(norms, f"reduced {what} features", MIN_REDUCED_NORM, first_row)
        values *= view((1 / norms)[:, None])


@dataclass(frozen=True)
class SavedReducer:
    """A fitted reducer, from NumPy.

    Attributes:
        dim: D.
        maps: The map of each modality that it was fitted on.
        description: Class, arguments, what it was fitted on, versions: what stands in the JSON file.
        source: The file, for messages.

    Example:
        >>> map_of_one = AffineMap(scale=np.ones(2), shift=np.array([0.0, -1.0]))
        >>> SavedReducer(2, {"image": map_of_one}, {}).image(np.array([2.0, 0.0])).round(4)
        array([ 0.7071, -0.7071])
    """

    dim: int
    maps: Mapping[str, AffineMap]
    description: Mapping[str, Any]
    source: str = field(default="", compare=False)

    def image(self, features: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """Reduces images.

        Args:
            features: ``(N, D)`` or ``(D,)`` un-normalised, float16, float32 or float64; a memory map too.
            out: Where to write, of the same shape and any of these types; it may be a memory map or ``features``.
                ``None``: a new array, float64 for float64 input and float32 otherwise.

        Returns:
            Unit rows, ``out`` where it is given.

        Raises:
            ValueError: If the reducer was fitted on texts alone, the shape or type is wrong, or a row is zero, NaN or
                infinite, or has no direction left.
        """
        return self._reduce("image", features, out)

    def text(self, features: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """Reduces texts, see :meth:`image`."""
        return self._reduce("text", features, out)

    def map_of(self, modality: str) -> AffineMap:
        """The map of ``"image"`` or ``"text"``.

        Raises:
            ValueError: If the reducer was not fitted on it.
        """
        if modality not in self.maps:
            fitted_on = " and ".join(self.maps) or "nothing"
            raise ValueError(f"{self.source}: this reducer was fitted on {fitted_on} alone and has no {modality} map")
        return self.maps[modality]

    def _reduce(self, modality: str, features: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        affine = self.map_of(modality)
        features = np.asarray(features)
        if features.dtype.kind != "f" or features.ndim not in (1, 2) or features.shape[-1] != self.dim:
            raise ValueError(
                f"{modality} features must be floating (N, {self.dim}) or ({self.dim},), "
                f"got {features.dtype} {features.shape}"
            )
        dtype = np.dtype(np.float64 if features.dtype.itemsize > 4 else np.float32)
        if out is None:
            out = np.empty(features.shape, dtype)
        elif out.shape != features.shape or out.dtype.kind != "f":
            raise ValueError(f"out must be floating {features.shape}, got {out.dtype} {out.shape}")
        rows, out_rows = np.atleast_2d(features), np.atleast_2d(out)
        block = max(1, BLOCK_VALUES // self.dim)
        for start in range(0, len(rows), block):
            part = np.array(rows[start : start + block], dtype=dtype, order="C")
            affine.apply_in_place(part, what=modality, first_row=start)
            out_rows[start : start + block] = part
        return out


def _norms(rows: np.ndarray) -> np.ndarray:
    # vecdot is three times as fast, but NumPy 1 has none.
    squares = np.vecdot(rows, rows) if hasattr(np, "vecdot") else np.einsum("nd,nd->n", rows, rows)
    return np.sqrt(squares)


def _check_norms(norms: np.ndarray, what: str, smallest: float, first_row: int) -> None:
    good = np.isfinite(norms) & (norms > smallest)
    if not good.all():
        raise ValueError(
            f"{int((~good).sum())} of {len(good)} {what} are zero, NaN or infinite and have no direction, "
            f"first at row {first_row + int((~good).argmax())}"
        )


def load(path: str | Path) -> SavedReducer:
    """Reads a saved reducer for use from NumPy, without torch.

    Args:
        path: The ``.safetensors`` file, or the JSON file beside it.

    Raises:
        ValueError: If there is no such file, it is damaged, or the reducer is not of the form N(scale * N(x) + shift).

    Example:
        >>> import tempfile
        >>> from i0t.gap_reducers import NoReducer
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = NoReducer(2).save(f"{folder}/none.safetensors")
        ...     reducer = load(path)
        >>> reducer.image(np.array([3.0, 4.0]))
        array([0.6, 0.8])
    """
    path = Path(path)
    description, tensors = read_saved(path)
    if not description["affine"]:
        raise ValueError(
            f"{path}: {description['class']} is not of the form N(scale * N(x) + shift) and cannot be used from "
            "NumPy alone; load it with that class's own load(), in torch"
        )
    maps = {
        modality: AffineMap(tensors[f"{modality}.scale"], tensors[f"{modality}.shift"])
        for modality in MODALITIES
        if f"{modality}.scale" in tensors
    }
    return SavedReducer(int(description["arguments"]["dim"]), maps, description, str(path))


def read_saved(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Description and tensors of a saved reducer: ``state.*`` for torch, ``image.*`` and ``text.*`` for NumPy.

    Raises:
        ValueError: If there is no such file, or it is damaged, or not a saved reducer of this format.
    """
    path = path.with_suffix(SUFFIX) if path.suffix == ".json" else path
    if not path.is_file():
        raise ValueError(f"there is no saved reducer {path}")
    try:
        with safe_open(path, framework="np") as file:
            description = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not a saved reducer: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(f"{path} is not a saved reducer of format {FORMAT}, which i0t {__version__} reads")
    if description.get("sha256") != tensors_hash(tensors):
        raise ValueError(f"{path} is damaged: its tensors are not those that were saved")
    return description, tensors


def tensors_hash(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def check_path(path: str | Path) -> Path:
    """The path to save to.

    Raises:
        ValueError: If it does not end in ``.safetensors``, or its folder is missing.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"a reducer is saved as {SUFFIX}, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} into")
    return path


def write_aside(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: aside, then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
