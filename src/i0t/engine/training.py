"""Assembles a run from its config and carries it out: ``train(cfg)`` and ``evaluate(cfg)``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
from rich.console import Console

from i0t import runs
from i0t.callbacks.history import History
from i0t.callbacks.step_progress import StepProgress
from i0t.config import instantiate, to_container, to_yaml
from i0t.config_errors import ConfigError
from i0t.data.base import ImageTextDataModule
from i0t.embeddings import EmbeddingSet
from i0t.encode import Features, assemble, encode_prompts
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.results import Evaluation, RowResult
from i0t.gap_reducers.base import GapReducer, NotFittedError
from i0t.module import ClipModule
from i0t.report.page import write_report
from i0t.report.table import ResultTable

# What a checkpoint carries of the config: enough to rebuild the model and repeat the comparison.
_IN_CHECKPOINT = ("name", "seed", "data", "model", "gap_reducer", "compare", "loss", "evaluation")


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
    _quiet()
    run_dir = Path(cfg.paths.output_dir)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    plain = to_container(cfg)
    datamodule, module = _build(cfg, {key: plain[key] for key in _IN_CHECKPOINT} | {"row": _row_name(cfg)})
    reducers = _reducers(cfg, module)  # a row that cannot be built must not cost a training run
    history = _find(callbacks := list(_instantiate_all(cfg.callbacks)), History)
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=list(_instantiate_all(cfg.logger)))
    _check_measurable(cfg, trainer, datamodule)
    if trainer.is_global_zero and cfg.resume is None:
        runs.write_atomically(run_dir / runs.CONFIG_FILE, to_yaml({**plain, "row": _row_name(cfg)}))
    _log_config(trainer, plain)
    ckpt_path = run_dir / runs.CHECKPOINT
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path if cfg.resume else None, weights_only=True)
        session = _Session(trainer, module, datamodule)
        session.fit_main_reducer()
        trainer.save_checkpoint(ckpt_path)
        return session.finish(cfg, "test", reducers, history=history.values if history else {})
    finally:
        _close_loggers(trainer)


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """Evaluates a checkpoint, a pretrained model or a file of embeddings with every row of ``compare``.

    Args:
        cfg: Composed from ``eval.yaml``.

    Returns:
        The flat numbers of ``metrics.json``.

    Raises:
        ConfigError, ValueError: For input that cannot be evaluated.
    """
    _quiet()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    source = instantiate(cfg.data)
    if not isinstance(source, ImageTextDataModule):
        return _evaluate_embeddings(cfg, source)
    if cfg.model is None:
        raise ConfigError("these data must be encoded: name a model (model=…) or a checkpoint (ckpt_path=…)")
    checkpoint = None if cfg.ckpt_path is None else runs.read_checkpoint(Path(cfg.ckpt_path))
    module = _module_for_evaluation(cfg, checkpoint)
    bar = [StepProgress(refresh_rate=1)] if cfg.trainer.get("enable_progress_bar") else []
    trainer = instantiate(cfg.trainer, logger=False, callbacks=bar)
    source.bind(transform=module.model.transform, tokenizer=module.model.tokenizer)
    session = _Session(trainer, module, source)
    return session.finish(cfg, cfg.split, _reducers(cfg, module), history={})


class _Session:
    """A built model with its data: encodes each split once, fits reducers, measures rows, writes the run folder."""

    def __init__(self, trainer: pl.Trainer, module: ClipModule, datamodule: ImageTextDataModule) -> None:
        self.trainer = trainer
        self.module = module
        self.datamodule = datamodule
        self._features: dict[str, Features] = {}

    def features(self, split: str) -> Features:
        """This rank's rows of a split."""
        if split not in self._features:
            self.datamodule.setup("predict")
            parts: Any = self.trainer.predict(self.module, dataloaders=self.datamodule.eval_dataloader(split))
            self._features[split] = Features.cat(parts or [])
        return self._features[split]

    def local_set(self, split: str) -> EmbeddingSet:
        """This rank's share of a split, to fit on."""
        return assemble(self.features(split), self.datamodule.describe(split), logits=self.module.model.logit_values())

    def whole_set(self, split: str, *, with_relevant_pairs: bool) -> EmbeddingSet:
        """The whole split with prompts, to measure."""
        info = self.datamodule.describe(split)
        prompts = encode_prompts(self.module.model.eval(), info.prompts, self.module.device)
        gathered = self.features(split).gathered()
        logits = self.module.model.logit_values()
        return assemble(gathered, info, logits=logits, prompts=prompts, with_relevant_pairs=with_relevant_pairs)

    def fit(self, reducer: GapReducer) -> None:
        """Fits a reducer on its split, all ranks together."""
        if reducer.needs_fit:
            assert reducer.fit_split is not None
            reducer.to(self.trainer.strategy.root_device).fit(self.local_set(reducer.fit_split))
            reducer.cpu()

    def fit_main_reducer(self) -> None:
        """Refits the module's own reducer to the final weights; a trained one keeps what it learnt."""
        if not self.module.gap_reducer.trainable:
            self.fit(self.module.gap_reducer)

    def finish(
        self,
        cfg: DictConfig,
        split: str,
        reducers: Mapping[str, GapReducer],
        *,
        history: Mapping[str, list[tuple[int, float]]],
    ) -> dict[str, float]:
        """Fits and measures every row; rank 0 prints and writes."""
        for reducer in reducers.values():
            if reducer is not self.module.gap_reducer:
                self.fit(reducer)
        embeddings = self.whole_set(split, with_relevant_pairs=_wants_pairs(cfg, self.trainer))
        if not self.trainer.is_global_zero:
            return {}
        rows = _measure(cfg, split, reducers, embeddings)
        numbers = _write(cfg, split, rows, embeddings, lambda row: self.datamodule.images(split, [row])[0], history)
        for logger in self.trainer.loggers:
            logger.log_metrics(numbers, step=self.trainer.global_step)
        return numbers


