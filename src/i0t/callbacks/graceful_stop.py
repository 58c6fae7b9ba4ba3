"""Ctrl-C and SIGTERM: finish the step, leave a checkpoint that resumes, say how."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl


class StoppedBySignal(Exception):  # noqa: N818 - not an error of the run
    """Training was stopped by a signal and its checkpoint is written."""

    def __init__(self, signal_number: int, step: int, ckpt_path: Path) -> None:
        name, run_dir = signal.Signals(signal_number).name, ckpt_path.parents[1]
        super().__init__(f"stopped by {name} after step {step}; go on with resume={run_dir}")
        self.signal_number = signal_number


class GracefulStop(pl.Callback):
    """Turns the first SIGINT or SIGTERM into a checkpoint after the running step; a second one stops at once.

    Saving between steps, rather than wherever the signal falls, keeps optimizer and weights at the same step.

    Args:
        ckpt_path: Where the checkpoint goes; ``resume=`` looks there.

    DDP:
        The ranks agree at the end of a step: a signal to any of them stops all.
    """

    signals = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, ckpt_path: str) -> None:
        self.ckpt_path = Path(ckpt_path)
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes over the signals, after Lightning: what it finds at its start it puts back at its end."""
        self._received = None
        self._previous = {number: signal.signal(number, self._receive) for number in self.signals}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            signal.signal(number, self._previous[number])
            signal.raise_signal(number)
            return
        self._received = number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and leaves if a signal has come on any rank."""
        self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Likewise, so that the last validation of a run does not swallow a signal."""
        if self._previous:  # only inside fit
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            return
        number = self._received if self._received is not None else int(signal.SIGTERM)
        trainer.save_checkpoint(self.ckpt_path)
        raise StoppedBySignal(number, trainer.global_step, self.ckpt_path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the signals back to Lightning, which later gives them back to whoever had them."""
        self._give_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Likewise, where training did not come to its end."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
