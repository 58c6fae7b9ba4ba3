"""Finished runs below folders, as their ``metrics.json`` tells them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.json"
_STARTED = (".hydra", "config.yaml")  # what a run folder holds before its numbers


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run measured, on what, of which model.

    Attributes:
        folder: Of the run.
        finished: When its numbers were written, in nanoseconds since 1970.
        numbers: By name, ``<split>/<row>/<evaluation>/<number>``.
        rows: Row of the comparison to what it says of itself: reducer, protocol, settings, what it was fitted on.
        data: Provenance of the measured data.
        model: ``trained_as``, ``architecture``, ``pretrained``, ``seed``.
    """

    folder: Path
    finished: int
    numbers: Mapping[str, float]
    rows: Mapping[str, Mapping[str, Any]]
    data: Mapping[str, Any]
    model: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A run folder that gives nothing, and why."""

    folder: Path
    reason: str


def collect(folders: Iterable[Path]) -> tuple[list[FinishedRun], list[LeftOut]]:
    """Reads every run below the folders; one that lies below two of them counts once.

    Args:
        folders: Run folders, or folders of them at any depth.

    Returns:
        The finished runs, and what was left out: unfinished runs, and files that are torn or say too little.

    Raises:
        ValueError: If one of the folders does not exist.
    """
    folders = list(folders)
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
    found, left_out = [], []
    for run in dict.fromkeys(run.resolve() for folder in folders for run in _run_folders(folder)):
        shown = _as_given(run)
        try:
            found.append(_read(run, shown))
        except (ValueError, OSError) as error:
            left_out.append(LeftOut(folder=shown, reason=str(error)))
    return found, left_out


def _run_folders(folder: Path) -> Iterator[Path]:
    """Folders of runs, finished or not; what lies inside one is not searched."""
    for path, inner, files in os.walk(folder):
        names = {*inner, *files}
        if METRICS_FILE in names or not names.isdisjoint(_STARTED):
            inner.clear()
            yield Path(path)
        inner.sort()


def _as_given(run: Path) -> Path:
    """The folder from where the command runs, if it lies below."""
    here = Path.cwd().resolve()
    return run.relative_to(here) if run.is_relative_to(here) else run


def _read(run: Path, shown: Path) -> FinishedRun:
    """Reads one run.

    Raises:
        ValueError: If it is unfinished, torn, or does not say what it measured.
    """
    path = run / METRICS_FILE
    if not path.is_file():
        raise ValueError(f"not finished: no {METRICS_FILE}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the text's encoding as well
        raise ValueError(f"{METRICS_FILE} is torn: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{METRICS_FILE} is no table of numbers")
    rows, data, model = (content.get(key) for key in ("rows", "data", "model"))
    if not isinstance(model, dict):
        raise ValueError(f"{METRICS_FILE} does not say which model was measured (no 'model'): measure it again")
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ValueError(f"{METRICS_FILE} does not say what its rows are (no 'rows')")
    if not isinstance(data, dict):
        raise ValueError(f"{METRICS_FILE} does not say which data were measured (no 'data')")
    return FinishedRun(
        folder=shown,
        finished=path.stat().st_mtime_ns,
        numbers={key: float(value) for key, value in content.items() if _is_number(value)},
        rows=rows,
        data=data,
        model=model,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
