"""Ctrl-C, SIGTERM and SLURM's signal: finish the step, leave a checkpoint that resumes, and say how."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from i0t.callbacks.agreed_flag import AgreedFlag
from i0t.callbacks.agreed_stop import AgreedStop, LeavingNow
from i0t.callbacks.requeue import in_slurm, requeue

# A launcher hands on what SLURM has sent to every process of a step itself: so soon after the first, it is no second.
_ECHO_SECONDS = 2.0


class StoppedBySignal(AgreedStop):
    """Training was stopped by a signal and its checkpoint is written."""

    def __init__(self, signal_number: int, message: str, *, exit_code: int, speaks: bool = True) -> None:
        super().__init__(message, exit_code=exit_code, speaks=speaks)
        self.signal_number = signal_number


class GracefulStop(pl.Callback):
    """Turns the first SIGINT, SIGTERM or one of ``requeue_signals`` into a checkpoint after the running step.

    A second one stops at once. Saving between steps, rather than wherever the signal falls, keeps optimizer and weights
    at the same step. Outside training there is nothing to finish: all but SIGINT then stop at once, and the run goes on
    from its last checkpoint.

    In a job of SLURM, ``requeue_signals`` also put the job back into the queue, and the process leaves with code 0, so
    that SLURM does not count it as failed; Lightning's own requeueing, and submitit's, are switched off. Elsewhere they
    are signals to stop like the others.

    Args:
        ckpt_path: Where the checkpoint goes; ``resume=`` looks there.
        requeue_signals: Names of the signals that SLURM sends before the time is up: as ``sbatch --signal=USR1@120``
            says, and USR2 for jobs of submitit; empty: none, and SLURM's requeueing stays Lightning's.

    A handler's exception is lost where the signal falls into the clean-up of an object; the next hook then leaves.

    The handlers stay until :func:`i0t.engine.faults.told` puts back those that were there before the run.

    DDP:
        The ranks agree during a step: a signal to any of them stops all after the same step.

    Raises:
        ValueError: If one of ``requeue_signals`` is not the name of a signal.
    """

    def __init__(self, ckpt_path: str, *, requeue_signals: Sequence[str] = ("SIGUSR1", "SIGUSR2")) -> None:
        self.ckpt_path = Path(ckpt_path)
        self.requeue_signals = tuple(signal_by_name(name) for name in requeue_signals)
        self._flag = AgreedFlag()
        self._received = self._agreed = 0
        self._received_at = 0.0
        self._told: LeavingNow | None = None
        self._last_step = 0
        self._training = self._leaving = False
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}

    @property
    def signals(self) -> tuple[int, ...]:
        """What stops a training."""
        return (signal.SIGINT, *self._stop_signals())

    def _stop_signals(self) -> tuple[int, ...]:
        return (signal.SIGTERM, *self.requeue_signals)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes over the signals that are for the whole run, and the requeueing from Lightning."""
        environment = trainer.strategy.cluster_environment if trainer.world_size > 1 else None  # type: ignore[attr-defined]
        if self.requeue_signals and isinstance(environment, SLURMEnvironment):
            environment.auto_requeue = False
        self._leave_if_told()
        self.take()

    def take(self) -> None:
        """Takes over the signals that are for the whole run; on the main thread."""
        self._take(self._stop_signals())

    def _take(self, numbers: tuple[int, ...]) -> dict[int, Any]:
        self._process = os.getpid()
        return {number: signal.signal(number, self._receive) for number in numbers}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes over all signals, after Lightning, whose own handlers wait for the other ranks."""
        self._leave_if_told()
        self._received = self._agreed = 0
        self._last_step = trainer.global_step
        self._previous = self._take(self.signals)
        self._training = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise, of those that are for the whole run."""
        self._leave_if_told()
        self.take()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise."""
        self._leave_if_told()
        self.take()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Leaves where a signal said so and nothing came of it."""
        self._leave_if_told()

    def on_predict_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Likewise."""
        self._leave_if_told()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise."""
        self._leave_if_told()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # forked, and without handlers of its own: SIGTERM may be its parent's word
            if number == signal.SIGTERM:
                _die_of(number)
        elif self._leaving:  # torchrun ends the ranks that are left when the first is gone, and SLURM a requeued job
            return
        elif not self._training:
            self._leave_now(number)
        elif not self._received:
            self._received, self._received_at = number, time.monotonic()
        elif number == signal.SIGINT or time.monotonic() - self._received_at > _ECHO_SECONDS:
            _die_of(number)  # the second: no step is waited for

    def _leave_now(self, number: int) -> None:
        """Leaves outside a training, where every rank may be elsewhere: one leaves, and takes the others along."""
        rank_zero = rank_zero_only.rank == 0  # type: ignore[attr-defined]
        if number in self.requeue_signals and in_slurm() and not rank_zero:
            return  # SLURM signals all ranks, and rank 0 asks for the next turn before it takes the others along
        self._leaving = True
        ending, code = self._ending(number, is_rank_zero=rank_zero)
        where = "goes on from its last checkpoint" if self.ckpt_path.is_file() else "has no checkpoint yet"
        message = f"stopped by {signal.Signals(number).name} outside training: the run {where}; {ending}"
        self._told = LeavingNow(message, code)
        raise self._told

    def _leave_if_told(self) -> None:
        if self._told is not None:
            raise self._told

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Tells the other ranks of a signal."""
        if trainer.world_size > 1:
            self._flag.send(torch.full((1,), self._received, dtype=torch.int32, device=loss.device))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and leaves if a signal has come on any rank; never between the batches of one optimizer step.

        Where a validation is due, its numbers belong to this step: the run leaves after it.
        """
        self._agreed = self._agreed or (self._flag.read() if trainer.world_size > 1 else self._received)
        stepped, self._last_step = trainer.global_step > self._last_step, trainer.global_step
        if self._agreed and stepped and not _validation_is_due(trainer):
            self._save_and_leave(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise, so that the last validation of a run does not swallow a signal."""
        self._leave_if_told()
        if not self._training:
            return
        if trainer.world_size > 1:
            self._flag.send(torch.full((1,), self._received, dtype=torch.int32, device=trainer.strategy.root_device))
            self._agreed = self._agreed or self._flag.read()
        self._agreed = self._agreed or self._received
        if self._agreed:
            self._save_and_leave(trainer)

    def _save_and_leave(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.ckpt_path)
        self._leaving = True
        ending, code = self._ending(self._agreed, is_rank_zero=trainer.is_global_zero)
        message = f"stopped by {signal.Signals(self._agreed).name} after step {trainer.global_step}; {ending}"
        raise StoppedBySignal(self._agreed, message, exit_code=code, speaks=trainer.is_global_zero)

    def _ending(self, number: int, *, is_rank_zero: bool) -> tuple[str, int]:
        """What becomes of the run, and the exit code; rank 0 asks SLURM."""
        by_hand = f"go on with resume={self.ckpt_path.parents[1]}"
        if number not in self.requeue_signals or not in_slurm():
            return by_hand, 128 + number
        refused = requeue() if is_rank_zero else None
        if refused is None:
            return "the job is requeued and goes on by itself", 0
        return f"it could not be requeued ({refused}); {by_hand}", 128 + number

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives Ctrl-C back; the other signals now end the run at once."""
        self._end_training()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Likewise; while the run leaves, they do nothing."""
        self._leaving = isinstance(exception, (AgreedStop, LeavingNow))
        self._end_training()

    def _end_training(self) -> None:
        self._training = False
        if self._previous:
            signal.signal(signal.SIGINT, self._previous[signal.SIGINT])
        self._previous = {}


def signal_by_name(name: str) -> signal.Signals:
    """A signal by its name, with or without ``SIG``.

    Raises:
        ValueError: If there is none.

    Example:
        >>> signal_by_name("USR1").name
        'SIGUSR1'
    """
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    if full not in signal.Signals.__members__:
        raise ValueError(f"requeue_signals: there is no signal {name}; give names such as SIGUSR1, or []")
    return signal.Signals[full]


def _validation_is_due(trainer: pl.Trainer) -> bool:
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    return fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)


def _die_of(number: int) -> None:
    """Does what the signal does to a program that has no handler."""
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.raise_signal(number)
