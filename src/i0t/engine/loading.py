"""Builds the encoder of an evaluation, from a checkpoint of ours or from a pretrained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from i0t import runs
from i0t.callbacks.shard_writer import ShardWriter
from i0t.callbacks.step_progress import StepProgress
from i0t.config import instantiate
from i0t.config_errors import ConfigError
from i0t.engine.encoder import Encoder
from i0t.engine.rows import build_row
from i0t.engine.training import quiet
from i0t.gap_reducers.none import NoReducer
from i0t.module import ClipModule


def build_encoder(cfg: DictConfig, checkpoint: Mapping[str, Any] | None) -> Encoder:
    """Model and trainer, without loggers and checkpoints."""
    quiet()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    writer = ShardWriter()
    bar = [StepProgress(refresh_rate=1)] if cfg.trainer.get("enable_progress_bar") else []
    trainer = instantiate(cfg.trainer, logger=False, callbacks=[*bar, writer])
    module = _pretrained(cfg) if checkpoint is None else _from_checkpoint(cfg, checkpoint)
    return Encoder(trainer, module, writer)


def _pretrained(cfg: DictConfig) -> ClipModule:
    model = instantiate(cfg.model)
    return ClipModule(model, NoReducer(model.embed_dim), torch.nn.Identity(), config={}).eval()


def _from_checkpoint(cfg: DictConfig, checkpoint: Mapping[str, Any]) -> ClipModule:
    """The model that a checkpoint's config describes, with the checkpoint's weights; nothing is downloaded."""
    node = OmegaConf.to_container(cfg.model, resolve=True)
    assert isinstance(node, dict)
    if "load_weights" in node:
        node["load_weights"] = False
    saved = checkpoint[runs.CHECKPOINT_KEY]["config"]
    model = instantiate(node)
    reducer = build_row(saved["gap_reducer"], dim=model.embed_dim).reducer
    module = ClipModule(model, reducer, torch.nn.Identity(), config=saved)
    missing, unexpected = module.load_state_dict(checkpoint["state_dict"], strict=False)
    if missing or unexpected:
        raise ConfigError(
            f"ckpt_path={cfg.ckpt_path}: its weights do not fit the model its config describes "
            f"({len(missing)} missing, {len(unexpected)} unexpected, first {(missing + unexpected)[0]})"
        )
    return module.eval()
