"""Assembles a run from its config and carries it out: ``train(cfg)`` and ``evaluate(cfg)``.

Nothing is imported before it is needed: an evaluation of cached embeddings takes less time than the imports of a
training.
"""

from __future__ import annotations

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
        StoppedBySignal: After Ctrl-C or SIGTERM, with a checkpoint that resumes.
    """
    from i0t.engine import training

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

    return evaluation.evaluate(cfg)


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
