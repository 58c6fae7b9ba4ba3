"""Training on embeddings that were encoded once: what stage 2 of I0T reads in place of photos and captions.

Shapes: B images of a batch; N images, M texts of a split; P pairs; D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from i0t.data.base import Batch, ImageTextDataModule, SplitInfo
from i0t.data.photo_batches import EpochBatches
from i0t.data.samplers import GlobalBatchSampler, ShardedBatchSampler, draw_caption_rows
from i0t.embeddings import EmbeddingSet

_EVAL_BATCH = 1024


class CachedPairs(ImageTextDataModule):
    """Batches of cached features, in the very order in which the photos themselves would have come.

    ``Batch.images`` and ``Batch.tokens`` hold features, ``(B, D)``, for :class:`i0t.models.precomputed.Precomputed`.

    Args:
        splits: ``"train"`` and ``"val"``.
        batch_size: Per device.
        train_seed: Of shuffling and the draw of captions.

    Raises:
        ValueError: If images of the training split have no caption.

    DDP:
        Ranks take slices of one permutation, as :class:`~i0t.data.photos.PhotoDataModule` does.
    """

    eval_batch_size = _EVAL_BATCH

    def __init__(self, splits: dict[str, EmbeddingSet], *, batch_size: int, train_seed: int) -> None:
        super().__init__()
        self.splits = splits
        self.batch_size = batch_size
        self.train_seed = train_seed
        self._train = _TrainingPairs(splits["train"], seed=train_seed)

    def describe(self, split: str) -> SplitInfo:
        """Images, captions and pairs."""
        embeddings = self.splits[split]
        return SplitInfo(
            num_images=embeddings.num_images,
            captions=embeddings.captions or [""] * embeddings.num_texts,
            pairs=embeddings.pairs,
            image_ids=embeddings.image_ids,
            provenance=embeddings.provenance,
        )

    def batch_sampler(self) -> GlobalBatchSampler:
        """Shuffled batches of the training split."""
        return GlobalBatchSampler(len(self._train), batch_size=self.batch_size, seed=self.train_seed)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches; after a resume, from the batch at which the interrupted epoch stopped."""
        return DataLoader(self._train, batch_size=None, sampler=EpochBatches(self.training_sampler()))

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split."""
        return self.eval_dataloader("val")

    def eval_dataloader(self, split: str, batches: Sequence[Sequence[int]] | None = None) -> DataLoader[Batch]:
        """Images with all their texts; by default every one once, this rank's share."""
        embeddings = self.splits[split]
        share = ShardedBatchSampler(embeddings.num_images, batch_size=_EVAL_BATCH)
        sampler = share if batches is None else batches
        return DataLoader(_EvaluationPairs(embeddings), batch_size=None, sampler=sampler)


class _PairsByImage:
    """The pairs of a set in the order of their images."""

    def __init__(self, embeddings: EmbeddingSet) -> None:
        self.features = embeddings
        by_image = embeddings.pairs[embeddings.pairs[:, 0].argsort(stable=True)].numpy()
        self.text_rows = by_image[:, 1]
        self.num_captions = np.bincount(by_image[:, 0], minlength=embeddings.num_images)
        self.first = np.cumsum(self.num_captions) - self.num_captions


class _TrainingPairs(Dataset[Batch]):
    """An epoch and a list of image rows in, their features with those of one caption each out."""

    def __init__(self, embeddings: EmbeddingSet, *, seed: int) -> None:
        self.pairs = _PairsByImage(embeddings)
        self.seed = seed
        bare = int((self.pairs.num_captions == 0).sum())
        if bare:
            raise ValueError(f"{bare} of {len(self)} images have no caption to be trained with")
        self._drawn: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.pairs.features.num_images

    def __getitem__(self, item: tuple[int, Sequence[int]]) -> Batch:
        epoch, wanted = item
        if self._drawn is None or self._drawn[0] != epoch:
            drawn = draw_caption_rows(self.pairs.num_captions, seed=self.seed, epoch=epoch)
            self._drawn = epoch, self.pairs.text_rows[drawn]
        rows = torch.as_tensor(wanted)
        text_id = torch.from_numpy(self._drawn[1][wanted])
        return Batch(
            images=self.pairs.features.image_features[rows],
            tokens=self.pairs.features.text_features[text_id],
            text_image_index=torch.arange(len(rows)),
            sample_id=rows,
            text_id=text_id,
        )


class _EvaluationPairs(Dataset[Batch]):
    """A list of image rows in, their features with those of all their texts out."""

    def __init__(self, embeddings: EmbeddingSet) -> None:
        self.pairs = _PairsByImage(embeddings)

    def __len__(self) -> int:
        return self.pairs.features.num_images

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        pairs = self.pairs
        texts = [pairs.text_rows[pairs.first[row] : pairs.first[row] + pairs.num_captions[row]] for row in rows]
        text_id = torch.from_numpy(np.concatenate(texts))
        return Batch(
            images=pairs.features.image_features[torch.as_tensor(rows)],
            tokens=pairs.features.text_features[text_id],
            text_image_index=torch.from_numpy(np.repeat(np.arange(len(rows)), [len(ids) for ids in texts])),
            sample_id=torch.as_tensor(rows),
            text_id=text_id,
        )
