"""What the data sets of photos with captions share: a subclass reads a split from disk, everything else is here.

Shapes: B images, T texts of a batch; N images, M texts of a split.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from i0t.data.base import Batch, ImageTextDataModule, SplitInfo
from i0t.data.image_files import read_image
from i0t.data.photo_batches import EpochBatches, EvaluationPhotos, TrainingPhotos
from i0t.data.photo_split import ImageFinder, PhotoSplit, only_present
from i0t.data.samplers import GlobalBatchSampler, ShardedBatchSampler
from i0t.data.skipped import SkippedSamples
from i0t.data.workers import init_worker

_log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
_MOST_WORKERS = 8  # a GPU's share of a server; each holds batches in memory


class PhotoDataModule(ImageTextDataModule):
    """Photos with captions: training draws one caption per image and step, evaluation takes all or the first few.

    Args:
        root: Folder of the data set.
        captions_per_image: Of evaluation: the first so many of each image; ``None``: all. 1 is the I0T protocol.
        prompt_prefix: Put before every caption, as in ``"a photo of "``.
        lowercase_first: Begin every caption in lower case, as Two Effects does after its prefix.
        max_caption_chars: Cut captions to so many characters (I0T: 330 for models of 77 tokens); ``None``: never.
        only_present: Use the images that are there where some of the annotated ones are missing, and say so.
        limit: The first so many images of each split; ``None``: all.
        batch_size: Per device, in training.
        eval_batch_size: Per device, in evaluation.
        num_workers: Processes that decode photos; ``None``: one per core, at most eight.
        train_seed: Of shuffling and the draw of captions.

    Attributes:
        skipped: Unreadable images of training; evaluation stops at the first.

    Raises:
        ValueError: If an option is out of range, or (when a split is first used) its files are not as described.

    DDP:
        Ranks take slices of one permutation and draw the captions that one process would have drawn.
    """

    name: str
    """Of the data set, in messages and provenance."""
    short_captions: bool = False
    """Whether training batches hold the first sentence of every caption too."""

    def __init__(
        self,
        *,
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
        super().__init__()
        numbers = {"captions_per_image": captions_per_image, "max_caption_chars": max_caption_chars, "limit": limit}
        for option, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f"data.{option}={value} must be null or at least 1")
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"data.num_workers={num_workers} must be null or at least 0")
        self.root = Path(root).expanduser()
        self.captions_per_image = captions_per_image
        self.prompt_prefix = prompt_prefix
        self.lowercase_first = lowercase_first
        self.max_caption_chars = max_caption_chars
        self.only_present = only_present
        self.limit = limit
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers = _num_workers() if num_workers is None else num_workers
        self.train_seed = train_seed
        self.skipped = SkippedSamples(self.num_workers)
        self._finder = ImageFinder()
        self._splits: dict[str, PhotoSplit] = {}

    def read_split(self, split: str, finder: ImageFinder) -> PhotoSplit:
        """Reads a split's annotations; subclasses implement this and nothing else.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            finder: Tells which of several usual folders has an image.

        Returns:
            Every annotated image, there or not.

        Raises:
            ValueError: If an annotation file is missing or damaged, or the data set has no such split.
        """
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Reads the splits that training needs, so that what is wrong with them is said before it starts."""
        if stage == "fit":
            self.split("train")
            self.split("val")

    def split(self, name: str) -> PhotoSplit:
        """A split as it is used: images that are there, captions as they are encoded."""
        if name not in SPLITS:
            raise ValueError(f"split {name!r} does not exist; choose one of {', '.join(SPLITS)}")
        if name not in self._splits:
            self._splits[name] = self._read(name)
        return self._splits[name]

    def _read(self, name: str) -> PhotoSplit:
        annotated = self.read_split(name, self._finder)
        if not annotated.image_files:
            raise ValueError(f"{', '.join(map(str, annotated.annotation_files))}: no image is of the {name} split")
        present, num_missing = only_present(annotated, self._finder, skip_missing=self.only_present)
        used = present.select(slice(self.limit))
        warnings = self._warnings(name, annotated, len(present))
        for warning in warnings:
            _warn(warning)
        provenance = {
            "data": self.name,
            "split": name,
            "annotations": [path.name for path in annotated.annotation_files],
            **annotated.provenance,
            "num_images": len(used),
            "known_num_images": annotated.known_count,
            "missing_images": num_missing,
            "same_images_as": annotated.same_images_as,
            "limit": self.limit,
            "prompt_prefix": self.prompt_prefix,
            "lowercase_first": self.lowercase_first,
            "max_caption_chars": self.max_caption_chars,
            "warnings": warnings,
        }
        return replace(used, captions=[self._worded(texts) for texts in used.captions], provenance=provenance)

    def _warnings(self, name: str, annotated: PhotoSplit, num_present: int) -> list[str]:
        """What a reader of the numbers must know of a split."""
        warnings = []
        if annotated.known_count not in (None, num_present):
            warning = f"{self.name} {name}: {num_present:,} images, where the published split has "
            warning += f"{annotated.known_count:,}"
            if num_present < len(annotated):
                warning += f"; {len(annotated) - num_present:,} annotated images are not there (data.only_present)"
            warnings.append(warning)
        if annotated.same_images_as is not None:
            warnings.append(
                f"{self.name} {name}: these are the images of {annotated.same_images_as}, since the data set has no "
                f"others with captions; what is fitted on {annotated.same_images_as} is transductive here"
            )
        return warnings

    def _worded(self, captions: Sequence[str]) -> list[str]:
        """The captions of an image as they are encoded."""
        texts = [caption.strip()[: self.max_caption_chars] for caption in captions]
        if self.lowercase_first:
            texts = [text[:1].lower() + text[1:] for text in texts]
        return [self.prompt_prefix + text for text in texts]

    def _evaluated(self, name: str) -> PhotoSplit:
        """A split with the captions that evaluation uses."""
        split = self.split(name)
        return replace(split, captions=[texts[: self.captions_per_image] for texts in split.captions])

    def describe(self, split: str) -> SplitInfo:
        """Captions, labels where there are some, identifiers; ``provenance["warnings"]`` says what is unusual."""
        photos = self._evaluated(split)
        return SplitInfo(
            num_images=len(photos),
            captions=[text for texts in photos.captions for text in texts],
            text_image_index=torch.from_numpy(photos.text_image_index),
            labels={name: torch.from_numpy(label) for name, label in photos.labels.items()},
            class_names=photos.class_names,
            image_ids=photos.image_ids,
            provenance={**photos.provenance, "captions_per_image": self.captions_per_image},
        )

    def training_captions(self) -> list[str]:
        """The captions of the training split."""
        return [text for texts in self.split("train").captions for text in texts]

    def batch_sampler(self) -> GlobalBatchSampler:
        """Shuffled batches of the training split."""
        return GlobalBatchSampler(len(self.split("train")), batch_size=self.batch_size, seed=self.train_seed)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches; after a resume, from the batch at which the interrupted epoch stopped."""
        photos = self.split("train")
        sampler = self.training_sampler()
        dataset = TrainingPhotos(
            photos.image_files,
            [text for texts in photos.captions for text in texts],
            photos.num_captions,
            transform=self.train_transform,
            tokenizer=self.tokenizer,
            seed=self.train_seed,
            skipped=self.skipped,
            short_captions=self.short_captions,
        )
        return self._loader(dataset, EpochBatches(sampler), persistent_workers=self.num_workers > 0)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split."""
        return self.eval_dataloader("val")

    def eval_dataloader(self, split: str, batches: Sequence[Sequence[int]] | None = None) -> DataLoader[Batch]:
        """Images with the captions of ``describe``; by default every one once, this rank's share."""
        photos = self._evaluated(split)
        dataset = EvaluationPhotos(
            photos.image_files,
            [text for texts in photos.captions for text in texts],
            photos.num_captions,
            transform=self.transform,
            tokenizer=self.tokenizer,
        )
        share = ShardedBatchSampler(len(photos), batch_size=self.eval_batch_size)
        return self._loader(dataset, share if batches is None else batches)

    def _loader(self, dataset: Any, sampler: Any, *, persistent_workers: bool = False) -> DataLoader[Batch]:
        # The sampler gives whole batches of rows and the dataset whole batches: no collation.
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=init_worker,
            persistent_workers=persistent_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def files(self, split: str) -> list[Path]:
        """The annotation files and the images."""
        photos = self.split(split)
        return [*photos.annotation_files, *photos.image_files]

    def images(self, split: str, rows: Sequence[int]) -> list[np.ndarray]:
        """``(H, W, 3)`` uint8 images."""
        files = self.split(split).image_files
        return [np.asarray(read_image(files[row])) for row in rows]


def _num_workers() -> int:
    share = os.environ.get("I0T_NUM_WORKERS")  # set by an administrator, or by the command: this rank's share
    if share:
        return int(share)
    # Not on every system; where it is, it knows of a container's or a batch system's share.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


@rank_zero_only
def _warn(warning: str) -> None:
    _log.warning(warning)
