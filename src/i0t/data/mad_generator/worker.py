"""Rendering of chunks of digits, in this process or in spawned ones.

The workers import this module: nothing here may import torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i0t.data.mad_generator.draws import draw
from i0t.data.mad_generator.factors import MorphologyParameters
from i0t.data.mad_generator.morphology import render_variants


@dataclass(frozen=True)
class Chunk:
    """Some consecutive digits of a split.

    Attributes:
        path: ``.npy`` file of all images of the split.
        start: Row of the first digit in that file.
        digits: ``(C, 28, 28)`` uint8.
        source_indices: ``(C,)`` int64.
        seed: Seed of the data set.
        parameters: Strengths of the operations.
    """

    path: Path
    start: int
    digits: np.ndarray
    source_indices: np.ndarray
    seed: int
    parameters: MorphologyParameters


def render_chunk(chunk: Chunk) -> int:
    """Render a chunk straight into the file and return its number of digits."""
    # Not flushed: the processes share the page cache, and waiting for the disk would cost more than the rendering.
    images = np.load(chunk.path, mmap_mode="r+")
    for row, (digit, source_index) in enumerate(zip(chunk.digits, chunk.source_indices, strict=True)):
        draws = draw(chunk.seed, int(source_index), chunk.parameters)
        images[chunk.start + row] = render_variants(digit, draws, chunk.parameters)
    return len(chunk.digits)


def render_all(chunks: Sequence[Chunk], num_workers: int) -> Iterator[int]:
    """Render chunks and yield the number of digits of each as it is finished.

    Args:
        chunks: Disjoint chunks of one file.
        num_workers: Processes; with 0, or with one chunk only, this process renders.
    """
    if num_workers == 0 or len(chunks) <= 1:
        yield from map(render_chunk, chunks)
        return
    # Spawned, not forked: the caller may have torch's threads running.
    executor = ProcessPoolExecutor(
        min(num_workers, len(chunks)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare_worker,
    )
    try:
        for future in as_completed([executor.submit(render_chunk, chunk) for chunk in chunks]):
            yield future.result()
    finally:
        # After Ctrl-C or an error: drop what has not begun and wait for the chunks at work, a fraction of a second.
        executor.shutdown(wait=True, cancel_futures=True)


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent ends, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker only"
    parent.join()
    os._exit(1)
