"""Measures the rows of a comparison and writes what a run leaves behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from omegaconf import DictConfig
from rich.console import Console

from i0t import runs
from i0t.config import instantiate, to_yaml
from i0t.config_errors import ConfigError
from i0t.data.base import MissingSplitError
from i0t.embeddings import EmbeddingSet
from i0t.engine.rows import Row, component_name
from i0t.evaluation.compare import compare_rows, evaluate_row, protocols_of
from i0t.evaluation.results import Difference, Evaluation, RowResult, reference_splits
from i0t.gap_reducers.base import NotFittedError
from i0t.metrics.functional import centroid_distance
from i0t.progress import counted, working
from i0t.report.difference_table import DifferenceTable
from i0t.report.table import ResultTable


def shows_progress(cfg: DictConfig) -> bool:
    """Whether this run shows bars."""
    return bool((cfg.get("trainer") or {}).get("enable_progress_bar", True))


def build_evaluations(cfg: DictConfig) -> dict[str, Evaluation]:
    """The run's evaluations, by the prefix of their numbers.

    Raises:
        ConfigError: If one of them, or the report, is set to what cannot be.
    """
    if cfg.report_points < 2:
        raise ConfigError(f"report_points={cfg.report_points} must be at least 2; report=false writes no page")
    return {str(name): instantiate(node) for name, node in cfg.evaluation.items()}


def load_references(
    evaluations: Mapping[str, Evaluation], load: Callable[[str], EmbeddingSet]
) -> dict[str, EmbeddingSet]:
    """The further splits that evaluations look at, on every rank; without those that the data do not have."""
    found = {}
    for split in reference_splits(evaluations.values()):
        with contextlib.suppress(MissingSplitError):  # the evaluation says what it cannot measure then
            found[split] = load(split)
    return found


def measure(
    evaluations: Mapping[str, Evaluation],
    split: str,
    rows: Mapping[str, Row],
    embeddings: EmbeddingSet,
    references: Mapping[str, EmbeddingSet],
    *,
    progress: bool = True,
) -> list[RowResult]:
    """Measures every row, which must be fitted.

    Args:
        evaluations: By the prefix of their numbers.
        split: The split that is measured.
        rows: By name.
        embeddings: The split's raw features.
        references: See :func:`load_references`.
        progress: Whether a terminal shows how far it is.

    Raises:
        ConfigError: If a row is not fitted.
    """
    _say_what_is_measured(split, embeddings)
    results = []
    for name, row in counted(list(rows.items()), "measuring", shown=progress):
        fit_data = None if row.fit_data is None else component_name(row.fit_data)
        try:
            results.append(
                evaluate_row(
                    name,
                    row.reducer,
                    embeddings,
                    evaluations,
                    split=split,
                    fit_data=fit_data,
                    shares_images=row.shares_images or _names_the_same_images(row, embeddings),
                    references=references,
                )
            )
        except NotFittedError as error:
            raise ConfigError(str(error)) from error
    return results


def _names_the_same_images(row: Row, embeddings: EmbeddingSet) -> bool:
    """Whether a data set says of the measured split that it is the very one the row was fitted on."""
    same = embeddings.provenance.get("same_images_as")
    return row.fit_data is None and same is not None and same == row.reducer.fit_split


def _say_what_is_measured(split: str, embeddings: EmbeddingSet) -> None:
    """One line with the first number: at COCO's size the table takes some seconds a row."""
    image, text = (F.normalize(f, dim=-1) for f in (embeddings.image_features, embeddings.text_features))
    gap = float(centroid_distance(image, text))
    Console().print(
        f"{split}: {embeddings.num_images:,} images, {embeddings.num_texts:,} texts, {embeddings.dim} dimensions; "
        f"centroid distance {gap:.4f} as they are",
        soft_wrap=True,
        highlight=False,
    )


