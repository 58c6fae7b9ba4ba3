"""What every data module here gives: batches for training, and splits to encode once.

Shapes: B images, T texts of a batch; N images, M texts of a split; C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from i0t.data.accumulation import check_accumulation
from i0t.data.samplers import GlobalBatchSampler
from i0t.judgements import Judgements


class MissingSplitError(ValueError):
    """A split was asked for that these data do not have."""


class Batch(NamedTuple):
    """Images and texts as the towers take them.

    Attributes:
        images: ``(B, 3, H, W)`` transformed.
        tokens: ``(T, L)`` int64; in training T = B, row i with image i; T = 0 in an evaluation whose texts are
            not captions of single images (class names).
        text_image_index: ``(T,)`` int64, the image of each text within this batch.
        sample_id: ``(B,)`` int64, the image's row in its split.
        text_id: ``(T,)`` int64, the text's row in its split.
        short_tokens: ``(B, L)`` int64 of the captions' first sentences, where training asks for them.
        labels: Label name to ``(B,)`` int64 class of each image, where the data have any (MAD: all six factors). For
            losses and probes of one's own: the towers do not see them, and evaluation reads those of ``describe``.
    """

    images: Tensor
    tokens: Tensor
    text_image_index: Tensor
    sample_id: Tensor
    text_id: Tensor
    short_tokens: Tensor | None = None
    labels: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """The texts that ask for each class of a label.

    Attributes:
        texts: C lists of prompts.
        class_names: C names, in label order.
        aggregate: ``"mean"`` or ``"max"`` over a class's prompts.
        description: The form in words, printed beside the numbers.
    """

    texts: Sequence[Sequence[str]]
    class_names: Sequence[str]
    aggregate: str
    description: str


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """What is known about a split without encoding it; the fields are those of an ``EmbeddingSet``.

    Attributes:
        num_images: N.
        captions: M texts.
        text_image_index: ``(M,)`` int64, the image of each caption; they are encoded in the batches of their images.
        pairs: ``(P, 2)`` int64 (image row, text row), instead of ``text_image_index`` where a text belongs to many
            images (the prompt of a class); such texts are encoded apart from the images.
    """

    num_images: int
    captions: Sequence[str]
    text_image_index: Tensor | None = None
    pairs: Tensor | None = None
    relevant_pairs: Callable[[], Tensor] | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    groups: Tensor | None = None
    image_ids: Sequence[str] | None = None
    prompts: Mapping[str, PromptSpec] = field(default_factory=dict)
    judgements: Judgements | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


class ImageTextDataModule(pl.LightningDataModule):
    """Base of the data modules; the engine binds the model's transform and tokenizer before anything is read.

    Args:
        main_object: The label that counts as the object in measures of object bias, or ``None``.
    """

    eval_batch_size: int  # images encoded at once, per device
    # Of a training that goes on: the batches it has behind it, on every rank; as if all had had today's width.
    first_batch: int = 0
    _counted: int = 0  # those that Lightning had counted then, of whatever width

    def __init__(self, *, main_object: str | None = None) -> None:
        super().__init__()
        self.main_object = main_object
        self.transform: Callable[[Any], Tensor] | None = None
        self.train_transform: Callable[[Any], Tensor] | None = None
        self.tokenizer: Callable[[Sequence[str]], Tensor] | None = None

    def bind(
        self,
        *,
        transform: Callable[[Any], Tensor],
        tokenizer: Callable[[Sequence[str]], Tensor],
        train_transform: Callable[[Any], Tensor] | None = None,
    ) -> None:
        """Takes the model's own transforms and tokenizer, so that they cannot disagree with it.

        Args:
            transform: Of images in evaluation.
            tokenizer: Of texts.
            train_transform: Of images in training, with augmentation; ``None``: the same as in evaluation.
        """
        self.transform = transform
        self.tokenizer = tokenizer
        self.train_transform = train_transform or transform

    def example_image(self) -> Any:
        """An image of the kind that the transform is given; a photo, where a subclass does not say otherwise."""
        return PIL.Image.new("RGB", (32, 32))

    def describe(self, split: str) -> SplitInfo:
        """Labels, captions and prompts of ``"train"``, ``"val"`` or ``"test"``."""
        raise NotImplementedError

    def eval_dataloader(self, split: str, batches: Sequence[Sequence[int]] | None = None) -> DataLoader[Batch]:
        """Images of the split with the captions of ``describe``, one :class:`Batch` after the other, in order.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            batches: The image rows of each batch; ``None``: every image once, this rank's share without padding.
        """
        raise NotImplementedError

    def batch_sampler(self) -> GlobalBatchSampler | None:
        """The batches of training from its first on, where it reads by number; ``None`` for a stream."""
        return None

    def training_sampler(self) -> GlobalBatchSampler:
        """The batches of training from ``first_batch`` on.

        Raises:
            ValueError: If validations would save between the batches of one optimizer step.
        """
        sampler = self.batch_sampler()
        assert sampler is not None, "only data that are read by number have one"
        sampler.resume_at(self.first_batch)
        if self.trainer is not None:
            check_accumulation(self.trainer, len(sampler))
        return sampler

    def training_position(self, counted: int) -> dict[str, int] | None:
        """Where training stands in its epoch, for a checkpoint.

        Args:
            counted: The batches that Lightning has counted since the run's first.

        Returns:
            See :meth:`GlobalBatchSampler.position`; ``None`` for a stream, which keeps its own.
        """
        sampler = self.batch_sampler()
        return None if sampler is None else sampler.position(self.first_batch + counted - self._counted)

    def go_on(self, position: Mapping[str, int] | None, progress: dict[str, Any]) -> None:
        """Sets where the next training loader begins, and tells Lightning how much of the epoch that is.

        Args:
            position: Of the checkpoint; ``None``: batches are as wide as they were.
            progress: Lightning's count of batches in the checkpoint, which is altered.

        Raises:
            ValueError: If the position is one in other data.
        """
        self.first_batch = self._counted = progress["total"]["processed"]
        sampler = self.batch_sampler()
        if position is None or sampler is None:
            return
        accumulate = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        self.first_batch = sampler.batch_at(position, accumulate=accumulate)
        current = progress["current"]
        # A checkpoint at the end of an epoch counts all of its batches, not none of the next.
        batches = self.first_batch % len(sampler) or (len(sampler) if current["processed"] else 0)
        change = batches - current["processed"]
        progress["current"] = {name: count + change for name, count in current.items()}
        if change:
            progress["is_last_batch"] = batches == len(sampler)

    def training_captions(self) -> Sequence[str] | None:
        """Every caption that training may draw, so that it can be said how many are cut; ``None`` where not known."""
        return None

    def files(self, split: str) -> Sequence[Path] | None:
        """Every file that the features of a split depend on (images, captions, shards), in a fixed order.

        The cache of embeddings trusts a split for as long as the sizes and times of these files stay what they were.

        Returns:
            The files; ``None`` for data that are not worth caching.
        """
        return None

    def images(self, split: str, rows: Sequence[int]) -> list[np.ndarray]:
        """``(H, W, 3)`` uint8 images of the given rows, to be looked at."""
        raise NotImplementedError
