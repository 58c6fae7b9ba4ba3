"""Whole batches of photos and tokens, read in the loader's workers.

Shapes: B images, T texts of a batch; N images, M texts of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from i0t.data.base import Batch
from i0t.data.image_files import ImageReader, UnreadableImage
from i0t.data.samplers import GlobalBatchSampler, draw_caption_rows
from i0t.data.skipped import SkippedSamples

# So many unreadable files in a row are not an accident but an unmounted disk.
_MOST_UNREADABLE = 100


class PackedStrings(Sequence[str]):
    """Strings in one array: a million Python strings would be copied into every worker, reference count by count.

    Args:
        strings: To be kept.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [text.encode() for text in strings]
        self._ends = np.cumsum([0] + [len(text) for text in encoded])
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return self._bytes[self._ends[at] : self._ends[at + 1]].tobytes().decode()


class EvaluationPhotos(Dataset[Batch]):
    """A list of rows in, their images with all their captions out; the first unreadable image is an error.

    Args:
        image_files: N files.
        captions: M texts, in the order of their images.
        num_captions: ``(N,)`` int64, how many of them each image has; zeros where the texts are encoded apart.
        transform: Of a PIL image.
        tokenizer: Of texts.
    """

    def __init__(
        self,
        image_files: Sequence[Path],
        captions: Sequence[str],
        num_captions: np.ndarray,
        *,
        transform: Callable[[Any], Tensor] | None,
        tokenizer: Callable[[Sequence[str]], Tensor] | None,
    ) -> None:
        assert transform is not None, "bind() comes before any loader"
        assert tokenizer is not None, "bind() comes before any loader"
        self.files = PackedStrings([str(path) for path in image_files])
        self.captions = PackedStrings(captions)
        self.first_caption = np.cumsum([0, *num_captions])
        self.read = ImageReader(transform, exact=True)
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        images = [self.read(self.files[row]) for row in rows]
        texts = [np.arange(self.first_caption[row], self.first_caption[row + 1]) for row in rows]
        text_id = np.concatenate(texts)
        captions = [self.captions[i] for i in text_id]
        return Batch(
            images=torch.stack(images),
            tokens=self.tokenizer(captions) if captions else self.tokenizer([""])[:0],
            text_image_index=torch.from_numpy(np.repeat(np.arange(len(rows)), [len(ids) for ids in texts])),
            sample_id=torch.tensor(rows),
            text_id=torch.from_numpy(text_id),
        )


class TrainingPhotos(Dataset[Batch]):
    """An epoch and a list of rows in, each row's image with one of its captions out.

    The caption depends on the seed, the epoch and the row, and on nothing else. The next readable image of the split
    that is not in the batch takes the place of an unreadable one.

    Args:
        image_files: N files.
        captions: M texts, in the order of their images.
        num_captions: ``(N,)`` int64, how many of them each image has.
        transform: Of a PIL image.
        tokenizer: Of texts.
        seed: Of the draw.
        skipped: Counts the unreadable ones.
        short_captions: Give the first sentence of every caption too (Long-CLIP's short branch).
    """

    def __init__(
        self,
        image_files: Sequence[Path],
        captions: Sequence[str],
        num_captions: np.ndarray,
        *,
        transform: Callable[[Any], Tensor] | None,
        tokenizer: Callable[[Sequence[str]], Tensor] | None,
        seed: int,
        skipped: SkippedSamples,
        short_captions: bool = False,
    ) -> None:
        assert transform is not None, "bind() comes before any loader"
        assert tokenizer is not None, "bind() comes before any loader"
        self.files = PackedStrings([str(path) for path in image_files])
        self.captions = PackedStrings(captions)
        self.num_captions = np.asarray(num_captions)
        self.short_captions = short_captions
        self.read = ImageReader(transform)
        self.tokenizer = tokenizer
        self.seed = seed
        self.skipped = skipped
        self._drawn: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def caption_rows(self, epoch: int) -> np.ndarray:
        """``(N,)`` int64: the caption of each image in this epoch."""
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, draw_caption_rows(self.num_captions, seed=self.seed, epoch=epoch)
        return self._drawn[1]

    def __getitem__(self, item: tuple[int, Sequence[int]]) -> Batch:
        epoch, wanted = item
        rows, images = list(wanted), []
        for place in range(len(rows)):
            rows[place], image = self._read_or_replace(rows, place)
            images.append(image)
        text_id = self.caption_rows(epoch)[rows]
        captions = [self.captions[i] for i in text_id]
        return Batch(
            images=torch.stack(images),
            tokens=self.tokenizer(captions),
            text_image_index=torch.arange(len(rows)),
            sample_id=torch.tensor(rows),
            text_id=torch.from_numpy(text_id),
            short_tokens=self.tokenizer([first_sentence(c) for c in captions]) if self.short_captions else None,
        )

    def _read_or_replace(self, rows: Sequence[int], place: int) -> tuple[int, Tensor]:
        """The image of a row of the batch, or the next readable one of the split that the batch does not have."""
        row, failed = rows[place], 0
        while True:
            try:
                return row, self.read(self.files[row])
            except UnreadableImage as error:
                self.skipped.add(str(error))
                failed += 1
                candidates = ((row + step) % len(self) for step in range(1, len(self)))
                following = next((other for other in candidates if other not in rows), None)
                if following is None or failed == min(_MOST_UNREADABLE, len(self)):
                    raise UnreadableImage(f"{failed} images in a row are unreadable; the last: {error}") from error
                row = following


def first_sentence(caption: str) -> str:
    """What Long-CLIP's published training code takes as the short caption: all before the first full stop and space."""
    return caption.split(". ")[0]


class EpochBatches(Sampler[tuple[int, list[int]]]):
    """Batches of rows with their epoch, so that worker processes that outlive an epoch draw the right captions.

    Args:
        sampler: Gives the rows.
    """

    def __init__(self, sampler: GlobalBatchSampler) -> None:
        self.sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; Lightning calls it at the start of every one."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        for rows in self.sampler:
            yield self.sampler.epoch, rows
