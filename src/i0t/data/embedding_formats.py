"""Reads embeddings from files: our own sets, ``.npz``, ``.npy`` and parquet.

Shapes: N images, M texts, D embedding width, P pairs.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet

if TYPE_CHECKING:
    import pyarrow as pa

SET_INDEX = "index.json"  # a folder with it is a set of our own
FORMATS = f"a folder with {SET_INDEX}, .npz, .npy (with a second one for the texts) or .parquet"


@dataclass(frozen=True, kw_only=True)
class StoredEmbeddings:
    """All that a file holds.

    Attributes:
        embeddings: Every row.
        split: ``(N,)`` name of each image's split, or ``None`` where the file has none.
        text_split: ``(M,)`` name of each text's split, for texts that belong to no image.
    """

    embeddings: EmbeddingSet
    split: np.ndarray | None = None
    text_split: np.ndarray | None = None


def read_embeddings(path: Path, *, text_path: Path | None = None, index_path: Path | None = None) -> StoredEmbeddings:
    """Reads a file of any known format.

    Args:
        path: The file or folder; with ``text_path`` the ``.npy`` of the images.
        text_path: The ``.npy`` of the texts.
        index_path: An integer ``.npy``: ``(M,)`` the image row of each text, or ``(P, 2)`` pairs. ``None``: unpaired.

    Raises:
        ValueError: In one line, if a file is missing, truncated or of no known format, or its arrays disagree.
    """
    if not path.exists():
        raise ValueError(f"there is no {path}; embeddings are read from {FORMATS}")
    if path.suffix != ".npy" and (text_path is not None or index_path is not None):
        raise ValueError(f"text_path and index_path go with an .npy of image features, not with {path}")
    try:
        if path.is_dir():
            return _read_own_set(path)
        if path.suffix == ".npz":
            return _from_arrays(read_npz(path), path)
        if path.suffix == ".npy":
            return _read_npy_pair(path, text_path, index_path)
        if path.suffix == ".parquet":
            return _from_arrays(_read_parquet(path), path)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    raise ValueError(f"{path} is of no known format; embeddings are read from {FORMATS}")


def read_npy(path: Path) -> np.ndarray:
    """Maps an ``.npy`` into memory, copy on write: nothing is read before it is used.

    Raises:
        ValueError: If it is missing, truncated, no such file, or holds Python objects.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        # "c" because torch warns of memory that cannot be written; the file itself stays as it is.
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return array


def _read_own_set(path: Path) -> StoredEmbeddings:
    from i0t.embedding_store import load_set

    if not (path / SET_INDEX).is_file():
        raise ValueError(f"the folder {path} holds no embeddings (no {SET_INDEX}); embeddings are read from {FORMATS}")
    embeddings = load_set(path)
    split = embeddings.provenance.get("split")
    return StoredEmbeddings(
        embeddings=embeddings, split=None if split is None else np.full(embeddings.num_images, str(split))
    )


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz``.

    Raises:
        ValueError: If it is missing, truncated, no such file, or holds Python objects.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is truncated or not an .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read embeddings from {path}: {error}") from error


def _read_npy_pair(path: Path, text_path: Path | None, index_path: Path | None) -> StoredEmbeddings:
    if text_path is None:
        raise ValueError(f"{path} holds one modality; give the .npy of the texts as text_path")
    arrays = {"image": read_npy(path), "text": read_npy(text_path)}
    if index_path is not None:
        index = read_npy(index_path)
        arrays["pairs" if index.ndim == 2 else "text_image_index"] = index
    return _from_arrays(arrays, path)


def _from_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> StoredEmbeddings:
    missing = {"image", "text"} - arrays.keys()
    if missing:
        raise ValueError(f"{path} has no array {sorted(missing)}; it has {sorted(arrays)}")
    if "pairs" in arrays and "text_image_index" in arrays:
        raise ValueError(f"{path} has both pairs and text_image_index; leave one out")
    scale = _logit_scale(arrays)
    embeddings = EmbeddingSet(
        image_features=_features(arrays["image"], "image"),
        text_features=_features(arrays["text"], "text"),
        pairs=_pairs(arrays),
        logit_scale=EmbeddingSet.logit_scale if scale is None else scale,
        image_ids=_strings(arrays, "image_id"),
        captions=_strings(arrays, "caption"),
        provenance={"source": path.name, "logit_scale_known": scale is not None},
    )
    lengths = {"split": embeddings.num_images, "text_split": embeddings.num_texts}
    for name, length in lengths.items():
        if name in arrays and arrays[name].shape != (length,):
            raise ValueError(f"{name} must be ({length},), a name for each row, got {arrays[name].shape}")
    split, text_split = (
        np.array(_strings(arrays, name), dtype=str) if name in arrays else None for name in ("split", "text_split")
    )
    return StoredEmbeddings(embeddings=embeddings, split=split, text_split=text_split)


