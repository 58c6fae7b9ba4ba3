"""Builds Lightning's trainer from ``conf/trainer``."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from i0t import rendezvous
from i0t.config import instantiate, to_container

# Keys of the group that Lightning does not know: they are the module's.
OURS = ("grad_cache_chunk",)


def build_trainer(node: DictConfig, **arguments: Any) -> pl.Trainer:
    """The trainer of a config node, without the keys that are ours.

    Args:
        node: ``cfg.trainer``.
        **arguments: Further arguments of the trainer: callbacks and loggers.

    Raises:
        ValueError: In one line, if Lightning refuses the arguments.
    """
    rendezvous.meet_apart_from_earlier_attempts()
    plain = {key: value for key, value in to_container(node).items() if key not in OURS}
    trainer: pl.Trainer = instantiate(plain, **arguments)
    return trainer
