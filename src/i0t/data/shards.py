"""WebDataset tar shards: where they are, and how one is read.

A shard is a tar whose members ``<key>.<suffix>`` of one key stand together and make one sample. In which order a
training run reads them is the matter of :mod:`i0t.data.shard_stream`.
"""

from __future__ import annotations

import contextlib
import glob
import shlex
import tarfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

import webdataset as wds
from braceexpand import braceexpand
from webdataset.tariterators import group_by_keys

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
_SCHEMES = ("pipe", "http", "https", "s3", "gs", "hf")
_SHARD_ERRORS = (OSError, tarfile.TarError, EOFError, zlib.error, ValueError)
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
