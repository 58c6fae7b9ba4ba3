"""Applies a saved reducer to a file, block by block, on all cores, in bounded memory.

Shapes: N rows, D embedding width.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from i0t.gap_reducers import SavedReducer, load
from i0t.gap_reducers.saved import BLOCK_VALUES, AffineMap
from i0t.reduce.npy_rows import Buffers, NpyRows, NpyWriter, written_aside

READ_VALUES = 2**20  # of a read and a write: 2 MiB in half precision
TORCH_VALUES = 2**27  # of a file in half precision from which torch's faster conversion is worth its import
TORCH_BLOCK_VALUES = 2**18  # worked on at once: smaller blocks stay in the cache, but threads then wait for each other


def apply(options: argparse.Namespace) -> str:
    """``i0t-reduce apply``.

    Returns:
        What was written, in words.

    Raises:
        ValueError: If an input cannot be used or the output not be written.
    """
    if options.threads is not None and options.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {options.threads}")
    reducer = load(options.reducer)
    dtype = None if options.dtype is None else np.dtype(options.dtype)
    if options.data is not None:
        _check_suffix(".npz", options.data, options.output)
        return _apply_to_set(reducer, options.data, options.output, dtype=dtype)
    modality = "image" if options.image is not None else "text"
    path = options.image if options.image is not None else options.text
    _check_suffix(".npy", path, options.output)
    threads = options.threads or _num_cores()
    shape, dtype = apply_to_npy(reducer, modality, path, options.output, dtype=dtype, threads=threads)
    return f"{shape[0]:,} x {shape[1]} {modality} rows, {dtype}"


def _num_cores() -> int:
    """Cores that this process may use; not every system can say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def apply_to_npy(
    reducer: SavedReducer, modality: str, path: Path, output: Path, *, dtype: np.dtype | None = None, threads: int = 1
) -> tuple[tuple[int, int], np.dtype]:
    """Reduces an ``.npy`` of any size; the memory taken is some MiB for each thread.

    Args:
        reducer: Saved.
        modality: ``"image"`` or ``"text"``.
        path: ``(N, D)`` float16, float32 or float64.
        output: Written whole or not at all; it may be ``path``.
        dtype: Of the output; ``None``: that of the input.
        threads: Blocks in work at once.

    Returns:
        Shape and type of what was written.

    Raises:
        ValueError: If a row has no direction, the width is not the reducer's, or the file cannot be used.
    """
    affine = reducer.map_of(modality)
    with NpyRows(path) as rows:
        if rows.shape[1] != reducer.dim:
            raise ValueError(f"{path} is {rows.shape[1]} wide, but the reducer is for width {reducer.dim}")
        dtype = dtype or rows.dtype.newbyteorder("=")
        with written_aside(output, num_bytes=len(rows) * reducer.dim * dtype.itemsize) as aside:
            file = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            try:
                writer = NpyWriter(file, rows.shape, dtype)
                try:
                    _reduce_all(rows, writer, affine, modality, dtype, threads)
                except ValueError as error:
                    raise ValueError(f"{path}: {error}") from error
            finally:
                os.close(file)
        return rows.shape, dtype


def _reduce_all(
    rows: NpyRows, writer: NpyWriter, affine: AffineMap, modality: str, dtype: np.dtype, threads: int
) -> None:
    """Reads, reduces and writes blocks; each thread has buffers of its own, and NumPy and torch let the others run."""
    width = rows.shape[1]
    work_dtype = np.dtype(np.float64 if rows.dtype.itemsize > 4 else np.float32)
    with_torch = np.float16 in (rows.dtype, dtype) and rows.dtype.isnative and len(rows) * width >= TORCH_VALUES
    view, copy = _torch_functions() if with_torch else (np.asarray, np.copyto)
    num_read, num_work = (max(1, n // width) for n in (READ_VALUES, TORCH_BLOCK_VALUES if with_torch else BLOCK_VALUES))
    buffers = Buffers((num_read, rows.dtype), (num_read, dtype), (num_work, work_dtype), width=width)

    def reduce(start: int) -> None:
        count = min(num_read, len(rows) - start)
        source, target, work = buffers.blocks
        source, target = source[:count], target[:count]
        rows.read_into(source, start)
        for first in range(0, count, num_work):
            part = slice(first, first + num_work)
            block = work[: len(source[part])]  # the same memory each time, so that it stays in the cache
            copy(block, source[part])
            affine.apply_in_place(block, what=modality, first_row=start + first, view=view)
            copy(target[part], block)
        writer.write(target, start)

    _for_each(reduce, range(0, len(rows), num_read), threads)


def _torch_functions() -> tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray, np.ndarray], Any]]:
    """``np.asarray`` and ``np.copyto`` of torch: its vector instructions convert half precision and scale rows."""
    torch = _import_torch()
    torch.set_num_threads(1)  # the blocks are what runs side by side

    def copy(to: np.ndarray, values: np.ndarray) -> None:
        torch.from_numpy(to).copy_(torch.from_numpy(values))

    return torch.from_numpy, copy


def _import_torch() -> ModuleType:
    """Without looking for garbage among its many objects, now or at exit, which takes a quarter of its time."""
    is_first, was_enabled = "torch" not in sys.modules, gc.isenabled()
    gc.disable()
    import torch

    if is_first:
        gc.freeze()
    if was_enabled:
        gc.enable()
    return torch


def _for_each(work: Callable[[int], None], starts: range, threads: int) -> None:
    """Calls ``work`` with each start, in several threads; the first that fails ends it all."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[None]] = deque()  # a few at a time, as there may be millions
        try:
            for start in starts:
                if len(pending) == 2 * threads:
                    pending.popleft().result()
                pending.append(pool.submit(work, start))
            for future in pending:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _apply_to_set(reducer: SavedReducer, path: Path, output: Path, *, dtype: np.dtype | None) -> str:
    """Reduces ``image`` and ``text`` of an ``.npz`` in memory and keeps its other arrays."""
    from i0t.data.embedding_formats import read_npz  # imports torch

    arrays = read_npz(path)
    done = []
    for modality, reduce in (("image", reducer.image), ("text", reducer.text)):
        if modality in arrays:
            features = arrays[modality]
            out = np.empty(features.shape, dtype or features.dtype)
            try:
                arrays[modality] = reduce(features, out=out)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            done.append(f"{len(out):,} {modality} rows")
    if not done:
        raise ValueError(f"{path} has neither an array image nor text; it has {sorted(arrays)}")
    with written_aside(output, num_bytes=sum(array.nbytes for array in arrays.values())) as aside:
        np.savez(aside, allow_pickle=False, **arrays)
    return " and ".join(done)


def _check_suffix(suffix: str, *paths: Path) -> None:
    for path in paths:
        if path.suffix != suffix:
            raise ValueError(f"{path} must be an {suffix} file here")
