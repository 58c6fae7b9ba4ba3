"""MAD, the Multi-modal Attributes and Digits data set of Two Effects, One Trigger (arXiv 2404.07983).

Every handwritten digit stands in 24 variants (thickness x swelling x fracture x scale), coloured with one of seven
colours when it is read; a caption names the main object and k of the other five factors, in random order. What
captions leave out is the information imbalance that the paper studies.

On disk: nothing for ``source=digits``, whose images scikit-learn ships. For ``source=mnist`` ``root`` holds the four
IDX files, gzip or not, directly or in ``MNIST/raw``. Generated images are cached as memory maps in ``cache_dir``.

Shapes: B images of a batch, N images of a split.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from i0t.data import mad_generator as mad
from i0t.data.base import Batch, ImageTextDataModule, PromptSpec, SplitInfo
from i0t.data.samplers import GlobalBatchSampler, ShardedBatchSampler

PROMPT_FORMS = ("object_max", "caption_mean")
_MEAN_PROMPTS = 128  # captions averaged per class; more do not change an accuracy's second decimal
_MAX_TRUE_PAIRS = 5e7  # 800 MB
# Below this many digits, starting worker processes takes longer than the drawing.
_DIGITS_WORTH_WORKERS = 200


class MadSplit:
    """Images of one split with the colours and captions of one draw.

    Args:
        images: Grey variants.
        num_attributes: k.
        main_object: The factor every caption names.
    """

    def __init__(self, images: mad.MadImages, *, num_attributes: int, main_object: str) -> None:
        self.images = images
        self.num_attributes = num_attributes
        self.main_object = main_object
        self._drawn: tuple[int, int] | None = None
        self.codes = np.empty(0)
        self.caption_factors = np.empty(0)

    def __len__(self) -> int:
        return len(self.images.labels) * mad.NUM_VARIANTS

    def draw(self, seed: int, epoch: int) -> None:
        """Draws every image's colour and caption; the same for the same seed and epoch, whatever the workers."""
        if self._drawn == (seed, epoch):
            return
        rows = np.arange(len(self))
        colors = mad.draw_colors(len(self), seed=seed, epoch=epoch)
        labels, variants = self.images.labels[rows // mad.NUM_VARIANTS], rows % mad.NUM_VARIANTS
        self.codes = mad.image_codes(labels, variants, colors)
        self.caption_factors = mad.draw_caption_factors(
            len(self), self.num_attributes, main_object=self.main_object, seed=seed, epoch=epoch
        )
        self._drawn = (seed, epoch)

    def colored(self, rows: np.ndarray) -> np.ndarray:
        """``(B, 3, 28, 28)`` uint8 images of the given rows."""
        gray = self.images.images[rows // mad.NUM_VARIANTS, rows % mad.NUM_VARIANTS]
        return mad.colorize(gray, self.codes[rows, mad.FACTOR_NAMES.index("color")])

    def captions(self, rows: np.ndarray) -> list[str]:
        """The captions of the given rows."""
        return mad.caption_words(self.caption_factors[rows], self.codes[rows])


class _MadDataset(Dataset[Batch]):
    """Whole batches of a split: a list of rows in, a Batch out.

    With a sampler, colours and captions are those of its epoch; without, those that the split has.
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

    def __getitem__(self, rows: Sequence[int]) -> Batch:
        if self.sampler is not None:
            self.split.draw(self.train_seed, self.sampler.epoch)
        at = np.asarray(rows)
        sample_id = torch.from_numpy(at)
        return Batch(
            images=self.transform(torch.from_numpy(self.split.colored(at))),
            tokens=self.tokenizer(self.split.captions(at)),
            text_image_index=torch.arange(len(at)),
            sample_id=sample_id,
            text_id=sample_id,
        )


class MadDataModule(ImageTextDataModule):
    """MAD, generated on first use.

    Colours and captions are drawn anew in every epoch of training; validation and test have one seeded draw.

    Args:
        source: ``digits`` or ``mnist``.
        root: Folder of MNIST's files.
        download: Fetch them when they are not there.
        cache_dir: Folder of the generated images.
        captions: ``object_only`` or ``object_attribute_k`` with k = 1 to 5.
        main_object: The factor every caption names.
        prompts: ``object_max``: a class is scored by its best two-word caption ``<object>-<value>``, the object itself
            as in ``caption_mean``: by the mean over training captions that contain the value.
        batch_size: Per device, in training.
        eval_batch_size: Per device, in evaluation.
        num_workers: Of the data loaders.
        generator_workers: Processes that draw images; ``None``: one per core.
        limit: Source digits per split; ``None``: all.
        seed: Of the images, the splits, and the colours and captions of evaluation.
        train_seed: Of shuffling, colours and captions in training.

    Raises:
        ValueError: If an option does not exist, or MNIST's files are missing or damaged.
    """

    def __init__(
        self,
        *,
        source: str,
        root: str | None,
        download: bool,
        cache_dir: str,
        captions: str,
        main_object: str,
        prompts: str,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        generator_workers: int | None,
        limit: int | None,
        seed: int,
        train_seed: int,
    ) -> None:
        super().__init__(main_object=main_object)
        for name, value in (("limit", limit), ("generator_workers", generator_workers)):
            if value is not None and (not isinstance(value, int) or value < (name == "limit")):
                raise ValueError(
                    f"data.{name}={value!r} must be null or a whole number, at least {int(name == 'limit')}"
                )
        if prompts not in PROMPT_FORMS:
            raise ValueError(f"data.prompts={prompts!r} does not exist; choose one of {', '.join(PROMPT_FORMS)}")
        if main_object not in mad.FACTORS:
            raise ValueError(
                f"data.main_object={main_object!r} is not a factor of MAD; choose one of {', '.join(mad.FACTOR_NAMES)}"
            )
        self.num_attributes = mad.num_attributes(captions)
        self.captions = captions
        self.source, self.root, self.download = source, root, download
        self.cache_dir = Path(cache_dir).expanduser()
        self.prompts = prompts
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.generator_workers = num_workers, generator_workers
        self.limit = limit
        self.seed, self.train_seed = seed, train_seed
        self._splits: dict[str, MadSplit] = {}

    def prepare_data(self) -> None:
        """Generates all splits before anything else starts; on one process, the others find the cache."""
        for split in mad.SPLITS:
            self.split(split)

    def split(self, name: str) -> MadSplit:
        """A split with its evaluation draw."""
        if name not in self._splits:
            images = mad.generate(
                self.cache_dir,
                self.source,
                name,
                root=self.root,
                seed=self.seed,
                num_workers=self._num_generators(),
                limit=self.limit,
                download=self.download,
            )
            self._splits[name] = self._new_split(images)
            self._splits[name].draw(self.seed, mad.SPLITS.index(name))
        return self._splits[name]

    def _num_generators(self) -> int:
        if self.generator_workers is not None:
            return self.generator_workers
        small = self.limit is not None and self.limit < _DIGITS_WORTH_WORKERS
        if small:
            return 0
        # Not on every system; where it is, it knows of a container's or a batch system's share.
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def _new_split(self, images: mad.MadImages) -> MadSplit:
        return MadSplit(images, num_attributes=self.num_attributes, main_object=str(self.main_object))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches; after a resume, from the batch at which the interrupted epoch stopped."""
        split = self._new_split(self.split("train").images)
        sampler = GlobalBatchSampler(len(split), batch_size=self.batch_size, seed=self.train_seed)
        sampler.resume_at(self.first_step)
        dataset = _MadDataset(
            split, transform=self.transform, tokenizer=self.tokenizer, train_seed=self.train_seed, sampler=sampler
        )
        return self._loader(dataset, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split."""
        return self.eval_dataloader("val")

    def eval_dataloader(self, split: str, batches: Sequence[Sequence[int]] | None = None) -> DataLoader[Batch]:
        """Images with their one seeded colour and caption; by default every one once, this rank's share."""
        images = self.split(split)
        dataset = _MadDataset(images, transform=self.transform, tokenizer=self.tokenizer)
        own = ShardedBatchSampler(len(images), batch_size=self.eval_batch_size)
        return self._loader(dataset, own if batches is None else batches)

    def _loader(self, dataset: _MadDataset, sampler: Any) -> DataLoader[Batch]:
        # The sampler gives whole batches of rows and the dataset whole batches: no per-sample work, no collation.
        return DataLoader(dataset, batch_size=None, sampler=sampler, num_workers=self.num_workers)

    def example_image(self) -> Tensor:
        """``(1, 3, 28, 28)`` uint8, as the transform is given them."""
        return torch.zeros(1, 3, 28, 28, dtype=torch.uint8)

    def describe(self, split: str) -> SplitInfo:
        """Captions, the six factors as labels, true pairs, source digits as groups, and prompts."""
        images = self.split(split)
        rows = np.arange(len(images))
        source = np.repeat(images.images.source_indices, mad.NUM_VARIANTS)
        said = mad.caption_codes(images.caption_factors, images.codes)
        return SplitInfo(
            num_images=len(images),
            captions=images.captions(rows),
            text_image_index=torch.from_numpy(rows),
            relevant_pairs=lambda: _true_pairs(said, images.codes),
            labels={name: torch.from_numpy(images.codes[:, i].copy()) for i, name in enumerate(mad.FACTOR_NAMES)},
            class_names=dict(mad.FACTORS),
            groups=torch.from_numpy(source),
            image_ids=[f"{digit}/{row % mad.NUM_VARIANTS}" for row, digit in zip(rows, source, strict=True)],
            prompts={name: self._prompts(name) for name in mad.FACTORS},
            provenance={
                "data": "mad",
                "source": self.source,
                "split": split,
                "captions": self.captions,
                "main_object": self.main_object,
                "seed": self.seed,
            },
        )

    def _prompts(self, factor: str) -> PromptSpec:
        """``object_max`` has no second word for the main object itself: that is scored by ``caption_mean``."""
        main, k, values = str(self.main_object), self.num_attributes, mad.FACTORS[factor]
        in_captions = factor == main or k > 0  # with k = 0 no training caption contains an attribute
        if in_captions and (self.prompts == "caption_mean" or factor == main):
            draw = functools.partial(mad.prompts_mean, factor, k=k, main_object=main, num=_MEAN_PROMPTS, seed=self.seed)
            return PromptSpec(
                texts=[draw(value) for value in values],
                class_names=values,
                aggregate="mean",
                description=f"mean over {_MEAN_PROMPTS} training captions that contain the value",
            )
        return PromptSpec(
            texts=[mad.prompts_object_max(factor, value, main_object=main) for value in values],
            class_names=values,
            aggregate="max",
            description=f'maximum over every {main} of "<{main}>-<{factor}>"',
        )

    def images(self, split: str, rows: Sequence[int]) -> list[np.ndarray]:
        """``(28, 28, 3)`` uint8 images."""
        return list(self.split(split).colored(np.asarray(rows)).transpose(0, 2, 3, 1))


def _true_pairs(said: np.ndarray, codes: np.ndarray) -> Tensor:
    """All true pairs; their number is estimated first, from a thousand captions.

    Raises:
        ValueError: If the pairs would not fit into memory.
    """
    sample = said[:: max(1, len(said) // 1000)]
    expected = len(mad.true_caption_pairs(sample, codes)) * len(said) / len(sample)
    if expected > _MAX_TRUE_PAIRS:
        raise ValueError(
            f"{expected:.2g} captions are true of the {len(codes):,} images, too many pairs to hold; "
            "evaluate fewer source digits with data.limit=…, "
            "or leave retrieval and the report out: evaluation=[gap,zeroshot,object_bias] report=false"
        )
    return torch.from_numpy(mad.true_caption_pairs(said, codes))
