"""Says how many samples of the training data could not be read."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from i0t.data.skipped import NUM_REASONS, Skipped, SkippedSamples

_log = logging.getLogger(__name__)


class SkippedImages(pl.Callback):
    """Reports what the data module's ``skipped`` counted: a line with the number and the first names.

    At the end of every epoch, which also logs ``train/skipped_images``; of a stream without epochs at every validation
    and at the end.

    Attributes:
        total: Samples skipped since the callback was made, on all ranks.

    DDP:
        The ranks' counts are added up; rank 0 says them.
    """

    def __init__(self) -> None:
        self.total = 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports during an endless stream."""
        if not trainer.sanity_checking and math.isinf(trainer.num_training_batches):
            self._report(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports at the end of an epoch, or of the training."""
        number = self._report(trainer)
        pl_module.log("train/skipped_images", float(number))

    def _report(self, trainer: pl.Trainer) -> int:
        counter = getattr(trainer.datamodule, "skipped", None)  # type: ignore[attr-defined]
        if not isinstance(counter, SkippedSamples):
            return 0
        parts = _of_all_ranks(counter.take())
        number = sum(part.number for part in parts)
        self.total += number
        if number:
            reasons = list(dict.fromkeys(reason for part in parts for reason in part.reasons))[:NUM_REASONS]
            _warn(f"training skipped {number:,} samples up to step {trainer.global_step}: {'; '.join(reasons)}")
        return number


def _of_all_ranks(skipped: Skipped) -> list[Skipped]:
    if not (dist.is_available() and dist.is_initialized()):
        return [skipped]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, skipped)
    return parts


@rank_zero_only
def _warn(line: str) -> None:
    _log.warning(line)
