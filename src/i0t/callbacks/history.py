"""Keeps the logged values of a run for its report; a resumed run keeps those from before."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class History(pl.Callback):
    """Scalars by name and step, carried in the checkpoint.

    Attributes:
        values: Name to a list of (step, value); training values every ``trainer.log_every_n_steps``, validation values
            at every validation.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[int, float]]] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the training values of this step."""
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._keep(trainer, "train/")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps the values of this validation."""
        self._keep(trainer, "val/")

    def _keep(self, trainer: pl.Trainer, prefix: str) -> None:
        for name, value in trainer.callback_metrics.items():
            series = self.values.setdefault(name, [])
            if name.startswith(prefix) and (not series or series[-1][0] < trainer.global_step):
                series.append((trainer.global_step, float(value)))

    def state_dict(self) -> dict[str, Any]:
        """Plain lists, for the checkpoint."""
        return {"values": {name: [list(point) for point in series] for name, series in self.values.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the values of the interrupted run."""
        self.values = {name: [(int(s), float(v)) for s, v in series] for name, series in state_dict["values"].items()}
