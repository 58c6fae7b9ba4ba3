"""One progress bar over the steps of a run, and one over what is encoded."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class StepProgress(ProgressBar):
    """Steps done of ``max_steps``, with the last loss and gap; Lightning's own bars count epochs without an end.

    Args:
        refresh_rate: Steps between two updates.
    """

    def __init__(self, refresh_rate: int) -> None:
        super().__init__()
        self.refresh_rate = refresh_rate
        self._enabled = True
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def disable(self) -> None:
        """Shows nothing; Lightning calls it on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Shows the bars."""
        self._enabled = True

    def _start(self, description: str, total: int | None, completed: int = 0) -> None:
        self._stop()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[values]}"), disable=not self._enabled)
        self._progress.start()
        self._task = self._progress.add_task(description, total=total, completed=completed, values="")

    def _update(self, completed: int, values: str = "") -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=completed, values=values)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._task = None, None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the bar; a resumed run starts where it stopped."""
        self._start("training", trainer.max_steps if trainer.max_steps > 0 else None, trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        if trainer.global_step % self.refresh_rate and trainer.global_step != trainer.max_steps:
            return
        shown = {"loss": "train/loss", "RMG": "val/rmg"}
        found = {label: trainer.callback_metrics.get(name) for label, name in shown.items()}
        text = "  ".join(f"{label} {float(value):.3f}" for label, value in found.items() if value is not None)
        self._update(trainer.global_step, text)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the finished bar standing."""
        self._stop()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the bar of an encoding pass."""
        batches = trainer.num_predict_batches
        self._start("encoding", int(sum(batches)))

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Moves the bar."""
        self._update(batch_idx + 1)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the finished bar standing."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        self._stop()
