"""Rows of ``.npy`` files, read and written in blocks without memory maps, so that memory stays what the blocks take.

Pages of a memory map count as memory of the process for as long as nobody else wants them; a file read into a buffer
leaves them with the system.

Shapes: N rows, D embedding width.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# Linux gives a large write large pages, and those that are free in a virtual machine are often not backed by memory
# yet: after other files were removed, writing 5 GB in 4 MiB took 15 s, and 3 s like this.
WRITE_BYTES = 2**17


class NpyRows:
    """An ``.npy`` of floating rows, open for reading from several threads.

    Attributes:
        shape: ``(N, D)``.
        dtype: As stored.

    Args:
        path: The file.

    Raises:
        ValueError: If it is missing, truncated, or not floating rows in C order.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        self.path = path
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        if not isinstance(mapped, np.memmap):
            raise ValueError(f"{path} is not an .npy file")
        if mapped.ndim != 2 or mapped.dtype.kind != "f" or mapped.size == 0:
            raise ValueError(f"{path} must hold floating (N, D) features, got {mapped.dtype} {mapped.shape}")
        if not mapped.flags.c_contiguous:
            raise ValueError(f"{path} is stored column by column; save np.ascontiguousarray(features)")
        self.shape: tuple[int, int] = (mapped.shape[0], mapped.shape[1])
        self.dtype = mapped.dtype
        self._offset = mapped.offset
        self._row_bytes = mapped.shape[1] * mapped.dtype.itemsize
        self._file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return self.shape[0]

    def read_into(self, block: np.ndarray, start: int) -> None:
        """Fills a contiguous block ``(rows, D)`` of the file's type with the rows from ``start``.

        Raises:
            ValueError: If the file has become shorter.
        """
        rest = block.view(np.uint8).reshape(-1).data
        position = self._offset + start * self._row_bytes
        while rest:
            num_bytes = os.preadv(self._file, [rest], position)
            if num_bytes == 0:
                raise ValueError(f"{self.path} was cut short while it was read")
            rest, position = rest[num_bytes:], position + num_bytes

    def __getitem__(self, rows: Tensor) -> Tensor:
        """A copy of the given rows."""
        import torch

        block = np.empty((1, self.shape[1]), self.dtype)
        chosen = np.empty((len(rows), self.shape[1]), self.dtype)
        for i, row in enumerate(rows.tolist()):
            self.read_into(block, row)
            chosen[i] = block[0]
        return torch.from_numpy(chosen.astype(chosen.dtype.newbyteorder("="), copy=False))

    def split(self, split_size: int) -> Iterator[Tensor]:
        """All rows, in blocks that share one buffer."""
        import torch

        buffer = np.empty((min(split_size, len(self)), self.shape[1]), self.dtype)
        for start in range(0, len(self), split_size):
            block = buffer[: min(split_size, len(self) - start)]
            self.read_into(block, start)
            yield torch.from_numpy(block.astype(block.dtype.newbyteorder("="), copy=False))

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def __enter__(self) -> NpyRows:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class NpyWriter:
    """An ``.npy`` that several threads fill with blocks of rows.

    Args:
        file: Open for writing, empty.
        shape: ``(N, D)``.
        dtype: Of the values.
    """

    def __init__(self, file: int, shape: tuple[int, int], dtype: np.dtype) -> None:
        with os.fdopen(os.dup(file), "wb") as header:
            description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(header, description)
            self._offset = header.tell()
        self._file = file
        self._writing = threading.Lock()
        self._row_bytes = shape[1] * dtype.itemsize
        os.ftruncate(file, self._offset + shape[0] * self._row_bytes)

    def write(self, block: np.ndarray, start: int) -> None:
        """Writes a contiguous block of rows from row ``start``."""
        rest = block.view(np.uint8).reshape(-1).data
        position = self._offset + start * self._row_bytes
        with self._writing:  # the system lets one write at a time to a file, and the others would spin, not sleep
            while rest:
                num_bytes = os.pwritev(self._file, [rest[:WRITE_BYTES]], position)
                rest, position = rest[num_bytes:], position + num_bytes


@contextlib.contextmanager
def written_aside(path: Path, *, num_bytes: int) -> Iterator[Path]:
    """A path beside ``path`` to write to, renamed when all went well and removed otherwise.

    Args:
        path: Of the finished file.
        num_bytes: It will have, to know before the work whether they fit.

    Raises:
        ValueError: If the disk has not that much space.
    """
    free = shutil.disk_usage(path.parent).free
    if free < num_bytes:
        raise ValueError(f"{path} needs {num_bytes / 2**20:,.0f} MiB, but {free / 2**20:,.0f} MiB are free")
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


class Buffers(threading.local):
    """One thread's blocks, made at its first use.

    Args:
        *sizes: Rows and type of each block.
        width: D.
    """

    def __init__(self, *sizes: tuple[int, np.dtype], width: int) -> None:
        self.blocks = tuple(np.empty((num_rows, width), dtype) for num_rows, dtype in sizes)
