"""Exponential moving average of the weights, which validation, checkpoints and the final numbers are then those of."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from i0t.module import ClipModule


class AveragedWeights(WeightAveraging):
    """Keeps ``average <- decay * average + (1 - decay) * weights`` after every optimizer step.

    The average begins as the weights that training starts from. Running statistics (those of ``async_bn``) are
    averaged likewise; whole numbers and flags are copied; what is frozen is shared, not copied. While it validates, the
    model has the average, so that a reducer that is fitted (``posthoc``) is refitted to it; that reducer's state is not
    averaged. After training the model keeps the average.

    Args:
        decay: In [0, 1).
        warmup: Take ``min(decay, (1 + n) / (10 + n))`` after n steps, as TensorFlow and timm do: the average of a short
            run would otherwise be mostly its start.
        device: Where the average is kept; ``None``: where the weights are.

    Raises:
        ValueError: If the decay is out of range; at the start of training, if the strategy shards the weights.

    DDP:
        Nothing to synchronise: every rank averages the same weights.

    State:
        Checkpoints hold the average in ``state_dict`` and the weights that training goes on from in
        ``current_model_state`` (the layout of Lightning's ``WeightAveraging``); a resumed run goes on exactly.
    """

    def __init__(self, decay: float, warmup: bool, device: str | None) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay must be at least 0 and below 1, got {decay}")
        super().__init__(device=device, use_buffers=True)
        self.decay = decay
        self.warmup = warmup

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Copies the weights where training begins."""
        if stage == "fit" and isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
            raise ValueError(
                f"callbacks.ema keeps whole weights, {type(trainer.strategy).__name__} shards them: "
                "take trainer=ddp, or callbacks=default"
            )
        super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shares what never changes, now that the weights are on their device."""
        assert self._average_model is not None
        assert isinstance(pl_module, ClipModule)
        self._average_model.to(self._device or pl_module.device)
        reducer = pl_module.gap_reducer
        if not reducer.trainable:  # fitted to the weights of the moment: there is nothing to average
            self._average_model.module.gap_reducer = reducer
        for average, current in zip(self._average_model.module.parameters(), pl_module.parameters(), strict=True):
            if not current.requires_grad and average.device == current.device:
                average.data = current.data
            else:  # trainer.precision may have converted the weights; half precision is too coarse to average in
                average.data = average.data.to(torch.promote_types(current.dtype, torch.float32))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Averages, once for every step of the optimizer."""
        if trainer.global_step <= self._latest_update_step:
            return
        assert isinstance(pl_module, ClipModule)
        pl_module.clamp_temperature()  # Lightning asks callbacks before the module
        step = self._latest_update_step
        self.update(pl_module, min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay)
        self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def update(self, pl_module: pl.LightningModule, decay: float) -> None:
        """One step of the average.

        Args:
            pl_module: With the weights of the moment.
            decay: Of this step.
        """
        assert self._average_model is not None
        of_average = self._average_model.module
        by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for average, current in zip(of_average.parameters(), pl_module.parameters(), strict=True):
            if average.data_ptr() != current.data_ptr():
                pair = by_type.setdefault(average.dtype, ([], []))
                pair[0].append(average)
                pair[1].append(current.detach().to(average))
        for pair in by_type.values():
            get_ema_multi_avg_fn(decay)(*pair, 0)
        for state, current_state in zip(of_average.buffers(), pl_module.buffers(), strict=True):
            own = current_state.to(state)
            if state.is_floating_point():  # what is equal stays: attention masks hold infinities, which have no mean
                own = torch.where(state == own, own, torch.lerp(state, own, 1 - decay))
            state.copy_(own)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the model the average, before a fitted reducer is refitted."""
        if self._average_model is not None:
            self._swap_models(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the model its own weights back, before a checkpoint is written."""
        if self._average_model is not None:
            self._swap_models(pl_module)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: Lightning would exchange the weights here, after the refit."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: Lightning would exchange the weights here, before the module logs its temperature."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: averages are taken after steps."""

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forgets the copy: from here on the model itself has the average."""
        if stage == "fit":
            self._average_model = None
