"""Batches of images and captions from tar shards: streamed without an end, or by number.

Shapes: B images and texts of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from i0t.data.base import Batch
from i0t.data.caption_parts import CaptionCutter
from i0t.data.image_files import ImageReader, UnreadableImage
from i0t.data.shard_index import ShardIndex, image_suffix, read_caption, sample_name
from i0t.data.shard_positions import CAPTION, Position, StreamProgress
from i0t.data.shard_stream import ShardStream, place
from i0t.data.shards import UnusableSample
from i0t.data.skipped import SkippedSamples
from i0t.data.workers import init_worker

# So many useless samples in a row are not an accident but a wrong caption_key.
_MOST_UNUSABLE = 1000


class Pair(NamedTuple):
    """One usable sample.

    Attributes:
        image: Transformed.
        caption: As training takes it.
        identifier: Of the sample in this run.
        position: Where its worker stands behind it.
    """

    image: Tensor
    caption: str
    identifier: int
    position: Position


class StreamedBatches(IterableDataset[tuple[Batch, int, Position]]):
    """Batches of a stream, without an end; samples that cannot be used are counted and left out.

    Yields each with the number of its worker and the position at which that then stands. ``sample_id`` and ``text_id``
    are the samples' identifiers (:meth:`ShardStream.identifier`).

    Args:
        stream: Of samples as they are in the shards.
        batch_size: B.
        caption_key: Suffix of the member with the caption.
        caption_field: See :func:`i0t.data.shard_index.read_caption`.
        caption_part: What of each caption is kept, drawn from the seed and the place of the sample in the stream.
        transform: Of a PIL image.
        tokenizer: Of texts.
        skipped: Counts what is left out.
    """

    def __init__(
        self,
        stream: ShardStream,
        *,
        batch_size: int,
        caption_key: str,
        caption_field: str | None,
        caption_part: str,
        transform: Callable[[Any], Tensor] | None,
        tokenizer: Callable[[Sequence[str]], Tensor] | None,
        skipped: SkippedSamples,
    ) -> None:
        assert transform is not None, "bind() comes before any loader"
        assert tokenizer is not None, "bind() comes before any loader"
        self.stream = stream
        self.batch_size = batch_size
        self.caption_key, self.caption_field = caption_key, caption_field
        self.caption_part = caption_part
        self.read = ImageReader(transform)
        self.tokenizer = tokenizer
        self.skipped = skipped

    def __iter__(self) -> Iterator[tuple[Batch, int, Position]]:
        pairs, worker = self._pairs(), self.stream.worker()
        matching = torch.arange(self.batch_size)
        while True:
            images, captions, identifiers, positions = zip(*islice(pairs, self.batch_size), strict=True)
            ids = torch.tensor(identifiers)
            yield Batch(torch.stack(images), self.tokenizer(list(captions)), matching, ids, ids), worker, positions[-1]

    def _pairs(self) -> Iterator[Pair]:
        num_unusable = 0
        for sample, position in self.stream:
            try:
                image, caption = self._pair(sample)
            except (UnreadableImage, UnusableSample) as error:
                self.skipped.add(str(error))
                num_unusable += 1
                if num_unusable == _MOST_UNUSABLE:
                    raise UnusableSample(
                        f"{num_unusable:,} samples in a row cannot be used; the last: {error}"
                    ) from error
                continue
            num_unusable = 0
            yield Pair(image, self._cut(caption, sample), self.stream.identifier(sample), position)

    def _cut(self, caption: str, sample: Mapping[str, Any]) -> str:
        """The kept part of a caption: the same wherever a run is interrupted, another one in the next epoch."""
        seed = np.random.SeedSequence([CAPTION, self.stream.sequence.seed, *place(sample)])
        return CaptionCutter(self.caption_part, seed=int(seed.generate_state(1)[0]))(caption)

    def _pair(self, sample: Mapping[str, Any]) -> tuple[Tensor, str]:
        name, key = sample_name(sample), self.caption_key
        data = sample[image_suffix(sample)]
        caption = read_caption(sample.get(key), self.caption_field, name=name, suffix=key)
        return self.read.decode(data, name=name), caption


class StreamLoader(DataLoader[Any]):
    """Tells the stream where to go on, before its workers become copies of it, and keeps count of what it hands out.

    Args:
        dataset: Of whole batches.
        progress: Of the workers of this loader.
        num_workers: That read and decode; 0: the main process does.
        pin_memory: For copies to a GPU.
    """

    dataset: StreamedBatches

    def __init__(
        self, dataset: StreamedBatches, progress: StreamProgress, *, num_workers: int, pin_memory: bool
    ) -> None:
        super().__init__(
            dataset, batch_size=None, num_workers=num_workers, worker_init_fn=init_worker, pin_memory=pin_memory
        )
        self.progress = progress

    def __iter__(self) -> Any:
        self.dataset.stream.begin(self.progress)
        return self._count(super().__iter__())

    def _count(self, batches: Iterator[Any]) -> Iterator[Batch]:
        for batch, worker, position in batches:
            self.progress.hand_out(worker, Position(*position))
            yield batch


class EvaluationSamples(Dataset[Batch]):
    """A list of rows in, their images and captions out; the first unreadable image is an error.

    Args:
        index: N samples.
        transform: Of a PIL image.
        tokenizer: Of texts.
    """

    def __init__(
        self,
        index: ShardIndex,
        *,
        transform: Callable[[Any], Tensor] | None,
        tokenizer: Callable[[Sequence[str]], Tensor] | None,
    ) -> None:
        assert transform is not None, "bind() comes before any loader"
        assert tokenizer is not None, "bind() comes before any loader"
        self.index = index
        self.read = ImageReader(transform, exact=True)
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        images = []
        for row in rows:
            data, name = self.index.read_image(row)
            images.append(self.read.decode(data, name=name))
        at = torch.tensor(rows)
        captions = [self.index.captions[row] for row in rows]
        return Batch(torch.stack(images), self.tokenizer(captions), torch.arange(len(rows)), at, at)
