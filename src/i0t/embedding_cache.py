"""The cache of embeddings: a split is encoded once per model, and every later run reads it from disk.

``<cache_dir>/embeddings/<key>/`` holds a set (:mod:`i0t.embedding_store`), the key being a hash of all that its
features depend on: weights, transform, tokenizer, precision, texts, files of the split, library versions. It is only
known once model and data are built, which takes longer than reading the set; so ``<cache_dir>/requests/<hash>.json``
remembers which key a *config* led to and the sizes and times of the files it read. As long as these are unchanged, the
set is found with no model and no data module at hand.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from i0t import __version__
from i0t.embedding_store import FORMAT, DamagedSetError, load_set
from i0t.embeddings import EmbeddingSet

logger = logging.getLogger(__name__)

# Path, size in bytes, time of the last change in nanoseconds; no size for a folder, neither for what is not there.
Stamp = tuple[str, "int | None", "int | None"]

# A new version of any of them may change a pixel or a weight's rounding.
_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "pillow", "numpy", "timm", "transformers", "tokenizers")


class EmbeddingCache:
    """Finds sets by what was asked for or by what they depend on.

    Args:
        cache_dir: The cache's folder; several processes and machines may share it.
    """

    def __init__(self, cache_dir: str | Path) -> None:
        self.root = Path(cache_dir).expanduser()

    def folder(self, key: Mapping[str, Any]) -> Path:
        """Where the set of a key lies, or will."""
        return self.root / "embeddings" / digest(key)

    def lock(self, key: Mapping[str, Any]) -> FileLock:
        """Held while a set is encoded: concurrent jobs wait for it, and then find it."""
        folder = self.folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(folder.with_suffix(".lock"))

    def load(self, key: Mapping[str, Any]) -> EmbeddingSet | None:
        """The set of a key; ``None`` if it is not there, or not whole."""
        return self._load(self.folder(key))

    def recall(self, request: Mapping[str, Any]) -> EmbeddingSet | None:
        """The set that an earlier run with the same config used, if none of the files it read has changed."""
        try:
            found = json.loads(self._request_file(request).read_text(encoding="utf-8"))
            folder, stamps = self.root / "embeddings" / found["set"], found["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return None  # never asked, or a file that was cut short
        if any(_stamp_at(path) != (size, time) for path, size, time in stamps):
            return None
        return self._load(folder)

    def remember(self, request: Mapping[str, Any], key: Mapping[str, Any], stamps: Sequence[Stamp]) -> None:
        """Notes which set a config led to, and the files and folders it read (:func:`stamps_of`)."""
        path = self._request_file(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps({"set": digest(key), "files": stamps}), encoding="utf-8")
        aside.replace(path)

    def _request_file(self, request: Mapping[str, Any]) -> Path:
        return self.root / "requests" / f"{digest({**request, 'versions': library_versions()})}.json"

    def _load(self, folder: Path) -> EmbeddingSet | None:
        try:
            return load_set(folder, verify=True)
        except DamagedSetError as error:
            if folder.exists():
                logger.warning("%s; it is encoded again", error)
            return None


def library_versions() -> dict[str, str]:
    """Versions that features depend on."""
    found = {"i0t": __version__, "format": str(FORMAT)}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an extra that is not installed
            found[name] = importlib.metadata.version(name)
    return found


def digest(content: Any) -> str:
    """A hash of plain containers, the same in every process."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def stamp(path: str | Path) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in nanoseconds; ``None`` for a file that is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a hundred thousand of them: Path.stat takes twice as long
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def stamps_of(files: Iterable[Path], *, named_in: Any = ()) -> list[Stamp]:
    """Stamps of all that a set was read from, to be taken before it is read.

    Beside the files themselves: their folders, which change when a file is added; and whatever exists of the paths in a
    config (an architecture's JSON, a tokenizer's folder), with the small JSON files beside it.

    Args:
        files: Files of the split and of the weights.
        named_in: Config nodes as plain containers.
    """
    paths = {file.absolute() for file in files}
    paths |= {path.parent for path in paths}
    for path in map(Path, _texts_in(named_in)):
        with contextlib.suppress(OSError):  # a text too long for a path
            if path.is_file():
                paths |= {path.absolute(), *path.absolute().parent.glob("*.json")}
            elif path.is_dir():
                paths |= {path.absolute(), *(p.absolute() for p in path.iterdir() if p.is_file())}
    return [(str(path), *(_stamp_at(path))) for path in sorted(paths)]


def _stamp_at(path: str | Path) -> tuple[int | None, int | None]:
    """The size of a folder says nothing, and differs between file systems."""
    found = stamp(path)
    if found is None:
        return None, None
    return (None, found[1]) if os.path.isdir(path) else found  # noqa: PTH112 - as in `stamp`


def _texts_in(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        if node:
            yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts_in(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts_in(value)


def files_digest(files: Sequence[Path]) -> str:
    """A hash of names, sizes and times of files, wherever their folder lies."""
    top = os.path.commonpath(files) if files else ""
    return digest([(os.path.relpath(file, top), stamp(file)) for file in files])
