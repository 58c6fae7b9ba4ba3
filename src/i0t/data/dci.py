"""Densely Captioned Images (DCI, Urbanek et al. 2024, arXiv 2312.08578): photos of SA-1B, each described at length.

On disk, below ``root``, as the data set unpacks (its folder ``densely_captioned_images``):

    splits.json              {"train": [<file>, …], "valid": […], "test": […]}, files of the next folder
    annotations/*.json       or complete/*.json: {"image", "short_caption", "extra_caption", …}, one image each
    photos/*.jpg             the images, from SA-1B's archive sa_000138.tar

The caption is the short one or, where it is empty, the first sentence of the further description. Two Effects
(arXiv 2404.07983) fine-tunes on these captions, of the images of all splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i0t.data.base import MissingSplitError
from i0t.data.caption_files import read_json, without_collection
from i0t.data.photo_split import ImageFinder, PhotoSplit, annotation_file
from i0t.data.photos import PhotoDataModule

KNOWN_IMAGES = 7_805
KNOWN_TEST_IMAGES = 112
_KEYS = {"train": "train", "val": "valid", "test": "test"}  # of our splits in splits.json
_FOLDERS = ("annotations", "complete")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_LINE_BREAKS = str.maketrans("\n\t\r", "   ")


class DciDataModule(PhotoDataModule):
    """DCI with one caption per image.

    Args:
        train_on: ``train``, the published split, or ``all``, every annotated image: what Two Effects trains on, so that
            the images of validation and test are seen in training, which is said beside the numbers.
        full_captions: The short caption and the further description together, instead of the short one.
        root: See :class:`~i0t.data.photos.PhotoDataModule`, as for what follows.
        captions_per_image: Of evaluation; there is one.
        prompt_prefix: Put before every caption.
        lowercase_first: Begin every caption in lower case.
        max_caption_chars: Cut captions.
        only_present: Use the images that are there.
        limit: Images per split.
        batch_size: Of training.
        eval_batch_size: Of evaluation.
        num_workers: Of the data loaders.
        train_seed: Of training.

    Raises:
        ValueError: If there is no such choice of training images.
    """

    name = "dci"

    def __init__(
        self,
        *,
        train_on: str,
        full_captions: bool,
        root: str,
        captions_per_image: int | None,
        prompt_prefix: str,
        lowercase_first: bool,
        max_caption_chars: int | None,
        only_present: bool,
        limit: int | None,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int | None,
        train_seed: int,
    ) -> None:
        super().__init__(
            root=root,
            captions_per_image=captions_per_image,
            prompt_prefix=prompt_prefix,
            lowercase_first=lowercase_first,
            max_caption_chars=max_caption_chars,
            only_present=only_present,
            limit=limit,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_seed=train_seed,
        )
        if train_on not in ("train", "all"):
            raise ValueError(f"data.train_on={train_on!r} does not exist; choose train or all")
        self.train_on_all = train_on == "all"
        self.full_captions = full_captions
        self._read_files: dict[str, list[Path]] = {}

    def read_split(self, split: str, finder: ImageFinder) -> PhotoSplit:
        """Reads an annotation file per image, in the order of ``splits.json``; all of them in that of their names."""
        every = split == "train" and self.train_on_all
        splits_file = self.root / "splits.json" if every else annotation_file(self.root, ["splits.json"])
        files = _all_files(self.root) if every else _listed_files(self.root, splits_file, split, finder)
        self._read_files[split] = files
        read = [_read(file, full=self.full_captions) for file in files]
        known = KNOWN_TEST_IMAGES if split == "test" else None
        return PhotoSplit(
            image_files=[finder.find([self.root / "photos"], [image]) for image, _ in read],
            captions=[[caption] if caption else [] for _, caption in read],
            image_ids=[image for image, _ in read],
            annotation_files=[splits_file] if splits_file.is_file() else [files[0].parent],
            known_count=KNOWN_IMAGES if every else known,
            provenance={"train_on": "all" if self.train_on_all else "train", "full_captions": self.full_captions},
        )

    def files(self, split: str) -> list[Path]:
        """Those that every data set of photos has, and the annotation file of every image."""
        photos = super().files(split)
        return [*photos, *self._read_files[split]]

    def _warnings(self, name: str, annotated: PhotoSplit, num_present: int) -> list[str]:
        warnings = super()._warnings(name, annotated, num_present)
        if self.train_on_all and name != "train":
            warnings.append(
                f"{self.name} {name}: these images are among those that data.train_on=all trains on, as in Two "
                "Effects; numbers here are not of unseen images"
            )
        return warnings


def _all_files(root: Path) -> list[Path]:
    """Every annotation file, by name.

    Raises:
        ValueError: If there is none.
    """
    for folder in _FOLDERS:
        files = sorted((root / folder).glob("*.json"))
        if files:
            return files
    raise ValueError(f"data.root={root} has no {_FOLDERS[0]}/*.json (nor {_FOLDERS[1]}/*.json)")


def _listed_files(root: Path, splits_file: Path, split: str, finder: ImageFinder) -> list[Path]:
    """The annotation files of a split.

    Raises:
        MissingSplitError: If the list of splits does not have it.
        ValueError: If the list is not of its form.
    """
    splits = read_json(splits_file)
    if not isinstance(splits, Mapping) or not all(isinstance(names, list) for names in splits.values()):
        raise ValueError(f'{splits_file} must be an object {{"train": [<file>, …], "valid": […], "test": […]}}')
    if _KEYS[split] not in splits:
        raise MissingSplitError(f"{splits_file} has no split {_KEYS[split]!r}; it has {', '.join(splits)}")
    folders = [root / folder for folder in _FOLDERS]
    names = [str(name).removesuffix(".json") + ".json" for name in splits[_KEYS[split]]]
    return [finder.find(folders, [name]) for name in names]


@without_collection()
def _read(path: Path, *, full: bool) -> tuple[str, str]:
    """Name of the image and its caption, which is empty where there is none.

    Raises:
        ValueError: If the file is not of its form.
    """
    content: Any = read_json(path)
    try:
        return str(content["image"]), _caption(content["short_caption"], content["extra_caption"], full=full)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not an annotation of DCI with image, short_caption, extra_caption") from error


def _caption(short: str, extra: str, *, full: bool) -> str:
    parts: Sequence[str] = (short, extra) if full else (short.strip() or _SENTENCE_END.split(extra.strip())[0],)
    return " ".join(part.translate(_LINE_BREAKS).strip() for part in parts).strip()