def write(
    cfg: DictConfig,
    split: str,
    rows: list[RowResult],
    embeddings: EmbeddingSet,
    images: Callable[[int], np.ndarray] | None,
    history: Mapping[str, list[tuple[int, float]]],
    model: Mapping[str, Any],
) -> dict[str, float]:
    """Prints the table, writes tables and report, and ``metrics.json`` last: a folder with it is a finished run.

    Args:
        cfg: Of the run.
        split: The split that was measured.
        rows: Measured.
        embeddings: What they were measured on.
        images: Looks up an image of the split.
        history: Logged values of a training.
        model: Which model made the embeddings, see :func:`model_facts`.
    """
    run_dir = Path(cfg.paths.output_dir)
    environment = runs.environment()
    numbers = {f"{split}/{row.name}/{name}": value for row in rows for name, value in row.metrics.items()}
    differences = compare_rows(rows)
    table = ResultTable(rows)
    console = Console()
    console.print(table.to_rich(console.width))
    of_data = [str(warning) for warning in embeddings.provenance.get("warnings", ())]
    if not any(row.metrics for row in rows):
        of_data.append(f"nothing on these data can be measured by {', '.join(map(str, cfg.evaluation))}")
    for warning in [*of_data, *(f"{row.name}: {note}" for row in rows for note in row.notes)]:
        console.print(f"note: {warning}", soft_wrap=True, highlight=False)
    prompts = [f"{name}: {table.description}" for name, table in embeddings.prompts.items()]
    averaged = model.get("averaged_weights")
    if averaged is not None:
        prompts.append(f"weights: exponential moving average of those in training, decay {averaged['decay']}")
        console.print(f"note: {prompts[-1]}", soft_wrap=True, highlight=False)
    if not (run_dir / runs.CONFIG_FILE).exists():
        runs.write_atomically(run_dir / runs.CONFIG_FILE, to_yaml(cfg))
    _write_table(run_dir / "table", ResultTable(rows, with_intervals=True))
    for path in _write_details(run_dir, rows, figures=not cfg.report):
        console.print(f"details:  {path}", soft_wrap=True, highlight=False)
    if differences:
        _write_table(run_dir / "differences", DifferenceTable(differences))
    if cfg.report:
        with working("drawing report.html", shown=shows_progress(cfg)):
            _write_report(cfg, split, rows, embeddings, images, history, prompts, environment)
    if history:
        runs.write_json(run_dir / runs.HISTORY_FILE, history)
    about = _about(split, rows, differences, embeddings, environment) | {"model": dict(model)}
    runs.write_json(run_dir / runs.METRICS_FILE, numbers | about)
    console.print(f"numbers:  {run_dir / runs.METRICS_FILE}", soft_wrap=True, highlight=False)
    if cfg.report:
        console.print(f"report:   {run_dir / 'report.html'}", soft_wrap=True, highlight=False)
    return numbers


def model_facts(node: Any, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    """What ``metrics.json`` says of the model, so that tables over many runs know whose numbers they are.

    Args:
        node: The model's config node, or ``None`` for embeddings from a file.
        trained: The config of the run that trained it, or ``None``.

    Returns:
        ``trained_as`` (name of that run), its ``seed``, ``component`` (``open_clip``, ``long_clip``, …),
        ``architecture``, ``pretrained`` (what it began with) and ``averaged_weights`` (decay and warm-up of the
        exponential moving average that its weights are, or ``None``).
    """
    node = {} if node is None else node
    trained = {} if trained is None else trained
    return {
        "trained_as": trained.get("name"),
        "seed": trained.get("seed"),
        "component": component_name(node) if node else None,
        "architecture": node.get("architecture"),
        "pretrained": node.get("pretrained"),
        "averaged_weights": trained.get("averaged_weights"),
    }


def _write_report(
    cfg: DictConfig,
    split: str,
    rows: list[RowResult],
    embeddings: EmbeddingSet,
    images: Callable[[int], np.ndarray] | None,
    history: Mapping[str, list[tuple[int, float]]],
    notes: list[str],
    environment: Mapping[str, str],
) -> None:
    from i0t.report.page import write_report  # the numbers are on the screen before the figures' library is loaded

    run_dir = Path(cfg.paths.output_dir)
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
        max_points=cfg.report_points,
    )


def _write_details(run_dir: Path, rows: list[RowResult], *, figures: bool) -> Sequence[Path]:
    """Writes what is more than a number; returns the tables. The report draws the figures where there is one."""
    if not any(row.details for row in rows):
        return ()
    from i0t.report.detail_files import write_details  # as above

    return [path for path in write_details(run_dir, rows, figures=figures) if path.suffix == ".csv"]


def _write_table(path: Path, table: ResultTable | DifferenceTable) -> None:
    """A table as Markdown, CSV and LaTeX."""
    for ending, text in (("md", table.to_markdown()), ("csv", table.to_csv()), ("tex", table.to_latex())):
        runs.write_atomically(path.with_suffix(f".{ending}"), text.rstrip("\n") + "\n")


def _about(
    split: str,
    rows: list[RowResult],
    differences: list[Difference],
    embeddings: EmbeddingSet,
    environment: Mapping[str, str],
) -> dict[str, Any]:
    """What the numbers of ``metrics.json`` mean: protocol of each row, intervals, tests, prompt forms, versions."""
    return {
        "rows": {
            row.name: {
                "reducer": row.reducer,
                "fit_data": row.fit_data,
                "fit_split": row.fit_split,
                "fit_samples": row.fit_samples,
                "protocol": row.protocol,
                "settings": dict(row.settings),
                "notes": list(row.notes),
            }
            for row in rows
        },
        "protocols": protocols_of(rows),
        "intervals": {f"{split}/{r.name}/{name}": list(ends) for r in rows for name, ends in r.intervals.items()},
        "differences": [difference._asdict() for difference in differences],
        "data": {"num_images": embeddings.num_images, "num_texts": embeddings.num_texts, **embeddings.provenance},
        "prompts": {name: table.description for name, table in embeddings.prompts.items()},
        "environment": dict(environment),
    }
