"""Trains a model and evaluates it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import LearningRateMonitor, ProgressBar
from rich.console import Console

from i0t import runs
from i0t.callbacks.history import History
from i0t.callbacks.shard_writer import ShardWriter
from i0t.config import instantiate, to_container, to_yaml
from i0t.config_errors import ConfigError
from i0t.data.base import ImageTextDataModule
from i0t.embeddings import EmbeddingSet
from i0t.engine import dashboards
from i0t.engine.encoder import Encoder, bind, truncation_warning
from i0t.engine.output import build_evaluations, load_references, measure, model_facts, shows_progress, write
from i0t.engine.rows import Row, build_row, compared_rows, free_name, row_name
from i0t.engine.sharding import check_sharding
from i0t.engine.speed_options import averaging, check_speed_options, first_those_that_average, say_training
from i0t.engine.stage_two import CACHED, TRAINED, check_encoders, check_something_is_trained, prepare
from i0t.engine.trainer import build_trainer
from i0t.engine.weights import build_model, check_encoder_weights
from i0t.evaluation.results import Evaluation, use_relevant_pairs
from i0t.gap_reducers.base import GapReducer
from i0t.module import ClipModule
from i0t.progress import working

# What a checkpoint carries of the config: enough to rebuild the model and repeat the comparison.
_IN_CHECKPOINT = ("name", "seed", "data", "model", "gap_reducer", "compare", "loss", "evaluation")


def train(cfg: DictConfig) -> dict[str, float]:
    """See :func:`i0t.engine.train`."""
    quiet()
    run_dir = Path(cfg.paths.output_dir)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    plain = to_container(cfg)
    in_checkpoint = {key: plain[key] for key in _IN_CHECKPOINT}
    in_checkpoint |= {"row": row_name(cfg), "averaged_weights": averaging(cfg)}
    datamodule, module = _build(cfg, in_checkpoint)
    # What cannot be built must not cost a training run.
    rows, evaluations = _rows(cfg, module), build_evaluations(cfg)
    history = _find(callbacks := _callbacks(cfg), History)
    writer = ShardWriter()
    trainer = build_trainer(cfg.trainer, callbacks=[*callbacks, writer], logger=dashboards.build_loggers(cfg))
    _check_measurable(cfg, evaluations, trainer, datamodule)
    if trainer.is_global_zero and cfg.resume is None:
        runs.write_atomically(run_dir / runs.CONFIG_FILE, to_yaml({**plain, "row": row_name(cfg)}))
    _log_config(trainer, plain)
    ckpt_path = run_dir / runs.CHECKPOINT
    finished = False
    try:
        encoder = Encoder(trainer, module, writer)
        if trainer.is_global_zero:
            _say_truncated(module, datamodule)
            say_training(cfg, module)
        training = prepare(cfg, encoder, datamodule)
        if cfg.validate_first and not cfg.resume:
            trainer.validate(training.module, datamodule=training.datamodule, verbose=False)
        trainer.fit(
            training.module,
            datamodule=training.datamodule,
            ckpt_path=ckpt_path if cfg.resume else None,
            weights_only=True,
        )
        if cfg.encoders == TRAINED:
            encoder.forget()  # what it encoded before
        _finish_reducer(module.gap_reducer, encoder, datamodule)
        check_encoder_weights(module.model, module.encoder_weights, run_dir)
        trainer.save_checkpoint(ckpt_path)
        numbers = _finish(cfg, rows, evaluations, encoder, datamodule, history.values if history else {})
        finished = True
        return numbers
    finally:
        dashboards.close(trainer.loggers, run_dir, finished=finished)


def _finish(
    cfg: DictConfig,
    rows: Mapping[str, Row],
    evaluations: Mapping[str, Evaluation],
    encoder: Encoder,
    datamodule: ImageTextDataModule,
    history: Mapping[str, list[tuple[int, float]]],
) -> dict[str, float]:
    """Fits and measures every row on the split; rank 0 prints and writes."""
    trainer = encoder.trainer
    embeddings = encoder.whole(datamodule, cfg.split, with_relevant_pairs=_wants_pairs(cfg, evaluations, trainer))
    references = load_references(evaluations, lambda split: encoder.whole(datamodule, split, with_relevant_pairs=False))
    fitted = {}
    for name, row in rows.items():
        fit_set = None if row.ready else _fit(row, encoder, datamodule)
        fitted[name] = row if fit_set is None else row.fitted_on(fit_set, embeddings)
    if not trainer.is_global_zero:
        return {}
    results = measure(evaluations, cfg.split, fitted, embeddings, references, progress=shows_progress(cfg))

    def images(row: int) -> np.ndarray:
        return datamodule.images(cfg.split, [row])[0]

    facts = model_facts(cfg.model, encoder.module.config)
    numbers = write(cfg, cfg.split, results, embeddings, images, history, facts)
    shown = dashboards.shown_by(trainer.callbacks)  # type: ignore[attr-defined]
    dashboards.log_results(
        trainer.loggers, cfg.split, results, numbers, embeddings, images, shown=shown, step=trainer.global_step
    )
    return numbers


def _fit(row: Row, encoder: Encoder, datamodule: ImageTextDataModule) -> EmbeddingSet | None:
    """Fits a reducer on its split, all ranks together; returns this rank's share of what it was fitted on."""
    reducer = row.reducer
    if not reducer.needs_fit:
        return None
    assert reducer.fit_split is not None, "a reducer that needs fitting has a split"
    source = datamodule if row.fit_data is None else encoder.bind(instantiate(row.fit_data))
    share = encoder.share(source, reducer.fit_split)
    shown = encoder.trainer.is_global_zero and encoder.trainer.progress_bar_callback is not None
    with working(f"fitting {type(reducer).__name__} on {reducer.fit_split}", shown=shown):
        reducer.to(encoder.trainer.strategy.root_device).fit(share)
    reducer.cpu()
    return share


