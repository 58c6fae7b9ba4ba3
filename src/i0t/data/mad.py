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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from i0t.data import mad_generator as mad
from i0t.data.base import Batch, ImageTextDataModule, PromptSpec, SplitInfo
from i0t.data.mad_split import VARIANTS_OF_AN_EPOCH, MadBatches, MadSplit
from i0t.data.samplers import GlobalBatchSampler, ShardedBatchSampler
from i0t.data.workers import init_worker

_VAL_IS_TRAIN = "mad val: its digits are also trained on (data.val_digits=0); what is fitted on train has seen them"
PROMPT_FORMS = ("object_max", "caption_mean")
_MEAN_PROMPTS = 128  # captions averaged per class; more do not change an accuracy's second decimal
_MAX_TRUE_PAIRS = 5e7  # 800 MB
# Below this many digits, starting worker processes takes longer than the drawing.
_DIGITS_WORTH_WORKERS = 200


class MadDataModule(ImageTextDataModule):
    """MAD, generated on first use.

    Colours and captions are drawn anew in every epoch of training; validation and test have one seeded draw. An epoch
    of MNIST's 60,000 digits is 1.44 million images, or with ``variants=one`` 60,000.

    Args:
        source: ``digits`` or ``mnist``.
        root: Folder of MNIST's files.
        download: Fetch them when they are not there.
        cache_dir: Folder of the generated images.
        captions: ``object_only`` or ``object_attribute_k`` with k = 1 to 5.
        main_object: The factor every caption names.
        prompts: ``object_max``: a class is scored by its best two-word caption ``<object>-<value>``, the object itself
            as in ``caption_mean``: by the mean over training captions that contain the value.
        variants: Of each digit in an epoch of training: ``all`` 24, or ``one`` at random, as in the paper's code.
        batch_size: Per device, in training.
        eval_batch_size: Per device, in evaluation.
        num_workers: Of the data loaders.
        generator_workers: Processes that draw images; ``None``: one per core.
        limit: Source digits per split; ``None``: all.
        val_digits: Training digits held out for validation; ``None``: 10 %; 0: none, and validation measures a sample
            of the training digits, which its provenance says.
        eval_digits: Of the digits of validation and test, measure a random sample of at most so many; ``None``: all.
        seed: Of the images, the splits, and the colours and captions of evaluation.
        train_seed: Of shuffling, colours and captions in training.

    Raises:
        ValueError: If an option does not exist or is out of range, or MNIST's files are missing or damaged.

    DDP:
        The ranks' batches of one step are together one batch of a single process; every rank draws the whole epoch.
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
        variants: str,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        generator_workers: int | None,
        limit: int | None,
        val_digits: int | None,
        eval_digits: int | None,
        seed: int,
        train_seed: int,
    ) -> None:
        super().__init__(main_object=main_object)
        _check_counts(limit=(limit, 1), eval_digits=(eval_digits, 1), val_digits=(val_digits, 0),
                      generator_workers=(generator_workers, 0))  # fmt: skip
        _check_choice("prompts", prompts, PROMPT_FORMS)
        _check_choice("variants", variants, VARIANTS_OF_AN_EPOCH)
        if main_object not in mad.FACTORS:
            raise ValueError(
                f"data.main_object={main_object!r} is not a factor of MAD; choose one of {', '.join(mad.FACTOR_NAMES)}"
            )
        self.num_attributes = mad.num_attributes(captions)
        self.captions = captions
        self.source, self.root, self.download = source, root, download
        self.cache_dir = Path(cache_dir).expanduser()
        self.prompts, self.variants = prompts, variants
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.generator_workers = num_workers, generator_workers
        self.limit, self.val_digits, self.eval_digits = limit, val_digits, eval_digits
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
                sample=None if name == "train" else self.eval_digits,
                val_digits=self.val_digits,
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

    def _new_split(self, images: mad.MadImages, variants: str = "all") -> MadSplit:
        main_object = str(self.main_object)
        return MadSplit(images, num_attributes=self.num_attributes, main_object=main_object, variants=variants)

    def batch_sampler(self) -> GlobalBatchSampler:
        """Shuffled batches of the training split."""
        split = self._new_split(self.split("train").images, self.variants)
        return GlobalBatchSampler(len(split), batch_size=self.batch_size, seed=self.train_seed)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches; after a resume, from the batch at which the interrupted epoch stopped."""
        split = self._new_split(self.split("train").images, self.variants)
        sampler = self.training_sampler()
        dataset = MadBatches(
            split, transform=self.transform, tokenizer=self.tokenizer, train_seed=self.train_seed, sampler=sampler
        )
        return self._loader(dataset, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation split."""
        return self.eval_dataloader("val")

    def eval_dataloader(self, split: str, batches: Sequence[Sequence[int]] | None = None) -> DataLoader[Batch]:
        """Images with their one seeded colour and caption; by default every one once, this rank's share."""
        images = self.split(split)
        dataset = MadBatches(images, transform=self.transform, tokenizer=self.tokenizer)
        own = ShardedBatchSampler(len(images), batch_size=self.eval_batch_size)
        return self._loader(dataset, own if batches is None else batches)

    def _loader(self, dataset: MadBatches, sampler: Any) -> DataLoader[Batch]:
        # The sampler gives whole batches of rows and the dataset whole batches: no per-sample work, no collation.
        return DataLoader(
            dataset, batch_size=None, sampler=sampler, num_workers=self.num_workers, worker_init_fn=init_worker
        )

    def example_image(self) -> Tensor:
        """``(1, 3, 28, 28)`` uint8, as the transform is given them."""
        return torch.zeros(1, 3, 28, 28, dtype=torch.uint8)

    def describe(self, split: str) -> SplitInfo:
        """Captions, the six factors as labels, true pairs, source digits as groups, and prompts."""
        images = self.split(split)
        source = np.repeat(images.images.source_indices, mad.NUM_VARIANTS)
        return SplitInfo(
            num_images=len(images),
            captions=images.captions(slice(None)),
            text_image_index=torch.arange(len(images)),
            relevant_pairs=lambda: _true_pairs(images),
            labels=images.labels(slice(None)),
            class_names=dict(mad.FACTORS),
            groups=torch.from_numpy(source),
            image_ids=[f"{i}/{variant}" for i in images.images.source_indices for variant in range(mad.NUM_VARIANTS)],
            prompts={name: self._prompts(name) for name in mad.FACTORS},
            provenance=self._provenance(split),
        )

    def _provenance(self, split: str) -> dict[str, Any]:
        val_is_train = split == "val" and self.val_digits == 0
        return {
            "data": "mad",
            "source": self.source,
            "split": split,
            "num_digits": len(self.split(split).images.labels),
            "captions": self.captions,
            "main_object": self.main_object,
            "caption_bits": mad.caption_information(self.num_attributes, str(self.main_object)),
            "image_bits": mad.IMAGE_BITS,
            "seed": self.seed,
            "same_images_as": "train" if val_is_train else None,
            "warnings": [_VAL_IS_TRAIN] if val_is_train else [],
        }

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


def _check_counts(**options: tuple[int | None, int]) -> None:
    """Whether options are whole numbers that are large enough, or absent: name -> (value, least)."""
    for name, (value, least) in options.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ValueError(f"data.{name}={value!r} must be null or a whole number, at least {least}")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"data.{name}={value!r} does not exist; choose one of {', '.join(choices)}")


def _true_pairs(split: MadSplit) -> Tensor:
    """All true pairs; they are counted first.

    Raises:
        ValueError: If the pairs would not fit into memory.
    """
    said, codes = mad.caption_codes(split.caption_factors, split.codes), split.codes
    num_pairs = mad.count_true_pairs(said, codes)
    if num_pairs > _MAX_TRUE_PAIRS:
        raise ValueError(
            f"{num_pairs:.2g} captions are true of the {len(codes):,} images, too many pairs to hold; "
            "evaluate fewer source digits with data.eval_digits=…, "
            "or leave retrieval and the report out: evaluation=[gap,zeroshot,object_bias] report=false"
        )
    return torch.from_numpy(mad.true_caption_pairs(said, codes))
