"""What the data sets of judged captions share: a subclass reads a table from disk, everything else is here.

Shapes: J judged captions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from i0t.data.base import Batch, ImageTextDataModule, MissingSplitError, SplitInfo
from i0t.data.image_files import read_image
from i0t.data.judged_rows import JudgedTable
from i0t.data.judged_split import JudgedSplit, index_table
from i0t.data.photo_batches import EvaluationPhotos
from i0t.data.photo_split import ImageFinder
from i0t.data.samplers import ShardedBatchSampler
from i0t.data.workers import init_worker

_log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


class JudgedCaptionsDataModule(ImageTextDataModule):
    """Captions that people have judged, to compare caption metrics with: there is a test split and nothing to train on.

    Args:
        prompt_prefix: Put before candidates and references alike, as CLIP-S and PAC-S do.
        max_caption_chars: Cut captions to so many characters before the prefix; ``None``: never.
        only_present: Leave out the rows whose images are missing, and say so, instead of refusing.
        limit: The judgements of the first so many images; ``None``: all.
        eval_batch_size: Per device.
        num_workers: Processes that decode photos.

    Raises:
        ValueError: If an option is out of range, or (when the split is first used) rows cannot be used.

    DDP:
        Ranks take disjoint shares of the images.
    """

    name: str
    """Of the data set, in messages and provenance."""

    fit_data = "coco"
    """Other data of this kind to fit a reducer on, named in an error."""

    def __init__(
        self,
        *,
        prompt_prefix: str,
        max_caption_chars: int | None,
        only_present: bool,
        limit: int | None,
        eval_batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        for option, value in {"max_caption_chars": max_caption_chars, "limit": limit}.items():
            if value is not None and value < 1:
                raise ValueError(f"data.{option}={value} must be null or at least 1")
        self.prompt_prefix = prompt_prefix
        self.max_caption_chars = max_caption_chars
        self.only_present = only_present
        self.limit = limit
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self._finder = ImageFinder()
        self._split: JudgedSplit | None = None

    def read_table(self, finder: ImageFinder) -> JudgedTable:
        """Reads the files; subclasses implement this and nothing else.

        Args:
            finder: Tells which of several usual folders has an image.

        Raises:
            ValueError: If a file is missing or of another format.
        """
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Refuses to be trained on.

        Raises:
            ValueError: If training begins.
        """
        if stage == "fit":
            self.train_dataloader()

    def split(self, name: str) -> JudgedSplit:
        """The test split as it is used.

        Raises:
            ValueError: If another split is asked for.
        """
        if name not in SPLITS:
            raise ValueError(f"split {name!r} does not exist; choose one of {', '.join(SPLITS)}")
        if name != "test":
            raise MissingSplitError(
                f"{self.name} has only a test split, no {name}: fit on other data, as in gap_reducer.fit_data="
                f"{self.fit_data} (fit_split=test fits on the very captions that are scored: transductive)"
            )
        if self._split is None:
            self._split = self._read()
        return self._split

    def _read(self) -> JudgedSplit:
        annotated = self.read_table(self._finder)
        if not annotated.captions and not annotated.problems:
            raise ValueError(f"{annotated.file_names}: there are no judged captions")
        present = self._with_images(annotated)
        used = present.select(_first_images(present, self.limit))
        warnings = [*annotated.warnings, *self._warnings(annotated, len(present.captions))]
        for warning in warnings:
            _warn(warning)
        provenance = {
            "data": self.name,
            "split": "test",
            "annotations": [path.name for path in annotated.files],
            **annotated.provenance,
            "num_judged_captions": len(used.captions),
            "known_num_judged_captions": annotated.known_count,
            "judged_captions_without_image": len(annotated.captions) - len(present.captions),
            "limit": self.limit,
            "prompt_prefix": self.prompt_prefix,
            "max_caption_chars": self.max_caption_chars,
            "warnings": warnings,
        }
        return index_table(used, self._worded, provenance)

    def _with_images(self, annotated: JudgedTable) -> JudgedTable:
        """The rows whose images are there; stops if any row cannot be used."""
        here = np.array([self._finder.has(judged.image) for judged in annotated.captions], dtype=bool)
        missing = {
            judged.place: f"no image {judged.image.name} in {judged.image.parent}"
            for judged, is_here in zip(annotated.captions, here, strict=True)
            if not is_here
        }
        if self.only_present and here.any():
            annotated.refuse(annotated.problems)
            return annotated.select(here)
        advice = "data.only_present=true leaves out those without an image, and says so" if here.any() else ""
        annotated.refuse({**missing, **annotated.problems}, advice=advice if missing else "")
        return annotated

    def _warnings(self, annotated: JudgedTable, num_present: int) -> list[str]:
        """What a reader of the numbers must know."""
        warnings = []
        found = len(annotated.captions)
        if annotated.known_count not in (None, found):
            warnings.append(
                f"{self.name}: {found:,} judged captions, where the published set has {annotated.known_count:,}: "
                "its correlations are not quite the published ones"
            )
        if num_present < found:
            warnings.append(
                f"{self.name}: {found - num_present:,} of {found:,} judged captions are left out, since their images "
                "are not there (data.only_present)"
            )
        return warnings

    def _worded(self, caption: str) -> str:
        """A caption as it is encoded."""
        return self.prompt_prefix + " ".join(caption.split())[: self.max_caption_chars]

    def describe(self, split: str) -> SplitInfo:
        """Every distinct text, the references as pairs, and the judgements."""
        judged = self.split(split)
        return SplitInfo(
            num_images=len(judged.image_files),
            captions=judged.texts,
            pairs=judged.pairs,
            image_ids=judged.image_ids,
            judgements=judged.judgements,
            provenance=judged.provenance,
        )

    def train_dataloader(self) -> NoReturn:
        """There is none.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{self.name} cannot be trained on: judged captions, many of them wrong, are there to measure caption "
            f"metrics; train on other data, such as data={self.fit_data}"
        )

    def eval_dataloader(self, split: str, batches: Sequence[Sequence[int]] | None = None) -> DataLoader[Batch]:
        """Images without texts, which belong to several; by default every one once, this rank's share."""
        files = self.split(split).image_files
        return DataLoader(
            EvaluationPhotos(
                files,
                [],
                np.zeros(len(files), dtype=np.int64),
                transform=self.transform,
                tokenizer=self.tokenizer,
            ),
            batch_size=None,
            sampler=ShardedBatchSampler(len(files), batch_size=self.eval_batch_size) if batches is None else batches,
            num_workers=self.num_workers,
            worker_init_fn=init_worker,
            pin_memory=torch.cuda.is_available(),
        )

    def files(self, split: str) -> list[Path]:
        """The annotation files and the images."""
        judged = self.split(split)
        return [*judged.annotation_files, *judged.image_files]

    def images(self, split: str, rows: Sequence[int]) -> list[np.ndarray]:
        """``(H, W, 3)`` uint8 images."""
        files = self.split(split).image_files
        return [np.asarray(read_image(files[row])) for row in rows]


def _first_images(table: JudgedTable, limit: int | None) -> np.ndarray:
    """``(J,)`` bool: the judgements of the first so many images."""
    number: dict[Path, int] = {}
    rows = np.array([number.setdefault(judged.image, len(number)) for judged in table.captions], dtype=np.int64)
    return rows < len(number) if limit is None else rows < limit


@rank_zero_only
def _warn(warning: str) -> None:
    _log.warning(warning)
