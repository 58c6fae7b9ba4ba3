"""WebDataset tar shards as an infinite stream: where they are, how one is read, and in which order.

A shard is a tar whose members ``<key>.<suffix>`` of one key stand together and make one sample. A stream draws shards
with replacement, for ever: every worker of every rank draws its own, so it does not matter how many shards there are,
no rank ever runs out before another, and the number of steps is the only duration.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import random
import shlex
import tarfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import numpy as np
import torch.distributed as dist
import webdataset as wds
from braceexpand import braceexpand
from torch.utils.data import get_worker_info
from webdataset.tariterators import group_by_keys

from i0t.data.skipped import SkippedSamples

_log = logging.getLogger(__name__)
IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
_SCHEMES = ("pipe", "http", "https", "s3", "gs", "hf")
_SHARD_ERRORS = (OSError, tarfile.TarError, EOFError, zlib.error, ValueError)
# So many shards in a row without a single sample are not an accident.
_MOST_UNREADABLE = 100
_NAMED = 5  # files named in an error
_DRAIN_BYTES = 1 << 20


class ShardError(ValueError):
    """What is wrong with a shard or a sample, in one line, in worker processes too.

    Args:
        message: The line. PyTorch raises an error of a worker process again with the worker's traceback in front of it;
            only the line is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class UnreadableShard(ShardError):  # noqa: N818 - named for what it says of the shard
    """A shard that cannot be opened, or not to its end."""


class UnusableSample(ShardError):  # noqa: N818 - named for what it says of the sample
    """A sample without an image or a caption."""