def _finish_reducer(reducer: GapReducer, encoder: Encoder, datamodule: ImageTextDataModule) -> None:
    """Fits a reducer that is not trained; one that is gets the exact statistics of its split, if it wants them."""
    if not reducer.trainable:
        _fit(Row(reducer), encoder, datamodule)
        return
    split = reducer.fit_split
    if split is None or not reducer.recalibrates:
        return
    share = encoder.share(datamodule, split)
    reducer.to(encoder.trainer.strategy.root_device).recalibrate(share)
    reducer.cpu()


def _rows(cfg: DictConfig, module: ClipModule) -> dict[str, Row]:
    """The rows of ``compare``, and the reducer that the module trains with or is refitted for."""
    rows = compared_rows(cfg, dim=module.model.embed_dim)
    reducer = module.gap_reducer
    if reducer.trainable or reducer.needs_fit:
        rows[free_name(row_name(cfg), rows)] = Row(reducer, ready=True)
    return rows


def _build(cfg: DictConfig, in_checkpoint: dict[str, Any]) -> tuple[ImageTextDataModule, ClipModule]:
    check_encoders(cfg)
    check_sharding(cfg)
    check_speed_options(cfg)
    datamodule = instantiate(cfg.data)
    if not isinstance(datamodule, ImageTextDataModule):
        raise ConfigError("these data cannot be trained on: they are embeddings, not images and captions")
    model = build_model(cfg)
    if cfg.encoders != TRAINED:
        model.freeze_all()
    if cfg.freeze_temperature:
        model.log_logit_scale.requires_grad_(False)
    # Frozen encoders see what they will see in evaluation: nothing is augmented for them.
    train_transform = model.train_transform if cfg.encoders == TRAINED else model.transform
    bind(datamodule, model, train_transform=train_transform)
    own = build_row(cfg.gap_reducer, dim=model.embed_dim)
    if own.fit_data is not None:
        raise ConfigError(
            "gap_reducer.fit_data: while it trains, a run refits its own reducer on its own data; "
            "give fit_data to a row of compare, or to eval.py"
        )
    module = ClipModule(
        model,
        own.reducer,
        instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
        config=in_checkpoint,
        num_views=cfg.views,
        decay_all=cfg.decay_all,
        layer_decay=cfg.layer_decay,
        encoder_weights=None if cfg.encoders == TRAINED else model.identity()["weights"],
        grad_cache_chunk=cfg.trainer.get("grad_cache_chunk"),
    )
    check_something_is_trained(cfg, module)
    _check_short_captions(cfg.encoders, datamodule, module)
    if cfg.freeze_temperature and not getattr(module.loss, "uses_temperature", True):
        raise ConfigError(
            f"freeze_temperature=true, but {type(module.loss).__name__} has a fixed temperature of its own"
        )
    return datamodule, module


