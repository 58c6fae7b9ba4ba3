"""What the page over a sweep's jobs shows, and what its script reads: plain lists and dictionaries."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from i0t.report.sweep_front import HIGHER, LOWER, Goal, goal_of
from i0t.report.sweep_jobs import SweepJob
from i0t.report.sweep_lines import SweepLine, by_value, sweep_lines, varied_keys
from i0t.report.sweep_seeds import SEED_KEY
from i0t.report.table import default_headers

# Beyond so many cells the page has the main numbers alone; summary.csv has all of them.
_MOST_CELLS = 60_000
_MOST_KEYS, _MOST_NUMBERS = 6, 6  # columns that are shown before the reader chooses
_MOST_COLORS = 12  # values of a key by which points may be coloured
_DIGITS = 9  # more than any table shows, and less than half the bytes


class Number(NamedTuple):
    """A number that lines have.

    Attributes:
        name: Without split and row.
        header: Short, where there is such a form.
        goal: Where it should go, see :mod:`i0t.report.sweep_front`.
        decimals: As tables show it.
    """

    name: str
    header: str
    goal: Goal
    decimals: int


class Sweep(NamedTuple):
    """A sweep as its page shows it.

    Attributes:
        jobs: All of them.
        keys: That the jobs vary.
        numbers: That lines have, the main ones first.
        num_left_out: How many further numbers only ``summary.csv`` has.
        lines: Of the table.
        x: Index of the number that is first drawn across; ``None`` where there are less than two numbers.
        y: Index of the number that is first drawn upwards.
        color: What colours the points at first: ``row`` or a key.
    """

    jobs: Sequence[SweepJob]
    keys: Sequence[str]
    numbers: Sequence[Number]
    num_left_out: int
    lines: Sequence[SweepLine]
    x: int | None
    y: int | None
    color: str

    def shown_keys(self) -> list[int]:
        """Indices of the keys that are columns before the reader chooses."""
        return list(range(min(len(self.keys), _MOST_KEYS)))

    def shown_numbers(self) -> list[int]:
        """Indices of the numbers that are columns before the reader chooses."""
        main = [i for i, number in enumerate(self.numbers) if number.header != number.name]
        return (main or list(range(len(self.numbers))))[:_MOST_NUMBERS]

    def colors(self) -> list[str]:
        """What points may be coloured by."""
        few = [key for key in self.keys if len({line.given[key] for line in self.lines}) <= _MOST_COLORS]
        return ["row", *few]


def sweep_of(jobs: Sequence[SweepJob]) -> Sweep:
    """Collects what the page shows of the jobs."""
    keys = varied_keys(jobs)
    lines = sweep_lines(jobs, keys)
    names = dict.fromkeys(name for line in lines for name in line.numbers)
    headers = default_headers(names)
    every = [*headers, *sorted(name for name in names if name not in headers)]
    kept = every if len(every) * len(lines) <= _MOST_CELLS else every[: max(len(headers), 2)]
    numbers = [Number(name, headers.get(name, name), goal_of(name), _decimals(name)) for name in kept]
    x, y = _first_axes(numbers, {name for job in jobs for name in job.objectives})
    rows = {line.row for line in lines if line.row}
    unlike = next((key for key in keys if key != SEED_KEY), "row")
    color = "row" if len(rows) > 1 else unlike
    sweep = Sweep(jobs, keys, numbers, len(every) - len(kept), lines, x, y, color)
    return sweep if color in sweep.colors() else sweep._replace(color="row")


def _decimals(name: str) -> int:
    """As :func:`i0t.report.table.format_number` has them."""
    if name.rsplit("/", 1)[-1].startswith("num_"):
        return 0
    return 4 if name.startswith("gap/") else 3


def _first_axes(numbers: Sequence[Number], objectives: Set[str]) -> tuple[int | None, int | None]:
    """The gap across, performance upwards, of these what the sweep searched by; whatever there is, without them."""
    if len(numbers) < 2:
        return None, None
    order = sorted(range(len(numbers)), key=lambda i: numbers[i].name not in objectives)
    gaps = [i for i in order if numbers[i].name.startswith("gap/")]
    others = [i for i in order if numbers[i].goal == HIGHER and i not in gaps]
    across = next(iter(gaps), order[0] if order[0] not in others[:1] else order[1])
    return across, next((i for i in others if i != across), next(i for i in order if i != across))


def script_data(sweep: Sweep, folder: Path) -> dict[str, Any]:
    """What the page's script reads, as plain JSON.

    Args:
        sweep: The sweep.
        folder: Where the page will be, from which it links to the jobs' own pages.
    """
    at = {job.name: i for i, job in enumerate(sweep.jobs)}
    return {
        "keys": [{"name": key, "values": by_value([line.given[key] for line in sweep.lines])} for key in sweep.keys],
        "numbers": [number._asdict() for number in sweep.numbers],
        "jobs": [
            {"name": job.name, "status": job.status, "command": job.command, "link": link_of(job, folder)}
            for job in sweep.jobs
        ],
        "lines": [
            {
                "job": at[line.job.name],
                "row": line.row,
                "protocol": line.protocol,
                "fitted": line.fitted_on,
                "measured": line.measured_on,
                "group": line.group,
                "given": [line.given[key] for key in sweep.keys],
                "numbers": [rounded(line.numbers.get(number.name)) for number in sweep.numbers],
            }
            for line in sweep.lines
        ],
        "shown": {"keys": sweep.shown_keys(), "numbers": sweep.shown_numbers()},
        "x": sweep.x,
        "y": sweep.y,
        "color": sweep.color,
    }


def rounded(value: float | None) -> float | None:
    """A number with as many digits as the page keeps."""
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def link_of(job: SweepJob, folder: Path) -> str:
    """Address of the job's own page, from the folder of this one; empty where it has none."""
    page = job.folder / "report.html"
    return quote(Path(os.path.relpath(page, folder)).as_posix()) if page.is_file() else ""


def goal_text(goal: Goal) -> str:
    """A goal in words."""
    words: Mapping[Any, str] = {None: "", LOWER: "lower is better", HIGHER: "higher is better"}
    return words[goal] if goal is None or isinstance(goal, str) else f"best at {goal:g}"
