"""The lines of a sweep's table: a line for every job and row of its comparison, with what the jobs were given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

from i0t.report.jobs import JobRow, rows_of
from i0t.report.sweep_jobs import SweepJob, natural_key
from i0t.report.sweep_seeds import SEED_KEY
from i0t.report.table import describe_protocol

TRANSDUCTIVE, _INDUCTIVE = "transductive", "inductive"
# What says where things are and how a run is shown, not what was measured.
_BESIDE_THE_RESULT = ("hydra.", "hydra/", "paths.", "logger", "callbacks", "resume", "skip_finished", "report")
_TASK, _NAME = "task", "name"


@dataclass(frozen=True, kw_only=True)
class SweepLine:
    """A row of a job's comparison; of a job without numbers, the job.

    Attributes:
        job: The job.
        row: Name of the row; empty for a job without numbers.
        protocol: ``inductive``, ``transductive``, ``none`` (nothing is fitted), or empty where that is not known.
        fitted_on: The same with the data, in words.
        measured_on: Data set and split.
        given: What the job was given under every varied key, as texts; empty where that is not known.
        numbers: By name without split and row, finite ones only.
        group: Names the lines that its numbers may be compared with: of the same data and split, and transductive ones
            by themselves where there are inductive ones.
    """

    job: SweepJob
    row: str = ""
    protocol: str = ""
    fitted_on: str = ""
    measured_on: str = ""
    given: Mapping[str, str]
    numbers: Mapping[str, float] = field(default_factory=dict)
    group: str = ""


def sweep_lines(jobs: Sequence[SweepJob], keys: Sequence[str]) -> list[SweepLine]:
    """The lines of all jobs, in the order of the jobs.

    Args:
        jobs: Of the sweep.
        keys: What they vary, from :func:`varied_keys`.
    """
    found = []
    for job in jobs:
        given = {key: value_of(job, key) or "" for key in keys}
        rows = rows_of([{"metrics": job.metrics}])
        found += [_line(job, row, given) for row in rows] or [SweepLine(job=job, given=given)]
    inductive = {line.measured_on for line in found if line.protocol == _INDUCTIVE}
    return [replace(line, group=_group(line, inductive)) for line in found]


def _group(line: SweepLine, inductive: set[str]) -> str:
    apart = line.protocol == TRANSDUCTIVE and line.measured_on in inductive
    return f"{line.measured_on}, {TRANSDUCTIVE}" if apart else line.measured_on


def _line(job: SweepJob, row: JobRow, given: Mapping[str, str]) -> SweepLine:
    protocol = str(row.about.get("protocol") or "")
    return SweepLine(
        job=job,
        row=row.name,
        protocol=protocol,
        fitted_on=_fitted_on(row.about) if protocol else "not said",
        measured_on=_measured_on(job.metrics, row.name),
        given=given,
        numbers=row.numbers,
    )


def _fitted_on(about: Mapping[str, Any]) -> str:
    """The protocol in the words of a run's own table."""
    samples = about.get("fit_samples")
    told = SimpleNamespace(
        protocol=about["protocol"],
        fit_split=about.get("fit_split"),
        fit_data=about.get("fit_data"),
        fit_samples=samples if isinstance(samples, int) else 0,
    )
    return describe_protocol(cast(Any, told))


def _measured_on(metrics: Mapping[str, Any], row: str) -> str:
    split = next((name.split("/")[0] for name in metrics if name.split("/")[1:2] == [row]), "")
    data = metrics.get("data")
    name = data.get("data") if isinstance(data, Mapping) else None
    return f"{name} {split}".strip() if isinstance(name, str) else split


def varied_keys(jobs: Sequence[SweepJob]) -> list[str]:
    """The keys by which jobs differ: overridden in one of them, and with different values over all.

    A job that does not override a key has the value of its own config. The seed comes last; ``task`` and ``name`` are
    there where folders of several sweeps are read together.
    """
    overridden = dict.fromkeys(key for job in jobs for key in job.overrides if not key.startswith(_BESIDE_THE_RESULT))
    keys = dict.fromkeys([_TASK, _NAME, *overridden])
    varied = [key for key in keys if len({value_of(job, key) for job in jobs if _is_known(job)}) > 1]
    return sorted(varied, key=lambda key: key == SEED_KEY)


def _is_known(job: SweepJob) -> bool:
    """Whether its folder says what the job was given."""
    return bool(job.overrides or job.config)


def value_of(job: SweepJob, key: str) -> str | None:
    """What a job was given under a key, overridden or not, as a text; ``None`` where its folder does not say."""
    if key == _TASK:
        return job.task or None
    if key in job.overrides:
        return _text(job.overrides[key])
    choice = job.choices.get(key)
    if isinstance(choice, str):
        return choice
    found: Any = job.config
    for word in key.split("."):
        if not isinstance(found, Mapping) or word not in found:
            return None
        found = found[word]
    return None if isinstance(found, (Mapping, list)) else _text(found)


def _text(value: Any) -> str:
    """One text for one value: ``0.10``, ``.1`` and 0.1 are the same number, ``True`` and ``true`` the same word."""
    text = "null" if value is None else str(value)
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:.12g}" if number == number else text


def by_value(texts: Sequence[str]) -> list[str]:
    """Different texts in order: numbers by their value, then words.

    Example:
        >>> by_value(["10", "9", "clip", "0.5", "9"])
        ['0.5', '9', '10', 'clip']
    """

    def key(text: str) -> tuple[int, float, list[tuple[int, int, str]]]:
        try:
            return (0, float(text), [])
        except ValueError:
            return (1, 0.0, natural_key(text))

    return sorted(set(texts), key=key)
