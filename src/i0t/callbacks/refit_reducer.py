"""Keeps a fitted reducer fitted to the weights of the moment."""

from __future__ import annotations

import pytorch_lightning as pl

from i0t.data.base import ImageTextDataModule
from i0t.encode import assemble, encode_loader
from i0t.module import ClipModule


class RefitReducer(pl.Callback):
    """Refits a reducer that is fitted, not trained (``posthoc``), before each validation.

    DDP:
        Each rank encodes its share of the fit split; the reducer's statistics are all-reduced.
    """

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Encodes the fit split with the current weights and fits on it."""
        assert isinstance(pl_module, ClipModule)
        reducer = pl_module.gap_reducer
        if reducer.trainable or not reducer.needs_fit:
            return
        datamodule, split = trainer.datamodule, reducer.fit_split  # type: ignore[attr-defined]
        assert isinstance(datamodule, ImageTextDataModule)
        assert split is not None, "a reducer that needs fitting has a split"
        features = encode_loader(pl_module.model, datamodule.eval_dataloader(split), pl_module.device)
        reducer.fit(assemble(features, datamodule.describe(split), logits=pl_module.model.logit_values()))