def _build(cfg: DictConfig, in_checkpoint: dict[str, Any]) -> tuple[ImageTextDataModule, ClipModule]:
    datamodule = instantiate(cfg.data)
    if not isinstance(datamodule, ImageTextDataModule):
        raise ConfigError("these data cannot be trained on: they are embeddings, not images and captions")
    model = instantiate(cfg.model)
    datamodule.bind(transform=model.transform, tokenizer=model.tokenizer)
    module = ClipModule(
        model,
        instantiate(cfg.gap_reducer, dim=model.embed_dim),
        instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
        config=in_checkpoint,
    )
    return datamodule, module


def _module_for_evaluation(cfg: DictConfig, checkpoint: Mapping[str, Any] | None) -> ClipModule:
    model = instantiate(cfg.model)
    if checkpoint is None:
        none = instantiate({"_target_": "i0t.gap_reducers.none.NoReducer"}, dim=model.embed_dim)
        return ClipModule(model, none, torch.nn.Identity(), config={})
    saved = checkpoint[runs.CHECKPOINT_KEY]["config"]
    reducer = instantiate(OmegaConf.create(saved["gap_reducer"]), dim=model.embed_dim)
    module = ClipModule(model, reducer, torch.nn.Identity(), config=saved)
    missing, unexpected = module.load_state_dict(checkpoint["state_dict"], strict=False)
    if missing or unexpected:
        raise ConfigError(
            f"ckpt_path={cfg.ckpt_path}: its weights do not fit the model its config describes "
            f"({len(missing)} missing, {len(unexpected)} unexpected, first {(missing + unexpected)[0]})"
        )
    return module.eval()


def _evaluate_embeddings(cfg: DictConfig, source: Any) -> dict[str, float]:
    """Rows of ``compare`` on a file of embeddings: no encoder, no trainer."""
    embeddings = source.load(cfg.split)
    reducers = _reducers(cfg, None, dim=embeddings.dim)
    for reducer in reducers.values():
        if reducer.needs_fit:
            reducer.fit(source.load(reducer.fit_split))
    return _write(cfg, cfg.split, _measure(cfg, cfg.split, reducers, embeddings), embeddings, None, {})


def _reducers(cfg: DictConfig, module: ClipModule | None, dim: int | None = None) -> dict[str, GapReducer]:
    """The rows: those of ``compare``, and the run's own reducer under its own name."""
    dim = module.model.embed_dim if module is not None else dim
    reducers: dict[str, GapReducer] = {}
    for name, node in (cfg.compare or {}).items():
        if node is not None:
            reducers[str(name)] = instantiate(node, dim=dim)
    if "optimizer" not in cfg and cfg.gap_reducer is not None:
        reducers[_free_name(_row_name(cfg), reducers)] = instantiate(cfg.gap_reducer, dim=dim)
    elif module is not None and (module.gap_reducer.trainable or module.gap_reducer.needs_fit):
        reducers[_free_name(str(module.config["row"]), reducers)] = module.gap_reducer
    return reducers


def _free_name(name: str, taken: Mapping[str, GapReducer]) -> str:
    """The run's own reducer never hides a row of ``compare``."""
    return f"{name}_of_run" if name in taken else name


def _row_name(cfg: DictConfig) -> str:
    """The choice of the group ``gap_reducer``; for a config composed elsewhere the file its class stands in."""
    if cfg.get("row"):
        return str(cfg.row)
    if HydraConfig.initialized() and HydraConfig.get().runtime.choices.get("gap_reducer"):
        return str(HydraConfig.get().runtime.choices["gap_reducer"])
    return str(cfg.gap_reducer["_target_"]).split(".")[-2]


