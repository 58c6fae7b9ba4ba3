"""What the data sets of images with a class each share: zero-shot classification, and the gap to the classes' texts.

A subclass reads a split from disk; everything else is here. There is nothing to train on: a class is not a caption.

Shapes: B images of a batch; N images of a split; C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from i0t.data.base import Batch, ImageTextDataModule, PromptSpec, SplitInfo
from i0t.data.image_files import ImageReader
from i0t.data.samplers import ShardedBatchSampler

_log = logging.getLogger(__name__)
LABEL = "class"
_CLASS_MARK = "{c}"


class ImageSource(Protocol):
    """N images that are decoded one at a time."""

    def __len__(self) -> int: ...

    def image(self, row: int) -> Image.Image:
        """An RGB image."""

    def transformed(self, row: int, reader: ImageReader) -> Tensor:
        """What the reader's transform makes of that image, ``(3, H, W)``."""


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """Images with their classes.

    Attributes:
        images: N images.
        labels: ``(N,)`` int64.
        class_names: C names in words, in label order.
        image_ids: N identifiers.
        files: What the images and names depend on.
        known_counts: N and C as published, either of them ``None`` where it is not known.
        provenance: What else should stand beside the numbers.
    """

    images: ImageSource
    labels: np.ndarray
    class_names: Sequence[str]
    image_ids: Sequence[str]
    files: Sequence[Path]
    known_counts: tuple[int | None, int | None] = (None, None)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels) == len(self.image_ids), "one of each per image"
        assert self.labels.max() < len(self.class_names), "every class has a name"


class _LabelledBatches(Dataset[Batch]):
    """A list of rows of a split in, their images out, without texts: those of classes are encoded apart."""

    def __init__(
        self,
        images: ImageSource,
        rows: np.ndarray,
        *,
        transform: Callable[[Any], Tensor] | None,
        tokenizer: Callable[[Sequence[str]], Tensor] | None,
    ) -> None:
        assert transform is not None, "bind() comes before any loader"
        assert tokenizer is not None, "bind() comes before any loader"
        self.images = images
        self.rows = rows
        self.reader = ImageReader(transform, exact=True)
        self.no_tokens = tokenizer([""])[:0]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        images = [self.images.transformed(self.rows[row], self.reader) for row in rows]
        nothing = torch.empty(0, dtype=torch.int64)
        return Batch(torch.stack(images), self.no_tokens, nothing, torch.tensor(rows), nothing)


class LabelledImagesDataModule(ImageTextDataModule):
    """Images with one class each.

    Args:
        root: Folder of the data set.
        templates: Prompts of a class; ``{c}`` stands for its name. A class is the mean of its unit prompts.
        caption_template: The one text of a class that stands for its images in the gap and in retrieval (Two Effects).
        limit: So many images of each split, spread evenly over it; ``None``: all.
        eval_batch_size: Per device.
        num_workers: Of the data loaders.

    Raises:
        ValueError: If an option is out of range, or (when a split is first used) its files are not as described.

    DDP:
        Ranks take disjoint shares.
    """

    name: str
    """Of the data set, in messages and provenance."""

    def __init__(
        self,
        *,
        root: str,
        templates: Sequence[str],
        caption_template: str,
        limit: int | None,
        eval_batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        if limit is not None and limit < 1:
            raise ValueError(f"data.limit={limit} must be null or at least 1")
        if not templates:
            raise ValueError("data.templates is empty: zero-shot classification needs at least one")
        for template in (*templates, caption_template):
            if _CLASS_MARK not in template:
                raise ValueError(f"template {template!r} has no {_CLASS_MARK}, which stands for the class")
        self.root = Path(root).expanduser()
        self.templates = tuple(templates)
        self.caption_template = caption_template
        self.limit = limit
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self._splits: dict[str, LabelledSplit] = {}

    def read_split(self, split: str) -> LabelledSplit:
        """Reads a split; subclasses implement this and nothing else.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.

        Raises:
            ValueError: If files are missing or damaged, or the data set has no such split.
        """
        raise NotImplementedError

    def split(self, name: str) -> LabelledSplit:
        """A split as read from disk, with warnings in its provenance where it is not whole."""
        if name not in self._splits:
            split = self.read_split(name)
            found = (len(split.images), len(split.class_names))
            warnings = [
                f"{self.name} {name}: {count:,} {what}, where the published split has {known:,}"
                for count, known, what in zip(found, split.known_counts, ("images", "classes"), strict=True)
                if known not in (None, count)
            ]
            for warning in warnings:
                _warn(warning)
            provenance = {"data": self.name, "split": name, **split.provenance, "warnings": warnings}
            self._splits[name] = replace(split, provenance=provenance)
        return self._splits[name]

    def _rows(self, split: LabelledSplit) -> np.ndarray:
        """``(N,)`` int64: the images that are used."""
        num_images = len(split.images)
        if self.limit is None or self.limit >= num_images:
            return np.arange(num_images)
        return np.arange(self.limit) * num_images // self.limit

    def describe(self, split: str) -> SplitInfo:
        """Classes, one text for each, the images of each, and prompts."""
        images = self.split(split)
        rows = self._rows(images)
        labels = torch.from_numpy(images.labels[rows])
        return SplitInfo(
            num_images=len(rows),
            captions=[self.caption_template.replace(_CLASS_MARK, name) for name in images.class_names],
            pairs=torch.stack([torch.arange(len(rows)), labels], dim=1),
            labels={LABEL: labels},
            class_names={LABEL: images.class_names},
            image_ids=[images.image_ids[row] for row in rows],
            prompts={LABEL: self._prompts(images.class_names)},
            provenance={
                **images.provenance,
                "num_images": len(rows),
                "limit": self.limit,
                "templates": list(self.templates),
                "caption_template": self.caption_template,
            },
        )

    def _prompts(self, class_names: Sequence[str]) -> PromptSpec:
        first, count = self.templates[0], len(self.templates)
        return PromptSpec(
            texts=[[template.replace(_CLASS_MARK, name) for template in self.templates] for name in class_names],
            class_names=class_names,
            aggregate="mean",
            description=f'"{first}"' if count == 1 else f'mean of {count} templates such as "{first}"',
        )

    def train_dataloader(self) -> NoReturn:
        """There is none.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{self.name} cannot be trained on: its images have classes and no captions")

    def eval_dataloader(self, split: str, batches: Sequence[Sequence[int]] | None = None) -> DataLoader[Batch]:
        """Images without texts; by default every one once, this rank's share."""
        images = self.split(split)
        rows = self._rows(images)
        return DataLoader(
            _LabelledBatches(images.images, rows, transform=self.transform, tokenizer=self.tokenizer),
            batch_size=None,
            sampler=batches or ShardedBatchSampler(len(rows), batch_size=self.eval_batch_size),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def files(self, split: str) -> Sequence[Path]:
        """The images, or the files that hold them, and what names their classes."""
        return self.split(split).files

    def images(self, split: str, rows: Sequence[int]) -> list[np.ndarray]:
        """``(H, W, 3)`` uint8 images."""
        images = self.split(split)
        used = self._rows(images)
        return [np.asarray(images.images.image(used[row])) for row in rows]


@rank_zero_only
def _warn(warning: str) -> None:
    _log.warning(warning)
