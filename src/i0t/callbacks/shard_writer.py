"""Writes encoded rows to the embedding cache as they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from i0t.embedding_store import shard_of_row, write_shard
from i0t.features import Features


class ShardWriter(pl.Callback):
    """Collects the predictions of a shard's images and writes the shard when it has them all.

    DDP:
        Every rank writes shards of its own; nothing is exchanged.
    """

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._wanted: Mapping[int, int] = {}
        self._parts: dict[int, list[Features]] = {}

    def open(self, folder: Path, num_images_of: Mapping[int, int]) -> None:
        """Takes predictions for these shards of a set.

        Args:
            folder: Of the set.
            num_images_of: Number of images of each shard that this rank encodes; rows of other shards are dropped.
        """
        self._folder, self._wanted, self._parts = folder, num_images_of, {}

    def close(self) -> None:
        """Takes no more: what the trainer predicts from now on is of another set."""
        self._folder, self._wanted, self._parts = None, {}, {}

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a batch until its shard is complete; a batch has images of one shard."""
        if self._folder is None:
            return
        number = shard_of_row(int(outputs.sample_id[0]))
        if number not in self._wanted:
            return
        parts = self._parts.setdefault(number, [])
        parts.append(outputs)
        if sum(len(part.sample_id) for part in parts) == self._wanted[number]:
            write_shard(self._folder, number, Features.cat(self._parts.pop(number)))
