"""Measures the rows of a comparison and writes what a run leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from omegaconf import DictConfig
from rich.console import Console

from i0t import runs
from i0t.config import instantiate, to_yaml
from i0t.config_errors import ConfigError
from i0t.embeddings import EmbeddingSet
from i0t.engine.rows import Row, component_name
from i0t.evaluation.compare import compare_rows, evaluate_row
from i0t.evaluation.results import Difference, Evaluation, RowResult
from i0t.gap_reducers.base import NotFittedError
from i0t.metrics.functional import centroid_distance
from i0t.report.difference_table import DifferenceTable
from i0t.report.table import ResultTable


def measure(cfg: DictConfig, split: str, rows: Mapping[str, Row], embeddings: EmbeddingSet) -> list[RowResult]:
    """Measures every row, which must be fitted.

    Raises:
        ConfigError: If one is not.
    """
    _say_what_is_measured(split, embeddings)
    evaluations: dict[str, Evaluation] = {str(name): instantiate(node) for name, node in cfg.evaluation.items()}
    results = []
    for name, row in rows.items():
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
) -> dict[str, float]:
    """Prints the table, writes tables and report, and ``metrics.json`` last: a folder with it is a finished run."""
    run_dir = Path(cfg.paths.output_dir)
    environment = runs.environment()
    numbers = {f"{split}/{row.name}/{name}": value for row in rows for name, value in row.metrics.items()}
    differences = compare_rows(rows)
    table = ResultTable(rows)
    console = Console()
    console.print(table.to_rich(console.width))
    of_data = [str(warning) for warning in embeddings.provenance.get("warnings", ())]
    for warning in [*of_data, *(f"{row.name}: {note}" for row in rows for note in row.notes)]:
        console.print(f"note: {warning}", soft_wrap=True, highlight=False)
    prompts = [f"{name}: {table.description}" for name, table in embeddings.prompts.items()]
    if not (run_dir / runs.CONFIG_FILE).exists():
        runs.write_atomically(run_dir / runs.CONFIG_FILE, to_yaml(cfg))
    _write_table(run_dir / "table", ResultTable(rows, with_intervals=True))
    if differences:
        _write_table(run_dir / "differences", DifferenceTable(differences))
    if cfg.report:
        _write_report(run_dir, f"{cfg.name}: {split} split", rows, embeddings, images, history, prompts, environment)
    about = _about(split, rows, differences, embeddings, environment)
    runs.write_json(run_dir / runs.METRICS_FILE, numbers | about)
    console.print(f"numbers:  {run_dir / runs.METRICS_FILE}", soft_wrap=True, highlight=False)
    if cfg.report:
        console.print(f"report:   {run_dir / 'report.html'}", soft_wrap=True, highlight=False)
    return numbers


def _write_report(
    run_dir: Path,
    title: str,
    rows: list[RowResult],
    embeddings: EmbeddingSet,
    images: Callable[[int], np.ndarray] | None,
    history: Mapping[str, list[tuple[int, float]]],
    notes: list[str],
    environment: Mapping[str, str],
) -> None:
    from i0t.report.page import write_report  # the numbers are on the screen before the figures' library is loaded

    write_report(
        run_dir / "report.html",
        title=title,
        rows=rows,
        embeddings=embeddings,
        images=images,
        history=history,
        config_yaml=(run_dir / runs.CONFIG_FILE).read_text(encoding="utf-8"),
        notes=notes,
        environment=environment,
    )


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
                "notes": list(row.notes),
            }
            for row in rows
        },
        "protocols": dict(rows[0].protocols) if rows else {},
        "intervals": {f"{split}/{r.name}/{name}": list(ends) for r in rows for name, ends in r.intervals.items()},
        "differences": [difference._asdict() for difference in differences],
        "data": dict(embeddings.provenance),
        "prompts": {name: table.description for name, table in embeddings.prompts.items()},
        "environment": dict(environment),
    }