def _logit_scale(arrays: Mapping[str, np.ndarray]) -> float | None:
    """The file's one logit scale, the factor itself; ``None`` where it has none."""
    if "logit_scale" not in arrays:
        return None
    found = np.unique(arrays["logit_scale"])
    if len(found) != 1 or found.dtype.kind not in "fiu" or not (np.isfinite(found[0]) and found[0] > 0):
        raise ValueError(
            f"logit_scale must be one positive number, the factor of the cosines and not its logarithm, got {found[:3]}"
        )
    return float(found[0])


def _features(array: np.ndarray, name: str) -> Tensor:
    """As stored where torch can use it: half and single precision stay what they are, and memory-mapped."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"the array {name} must hold numbers, got {array.dtype}")
    if array.dtype.kind != "f" or array.dtype.itemsize > 4:
        array = array.astype(np.float32)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # torch has no read-only tensors


def _pairs(arrays: Mapping[str, np.ndarray]) -> Tensor:
    name = "pairs" if "pairs" in arrays else "text_image_index"
    if name not in arrays:
        return torch.empty(0, 2, dtype=torch.int64)
    index = arrays[name]
    if index.dtype.kind not in "iu":
        raise ValueError(f"{name} must hold row numbers, got {index.dtype}")
    index = index.astype(np.int64)
    if name == "text_image_index":
        if index.shape != arrays["text"].shape[:1]:
            raise ValueError(
                f"text_image_index has shape {index.shape} for {len(arrays['text'])} texts; "
                "it gives the image row of each text"
            )
        index = np.stack([index, np.arange(len(index))], axis=1)
    return torch.from_numpy(np.ascontiguousarray(index))


def _strings(arrays: Mapping[str, np.ndarray], name: str) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    values = arrays[name]
    if values.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {values.shape}")
    if values.dtype.kind == "S":
        return tuple(value.decode("utf-8") for value in values.tolist())
    return tuple(map(str, values.tolist()))


# --- parquet: one row per text, per image, or per pair ---


def _read_parquet(path: Path) -> dict[str, np.ndarray]:
    """Columns ``image`` and ``text``: lists of D numbers, null where a row has none; ``image_id, caption, split``.

    A row's text belongs to the row's image; with ``image_id``, to the first image of that id (which the other rows of
    the id may repeat or leave null). A text whose row or id has no image is unpaired.
    """
    table = _parquet_table(path)
    missing = {"image", "text"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path} has no column {sorted(missing)}; it has {sorted(table.column_names)}")
    for name in ("image_id", "split"):
        if name in table.column_names and table.column(name).null_count:
            raise ValueError(f"the column {name} of {path} has {table.column(name).null_count} nulls")
    has_image, has_text = (table.column(name).is_valid().to_numpy() for name in ("image", "text"))
    text_rows = np.flatnonzero(has_text)
    ids = table.column("image_id").to_numpy() if "image_id" in table.column_names else np.arange(len(table))
    with_image = np.flatnonzero(has_image)
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    of_id = np.full(len(first), len(ids))
    np.minimum.at(of_id, inverse[with_image], with_image)  # the first row of an id that has an image
    image_rows = np.sort(of_id[of_id < len(ids)])
    text_owner = of_id[inverse[text_rows]]
    paired = text_owner < len(ids)
    arrays = {
        "image": _vectors(table, "image", image_rows),
        "text": _vectors(table, "text", text_rows),
        "pairs": np.stack([np.searchsorted(image_rows, text_owner[paired]), np.flatnonzero(paired)], axis=1),
    }
    if "image_id" in table.column_names:
        arrays["image_id"] = ids[image_rows].astype(str)
    if "caption" in table.column_names:
        arrays["caption"] = table.column("caption").fill_null("").to_numpy()[text_rows].astype(str)
    if "split" in table.column_names:
        split = table.column("split").to_numpy().astype(str)
        disagree = split != split[first[inverse]]
        if disagree.any():
            raise ValueError(f"the image {ids[disagree.argmax()]} of {path} is in more than one split")
        arrays |= {"split": split[image_rows], "text_split": split[text_rows]}
    return arrays


def _parquet_table(path: Path) -> pa.Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(f"reading {path} needs pyarrow: pip install 'i0t[parquet]'") from error
    try:
        return pq.read_table(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def _vectors(table: pa.Table, name: str, rows: np.ndarray) -> np.ndarray:
    """``(rows, D)`` of a list column, without a Python object per number."""
    column: Any = table.column(name)
    if not hasattr(column.type, "value_type"):
        raise ValueError(f"the column {name} must hold lists of numbers, got {column.type}")
    if len(rows) < len(column):
        column = column.take(rows)
    chunks = [np.asarray(chunk.flatten().to_numpy(zero_copy_only=False)) for chunk in column.chunks]
    values = np.concatenate(chunks) if len(chunks) != 1 else chunks[0]
    width = len(values) // max(1, len(rows))
    if len(values) != width * len(rows) or len(_list_lengths(column)) > 1:
        raise ValueError(f"the lists of the column {name} have different lengths")
    return values.reshape(len(rows), width)


def _list_lengths(column: Any) -> list[int]:
    import pyarrow.compute as pc

    lengths: list[int] = pc.unique(pc.list_value_length(column)).to_pylist()
    return lengths
