"""CC12M, or any other WebDataset of image-caption pairs: an endless training stream, evaluation by number.

On disk, or behind URLs: tar shards as img2dataset writes them, whose members ``<key>.jpg`` (or ``jpeg``, ``png``,
``webp``) and ``<key>.txt`` (or a field of ``<key>.json``) make one sample::

    <root>/train/00000.tar, 00001.tar, …
    <root>/val/00000.tar, …

Training may read ``https://…/{00000..01242}.tar``, ``s3://…`` (through the ``aws`` command), ``gs://…`` and
``pipe:<command>``; evaluation needs local, uncompressed tars and never runs a command or opens a URL.

Shapes: B images of a batch, N images of a split.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from i0t.data.accumulation import check_accumulation
from i0t.data.base import Batch, ImageTextDataModule, SplitInfo
from i0t.data.caption_parts import check_caption_part
from i0t.data.image_files import decode_image
from i0t.data.samplers import ShardedBatchSampler
from i0t.data.shard_batches import EvaluationSamples, StreamedBatches, StreamLoader
from i0t.data.shard_index import ShardIndex, index_shards
from i0t.data.shard_positions import StreamProgress
from i0t.data.shard_stream import ShardStream
from i0t.data.shards import IMAGE_SUFFIXES, expand_shards, is_remote
from i0t.data.skipped import SkippedSamples
from i0t.data.workers import init_worker

_TEST_IS_VAL = "cc12m test: its images are those of val (data.test_shards); what is fitted on val is fitted on test"


class Cc12mDataModule(ImageTextDataModule):
    """Image-caption pairs in tar shards.

    Training never ends: ``trainer.max_steps`` is the only duration. In every epoch each shard is read by one worker of
    one rank (:mod:`i0t.data.shard_positions`). A resumed run goes on with the samples that an uninterrupted one would
    have seen next, one by one, on as many devices with as many workers and the same ``shuffle_buffer``. With another
    number of these it goes on with the next whole shards: no sample comes up twice in an epoch, and of each former
    worker's at most the shard and the block that it had begun, and those it was behind the others, are left out.

    Args:
        root: Folder of shards that are named by a relative path.
        train_shards: Path with ``*`` and ``{0..9}``, URL, ``pipe:<command>``, or a list of these.
        val_shards: Local path or a list.
        test_shards: As ``val_shards``; ``None``: the test split is the validation split.
        caption_key: Suffix of the member with the caption: ``txt``, or ``json`` with ``caption_field``.
        caption_field: Key of the caption in a JSON member; ``None``: the member is the caption.
        caption_part: What training keeps of every caption, drawn afresh each time: ``full``, a random ``half`` of its
            words or a random ``quarter`` (:mod:`i0t.data.caption_parts`). Every split is encoded and evaluated with
            whole captions, as in the published code of Two Effects, One Trigger.
        shuffle_buffer: Samples that each worker holds, as they are in the shard, to mix them.
        resampled: Draw shards with replacement; else every shard comes up once in an epoch.
        limit: The first so many samples of the validation and test splits; ``None``: all.
        train_eval_limit: The first so many training samples, for what is fitted or measured on the training split,
            which then needs local shards; ``None``: all.
        batch_size: Per device, in training.
        eval_batch_size: Per device, in evaluation.
        num_workers: Of the data loaders.
        train_seed: Of the training stream.

    Attributes:
        skipped: Samples and shards that training could not use; evaluation stops at the first.

    Raises:
        ValueError: If an option is out of range, or (when a split is first used) its shards are not as described.

    DDP:
        Ranks take disjoint shares, in training of every epoch's shards, in evaluation of the samples. Checkpoints
        gather where the workers of all ranks stand.
    **State:** four integers for every worker of every rank, and the number of batches.
    """

    def __init__(
        self,
        *,
        root: str,
        train_shards: str | Sequence[str],
        val_shards: str | Sequence[str],
        test_shards: str | Sequence[str] | None,
        caption_key: str,
        caption_field: str | None,
        caption_part: str,
        shuffle_buffer: int,
        resampled: bool,
        limit: int | None,
        train_eval_limit: int | None,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        train_seed: int,
    ) -> None:
        super().__init__()
        numbers = {"limit": limit, "train_eval_limit": train_eval_limit, "shuffle_buffer": shuffle_buffer}
        for option, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f"data.{option}={value} must be at least 1")
        if batch_size < 2:
            raise ValueError(f"data.batch_size={batch_size}: a contrastive batch needs at least 2 pairs")
        if (caption_key == "json") != (caption_field is not None):
            raise ValueError(
                f"data.caption_key={caption_key!r} and data.caption_field={caption_field!r}: "
                "a json member, and no other, needs the field that holds the caption"
            )
        check_caption_part(caption_part)
        self.root = Path(root).expanduser()
        self.patterns = {"train": train_shards, "val": val_shards, "test": test_shards or val_shards}
        self.test_is_val = test_shards is None
        self.caption_key, self.caption_field = caption_key, caption_field
        self.caption_part = caption_part
        self.shuffle_buffer, self.resampled = shuffle_buffer, resampled
        self.limits = {"train": train_eval_limit, "val": limit, "test": limit}
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers = num_workers
        self.train_seed = train_seed
        self.skipped = SkippedSamples(num_workers)
        self.progress = StreamProgress(num_workers=num_workers, shuffle_buffer=shuffle_buffer)
        self._indices: dict[str, ShardIndex] = {}

    def setup(self, stage: str) -> None:
        """Finds the shards that training needs, so that what is wrong with them is said before it starts."""
        if stage == "fit":
            stream = self._stream()
            if self.trainer is not None:
                stream.check_enough(self.trainer.world_size, self.progress.num_workers)
            self.index("val")

    def shards(self, split: str) -> list[str]:
        """Paths, URLs and commands of a split.

        Raises:
            ValueError: If there are none, or files are missing.
        """
        if split not in self.patterns:
            raise ValueError(f"split {split!r} does not exist; choose one of {', '.join(self.patterns)}")
        return expand_shards(self.patterns[split], self.root)

    def index(self, split: str) -> ShardIndex:
        """The samples of a split by number, of local shards only.

        Raises:
            ValueError: If a shard is remote or not whole, or a sample has no image or caption.
        """
        if split == "test" and self.test_is_val:
            split = "val"
        if split not in self._indices:
            shards = self.shards(split)
            remote = next((shard for shard in shards if is_remote(shard)), None)
            if remote is not None:
                raise ValueError(
                    f"data.{split}_shards: {remote} cannot be read by number, as evaluation and fitting need it; "
                    "download its shards"
                    + (", or fit on another split with gap_reducer.fit_split=val" if split == "train" else "")
                )
            self._indices[split] = index_shards(
                [Path(shard) for shard in shards],
                caption_key=self.caption_key,
                caption_field=self.caption_field,
                limit=self.limits[split],
            )
        return self._indices[split]

    def describe(self, split: str) -> SplitInfo:
        """Captions and identifiers; ``provenance["warnings"]`` says where the test split is the validation split."""
        index = self.index(split)
        same = split == "test" and self.test_is_val
        return SplitInfo(
            num_images=len(index),
            captions=index.captions,
            text_image_index=torch.arange(len(index)),
            image_ids=index.image_ids,
            provenance={
                "data": "cc12m",
                "split": split,
                "shards": self.patterns[split],
                "num_images": len(index),
                "limit": self.limits[split],
                "caption": self.caption_key if self.caption_field is None else f"json.{self.caption_field}",
                "caption_part": "full",
                "training_caption_part": self.caption_part,
                "same_images_as": "val" if same else None,
                "warnings": [_TEST_IS_VAL] if same else [],
            },
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """The stream, from its beginning or where the checkpoint left it.

        Raises:
            ValueError: If no number of steps is set, or validations fall between the batches of an optimizer step, or
                the checkpoint does not say where its stream stood, or that was another one.
        """
        if self.trainer is not None and self.trainer.max_steps < 1:
            raise ValueError("trainer.max_steps must be set: streamed data have no end")
        if self.trainer is not None:
            check_accumulation(self.trainer, None)
        if self.first_batch and not self.progress.is_loaded:
            raise ValueError(
                "this checkpoint does not say where its stream of shards stood: it was not trained on these data; "
                "start a new run from its weights with ckpt_path="
            )
        stream = self._stream()
        self.progress.check(stream.sequence)  # here, as Lightning hides what is said when iteration starts
        dataset = StreamedBatches(
            stream,
            batch_size=self.batch_size,
            caption_key=self.caption_key,
            caption_field=self.caption_field,
            caption_part=self.caption_part,
            transform=self.train_transform,
            tokenizer=self.tokenizer,
            skipped=self.skipped,
        )
        return StreamLoader(dataset, self.progress, num_workers=self.num_workers, pin_memory=torch.cuda.is_available())

    def _stream(self) -> ShardStream:
        shards = self.shards("train")
        return ShardStream(
            shards,
            # The folder of the data may be another one when the run goes on.
            names=[shard.removeprefix(f"{self.root}{os.sep}") for shard in shards],
            suffixes={*IMAGE_SUFFIXES, self.caption_key},
            shuffle_buffer=self.shuffle_buffer,
            seed=self.train_seed,
            resampled=self.resampled,
            skipped=self.skipped,
        )

    def sample_names(self, sample_ids: Sequence[int]) -> list[str]:
        """Shard and number of training samples, by the ``sample_id`` of their batches."""
        stream = self._stream()
        return [stream.name_of(identifier) for identifier in sample_ids]

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Keeps count of the training batches that are used, not of those that are read ahead."""
        if self.trainer is not None and self.trainer.training:
            self.progress.use()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, for the checkpoint; called on all ranks."""
        return self.progress.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next training loader goes on from there."""
        self.progress.load_state_dict(state_dict)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split."""
        return self.eval_dataloader("val")

    def eval_dataloader(self, split: str, batches: Sequence[Sequence[int]] | None = None) -> DataLoader[Batch]:
        """Images with their captions; by default every one once, this rank's share."""
        index = self.index(split)
        return DataLoader(
            EvaluationSamples(index, transform=self.transform, tokenizer=self.tokenizer),
            batch_size=None,
            sampler=ShardedBatchSampler(len(index), batch_size=self.eval_batch_size) if batches is None else batches,
            num_workers=self.num_workers,
            worker_init_fn=init_worker,
            pin_memory=torch.cuda.is_available(),
        )

    def files(self, split: str) -> list[Path]:
        """The shards that were read."""
        return list(self.index(split).shards)

    def images(self, split: str, rows: Sequence[int]) -> list[np.ndarray]:
        """``(H, W, 3)`` uint8 images."""
        found = (self.index(split).read_image(row) for row in rows)
        return [np.asarray(decode_image(data, name=name)) for data, name in found]
