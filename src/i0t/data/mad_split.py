"""Images of a split of MAD with the colours and captions of one draw, and batches of them.

Shapes: B samples of a batch, N images of a split, S samples of an epoch, k captioned factors besides the main object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from i0t.data import mad_generator as mad
from i0t.data.base import Batch
from i0t.data.samplers import GlobalBatchSampler

VARIANTS_OF_AN_EPOCH = ("all", "one")


class MadSplit:
    """Images of one split with the colours and captions of one draw.

    A draw takes 17 bytes a sample at k = 2: an epoch of 1.44 million takes 25 MB and half a second.

    Args:
        images: Grey variants.
        num_attributes: k.
        main_object: The factor every caption names.
        variants: ``all`` 24 of each digit are the samples of an epoch, or ``one`` at random, as in the paper's code.

    Attributes:
        rows: ``(S,)`` int64, the image of each sample.
        codes: ``(S, 6)`` uint8 values of the six factors.
        caption_factors: ``(S, k + 1)`` uint8 factors that the caption names, in its order.
    """

    def __init__(self, images: mad.MadImages, *, num_attributes: int, main_object: str, variants: str = "all") -> None:
        self.images = images
        self.num_attributes = num_attributes
        self.main_object = main_object
        self.variants = variants
        self._drawn: tuple[int, int] | None = None
        self.rows: np.ndarray = np.empty(0, dtype=np.int64)
        self.codes: np.ndarray = np.empty((0, len(mad.FACTORS)), dtype=np.uint8)
        self.caption_factors: np.ndarray = np.empty((0, num_attributes + 1), dtype=np.uint8)

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.images.labels) * mad.NUM_VARIANTS

    def __len__(self) -> int:
        return self.num_images if self.variants == "all" else len(self.images.labels)

    def draw(self, seed: int, epoch: int) -> None:
        """Draws every sample's variant, colour and caption; the same for the same seed and epoch, whatever the workers.

        Args:
            seed: Not negative.
            epoch: Not negative.
        """
        if self._drawn == (seed, epoch):
            return
        self.rows = np.arange(len(self))
        if self.variants == "one":
            self.rows = self.rows * mad.NUM_VARIANTS + mad.draw_variants(len(self), seed=seed, epoch=epoch)
        digits, variants = self._places(self.rows)
        colors = mad.draw_colors(len(self), seed=seed, epoch=epoch)
        self.codes = mad.image_codes(self.images.labels[digits], variants, colors)
        self.caption_factors = mad.draw_caption_factors(
            len(self), self.num_attributes, main_object=self.main_object, seed=seed, epoch=epoch
        )
        self._drawn = (seed, epoch)

    def colored(self, samples: np.ndarray) -> np.ndarray:
        """``(B, 3, 28, 28)`` uint8 images of the given samples."""
        gray = self.images.images[self._places(self.rows[samples])]
        return mad.colorize(gray, self.codes[samples, mad.FACTOR_NAMES.index("color")])

    def captions(self, samples: np.ndarray | slice) -> list[str]:
        """The captions of the given samples."""
        return mad.caption_words(self.caption_factors[samples], self.codes[samples])

    def labels(self, samples: np.ndarray | slice) -> dict[str, Tensor]:
        """``(B,)`` int64 values of each factor."""
        codes = torch.from_numpy(self.codes[samples])
        return {name: codes[:, column].long() for column, name in enumerate(mad.FACTOR_NAMES)}

    @staticmethod
    def _places(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Digit and variant of each image."""
        return rows // mad.NUM_VARIANTS, rows % mad.NUM_VARIANTS


class MadBatches(Dataset[Batch]):
    """Whole batches of a split: a list of samples in, a Batch out.

    With a sampler, variants, colours and captions are those of its epoch; without, those that the split has.

    Args:
        split: The images.
        transform: Of a batch of uint8 images.
        tokenizer: Of captions.
        train_seed: Of the draws of training.
        sampler: Of training.
    """

    def __init__(
        self,
        split: MadSplit,
        *,
        transform: Callable[[Any], Tensor] | None,
        tokenizer: Callable[[Sequence[str]], Tensor] | None,
        train_seed: int = 0,
        sampler: GlobalBatchSampler | None = None,
    ) -> None:
        assert transform is not None, "bind() comes before any loader"
        assert tokenizer is not None, "bind() comes before any loader"
        self.split = split
        self.transform = transform
        self.tokenizer = tokenizer
        self.train_seed = train_seed
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, samples: Sequence[int]) -> Batch:
        if self.sampler is not None:
            self.split.draw(self.train_seed, self.sampler.epoch)
        at = np.asarray(samples)
        sample_id = torch.from_numpy(self.split.rows[at])
        return Batch(
            images=self.transform(torch.from_numpy(self.split.colored(at))),
            tokens=self.tokenizer(self.split.captions(at)),
            text_image_index=torch.arange(len(at)),
            sample_id=sample_id,
            text_id=sample_id,
            labels=self.split.labels(at),
        )
