"""The finished jobs of a multirun as plain data: one entry per job and row of its comparison.

A job is a mapping with ``name`` (its folder), ``overrides`` (key to value, as texts), ``config`` (the content of its
``config.yaml``), ``metrics`` (the content of its ``metrics.json``) and ``history`` (that of its ``history.json``, what
was logged while it trained: name to a list of ``[step, value]``; empty where nothing was).
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

_MISSING = object()


class JobRow(NamedTuple):
    """A row of a job's comparison.

    Attributes:
        job: The job it is of.
        name: The row's name.
        about: What ``metrics.json`` says of it: ``protocol``, ``fit_samples``, ``fit_data``, ``settings``, …
        numbers: Number by name without split and row, e.g. ``gap/centroid_distance``.
        intervals: 95 % bootstrap interval of those that have one.
    """

    job: Mapping[str, Any]
    name: str
    about: Mapping[str, Any]
    numbers: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    def value_of(self, key: str) -> Any:
        """What the job was given under a key: a setting of the row's reducer, an override, or a dotted path.

        Args:
            key: ``strength``, ``data.batch_size`` (of the config), ``model.trained_as`` (of ``metrics.json``), or
                ``row`` for the row's own name.

        Returns:
            The value; ``None`` where nothing has that key.
        """
        if key == "row":
            return self.name
        settings, overrides = self.about.get("settings", {}), self.job.get("overrides", {})
        if key in settings:
            return settings[key]
        if key in overrides:
            return number_or_text(overrides[key])
        for tree in (self.job.get("config", {}), self.job["metrics"]):
            value = _at(tree, key.split("."))
            if value is not _MISSING:
                return value
        return None

    def identity(self, *, without: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """What tells it from other rows: its name and what the job overrides.

        Args:
            without: Last words of override keys that do not count, such as ``seed``.
        """
        overrides = self.job.get("overrides", {}).items()
        kept = ((key, str(value)) for key, value in overrides if key.rsplit(".", 1)[-1] not in without)
        return (("row", self.name), *sorted(kept))


class Spread(NamedTuple):
    """A number over jobs that differ in their seed alone.

    Attributes:
        mean: Over the jobs.
        std: Sample standard deviation (divided by n - 1); ``None`` for a single job.
        low: Mean minus standard deviation; for a single job the lower end of its 95 % bootstrap interval, if any.
        high: The same upwards.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """The finished jobs of a multirun's folder, in the order of their numbers.

    Args:
        folder: Holds a folder per job; those without ``metrics.json`` are unfinished and left out.

    Raises:
        ValueError: If a file cannot be read as what it should be.
    """
    paths = sorted(folder.glob("*/metrics.json"), key=lambda path: _number(path.parent.name))
    return [_read_job(path.parent) for path in paths]


def unfinished_jobs(folder: Path) -> list[str]:
    """A sentence on every job of a multirun's folder that left no numbers: failed, interrupted, or still running.

    Args:
        folder: Holds a folder per job.
    """
    started = (path.parent.parent for path in folder.glob("*/.hydra/overrides.yaml"))
    missing = [job for job in started if not (job / "metrics.json").is_file()]
    sentences = []
    for job in sorted(missing, key=lambda job: _number(job.name)):
        overrides = " ".join(map(str, _parsed(job / ".hydra" / "overrides.yaml", []) or []))
        error = job / "error.txt"
        reason = f": {error.read_text(encoding='utf-8').strip()}" if error.is_file() else ""
        sentences.append(f"job {job.name} ({overrides}) left no numbers{reason}")
    return sentences


def rows_of(jobs: Iterable[Mapping[str, Any]]) -> list[JobRow]:
    """Every row of every job."""
    found = []
    for job in jobs:
        metrics = job["metrics"]
        numbers: dict[str, dict[str, float]] = {}
        for key, value in metrics.items():
            # One job's NaN is that job's: it must not undo the tables over all of them.
            if key.count("/") >= 2 and isinstance(value, (int, float)) and math.isfinite(value):
                _, row, name = key.split("/", 2)
                numbers.setdefault(row, {})[name] = float(value)
        intervals: dict[str, dict[str, tuple[float, float]]] = {}
        for key, (low, high) in metrics.get("intervals", {}).items():
            _, row, name = key.split("/", 2)
            intervals.setdefault(row, {})[name] = (float(low), float(high))
        for row, about in metrics.get("rows", {}).items():
            found.append(JobRow(job, row, about, numbers.get(row, {}), intervals.get(row, {})))
    return found


def spread_of(rows: Sequence[JobRow], value: Callable[[JobRow], float | None], name: str = "") -> Spread | None:
    """A number over the rows that have it; ``None`` where none has.

    Args:
        rows: Of jobs that differ in their seed alone.
        value: The number of a row.
        name: Of the interval that stands for the spread of a single row.
    """
    having = [row for row in rows if value(row) is not None]
    values = [number for row in having if (number := value(row)) is not None]
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) > 1:
        std = statistics.stdev(values)
        return Spread(mean, std, mean - std, mean + std)
    return Spread(mean, None, *having[0].intervals.get(name, (None, None)))


def number_or_text(value: Any) -> Any:
    """A text that reads as a number as that number; everything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) and value[-1:].isdigit() else value
    except json.JSONDecodeError:
        return value


def _read_job(folder: Path) -> dict[str, Any]:
    overrides: list[str] = _parsed(folder / ".hydra" / "overrides.yaml", []) or []
    parts = (override.partition("=") for override in overrides)
    return {
        "name": folder.name,
        "overrides": {key.lstrip("+"): value for key, _, value in parts},
        "config": _parsed(folder / "config.yaml", {}),
        "metrics": _parsed(folder / "metrics.json", {}),
        "history": _parsed(folder / "history.json", {}),
    }


def _parsed(path: Path, absent: Any) -> Any:
    if not path.is_file():
        return absent
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{path} is damaged ({type(error).__name__}): run this job again, or remove its folder"
        ) from error


def _number(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (10**9, name)


def _at(tree: Any, path: Sequence[str]) -> Any:
    for word in path:
        if not isinstance(tree, Mapping) or word not in tree:
            return _MISSING
        tree = tree[word]
    return tree
