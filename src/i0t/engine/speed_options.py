"""Options of precision and speed: what does not go together, and what must be said about them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning.callbacks import WeightAveraging
from rich.console import Console

from i0t.config_errors import ConfigError
from i0t.engine.stage_two import TRAINED
from i0t.module import ClipModule
from i0t.parameter_groups import check_factor

# Gradients are scaled up in these, so that half precision does not lose the small ones.
_SCALED = ("16-mixed", "16")
_HALF_WEIGHTS = ("16-true", "bf16-true")
_log = logging.getLogger(__name__)


def check_speed_options(cfg: DictConfig) -> None:
    """Refuses what would fail later with a message that does not help, or would be ignored.

    Raises:
        ConfigError: In one line.
    """
    trainer, precision = cfg.trainer, str(cfg.trainer.precision)
    if cfg.layer_decay is not None:
        check_factor(cfg.layer_decay)
        if cfg.encoders != TRAINED:
            raise ConfigError(f"layer_decay={cfg.layer_decay} needs encoders=trained: {cfg.encoders} ones have no rate")
    clips = trainer.get("gradient_clip_val")
    if precision in _SCALED and clips and cfg.optimizer.get("fused") and not _is_on_cpu(trainer):
        raise ConfigError(
            f"trainer.precision={precision} scales gradients, which a fused optimizer scales back itself, too late for "
            f"trainer.gradient_clip_val={clips}: choose optimizer.fused=false, trainer.gradient_clip_val=null or "
            "trainer.precision=bf16-mixed"
        )
    if precision in _HALF_WEIGHTS and averaging(cfg) is not None:
        raise ConfigError(
            f"callbacks.ema: with trainer.precision={precision} a step of the average is below the weights' rounding: "
            "choose bf16-mixed"
        )
    if precision == "16-true" and cfg.encoders == TRAINED:
        raise ConfigError(
            "trainer.precision=16-true is for evaluation: in training small gradients vanish and weights become NaN; "
            "choose bf16-true or bf16-mixed, or 16-mixed on a GPU"
        )


def averaging(cfg: DictConfig) -> dict[str, Any] | None:
    """Decay and warm-up of the averaged weights, or ``None``."""
    node = (cfg.get("callbacks") or {}).get("ema")
    return None if node is None else {"decay": node.decay, "warmup": node.warmup}


def first_those_that_average(callbacks: list[Any]) -> list[Any]:
    """Averaging callbacks before all others, in whatever order they were chosen: the others look at what they set."""
    return sorted(callbacks, key=lambda callback: not isinstance(callback, WeightAveraging))


def say_training(cfg: DictConfig, module: ClipModule) -> None:
    """What is trained, where it is not everything, and what accumulated gradients are not."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in module.parameters())
    line = f"training {trained:,} of {whole:,} parameters"
    _log.info("%s", line)
    if trained < whole:
        _say(line)
    if str(cfg.trainer.precision) in _SCALED and _is_on_cpu(cfg.trainer):
        _say(f"note: trainer.precision={cfg.trainer.precision} needs a GPU; on this CPU it is bf16-mixed")
    batches = cfg.trainer.get("accumulate_grad_batches") or 1
    if batches > 1:
        size = _batch_size(cfg.data)
        each = "their own batch's pairs" if size is None else f"the {size} pairs of their own batch"
        whole_batch = "" if size is None else f" with data.batch_size={size * batches}"
        _say(
            f"note: trainer.accumulate_grad_batches={batches} averages gradients of batches whose negatives are "
            f"{each}: it is not a larger contrastive batch; trainer.grad_cache_chunk={size or '…'}{whole_batch} is, in "
            "as little memory"
        )


def _batch_size(data: Mapping[str, Any]) -> int | None:
    size = data.get("batch_size")
    return size if isinstance(size, int) else None


def _is_on_cpu(trainer: DictConfig) -> bool:
    return trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available())


def _say(line: str) -> None:
    Console().print(line, soft_wrap=True, highlight=False)
