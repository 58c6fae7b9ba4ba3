"""The loggers of a run: built, told what the run is, given its results, and ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

from i0t import runs
from i0t.callbacks.dashboard import DashboardSnapshots
from i0t.callbacks.dashboard_content import Images, Moment, Shown, log_moment
from i0t.config import instantiate
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import RowResult
from i0t.loggers.dashboard import Cell, Dashboard, Table
from i0t.loggers.run_ids import forget_run_ids

# What an evaluation shows of its config beside its numbers; all of it is in the file `config.yaml`.
_OF_EVALUATION = ("name", "seed", "split", "ckpt_path", "data", "model", "compare", "evaluation")


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """The loggers of the config; those of a run that begins begin a run of their own."""
    if "resume" not in cfg or cfg.resume is None:
        forget_run_ids(Path(cfg.paths.output_dir))
    return [instantiate(node) for node in (cfg.logger or {}).values() if node is not None]


@rank_zero_only
def start(loggers: Sequence[Logger], hyperparameters: Mapping[str, Any], config_yaml: str) -> None:
    """Tells the loggers what the run is; on the first rank only.

    Args:
        loggers: Of the run.
        hyperparameters: What is varied between runs, as plain containers.
        config_yaml: All of the config.
    """
    if not loggers:
        return
    environment = runs.environment()
    for logger in loggers:
        logger.log_hyperparams({**hyperparameters, "environment": environment})
        if isinstance(logger, Dashboard):
            logger.log_texts({"config": config_yaml, "environment": yaml.safe_dump(environment, sort_keys=False)})


def shown_by(callbacks: Sequence[Any]) -> Shown | None:
    """How much the run's callback shows; ``None`` where there is no such callback."""
    found = next((callback for callback in callbacks if isinstance(callback, DashboardSnapshots)), None)
    return None if found is None else found.shown


def log_results(
    loggers: Sequence[Logger],
    split: str,
    results: Sequence[RowResult],
    numbers: Mapping[str, float],
    embeddings: EmbeddingSet,
    images: Callable[[int], np.ndarray] | None,
    *,
    shown: Shown | None,
    step: int,
) -> None:
    """Gives the loggers the numbers of ``metrics.json``, the table, and every row as it looks; on the first rank only.

    Args:
        loggers: Of the run.
        split: That was measured.
        results: Its rows.
        numbers: Of all rows, under their full names.
        embeddings: What was measured.
        images: Looks up an image of the split.
        shown: How much to show of each row; ``None``: nothing.
        step: Number of optimizer steps.
    """
    if not loggers:
        return
    for logger in loggers:
        if isinstance(logger, Dashboard):
            logger.log_table(f"{split}/table", _table(results), step)
            logger.log_result(numbers, step)
        else:
            logger.log_metrics(dict(numbers), step)
    if shown is None or not len(embeddings.pairs):
        return
    pairs = shown.choose(
        embeddings.pairs,
        embeddings.captions,
        labels=embeddings.labels,
        class_names=embeddings.class_names,
        true_pairs=embeddings.relevant_pairs,
    )
    if len(pairs.image_rows) < 2:
        return
    look_up: Images | None = None if images is None else lambda rows: [images(row) for row in rows]
    for row in results:
        image_features = row.image_features.cpu()[pairs.image_rows].float()
        text_features = row.text_features.cpu()[pairs.text_rows].float()
        moment = Moment(f"{split}/{row.name}", step, pairs, image_features, text_features)
        log_moment(loggers, moment, look_up, num_examples=shown.num_examples)
        embedding = moment.embedding(look_up)
        for logger in loggers:
            if isinstance(logger, Dashboard):
                logger.log_embedding(f"{moment.name}/embedding", embedding, step)


def log_evaluation(
    loggers: Sequence[Logger],
    config: Mapping[str, Any],
    results: Sequence[RowResult],
    numbers: Mapping[str, float],
    embeddings: EmbeddingSet,
    images: Callable[[int], np.ndarray] | None,
) -> None:
    """Gives the loggers a whole evaluation, at step 0; on the first rank only.

    Args:
        loggers: Of the run.
        config: Of the run, as plain containers.
        results: The rows.
        numbers: Of all rows, under their full names.
        embeddings: What was measured.
        images: Looks up an image of the split.
    """
    finished = False
    try:
        start(loggers, {key: config[key] for key in _OF_EVALUATION}, yaml.safe_dump(config, sort_keys=False))
        log_results(loggers, config["split"], results, numbers, embeddings, images, shown=Shown(), step=0)
        finished = True
    finally:
        close(loggers, Path(config["paths"]["output_dir"]), finished=finished)


@rank_zero_only
def close(loggers: Sequence[Logger], run_dir: Path, *, finished: bool) -> None:
    """Ends the runs of the dashboards, so that the next job of a multirun starts its own; says where they are.

    Args:
        loggers: Of the run.
        run_dir: Of the run.
        finished: Whether it came to its end; its checkpoints then go to the dashboards that keep them.
    """
    places = []
    for logger in loggers:
        if not isinstance(logger, Dashboard):
            logger.finalize("success" if finished else "failed")
            continue
        if finished:
            for path in sorted((run_dir / runs.CHECKPOINT.parent).glob("*.ckpt")):
                logger.log_checkpoint(path)
            places.append(logger.where())
        logger.close(finished=finished)
    for where in filter(None, places):  # below what the dashboards say themselves
        Console().print(f"look at:  {where}", soft_wrap=True, highlight=False)


def _table(results: Sequence[RowResult]) -> Table:
    names = list(dict.fromkeys(name for row in results for name in row.metrics))
    lines: list[tuple[Cell, ...]] = []
    for row in results:
        numbers = [row.metrics.get(name) for name in names]
        lines.append((row.name, *(None if n is None else float(n) for n in numbers), row.protocol, row.fit_split))
    return Table(("row", *names, "protocol", "fit_split"), lines)
