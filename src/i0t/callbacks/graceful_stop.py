"""Ctrl-C, SIGTERM and SLURM's signal: finish the step, leave a checkpoint that resumes, and say how."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch import Tensor

from i0t.callbacks.agreed_flag import AgreedFlag
from i0t.callbacks.agreed_stop import AgreedStop, LeavingNow
from i0t.callbacks.requeue import in_slurm, requeue

# How long a worker that reads data outlives a signal to the whole process group: the step needs its batches.
_WORKER_SECONDS = 30.0


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
        self._take(self._stop_signals())

    def _take(self, numbers: tuple[int, ...]) -> dict[int, Any]:
        self._process = os.getpid()
        return {number: signal.signal(number, self._receive) for number in numbers}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes over all signals, after Lightning, whose own handlers wait for the other ranks."""
        self._received = self._agreed = 0
        self._last_step = trainer.global_step
        self._previous = self._take(self.signals)
        self._training = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise, of those that are for the whole run."""
        self._take(self._stop_signals())

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise."""
        self._take(self._stop_signals())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _outlive(number)
        elif self._leaving:  # torchrun ends the ranks that are left when the first is gone
            return
        elif not self._training:
            self._leave_now(number)
        elif self._received:  # the second: no step is waited for
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            self._received = number

    def _leave_now(self, number: int) -> None:
        """Leaves outside a training, where every rank may be elsewhere: one leaves, and takes the others along."""
        rank_zero = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        if number in self.requeue_signals and in_slurm() and not rank_zero:
            return  # SLURM signals all ranks, and rank 0 asks for the next turn before it takes the others along
        ending, code = self._ending(number, is_rank_zero=rank_zero)
        where = "goes on from its last checkpoint" if self.ckpt_path.is_file() else "has no checkpoint yet"
        raise LeavingNow(f"stopped by {signal.Signals(number).name} outside training: the run {where}; {ending}", code)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Tells the other ranks of a signal."""
        if trainer.world_size > 1:
            self._flag.send(torch.full((1,), self._received, dtype=torch.int32, device=loss.device))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and leaves if a signal has come on any rank; never between the batches of one optimizer step."""
        self._agreed = self._agreed or (self._flag.read() if trainer.world_size > 1 else self._received)
        stepped, self._last_step = trainer.global_step > self._last_step, trainer.global_step
        if self._agreed and stepped:
            self._save_and_leave(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise, so that the last validation of a run does not swallow a signal."""
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


def _outlive(number: int) -> None:
    """In a process that reads data for the trainer: ends some time after the signal, as its parent may wait for it."""
    if number != signal.SIGINT and number != signal.SIGTERM:
        return
    timer = threading.Timer(_WORKER_SECONDS, os._exit, args=(128 + number,))
    timer.daemon = True
    timer.start()
