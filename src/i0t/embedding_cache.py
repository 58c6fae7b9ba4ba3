"""The cache of embeddings: a split is encoded once per model, and every later run reads it from disk.

``<cache_dir>/embeddings/<key>/`` holds a set (:mod:`i0t.embedding_store`), the key being a hash of all that its
features depend on: weights, transform, tokenizer, precision, texts, files of the split, library versions. It is only
known once model and data are built, which takes longer than reading the set; so ``<cache_dir>/requests/<hash>.json``
remembers which key a *config* led to and the sizes and times of the files it read. As long as these are unchanged, the
set is found with no model and no data module at hand.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from i0t import __version__
from i0t.embedding_store import FORMAT, DamagedSetError, load_set
from i0t.embeddings import EmbeddingSet

logger = logging.getLogger(__name__)

# A new version of any of them may change a pixel or a weight's rounding.
_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "pillow", "numpy")


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
        if any(stamp(path) != (size, time) for path, size, time in stamps):
            return None
        return self._load(folder)

    def remember(self, request: Mapping[str, Any], key: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Notes which set a config led to and which files it read."""
        path = self._request_file(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        stamps = [(str(file), *(stamp(file) or (None, None))) for file in map(Path.absolute, files)]
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps({"set": digest(key), "files": stamps}), encoding="utf-8")
        aside.replace(path)

    def _request_file(self, request: Mapping[str, Any]) -> Path:
        return self.root / "requests" / f"{digest({**request, 'versions': library_versions()})}.json"

    def _load(self, folder: Path) -> EmbeddingSet | None:
        try:
            return load_set(folder)
        except DamagedSetError as error:
            if folder.exists():
                logger.warning("%s; it is encoded again", error)
            return None


def library_versions() -> dict[str, str]:
    """Versions that features depend on."""
    return {"i0t": __version__, "format": str(FORMAT)} | {name: importlib.metadata.version(name) for name in _LIBRARIES}


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


def files_digest(files: Sequence[Path]) -> str:
    """A hash of names, sizes and times of files, wherever their folder lies."""
    top = os.path.commonpath(files) if files else ""
    return digest([(os.path.relpath(file, top), stamp(file)) for file in files])
