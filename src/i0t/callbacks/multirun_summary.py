"""One table over the jobs of a multirun."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from i0t.runs import METRICS_FILE, write_atomically

SUMMARY_FILE = "summary.csv"


class MultirunSummary(Callback):
    """Writes ``summary.csv`` when a multirun ends: a row per job, what it overrode and every number it got.

    A job without numbers (failed, interrupted) keeps its row, with empty cells.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collects the jobs' ``metrics.json``."""
        folder = Path(config.hydra.sweep.dir)
        rows = [_job_row(path.parent.parent) for path in _in_order(folder.glob("*/.hydra/overrides.yaml"))]
        if rows:
            write_atomically(folder / SUMMARY_FILE, summary_csv(rows))
            print(f"summary of {len(rows)} jobs: {folder / SUMMARY_FILE}")  # noqa: T201


def _in_order(paths: Any) -> list[Path]:
    def number(path: Path) -> tuple[int, str]:
        name = path.parent.parent.name
        return (int(name), "") if name.isdigit() else (10**9, name)

    return sorted(paths, key=number)


def _job_row(folder: Path) -> dict[str, Any]:
    overrides = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    row: dict[str, Any] = {"job": folder.name}
    row |= {key.lstrip("+"): value for key, _, value in (o.partition("=") for o in overrides)}
    path = folder / METRICS_FILE
    if path.is_file():
        numbers = json.loads(path.read_text(encoding="utf-8"))
        row |= {name: value for name, value in numbers.items() if isinstance(value, (int, float))}
    return row


def summary_csv(rows: list[dict[str, Any]]) -> str:
    """The rows as CSV, with the union of their columns in order of appearance.

    Example:
        >>> print(summary_csv([{"job": 0, "seed": 1}, {"job": 1, "rmg": 0.5}]), end="")
        job,seed,rmg
        0,1,
        1,,0.5
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
