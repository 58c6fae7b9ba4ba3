"""A model on its devices: encodes splits in memory, or into the cache.

Shapes: N images of a split.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from i0t.callbacks.shard_writer import ShardWriter
from i0t.config_errors import ConfigError
from i0t.data.base import ImageTextDataModule, SplitInfo
from i0t.distributed import rank, world_size
from i0t.embedding_cache import EmbeddingCache, digest, files_digest, library_versions, stamps_of
from i0t.embedding_store import (
    DamagedSetError,
    drop_damaged,
    num_shards,
    read_shard,
    rows_of_shard,
    write_index,
)
from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.encode import assemble, encode_prompts, encode_texts
from i0t.features import Features
from i0t.models.base import ClipModel
from i0t.module import ClipModule


class Encoder:
    """Encodes with a built model on a trainer's devices.

    Args:
        trainer: Of any strategy.
        module: The model.
        writer: One of the trainer's callbacks; needed for :meth:`into_cache`.
    """

    def __init__(self, trainer: pl.Trainer, module: ClipModule, writer: ShardWriter | None = None) -> None:
        self.trainer = trainer
        self.module = module
        self.writer = writer
        # The data modules themselves are the keys: another one may later be made at the address of one that is gone.
        self._features: dict[tuple[ImageTextDataModule, str], Features] = {}
        self._whole: dict[tuple[ImageTextDataModule, str], EmbeddingSet] = {}

    def bind(self, datamodule: ImageTextDataModule) -> ImageTextDataModule:
        """Hands the model's transforms and tokenizer to a data module."""
        bind(datamodule, self.module.model)
        return datamodule

    def describe(self, datamodule: ImageTextDataModule, split: str) -> SplitInfo:
        """What is known of a split, with a warning where captions are longer than the model's context."""
        info = datamodule.describe(split)
        cut = self.module.model.count_truncated(info.captions)
        if not cut:
            return info
        warnings = [*info.provenance.get("warnings", ()), truncation_warning(cut, len(info.captions))]
        return dataclasses.replace(
            info, provenance={**info.provenance, "truncated_captions": cut, "warnings": warnings}
        )

    def features(self, datamodule: ImageTextDataModule, split: str) -> Features:
        """This rank's rows of a split, kept in memory."""
        key = (datamodule, split)
        if key not in self._features:
            datamodule.setup("predict")
            parts: Any = self.trainer.predict(self.module, dataloaders=datamodule.eval_dataloader(split))
            self._features[key] = Features.cat(parts or [])
        return self._features[key]

    def forget(self) -> None:
        """Drops the features kept in memory: the weights have changed."""
        self._features.clear()
        self._whole.clear()

    def keep(self, datamodule: ImageTextDataModule, split: str, embeddings: EmbeddingSet) -> None:
        """Takes a whole split that these weights have encoded already, so that nobody encodes it again to fit on it."""
        self._whole[datamodule, split] = embeddings

    def share(self, datamodule: ImageTextDataModule, split: str) -> EmbeddingSet:
        """This rank's share of a split, to fit on."""
        if (datamodule, split) in self._whole:
            return self._whole[datamodule, split].shard(rank(), world_size())
        info = self.describe(datamodule, split)
        if info.text_image_index is None:
            return self.whole(datamodule, split, with_relevant_pairs=False).shard(rank(), world_size())
        return assemble(self.features(datamodule, split), info, logits=self.module.model.logit_values())

    def whole(self, datamodule: ImageTextDataModule, split: str, *, with_relevant_pairs: bool) -> EmbeddingSet:
        """The whole split with prompts, to measure; on every rank."""
        info = self.describe(datamodule, split)
        gathered = self.features(datamodule, split).gathered()
        texts, prompts = self._texts_and_prompts(info)
        logits = self.module.model.logit_values()
        return assemble(
            gathered, info, logits=logits, texts=texts, prompts=prompts, with_relevant_pairs=with_relevant_pairs
        )

    def into_cache(
        self, cache: EmbeddingCache, datamodule: ImageTextDataModule, split: str, request: Mapping[str, Any]
    ) -> EmbeddingSet:
        """The whole split from the cache, encoded into it first where it is not there, or not whole.

        An interrupted encoding goes on with the shards that are missing. Ranks must see the same cache folder.

        Args:
            cache: The cache.
            datamodule: Bound to this model.
            split: The split.
            request: What the user asked for; remembered, so that the next run needs neither model nor data module.
        """
        info = self.describe(datamodule, split)  # a data set that cannot be read must not cost a model's time
        files = datamodule.files(split)
        assert files is not None, "only data with files are cached"
        # Before anything is read: a file that changes during the encoding is then encoded again the next time.
        stamps = stamps_of([*files, *self.module.model.weights_files], named_in=[request["model"], request["data"]])
        key = self._key(info, files)
        self._start_processes()
        with cache.lock(key) if rank() == 0 else contextlib.nullcontext():
            found = cache.load(key) if rank() == 0 else None
            if not self.trainer.strategy.broadcast(found is not None):
                self._encode_shards(cache.folder(key), datamodule, split, info.num_images)
                self.trainer.strategy.barrier()
                if rank() == 0:
                    self._finish_set(cache.folder(key), info)
                    found = cache.load(key)
            if rank() == 0:
                cache.remember(request, key, stamps)
        self.trainer.strategy.barrier()
        found = found or cache.load(key)
        assert found is not None, "rank 0 has just written it"
        return found

    def _key(self, info: SplitInfo, files: Sequence[Path]) -> dict[str, Any]:
        """All that the features depend on."""
        prompts = {name: [spec.texts, spec.aggregate, spec.class_names] for name, spec in info.prompts.items()}
        pairs = info.pairs if info.text_image_index is None else info.text_image_index
        assert pairs is not None, "a split has text_image_index or pairs"
        return {
            **self._identity,
            "precision": str(self.trainer.precision),
            "data": dict(info.provenance),
            "texts": digest([list(info.captions), pairs.tolist(), info.image_ids]),
            "labels": digest({name: label.tolist() for name, label in info.labels.items()}),
            "prompts": digest(prompts),
            "files": files_digest(files),
            "augmentation": None,  # evaluation draws none
            "versions": library_versions(),
        }

    @functools.cached_property
    def _identity(self) -> dict[str, str]:
        """Of the model as it was built: a trainer of lower precision converts the weights later."""
        return self.module.model.identity()

    def _start_processes(self) -> None:
        """Starts the other ranks before anything is decided, so that all decide alike."""
        if self.trainer.world_size > 1 and world_size() == 1:
            nothing: list[Any] = []
            self.trainer.predict(self.module, dataloaders=DataLoader(nothing), return_predictions=False)  # type: ignore[arg-type]

    def _encode_shards(self, folder: Path, datamodule: ImageTextDataModule, split: str, num_images: int) -> None:
        """This rank's missing shards; a rank that has none encodes one image and drops it."""
        assert self.writer is not None, "the trainer has no writer"
        if rank() == 0:
            drop_damaged(folder)
        self.trainer.strategy.barrier()
        own = range(rank(), num_shards(num_images), world_size())
        rows = {
            number: rows_of_shard(number, num_images) for number in own if not _is_whole(folder, number, num_images)
        }
        size = datamodule.eval_batch_size
        batches = [list(part[i : i + size]) for part in rows.values() for i in range(0, len(part), size)]
        self.writer.open(folder, {number: len(part) for number, part in rows.items()})
        if self.trainer.strategy.reduce_boolean_decision(not rows, all=True):
            return
        datamodule.setup("predict")
        loader = datamodule.eval_dataloader(split, batches or [[0]])
        self.trainer.predict(self.module, dataloaders=loader, return_predictions=False)
        self.writer.close()

    def _finish_set(self, folder: Path, info: SplitInfo) -> None:
        texts, prompts = self._texts_and_prompts(info)
        parts = [read_shard(folder, number) for number in range(num_shards(info.num_images))]
        logits = self.module.model.logit_values()
        whole = assemble(
            Features.cat(parts), info, logits=logits, texts=texts, prompts=prompts, with_relevant_pairs=True
        )
        loose = (whole.text_features[:0], torch.empty(0, dtype=torch.int64))
        if texts is not None:
            loose = (texts, torch.arange(len(texts)))
        write_index(folder, whole, loose_texts=loose)

    def _texts_and_prompts(self, info: SplitInfo) -> tuple[Tensor | None, dict[str, PromptTable]]:
        with self._on_device() as device:
            model = self.module.model
            texts = None if info.text_image_index is not None else encode_texts(model, info.captions, device)
            return texts, encode_prompts(model, info.prompts, device)

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[torch.device]:
        """The model where the trainer computes, in eval mode and the trainer's precision."""
        device, home = self.trainer.strategy.root_device, self.module.device
        self.module.model.eval()
        self.module.to(device)
        try:
            with self.trainer.precision_plugin.forward_context():
                yield device
        finally:
            self.module.to(home)


