"""Generation of MAD's images, in parallel, into a cache that is complete or absent.

The cache folder is named by a hash of everything that determines the images. It is built aside and renamed when
complete, under a lock, so that neither an interruption nor a second process leaves half of it in place.

Shapes: N digits.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from filelock import FileLock

from i0t.data.mad_generator.factors import IMAGE_SIZE, NUM_VARIANTS, MorphologyParameters
from i0t.data.mad_generator.sources import DigitSource, load_source
from i0t.data.mad_generator.worker import Chunk, render_all

logger = logging.getLogger(__name__)

GENERATOR_VERSION: int = 1
"""To be raised by every change to the code that changes an image."""

_IMAGES, _LABELS, _INDICES, _KEY = "images.npy", "labels.npy", "source_indices.npy", "key.json"
# Small enough for even load and a prompt end after Ctrl-C, large enough that messages between processes cost nothing.
_CHUNK_DIGITS = 24
_DEFAULT_PARAMETERS = MorphologyParameters()


@dataclass(frozen=True)
class MadImages:
    """Grey images of all variants, not yet coloured.

    Attributes:
        images: ``(N, 24, 28, 28)`` uint8 memory map, read only; variants in the order of ``VARIANTS``.
        labels: ``(N,)`` int64 digit labels.
        source_indices: ``(N,)`` int64 places of the digits in their source.
        folder: The cache folder.
    """

    images: np.ndarray
    labels: np.ndarray
    source_indices: np.ndarray
    folder: Path


def generate(
    cache_dir: str | Path,
    source: str = "digits",
    split: str = "train",
    *,
    root: str | Path | None = None,
    seed: int = 0,
    parameters: MorphologyParameters = _DEFAULT_PARAMETERS,
    num_workers: int = 0,
    progress: bool = True,
    limit: int | None = None,
    sample: int | None = None,
    val_digits: int | None = None,
    download: bool = False,
) -> MadImages:
    """MAD's images of one split, from the cache or made now.

    An image depends on the seed, the parameters and its digit alone, not on ``num_workers``, ``limit`` or the split.
    The workers are spawned: a script that calls this with workers needs the usual ``if __name__ == "__main__"``.

    Args:
        cache_dir: Folder of all caches; made if need be.
        source: ``digits`` or ``mnist``.
        split: ``train``, ``val`` or ``test``.
        root: Folder with MNIST's files; not used for ``digits``.
        seed: Decides the split and all random draws; not negative.
        parameters: Strengths of the morphological operations.
        num_workers: Processes that render; 0 renders in this one.
        progress: Show a progress bar.
        limit: Use the first so many digits of the split only.
        sample: Of those, use so many at most, drawn at random by the seed.
        val_digits: Training digits held out for ``val``; ``None``: 10 %; 0: none, and ``val`` is a sample of ``train``.
        download: Fetch MNIST into ``root`` when its files are not there.

    Raises:
        ValueError: If an argument is out of range, the source's files are missing or damaged, or the disk is too full.
    """
    least = {"seed": 0, "num_workers": 0, "limit": 1, "sample": 1, "val_digits": 0}
    given = (seed, num_workers, limit, sample, val_digits)
    for (name, lowest), value in zip(least.items(), given, strict=True):
        if value is not None and value < lowest:
            raise ValueError(f"{name}={value} must be at least {lowest}")
    digits = load_source(source, split, root=root, seed=seed, val_digits=val_digits, limit=limit, download=download)
    if sample is not None:
        digits = digits.sample(sample, seed)
    key = _cache_key(source, split, digits, seed, parameters)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(cache_dir) / f"mad_{source}_{split}_{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        cached = _open_cache(folder, key, len(digits.labels))
        if cached is None:
            _build(folder, key, digits, seed, parameters, num_workers, progress)
            cached = _open_cache(folder, key, len(digits.labels))
    assert cached is not None, "a cache that was just built must be valid"
    return cached


def _cache_key(
    source: str, split: str, digits: DigitSource, seed: int, parameters: MorphologyParameters
) -> dict[str, object]:
    """Everything that determines the images."""
    return {
        "generator_version": GENERATOR_VERSION,
        "libraries": {name: version(name) for name in ("numpy", "scipy", "scikit-image", "scikit-learn")},
        "source": source,
        "source_sha256": digits.fingerprint,
        "digits_sha256": hashlib.sha256(digits.indices.tobytes()).hexdigest(),  # which of them, however chosen
        "split": split,
        "seed": seed,
        "parameters": asdict(parameters),
    }


def _open_cache(folder: Path, key: Mapping[str, object], num_digits: int) -> MadImages | None:
    """The cache, or None if it is absent, of another key, or damaged."""
    if not folder.exists():
        return None
    try:
        found = json.loads((folder / _KEY).read_text(encoding="utf-8"))
        # A file that is shorter than its header says is refused by both ways of loading.
        images = np.load(folder / _IMAGES, mmap_mode="r")
        labels, indices = np.load(folder / _LABELS), np.load(folder / _INDICES)
    except (OSError, ValueError, EOFError) as error:
        logger.warning("the cache %s is damaged (%s) and is made again", folder, error)
        return None
    shapes = (images.shape, labels.shape, indices.shape)
    if found != key or shapes != ((num_digits, NUM_VARIANTS, IMAGE_SIZE, IMAGE_SIZE), (num_digits,), (num_digits,)):
        logger.warning("the cache %s is not what its name says and is made again", folder)
        return None
    return MadImages(images=images, labels=labels, source_indices=indices, folder=folder)


def _build(
    folder: Path,
    key: Mapping[str, object],
    digits: DigitSource,
    seed: int,
    parameters: MorphologyParameters,
    num_workers: int,
    progress: bool,
) -> None:
    """Make the cache aside and rename it. The lock is held by the caller."""
    prefix = f".{folder.name}.partial-"
    for leftover in folder.parent.glob(f"{prefix}*"):
        # Its maker is dead, or it would hold the lock.
        shutil.rmtree(leftover)
    shape = (len(digits.labels), NUM_VARIANTS, IMAGE_SIZE, IMAGE_SIZE)
    _check_room(folder.parent, math.prod(shape))
    partial = folder.parent / f"{prefix}{uuid.uuid4().hex[:8]}"
    partial.mkdir()
    try:
        np.lib.format.open_memmap(partial / _IMAGES, mode="w+", dtype=np.uint8, shape=shape)
        chunks = list(_chunks(partial / _IMAGES, digits, seed, parameters))
        _show(render_all(chunks, num_workers), len(digits.labels), progress)
        np.save(partial / _LABELS, digits.labels)
        np.save(partial / _INDICES, digits.indices)
        (partial / _KEY).write_text(json.dumps(key, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
    finally:
        # Also on Ctrl-C: `render_all` has ended the workers by now.
        shutil.rmtree(partial, ignore_errors=True)


def _check_room(folder: Path, num_bytes: int) -> None:
    """A memory map that outgrows the disk would end the process without a word (SIGBUS).

    Raises:
        ValueError: If there is no room.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise ValueError(
            f"MAD's images take {num_bytes / 1e9:.2f} GB, but {folder} has {free / 1e9:.2f} GB left; "
            "choose another cache_dir or fewer digits with limit"
        )


def _chunks(path: Path, digits: DigitSource, seed: int, parameters: MorphologyParameters) -> Iterator[Chunk]:
    for start in range(0, len(digits.labels), _CHUNK_DIGITS):
        rows = slice(start, start + _CHUNK_DIGITS)
        yield Chunk(path, start, digits.images[rows], digits.indices[rows], seed, parameters)


def _show(counts: Iterator[int], total: int, progress: bool) -> None:
    """Consume the counts of finished digits, with a progress bar."""
    from rich.progress import Progress

    with Progress(disable=not progress) as bar:
        task = bar.add_task("MAD: digits, 24 images each", total=total)
        for count in counts:
            bar.advance(task, count)
