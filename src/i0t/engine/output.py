"""Measures the rows of a comparison and writes what a run leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
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
from i0t.report.table import ResultTable

# File name to method of ResultTable.
_TABLES = {"table.md": "to_markdown", "table.csv": "to_csv", "table.tex": "to_latex"}


def measure(cfg: DictConfig, split: str, rows: Mapping[str, Row], embeddings: EmbeddingSet) -> list[RowResult]:
    """Measures every row, which must be fitted.

    Raises:
        ConfigError: If one is not.
    """
    evaluations: dict[str, Evaluation] = {str(name): instantiate(node) for name, node in cfg.evaluation.items()}
    results = []
    for name, row in rows.items():
        fit_data = None if row.fit_data is None else component_name(row.fit_data)
        try:
            results.append(evaluate_row(name, row.reducer, embeddings, evaluations, split=split, fit_data=fit_data))
        except NotFittedError as error:
            raise ConfigError(str(error)) from error
    return results


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
    warnings = _warnings(rows, embeddings)
    for warning in warnings:
        console.print(f"note: {warning}", soft_wrap=True, highlight=False)
    notes = [*_protocols(rows, embeddings), *warnings]
    if not (run_dir / runs.CONFIG_FILE).exists():
        runs.write_atomically(run_dir / runs.CONFIG_FILE, to_yaml(cfg))
    for file, method in _TABLES.items():
        runs.write_atomically(run_dir / file, getattr(table, method)().rstrip("\n") + "\n")
    if cfg.report:
        _write_report(run_dir, f"{cfg.name}: {split} split", rows, embeddings, images, history, notes, environment)
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


def _protocols(rows: list[RowResult], embeddings: EmbeddingSet) -> list[str]:
    """How the numbers were measured: prompt forms, and what was measured against what."""
    prompts = [f"{name}: {table.description}" for name, table in embeddings.prompts.items()]
    return prompts + [f"{prefix}: {sentence}" for prefix, sentence in (rows[0].protocols if rows else {}).items()]


def _warnings(rows: list[RowResult], embeddings: EmbeddingSet) -> list[str]:
    """What a reader must know before believing a number: an incomplete split, calibration data of another kind."""
    of_data = [str(warning) for warning in embeddings.provenance.get("warnings", ())]
    return of_data + [f"{row.name}: {note}" for row in rows for note in row.notes]


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