def bind(
    datamodule: ImageTextDataModule, model: ClipModel, *, train_transform: Callable[[Any], Tensor] | None = None
) -> None:
    """Hands a model's transforms and tokenizer to a data module whose images they can take.

    Args:
        datamodule: Any.
        model: Any.
        train_transform: Of training; by default the model's own.

    Raises:
        ConfigError: If the transform is for images of another kind (MAD's tensors, photos).
    """
    try:
        model.transform(datamodule.example_image())
    except TypeError as error:
        raise ConfigError(
            f"{type(model).__name__} cannot read the images of {type(datamodule).__name__} "
            f"({str(error).splitlines()[0]}): choose a model that was made for them"
        ) from error
    datamodule.bind(
        transform=model.transform,
        tokenizer=model.tokenizer,
        train_transform=model.train_transform if train_transform is None else train_transform,
    )


def truncation_warning(num_cut: int, num_captions: int) -> str:
    """What to say of captions that are longer than the model's context."""
    return f"{num_cut:,} of {num_captions:,} captions are longer than the model's context and are cut"


def _is_whole(folder: Path, number: int, num_images: int) -> bool:
    """Whether an interrupted run has left this shard; one that cannot be read is encoded again."""
    try:
        shard = read_shard(folder, number)
    except DamagedSetError:
        return False
    return shard.sample_id.sort().values.tolist() == list(rows_of_shard(number, num_images))
