"""The three formats in which image-caption data sets say which image has which captions.

Karpathy's JSON: ``{"images": [{"filename", "filepath"?, "cocoid"?, "split", "sentences": [{"raw"}, …]}, …]}``.
COCO's JSON: ``{"images": [{"id", "file_name"}, …], "annotations": [{"image_id", "caption"}, …]}``.
Flickr's token file: a line ``<image>#<number><tab><caption>`` per caption.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Karpathy puts the part of COCO's validation images that he adds to the training set aside under this name.
_RESTVAL = "restval"


class CaptionedImage(NamedTuple):
    """An image as an annotation file describes it.

    Attributes:
        name: Its file, relative to a folder of images.
        image_id: Its identifier.
        captions: In the order of the file.
    """

    name: str
    image_id: str
    captions: Sequence[str]


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Garbage collection waits: among millions of new objects it finds none and takes four times as long as parsing."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {' '.join(str(error).split())}; is it a whole JSON file?") from error


def read_karpathy(path: Path) -> Mapping[str, Sequence[CaptionedImage]]:
    """Karpathy's splits; his ``restval`` belongs to ``train``, as in every paper that uses them.

    Args:
        path: The file. It is kept in memory until another is read: COCO's takes seconds, and serves several splits.

    Returns:
        The images of each split; a name is ``filepath/filename`` where the file has both.

    Raises:
        ValueError: If the file is not of this format.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    return _karpathy_splits(path, path.stat().st_mtime_ns, path.stat().st_size)


@functools.lru_cache(maxsize=1)
@without_collection()
def _karpathy_splits(path: Path, modified: int, size: int) -> Mapping[str, Sequence[CaptionedImage]]:
    splits: dict[str, list[CaptionedImage]] = {}
    try:
        for image in read_json(path)["images"]:
            folder, name = image.get("filepath", ""), image["filename"]
            captioned = CaptionedImage(
                f"{folder}/{name}" if folder else name,
                str(image.get("cocoid", Path(name).stem)),
                tuple(sentence["raw"] for sentence in image["sentences"]),
            )
            split = "train" if image["split"] == _RESTVAL else image["split"]
            splits.setdefault(split, []).append(captioned)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a caption file of Karpathy's format: {_describe(error)}") from error
    return splits


@without_collection()
def read_coco(path: Path) -> list[CaptionedImage]:
    """COCO's captions, images in the order of the file; an image without captions has an empty list.

    Raises:
        ValueError: If the file is not of this format, or has captions of images that it does not list.
    """
    content = read_json(path)
    try:
        captions: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
        strangers = [one["image_id"] for one in content["annotations"] if one["image_id"] not in captions]
        if strangers:
            raise ValueError(f"{path} has {len(strangers):,} captions of images it does not list, first {strangers[0]}")
        for annotation in content["annotations"]:
            captions[annotation["image_id"]].append(annotation["caption"])
        images = content["images"]
        return [CaptionedImage(image["file_name"], str(image["id"]), captions[image["id"]]) for image in images]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a caption file of COCO's format: {_describe(error)}") from error


def read_token_file(path: Path) -> dict[str, list[str]]:
    """Flickr's captions by image, in the order of the file.

    Raises:
        ValueError: If a line is not of this format.
    """
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        image, tab, caption = line.partition("\t")
        name, mark, _ = image.rpartition("#")
        if not tab or not mark:
            raise ValueError(f"{path}, line {number}: expected <image>#<number><tab><caption>, got {line[:80]!r}")
        captions.setdefault(name, []).append(caption)
    return captions


def read_lines(path: Path) -> Sequence[str]:
    """The lines of a text file that are not blank.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return [line for line in text.splitlines() if line.strip()]


def _describe(error: Exception) -> str:
    return f"an entry has no {error}" if isinstance(error, KeyError) else str(error)
