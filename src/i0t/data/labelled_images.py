"""What the data sets of images with a class each share: zero-shot classification, and the gap to the classes' texts.

A subclass reads a split from disk; everything else is here. There is nothing to train on: a class is not a caption.
Where classes are compositions (an attribute of an object), their factors are the labels; a class still has one text.

Shapes: B images of a batch; N images of a split; C classes; V values of a factor.
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
from i0t.data.workers import init_worker

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
class Factor:
    """What classes are made of: the object or the attribute of a composition.

    Attributes:
        of_class: ``(C,)`` int64 in ``[0, V)``.
        names: V values in words.
    """

    of_class: np.ndarray
    names: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class LabelledSplit:
    """Images with their classes.

    Attributes:
        images: N images.
        labels: ``(N,)`` int64, the class of each.
        class_names: C names in words, in label order.
        image_ids: N identifiers.
        files: What the images and names depend on.
        known_counts: N and C as published, either of them ``None`` where it is not known.
        factors: Label name to factor, where classes are compositions; they are then the labels of the images.
        provenance: What else should stand beside the numbers.
    """

    images: ImageSource
    labels: np.ndarray
    class_names: Sequence[str]
    image_ids: Sequence[str]
    files: Sequence[Path]
    known_counts: tuple[int | None, int | None] = (None, None)
    factors: Mapping[str, Factor] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels) == len(self.image_ids), "one of each per image"
        assert self.labels.max() < len(self.class_names), "every class has a name"
        for factor in self.factors.values():
            assert len(factor.of_class) == len(self.class_names), "every class has a value of every factor"

    def values(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Label name to ``(len(rows),)`` int64: the classes of these images, or the values of their factors."""
        labels = self.labels[rows]
        values = {name: factor.of_class[labels] for name, factor in self.factors.items()} or {LABEL: labels}
        return {name: torch.from_numpy(value) for name, value in values.items()}

    @property
    def value_names(self) -> dict[str, Sequence[str]]:
        """Label name to what its values are called."""
        return {name: factor.names for name, factor in self.factors.items()} or {LABEL: self.class_names}


class _LabelledBatches(Dataset[Batch]):
    """A list of rows of a split in, their images out, without texts: those of classes are encoded apart."""

    def __init__(
        self,
        images: ImageSource,
        rows: np.ndarray,
        labels: Mapping[str, Tensor],
        *,
        transform: Callable[[Any], Tensor] | None,
        tokenizer: Callable[[Sequence[str]], Tensor] | None,
    ) -> None:
        assert transform is not None, "bind() comes before any loader"
        assert tokenizer is not None, "bind() comes before any loader"
        self.images = images
        self.rows = rows
        self.labels = labels
        self.reader = ImageReader(transform, exact=True)
        self.no_tokens = tokenizer([""])[:0]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        images = [self.images.transformed(self.rows[row], self.reader) for row in rows]
        nothing, sample_id = torch.empty(0, dtype=torch.int64), torch.tensor(rows)
        labels = {name: label[sample_id] for name, label in self.labels.items()}
        return Batch(torch.stack(images), self.no_tokens, nothing, sample_id, nothing, labels=labels)


class LabelledImagesDataModule(ImageTextDataModule):
    """Images with one class each.

    Args:
        root: Folder of the data set.
        templates: Prompts of a class; ``{c}`` stands for its name. A class is the mean of its unit prompts. Where
            classes are compositions: label name to the prompts of a value of that factor.
        caption_template: The one text of a class that stands for its images in the gap and in retrieval (Two Effects).
        limit: So many images of each split, spread evenly over it; ``None``: all.
        eval_batch_size: Per device.
        num_workers: Of the data loaders.
        main_object: The factor that counts as the object in measures of object bias, or ``None``.

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
        templates: Sequence[str] | Mapping[str, Sequence[str]],
        caption_template: str,
        limit: int | None,
        eval_batch_size: int,
        num_workers: int,
        main_object: str | None = None,
    ) -> None:
        super().__init__(main_object=main_object)
        if limit is not None and limit < 1:
            raise ValueError(f"data.limit={limit} must be null or at least 1")
        by_label = templates if isinstance(templates, Mapping) else {LABEL: templates}
        if not all(by_label.values()):
            raise ValueError("data.templates is empty: zero-shot classification needs at least one")
        for template in (*(one for several in by_label.values() for one in several), caption_template):
            if _CLASS_MARK not in template:
                raise ValueError(f"template {template!r} has no {_CLASS_MARK}, which stands for the class")
        self.root = Path(root).expanduser()
        self.templates = {name: tuple(several) for name, several in by_label.items()}
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
        names = images.value_names
        own = self.templates.get(LABEL)
        return SplitInfo(
            num_images=len(rows),
            captions=[self.caption_template.replace(_CLASS_MARK, name) for name in images.class_names],
            pairs=torch.stack([torch.arange(len(rows)), torch.from_numpy(images.labels[rows])], dim=1),
            labels=images.values(rows),
            class_names=names,
            image_ids=[images.image_ids[row] for row in rows],
            prompts={name: _prompts(templates, names[name]) for name, templates in self.templates.items()},
            provenance={
                **images.provenance,
                **({} if self.main_object is None else {"main_object": self.main_object}),
                "num_images": len(rows),
                "limit": self.limit,
                "templates": {name: list(several) for name, several in self.templates.items()}
                if own is None
                else list(own),
                "caption_template": self.caption_template,
            },
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
            _LabelledBatches(
                images.images, rows, images.values(rows), transform=self.transform, tokenizer=self.tokenizer
            ),
            batch_size=None,
            sampler=ShardedBatchSampler(len(rows), batch_size=self.eval_batch_size) if batches is None else batches,
            num_workers=self.num_workers,
            worker_init_fn=init_worker,
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


def _prompts(templates: Sequence[str], names: Sequence[str]) -> PromptSpec:
    """The prompts of every value of a label."""
    first, count = templates[0], len(templates)
    return PromptSpec(
        texts=[[template.replace(_CLASS_MARK, name) for template in templates] for name in names],
        class_names=names,
        aggregate="mean",
        description=f'"{first}"' if count == 1 else f'mean of {count} templates such as "{first}"',
    )


@rank_zero_only
def _warn(warning: str) -> None:
    _log.warning(warning)
