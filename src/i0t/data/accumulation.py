"""Validations, which save checkpoints, must not fall between the batches of one optimizer step."""

from __future__ import annotations

import logging
import math

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_only

_log = logging.getLogger(__name__)


def check_accumulation(trainer: pl.Trainer, num_batches: int | None) -> None:
    """Refuses validations whose checkpoints would lack the gradients that were added up since the last step.

    Where the last step of every epoch takes fewer batches than the others, only validations at the ends of epochs are
    without fault; others are warned of.

    Args:
        trainer: With ``val_check_interval`` in batches, over all epochs or (``check_val_every_n_epoch``) in each.
        num_batches: Of an epoch; ``None`` for a stream, which has none.

    Raises:
        ValueError: If another interval would do.
    """
    accumulate, interval = trainer.accumulate_grad_batches, trainer.val_check_interval
    if accumulate == 1 or trainer.limit_val_batches == 0 or not isinstance(interval, int):
        return
    in_each_epoch = trainer.check_val_every_n_epoch is not None
    # Validations come after multiples of this many batches of an epoch, and at its end.
    spacing = interval if num_batches is None or in_each_epoch else math.gcd(interval, num_batches)
    if spacing % accumulate == 0 or spacing == num_batches:
        return
    between = (
        f"trainer.val_check_interval={interval} counts batches, and a checkpoint between the "
        f"trainer.accumulate_grad_batches={accumulate} of one step lacks the gradients that were added up"
    )
    if num_batches is None or in_each_epoch or num_batches % accumulate == 0:
        below = interval // accumulate * accumulate
        choices = f"{below} or {below + accumulate}" if below else f"{accumulate}"
        raise ValueError(f"{between}: choose a multiple, trainer.val_check_interval={choices}")
    _warn(
        f"{between}: the epochs of {num_batches} batches end with a shorter step, so a run that is resumed from such a "
        f"checkpoint is not exactly one without a stop; with trainer.val_check_interval={num_batches} it is"
    )


@rank_zero_only
def _warn(warning: str) -> None:
    _log.warning(warning)
