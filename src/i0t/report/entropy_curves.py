"""The curves of an entropy study: runs that go on from one checkpoint with a learnt and with a frozen temperature.

Shapes: R pairs of runs that differ in the temperature alone, S validation steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

QUANTITIES = ("logit_entropy", "temperature", "centroid_distance", "rmg")
FREEZE_KEY = "freeze_temperature"
# Jobs that differ in these repeat the study; any other difference would be another study.
_REPEATS = ("seed", "ckpt_path")
_MIN_STEPS = 2

Series = Mapping[str, Mapping[int, float]]  # quantity -> step -> value


class Estimate(NamedTuple):
    """A mean over runs with its 95 % interval by Student's t; no interval for a single run."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class EntropyCurves:
    """R pairs of runs, validated at S common steps.

    Attributes:
        repeats: What tells a pair from the others: ``seed=0``.
        steps: ``(S,)`` int64, optimizer steps.
        learnt: ``(R, S)`` of each of :data:`QUANTITIES`, temperature learnt.
        frozen: The same, temperature frozen.
        left_out: Why jobs do not count.
    """

    repeats: Sequence[str]
    steps: np.ndarray
    learnt: Mapping[str, np.ndarray]
    frozen: Mapping[str, np.ndarray]
    left_out: Sequence[str]


def estimate(values: np.ndarray) -> Estimate:
    """Mean of ``(R,)`` values and its 95 % interval, mean ± t(0.975, R - 1) s / √R with the sample deviation s.

    Example:
        >>> tuple(round(x, 4) for x in estimate(np.array([1.0, 2.0, 3.0])))
        (2.0, -0.4841, 4.4841)
    """
    mean, count = float(np.mean(values)), len(values)
    if count == 1:
        return Estimate(mean, None, None)
    half = float(student_t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return Estimate(mean, mean - half, mean + half)


def entropy_curves(jobs: Sequence[Mapping[str, Any]], *, unfinished: Sequence[str] = ()) -> EntropyCurves:
    """Pairs the jobs of a multirun that differ in ``freeze_temperature`` alone.

    Args:
        jobs: As :func:`i0t.report.jobs.read_jobs` reads them.
        unfinished: A sentence on every job that left no numbers.

    Raises:
        ValueError: If there is no pair, jobs differ in more than the temperature, seed and checkpoint, two jobs are the
            same, or the runs were not validated at two common steps.
    """
    found, unusable = _by_repeat(jobs)
    left_out = [*unfinished, *unusable]
    whole = {repeat: arms for repeat, arms in found.items() if len(arms) == 2}
    for repeat, arms in found.items():
        if repeat not in whole:
            left_out.append(f"{repeat}: there is no usable run with {FREEZE_KEY}={str(True not in arms).lower()}")
    if not whole:
        raise ValueError(
            f"no two of {len(jobs)} finished jobs with validation curves differ in {FREEZE_KEY} alone"
            + (f" ({'; '.join(left_out)})" if left_out else "")
        )
    runs = [series for arms in whole.values() for series in arms.values()]
    steps = sorted(set.intersection(*(set(series[name]) for series in runs for name in QUANTITIES)))
    if len(steps) < _MIN_STEPS:
        raise ValueError(
            f"the runs were validated together at {len(steps)} step: set validate_first=true and lower "
            "trainer.val_check_interval, so that there are curves"
        )
    learnt, frozen = (_stacked([arms[which] for arms in whole.values()], steps) for which in (False, True))
    return EntropyCurves(repeats=list(whole), steps=np.array(steps), learnt=learnt, frozen=frozen, left_out=left_out)


def _by_repeat(jobs: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[bool, Series]], list[str]]:
    """The curves of every job, by what repeats the study and by whether the temperature is frozen."""
    shared = set.intersection(*(set(_overrides(job).items()) for job in jobs)) if jobs else set()
    found: dict[str, dict[bool, Series]] = {}
    left_out: list[str] = []
    for job in jobs:
        own = {key: value for key, value in _overrides(job).items() if (key, value) not in shared}
        others = [key for key in own if key not in _REPEATS]
        if others:
            raise ValueError(f"the jobs differ in {', '.join(others)} too: study one setting at a time")
        repeat = ", ".join(f"{key}={value}" for key, value in sorted(own.items())) or "one run"
        series = _series(job.get("history", {}))
        if series is None:
            left_out.append(f"job {job['name']}: its validation curves are missing or not finite")
            continue
        frozen = bool(job["config"].get(FREEZE_KEY, False))
        if frozen in found.setdefault(repeat, {}):
            raise ValueError(f"job {job['name']} repeats another one ({repeat}, {FREEZE_KEY}={str(frozen).lower()})")
        found[repeat][frozen] = series
    return found, left_out


def _overrides(job: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in job.get("overrides", {}).items() if key != FREEZE_KEY}


def _series(history: Mapping[str, Sequence[Sequence[float]]]) -> Series | None:
    """The quantities of a run; ``None`` where one is missing or a value is not finite."""
    series = {name: {int(step): float(value) for step, value in history.get(f"val/{name}", ())} for name in QUANTITIES}
    values = [value for points in series.values() for value in points.values()]
    return series if all(series.values()) and all(map(math.isfinite, values)) else None


def _stacked(runs: Sequence[Series], steps: Sequence[int]) -> dict[str, np.ndarray]:
    return {name: np.array([[series[name][step] for step in steps] for series in runs]) for name in QUANTITIES}