def _measure(
    cfg: DictConfig, split: str, reducers: Mapping[str, GapReducer], embeddings: EmbeddingSet
) -> list[RowResult]:
    evaluations: dict[str, Evaluation] = {str(name): instantiate(node) for name, node in cfg.evaluation.items()}
    try:
        return [evaluate_row(name, one, embeddings, evaluations, split=split) for name, one in reducers.items()]
    except NotFittedError as error:
        raise ConfigError(str(error)) from error


def _write(
    cfg: DictConfig,
    split: str,
    rows: list[RowResult],
    embeddings: EmbeddingSet,
    images: Callable[[int], np.ndarray] | None,
    history: Mapping[str, list[tuple[int, float]]],
) -> dict[str, float]:
    """Prints the table and writes ``metrics.json`` last: a folder with it is a finished run."""
    run_dir = Path(cfg.paths.output_dir)
    environment = runs.environment()
    numbers = {f"{split}/{row.name}/{name}": value for row in rows for name, value in row.metrics.items()}
    console = Console()
    console.print(ResultTable(rows).to_rich(console.width))
    notes = [f"{name}: {table.description}" for name, table in embeddings.prompts.items()]
    if not (run_dir / runs.CONFIG_FILE).exists():
        runs.write_atomically(run_dir / runs.CONFIG_FILE, to_yaml(cfg))
    if cfg.report:
        write_report(
            run_dir / "report.html",
            title=f"{cfg.name}: {split} split",
            rows=rows,
            embeddings=embeddings,
            images=images,
            history=history,
            config_yaml=(run_dir / runs.CONFIG_FILE).read_text(encoding="utf-8"),
            notes=notes,
            environment=environment,
        )
    runs.write_json(run_dir / runs.METRICS_FILE, numbers | _about(split, rows, embeddings, environment))
    console.print(f"numbers:  {run_dir / runs.METRICS_FILE}", soft_wrap=True, highlight=False)
    if cfg.report:
        console.print(f"report:   {run_dir / 'report.html'}", soft_wrap=True, highlight=False)
    return numbers


def _about(
    split: str, rows: list[RowResult], embeddings: EmbeddingSet, environment: Mapping[str, str]
) -> dict[str, Any]:
    """What the numbers of ``metrics.json`` mean: protocol of each row, intervals, prompt forms, versions."""
    return {
        "rows": {
            row.name: {
                "reducer": row.reducer,
                "fit_split": row.fit_split,
                "fit_samples": row.fit_samples,
                "protocol": row.protocol,
            }
            for row in rows
        },
        "intervals": {f"{split}/{r.name}/{name}": list(ends) for r in rows for name, ends in r.intervals.items()},
        "prompts": {name: table.description for name, table in embeddings.prompts.items()},
        "environment": dict(environment),
    }


def _instantiate_all(nodes: Any) -> Any:
    return (instantiate(node) for node in (nodes or {}).values() if node is not None)


def _find(callbacks: list[Any], kind: type[History]) -> History | None:
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def _log_config(trainer: pl.Trainer, plain: Mapping[str, Any]) -> None:
    for logger in trainer.loggers:
        logger.log_hyperparams({key: plain[key] for key in (*_IN_CHECKPOINT, "optimizer", "scheduler", "trainer")})


def _wants_pairs(cfg: DictConfig, trainer: pl.Trainer) -> bool:
    """Whether this rank needs the true pairs: the one that measures, if retrieval is measured or shown."""
    return trainer.is_global_zero and bool(cfg.report or "retrieval" in cfg.evaluation)


def _check_measurable(cfg: DictConfig, trainer: pl.Trainer, datamodule: ImageTextDataModule) -> None:
    """Fails before the training, not after it, where the test split cannot be measured as asked."""
    datamodule.prepare_data()
    relevant_pairs = datamodule.describe("test").relevant_pairs
    if relevant_pairs is not None and _wants_pairs(cfg, trainer):
        relevant_pairs()


def _close_loggers(trainer: pl.Trainer) -> None:
    """Ends the runs of the dashboards, so that the next job of a multirun starts its own."""
    for logger in trainer.loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _quiet() -> None:
    """Silences hints of Lightning that are wrong here, and nothing else."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # MAD's images lie in memory; a worker process would only copy them.
    warnings.filterwarnings("ignore", ".*does not have many workers.*", module="pytorch_lightning")
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*", module="pytorch_lightning")
    # It is: the sampler skips what the interrupted epoch has seen (a test compares with an uninterrupted run).
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*", module="pytorch_lightning")
    warnings.filterwarnings("ignore", ".*Checkpoint directory .* exists and is not empty.*", module="pytorch_lightning")
