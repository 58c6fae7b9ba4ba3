"""Applies the gap reducer beside this file to features of the model beside it. Needs NumPy and nothing else.

    from apply_reducer import GapReducer

    reducer = GapReducer()  # gap_reducer.safetensors beside this file
    images = reducer.image(model.encode_image(pixels).numpy())
    texts = reducer.text(model.encode_text(tokens).numpy())
    cosines = images @ texts.T

or, for files: python apply_reducer.py image features.npy reduced.npy

N(scale * N(x) + shift) of every row x, N dividing a row by its Euclidean norm: arXiv 2412.14384, section 4.2.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import numpy as np

_FILE = Path(__file__).with_name("gap_reducer.safetensors")
_SMALLEST_NORM = 1e-12  # below it a row has no direction
_SMALLEST_REDUCED_NORM = 1e-6  # below it what is left of a unit row is rounding


class GapReducer:
    """The fitted reducer; rows are (N, D) or (D,), and it returns unit rows, float32, or float64 for float64 input.

    Args:
        path: Of the safetensors file.
    """

    def __init__(self, path: str | Path = _FILE) -> None:
        tensors = _read(Path(path))
        self._maps = {
            modality: (tensors[f"{modality}.scale"], tensors[f"{modality}.shift"])
            for modality in ("image", "text")
            if f"{modality}.scale" in tensors
        }
        if not self._maps:
            raise ValueError(f"{path} holds no map of the form N(scale * N(x) + shift)")

    def image(self, features: np.ndarray) -> np.ndarray:
        """Reduces features of images, as the image tower gives them."""
        return self._reduce("image", features)

    def text(self, features: np.ndarray) -> np.ndarray:
        """Reduces features of texts, as the text tower gives them."""
        return self._reduce("text", features)

    def _reduce(self, modality: str, features: np.ndarray) -> np.ndarray:
        if modality not in self._maps:
            raise ValueError(f"this reducer was not fitted on {modality}s")
        scale, shift = self._maps[modality]
        features = np.asarray(features)
        if features.dtype.kind != "f" or features.ndim not in (1, 2) or features.shape[-1] != len(scale):
            raise ValueError(f"features must be floating (N, {len(scale)}), got {features.dtype} {features.shape}")
        # In float64: what centring leaves is a small difference, in which float32's rounding would show.
        rows = _unit(features.astype(np.float64), _SMALLEST_NORM, modality)
        reduced = _unit(rows * scale + shift, _SMALLEST_REDUCED_NORM, modality)
        return reduced.astype(np.float64 if features.dtype.itemsize > 4 else np.float32)


def _unit(rows: np.ndarray, smallest: float, modality: str) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    if not (np.isfinite(norms) & (norms > smallest)).all():
        raise ValueError(f"some {modality} features are zero, NaN or infinite and have no direction")
    return rows / norms


def _read(path: Path) -> dict[str, np.ndarray]:
    """Float tensors of a safetensors file: the length of a JSON header, the header, the bytes."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    types = {"F32": "<f4", "F64": "<f8"}
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__" and about["dtype"] in types:
            start, end = (8 + length + offset for offset in about["data_offsets"])
            tensors[name] = np.frombuffer(content[start:end], types[about["dtype"]]).reshape(about["shape"])
    return tensors


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("image", "text"):
        sys.exit("usage: python apply_reducer.py image|text FEATURES.npy REDUCED.npy")
    np.save(sys.argv[3], getattr(GapReducer(), sys.argv[1])(np.load(sys.argv[2])))