class StrictTarInfo(tarfile.TarInfo):
    """Tells a tar that was cut short, or damaged, from one that ends: Python's reader takes both for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictTarInfo:
        """Reads a header of 512 bytes.

        Raises:
            tarfile.ReadError: If it is cut short or damaged.
            tarfile.HeaderError: If it is the mark at the end of the tar.
        """
        if len(buf) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it is cut short")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(f"a header is damaged ({error})") from error
            raise


def is_remote(location: str) -> bool:
    """Whether a shard is a URL or a command, not a path.

    Example:
        >>> is_remote("s3://bucket/00000.tar"), is_remote("train/00000.tar")
        (True, False)
    """
    return urlparse(location).scheme in _SCHEMES


def expand_shards(patterns: str | Sequence[str], root: Path) -> list[str]:
    """The shards that patterns name, in a fixed order.

    Args:
        patterns: Each a path, relative to ``root``, with ``*`` and ``{00000..01242}``; or a URL, or ``pipe:<command>``,
            with braces. ``s3://`` is read through ``aws s3 cp``.
        root: Folder of relative paths.

    Raises:
        ValueError: If a pattern matches nothing, files are missing, or braces do not close.
    """
    shards: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        try:
            expanded = list(braceexpand(pattern))
        except ValueError as error:
            raise ValueError(f"shards {pattern!r}: braces do not close") from error
        for location in expanded:
            shards += [_remote(location)] if is_remote(location) else _local(location, root)
    missing = [shard for shard in shards if not is_remote(shard) and not Path(shard).is_file()]
    if missing:
        raise ValueError(
            f"{len(missing):,} of {len(shards):,} shards are not there: {', '.join(missing[:_NAMED])}"
            f"{', …' if len(missing) > _NAMED else ''}"
        )
    if not shards:
        raise ValueError(f"no shard matches {patterns!r} in {root}")
    return shards


def _remote(location: str) -> str:
    # webdataset has no handler for S3; the command line client knows the user's credentials and regions.
    return f"pipe:aws s3 cp {shlex.quote(location)} -" if location.startswith("s3://") else location


def _local(location: str, root: Path) -> list[str]:
    path = str(root / Path(location).expanduser())
    return sorted(glob.glob(path)) if glob.has_magic(path) else [path]  # noqa: PTH207 - it may be absolute


def read_shard(location: str, suffixes: Collection[str]) -> Iterator[dict[str, Any]]:
    """The samples of one shard, read from its beginning to its end.

    Args:
        location: Path, URL or ``pipe:`` command.
        suffixes: Of the members that are wanted, in lower case.

    Yields:
        A dictionary from suffix to bytes, with ``__key__`` and ``__url__``.

    Raises:
        UnreadableShard: If it cannot be opened or is damaged or cut short, after the samples that were whole.
    """
    stream: BinaryIO | None = None
    try:
        stream = _open(location)
        yield from group_by_keys(_members(stream, location, suffixes))
        if is_remote(location):
            # A command that is not read to its end is killed, and then looks like one that failed.
            while stream.read(_DRAIN_BYTES):
                pass
            stream.close()
    except _SHARD_ERRORS as error:
        raise UnreadableShard(f"cannot read shard {location}: {one_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # a command complains when it is left early
            if stream is not None:
                stream.close()


def _open(location: str) -> BinaryIO:
    return wds.gopen(location) if is_remote(location) else Path(location).open("rb")


def _members(stream: BinaryIO, location: str, suffixes: Collection[str]) -> Iterator[dict[str, Any]]:
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=StrictTarInfo) as tar:
        for member in tar:
            if member.isreg() and has_suffix(member.name, suffixes):
                file = tar.extractfile(member)
                assert file is not None, "regular members have content"
                yield {"fname": member.name, "data": file.read(), "__url__": location}
            tar.members = []  # type: ignore[attr-defined]  # a stream would keep every header it has seen


def has_suffix(name: str, suffixes: Collection[str]) -> bool:
    """Whether a member's name, after the first dot of its last part, is one of the suffixes.

    Example:
        >>> has_suffix("a/000.JPG", {"jpg"}), has_suffix("a/000.mask.jpg", {"jpg"})
        (True, False)
    """
    return name.rpartition("/")[2].partition(".")[2].lower() in suffixes


def one_line(error: BaseException) -> str:
    """Why a shard could not be read, without what the libraries add to it."""
    # What webdataset raises carries its own arguments behind the reason.
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str((*error.args, "")[0])
    return " ".join(reason.split()) or type(error).__name__


class ShardStream:
    """Samples of randomly drawn shards, without an end.

    The order depends on the seed, the step at which training began or was resumed, the number of times it was begun
    since, the rank and the worker: a resumed run does not see its first batches again. The order of an uninterrupted
    run is not repeated: that takes map-style data.

    Args:
        shards: Paths, URLs and commands.
        suffixes: Of the members that are wanted.
        shuffle_buffer: Samples held to be mixed, encoded as they are in the shard, in every worker; 1 keeps the order.
        seed: Of all draws.
        skipped: Counts shards that could not be read to their end.

    DDP:
        Nothing is communicated: ranks draw independently.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        suffixes: Collection[str],
        shuffle_buffer: int,
        seed: int,
        skipped: SkippedSamples,
    ) -> None:
        self.shards = list(shards)
        self.suffixes = frozenset(suffixes)
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.skipped = skipped
        self.start_step = 0
        self._starts = 0
        self._rank = 0

    def begin(self) -> None:
        """Called in the main process before every iteration: its workers are then copies that know where they stand."""
        self._starts += 1
        self._rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    def worker_seeds(self) -> tuple[int, int, int]:
        """Seeds of this worker's draws of shards, of its buffer, and of what is drawn for each of its samples."""
        info = get_worker_info()
        worker = 0 if info is None else info.id
        sequence = np.random.SeedSequence([self.seed, self.start_step, self._starts, self._rank, worker])
        # webdataset hashes what it is given, and Python hashes only numbers alike in every process.
        shard_seed, buffer_seed, sample_seed = sequence.generate_state(3, np.uint64).tolist()
        return shard_seed, buffer_seed, sample_seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        shard_seed, buffer_seed, _ = self.worker_seeds()
        drawn = wds.ResampledShards(self.shards, deterministic=True, worker_seed=lambda: shard_seed)
        mix = wds.shuffle(self.shuffle_buffer, initial=self.shuffle_buffer // 4, rng=random.Random(buffer_seed))
        return iter(mix(self._samples(shard["url"] for shard in drawn)))

    def _samples(self, locations: Iterator[str]) -> Iterator[dict[str, Any]]:
        """Samples of one shard after the other; a shard that breaks off is counted and left."""
        fruitless: list[str] = []  # shards without a single sample since the last one that had some
        reported: set[str] = set()
        for location in locations:
            num_samples, reason = 0, ""
            try:
                for sample in read_shard(location, self.suffixes):
                    num_samples += 1
                    yield sample
            except UnreadableShard as error:
                reason = str(error)
            if not num_samples and not reason:
                reason = f"shard {location} has no member named *.{', *.'.join(sorted(self.suffixes))}"
            if reason:
                self.skipped.add(reason)
            if reason and location not in reported:
                reported.add(location)
                _log.warning("%s; training goes on with the other shards", reason)
            fruitless = [] if num_samples else [*fruitless, location]
            if set(fruitless) == set(self.shards) or len(fruitless) == _MOST_UNREADABLE:
                raise UnreadableShard(f"no sample in {len(fruitless)} shards in a row; the last: {reason}")
