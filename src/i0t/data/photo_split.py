"""A split of photos with captions as read from disk, and the search for its files.

Shapes: N images, M captions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

_NAMED = 5  # files named in an error


@dataclass(frozen=True, kw_only=True)
class PhotoSplit:
    """Images, each with its captions, in the order of the annotation file.

    Attributes:
        image_files: N files; a reader gives the place where one is expected even if it is not there.
        captions: N lists of captions, none of them empty.
        image_ids: N identifiers.
        annotation_files: What this was read from.
        labels: Label name to ``(N,)`` int64 class of each image.
        class_names: Label name to the names of its classes.
        known_count: Images of the split as published; ``None``: not known.
        same_images_as: The split whose images these are, where a data set has captions for one of the two only.
        provenance: What else should stand beside the numbers.
    """

    image_files: Sequence[Path]
    captions: Sequence[Sequence[str]]
    image_ids: Sequence[str]
    annotation_files: Sequence[Path]
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    known_count: int | None = None
    same_images_as: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.image_files) == len(self.captions) == len(self.image_ids), "one of each per image"
        bare = [image_id for image_id, captions in zip(self.image_ids, self.captions, strict=True) if not captions]
        if bare:
            raise ValueError(
                f"{len(bare):,} of {len(self.image_ids):,} images in {_names(self.annotation_files)} have no caption, "
                f"first {', '.join(bare[:_NAMED])}"
            )

    def __len__(self) -> int:
        return len(self.image_files)

    @property
    def num_captions(self) -> np.ndarray:
        """``(N,)`` int64: how many captions each image has."""
        return np.fromiter((len(captions) for captions in self.captions), dtype=np.int64, count=len(self))

    @property
    def text_image_index(self) -> np.ndarray:
        """``(M,)`` int64: the image of each caption, ascending."""
        return np.repeat(np.arange(len(self)), self.num_captions)

    def select(self, rows: np.ndarray | slice) -> PhotoSplit:
        """The split of the given images."""
        kept = np.arange(len(self))[rows]
        return replace(
            self,
            image_files=[self.image_files[i] for i in kept],
            captions=[self.captions[i] for i in kept],
            image_ids=[self.image_ids[i] for i in kept],
            labels={name: label[kept] for name, label in self.labels.items()},
        )


class ImageFinder:
    """Says where many files are by listing each folder once: a look per file is slow, on a network disk very slow."""

    def __init__(self) -> None:
        self._listed: dict[str, frozenset[str]] = {}

    def _names(self, folder: str) -> frozenset[str]:
        if folder not in self._listed:
            self._listed[folder] = (
                frozenset(entry.name for entry in os.scandir(folder)) if Path(folder).is_dir() else frozenset()
            )
        return self._listed[folder]

    def has(self, path: Path) -> bool:
        """Whether the folder of ``path`` has an entry of its name."""
        return path.name in self._names(str(path.parent))

    def find(self, folders: Sequence[Path], names: Sequence[str]) -> Path:
        """The first place that has a file.

        Args:
            folders: Where it may stand.
            names: What it may be called; each may begin with a folder of its own.

        Returns:
            The file; if it is nowhere, the first place whose folder is there, to be named in an error.
        """
        expected = None
        for name in names:
            parent, _, base = name.rpartition("/")
            for folder in folders:
                listed = self._names(f"{folder}/{parent}" if parent else str(folder))
                if base in listed:
                    return folder / name
                if expected is None and listed:
                    expected = folder / name
        return expected or folders[0] / names[0]


def annotation_file(root: Path, names: Sequence[str]) -> Path:
    """The first of several usual places of an annotation file.

    Args:
        root: Folder of the data set.
        names: Relative to it.

    Raises:
        ValueError: If it stands in none of them.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    if not root.is_dir():
        raise ValueError(f"data.root={root} is not a folder")
    raise ValueError(f"data.root={root} has no {names[0]}" + (f" (nor {', '.join(names[1:])})" if names[1:] else ""))


def only_present(split: PhotoSplit, finder: ImageFinder, *, skip_missing: bool) -> tuple[PhotoSplit, int]:
    """Looks for every image before anything is encoded.

    Args:
        split: As annotated.
        finder: With the folders that are listed already.
        skip_missing: Leave images out that are not there, instead of refusing.

    Returns:
        The images that are there, and how many are not.

    Raises:
        ValueError: If images are missing (their number and the first five), or all are.
    """
    here = np.fromiter((finder.has(path) for path in split.image_files), dtype=bool, count=len(split))
    missing = [split.image_files[int(i)] for i in np.flatnonzero(~here)]
    if not missing:
        return split, 0
    what = f"{len(missing):,} of the {len(split):,} images that {_names(split.annotation_files)} name"
    if len(missing) == len(split):
        raise ValueError(f"none of {what.partition('of ')[2]} is there: looked for {missing[0]}")
    if not skip_missing:
        raise ValueError(
            f"{what} are not there: {', '.join(path.name for path in missing[:_NAMED])}"
            f"{', …' if len(missing) > _NAMED else ''} (looked in {missing[0].parent}); "
            "data.only_present=true uses the images that are, and says so beside the numbers"
        )
    return split.select(here), len(missing)


def _names(files: Sequence[Path]) -> str:
    return " and ".join(path.name for path in files)