def _check_short_captions(encoders: str, datamodule: ImageTextDataModule, module: ClipModule) -> None:
    """Data and loss must agree on whether there are short captions, and the cache has none."""
    given, used = getattr(datamodule, "short_captions", False), getattr(module.loss, "uses_short_captions", False)
    if used and not given:
        raise ConfigError(f"{type(module.loss).__name__} compares short captions too: data.short_captions=true")
    if given and not used:
        raise ConfigError(f"data.short_captions=true, but {type(module.loss).__name__} has no use for them")
    if used and encoders == CACHED:
        raise ConfigError(
            f"encoders=cached keeps whole captions alone, {type(module.loss).__name__} compares short ones too: "
            "choose encoders=frozen or another loss"
        )


def _callbacks(cfg: DictConfig) -> list[Any]:
    """The callbacks, without progress bars where the trainer has them switched off, and what only loggers need."""
    built = first_those_that_average(list(_instantiate_all(cfg.callbacks)))
    if not cfg.logger:
        built = [c for c in built if not isinstance(c, LearningRateMonitor)]  # an error without loggers
    return [c for c in built if cfg.trainer.get("enable_progress_bar") or not isinstance(c, ProgressBar)]


def _instantiate_all(nodes: Any) -> Any:
    return (instantiate(node) for node in (nodes or {}).values() if node is not None)


def _find(callbacks: list[Any], kind: type[History]) -> History | None:
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def _log_config(trainer: pl.Trainer, plain: Mapping[str, Any]) -> None:
    shown = {key: plain[key] for key in (*_IN_CHECKPOINT, "optimizer", "scheduler", "trainer")}
    dashboards.start(trainer.loggers, shown, to_yaml(plain))


def _wants_pairs(cfg: DictConfig, evaluations: Mapping[str, Evaluation], trainer: pl.Trainer) -> bool:
    """Whether this rank needs the true pairs: the one that measures, if retrieval is measured or shown."""
    return trainer.is_global_zero and (bool(cfg.report) or use_relevant_pairs(evaluations.values()))


def _check_measurable(
    cfg: DictConfig, evaluations: Mapping[str, Evaluation], trainer: pl.Trainer, datamodule: ImageTextDataModule
) -> None:
    """Fails before the training, not after it, where the split cannot be measured as asked."""
    datamodule.prepare_data()
    relevant_pairs = datamodule.describe(cfg.split).relevant_pairs
    if relevant_pairs is not None and _wants_pairs(cfg, evaluations, trainer):
        relevant_pairs()


def _say_truncated(module: ClipModule, datamodule: ImageTextDataModule) -> None:
    """One line where training captions are longer than the model's context."""
    captions = datamodule.training_captions()
    cut = module.model.count_truncated(captions) if captions is not None else None
    if captions is not None and cut:
        note = truncation_warning(cut, len(captions))
        Console().print(f"note: train: {note}", soft_wrap=True, highlight=False)


def quiet() -> None:
    """Silences hints of Lightning that are wrong here, and nothing else."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # MAD's images lie in memory; a worker process would only copy them.
    warnings.filterwarnings("ignore", ".*does not have many workers.*", module="pytorch_lightning")
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*", module="pytorch_lightning")
    # It is: the sampler skips what the interrupted epoch has seen (a test compares with an uninterrupted run).
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*", module="pytorch_lightning")
    # Frozen encoders are, on purpose, and stay so.
    warnings.filterwarnings("ignore", ".*module\\(s\\) in eval mode.*", module="pytorch_lightning")
    # Said in our own words, once.
    warnings.filterwarnings("ignore", ".*AMP with fp16 is not supported on CPU.*", module="pytorch_lightning")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*", module="pytorch_lightning")
    # Every rank has computed them from all ranks' rows.
    warnings.filterwarnings("ignore", ".*use `self.log\\('val/.*sync_dist=True.*", module="pytorch_lightning")
    # Their new names are not in the lowest torch that is supported.
    deprecated = ".*distributed.(all_gather_into|reduce_scatter)_tensor` is deprecated.*"
    warnings.filterwarnings("ignore", deprecated, FutureWarning, module="torch.distributed")
