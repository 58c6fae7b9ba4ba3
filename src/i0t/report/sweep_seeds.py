"""Tables over the jobs of a sweep: every job, and the mean and spread over those that differ in their seed alone."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SEED_KEY = "seed"
# What is printed of the numbers that seeds.csv holds.
_PRINTED = (
    "gap/centroid_distance",
    "gap/rmg",
    "gap/linear_separability",
    "retrieval/i2t_r1",
    "retrieval/t2i_r1",
)


class Job(NamedTuple):
    """A job: its name, what it overrode, and the numbers it got (none where it failed)."""

    name: str
    overrides: Mapping[str, str]
    numbers: Mapping[str, float]


class SeedSummary(NamedTuple):
    """One number over the jobs that differ in their seed alone.

    Attributes:
        overrides: What they have in common.
        metric: Name of the number.
        num_seeds: How many jobs have it.
        mean: Over the jobs.
        std: Sample standard deviation (divided by n - 1); ``None`` for a single job.
    """

    overrides: Mapping[str, str]
    metric: str
    num_seeds: int
    mean: float
    std: float | None


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


def summarize_seeds(jobs: Sequence[Job]) -> list[SeedSummary]:
    """Mean and sample standard deviation of every number over the jobs that differ in ``seed`` alone.

    Args:
        jobs: Of one multirun. Jobs without numbers, NaN and infinity are left out and lower the count.

    Returns:
        One entry per group and number; nothing where no two jobs differ in their seed alone.

    Example:
        >>> jobs = [Job(str(i), {"seed": str(i), "loss": "clip"}, {"rmg": 0.1 * i}) for i in (1, 2, 3)]
        >>> [(s.overrides, s.num_seeds, round(s.mean, 3), round(s.std, 3)) for s in summarize_seeds(jobs)]
        [({'loss': 'clip'}, 3, 0.2, 0.1)]
    """
    groups: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        common = tuple((key, value) for key, value in job.overrides.items() if key != SEED_KEY)
        groups.setdefault(common, []).append(job)
    summaries = []
    for common, members in groups.items():
        if len({job.overrides.get(SEED_KEY) for job in members}) < 2:
            continue
        for metric in dict.fromkeys(name for job in members for name in job.numbers):
            values = [job.numbers[metric] for job in members if metric in job.numbers]
            values = [value for value in values if math.isfinite(value)]
            if values:
                std = statistics.stdev(values) if len(values) > 1 else None
                summaries.append(SeedSummary(dict(common), metric, len(values), statistics.fmean(values), std))
    return summaries


def seeds_csv(summaries: Sequence[SeedSummary]) -> str:
    """One line per group of jobs and number: common overrides, metric, number of seeds, mean, standard deviation."""
    rows = [
        {
            **s.overrides,
            "metric": s.metric,
            "num_seeds": s.num_seeds,
            "mean": s.mean,
            "std": "" if s.std is None else s.std,
        }
        for s in summaries
    ]
    overrides = dict.fromkeys(name for s in summaries for name in s.overrides)
    columns = [*overrides, "metric", "num_seeds", "mean", "std"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def seeds_text(summaries: Sequence[SeedSummary]) -> str:
    """The headline numbers as ``mean ± standard deviation (n seeds)``, under what their jobs have in common."""
    lines: list[str] = []
    heading = None
    for summary in summaries:
        if not (summary.metric.endswith(_PRINTED) or _is_zero_shot(summary.metric)):
            continue
        common = " ".join(f"{key}={value}" for key, value in summary.overrides.items()) or "all jobs"
        if common != heading:
            heading = common
            lines.append(f"over seeds, {common}:")
        spread = "" if summary.std is None else f" ± {summary.std:.4f}"
        count = f"{summary.num_seeds} seed{'s' if summary.num_seeds > 1 else ''}"
        lines.append(f"  {summary.metric:<44} {summary.mean:.4f}{spread} ({count})")
    return "\n".join(lines)


def _is_zero_shot(metric: str) -> bool:
    """Whether it is an accuracy such as ``test/none/zeroshot/digit``, not a balanced or top-5 one."""
    return metric.split("/")[-2:-1] == ["zeroshot"]
