"""Builds the encoder of an evaluation, from a checkpoint of ours or from a pretrained model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from i0t import runs
from i0t.callbacks.rank_watch import RankWatch
from i0t.callbacks.shard_writer import ShardWriter
from i0t.callbacks.step_progress import StepProgress
from i0t.config import instantiate, to_container
from i0t.engine.encoder import Encoder
from i0t.engine.trainer import build_trainer
from i0t.engine.training import quiet
from i0t.engine.weights import build_from_checkpoint
from i0t.gap_reducers.none import NoReducer
from i0t.module import ClipModule


def build_encoder(cfg: DictConfig, checkpoint: Mapping[str, Any] | None) -> Encoder:
    """Model and trainer, without loggers and checkpoints."""
    quiet()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    writer = ShardWriter()
    bar = [StepProgress(refresh_rate=1)] if cfg.trainer.get("enable_progress_bar") else []
    trainer = build_trainer(cfg.trainer, logger=False, callbacks=[RankWatch(), *bar, writer])
    module = _pretrained(cfg) if checkpoint is None else _from_checkpoint(cfg, checkpoint)
    return Encoder(trainer, module, writer)


def _pretrained(cfg: DictConfig) -> ClipModule:
    model = instantiate(cfg.model)
    return ClipModule(model, NoReducer(model.embed_dim), torch.nn.Identity(), config={}).eval()


def _from_checkpoint(cfg: DictConfig, checkpoint: Mapping[str, Any]) -> ClipModule:
    model = build_from_checkpoint(to_container(cfg.model), checkpoint, cfg.ckpt_path)
    model.merge_adapters()
    saved = checkpoint[runs.CHECKPOINT_KEY]["config"]
    return ClipModule(model, NoReducer(model.embed_dim), torch.nn.Identity(), config=saved).eval()
