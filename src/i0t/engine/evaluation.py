"""Evaluates what is already there: a checkpoint, a pretrained model, cached embeddings or a file of them."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from i0t import runs
from i0t.config import to_container
from i0t.config_errors import ConfigError
from i0t.data.base import MissingSplitError
from i0t.distributed import rank, world_size
from i0t.embeddings import EmbeddingSet
from i0t.engine.output import build_evaluations, load_references, measure, model_facts, shows_progress, write
from i0t.engine.rows import Row, checkpoint_row, compared_rows, free_name
from i0t.engine.sources import LazyEncoder, Source, open_cache, read_checkpoint
from i0t.evaluation.results import use_relevant_pairs
from i0t.progress import working


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """See :func:`i0t.engine.evaluate`."""
    torch.manual_seed(cfg.seed)
    checkpoint = read_checkpoint(cfg)
    lazy_encoder, cache = LazyEncoder(cfg, checkpoint), open_cache(cfg)
    source = Source(to_container(cfg.data), lazy_encoder, cache)
    evaluations, loggers = build_evaluations(cfg), _loggers(cfg)
    wants_pairs = bool(cfg.report) or use_relevant_pairs(evaluations.values())
    embeddings = source.load(cfg.split, with_relevant_pairs=wants_pairs)
    references = load_references(evaluations, source.load)
    rows = compared_rows(cfg, dim=embeddings.dim)
    if checkpoint is not None:
        own = checkpoint_row(checkpoint, dim=embeddings.dim)
        if own is not None:
            rows[free_name(str(checkpoint[runs.CHECKPOINT_KEY]["config"]["row"]), rows)] = own
    dropped: dict[str, str] = {}
    for name, row in rows.items():
        if row.reducer.needs_fit and not row.ready:
            fit_source = source if row.fit_data is None else Source(row.fit_data, lazy_encoder, cache)
            try:
                rows[name] = row.fitted_on(_fit(row, fit_source), embeddings)
            except MissingSplitError as error:
                if not (cfg.inherited_rows and name in cfg.compare):
                    raise
                dropped[name] = str(error)
    for name, reason in dropped.items():  # the checkpoint's rows are for the checkpoint's data
        del rows[name]
        if rank() == 0:
            Console().print(f"note: no row {name}: {reason}", soft_wrap=True, highlight=False)
    if rank() != 0:
        return {}
    images = source.images()
    shown = None if images is None else lambda row: images(cfg.split, row)
    results = measure(evaluations, cfg.split, rows, embeddings, references, progress=shows_progress(cfg))
    facts = model_facts(
        cfg.model if source.is_encoded else None,
        None if checkpoint is None else checkpoint[runs.CHECKPOINT_KEY]["config"],
    )
    numbers = write(cfg, cfg.split, results, embeddings, shown, {}, facts)
    _log(cfg, loggers, results, numbers, embeddings, shown)
    return numbers


def _log(cfg: DictConfig, loggers: list[Any], *found: Any) -> None:
    """Gives the run's loggers, if it has any, what was found."""
    if loggers:
        from i0t.engine import dashboards

        dashboards.log_evaluation(loggers, to_container(cfg), *found)


def _loggers(cfg: DictConfig) -> list[Any]:
    """The run's loggers, without the time that importing them takes where there are none."""
    if not cfg.logger:
        return []
    from i0t.engine import dashboards

    return list(dashboards.build_loggers(cfg))


def _fit(row: Row, source: Source) -> EmbeddingSet:
    """Fits on the row's split, every process on a part of it; returns the whole split."""
    assert row.reducer.fit_split is not None, "a reducer that needs fitting has a split"
    fit_set = source.load(row.reducer.fit_split)
    if fit_set.dim != row.reducer.dim:
        raise ConfigError(f"fit_data is {fit_set.dim} wide, what is measured {row.reducer.dim}: one model for both")
    if world_size() > 1:
        row.reducer.to(source.lazy_encoder.device)
    shown = rank() == 0 and shows_progress(source.lazy_encoder.cfg)
    with working(f"fitting {type(row.reducer).__name__} on {row.reducer.fit_split}", shown=shown):
        row.reducer.fit(fit_set.shard(rank(), world_size()))
    row.reducer.cpu()
    return fit_set
