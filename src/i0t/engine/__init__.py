"""Assembles a run from its config and carries it out: ``train(cfg)`` and ``evaluate(cfg)``.

Nothing is imported before it is needed: an evaluation of cached embeddings takes less time than the imports of a
training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig


def train(cfg: DictConfig) -> dict[str, float]:
    """Trains a model, fits and evaluates every row of ``compare``, and leaves numbers, checkpoint and report.

    Args:
        cfg: Composed from ``train.yaml``.

    Returns:
        The flat numbers of ``metrics.json``.

    Raises:
        ConfigError, ValueError: For input that cannot be run, before anything is trained.
        StoppedBySignal: After Ctrl-C, SIGTERM or SLURM's signal, with a checkpoint that resumes.
        NonFiniteLoss: For a loss that is NaN or infinite, before it reaches the weights.
        OutOfMemory: With the keys that take less.
    """
    from i0t.engine import faults, training

    with faults.told(cfg):
        return training.train(cfg)


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluates a checkpoint, a pretrained model or a file of embeddings with every row of ``compare``.

    Args:
        cfg: Composed from ``eval.yaml``.

    Returns:
        The flat numbers of ``metrics.json``.

    Raises:
        ConfigError, ValueError: For input that cannot be evaluated.
    """
    from i0t.engine import evaluation

    try:
        numbers = evaluation.evaluate(cfg)
    except BaseException as error:
        if "i0t.callbacks.rank_watch" in sys.modules:  # else there are no other ranks, and importing it takes seconds
            sys.modules["i0t.callbacks.rank_watch"].announce(error)
        raise
    if "i0t.callbacks.rank_watch" in sys.modules:
        sys.modules["i0t.callbacks.rank_watch"].leave()
    return numbers


def check_models(jobs: Sequence[DictConfig]) -> None:
    """Asks every model class of several jobs whether its node can be built, without building it.

    A checkpoint brings its own model, which is not asked.

    Args:
        jobs: Composed from ``train.yaml`` or ``eval.yaml``.

    Raises:
        ConfigError, ValueError: For the first that cannot be.
    """
    from i0t.engine import weights

    weights.check_models(jobs)
