"""The page over a sweep's jobs: one self-contained file, of use without its script too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from i0t.report.bokeh_page import DARK_COLORS, embed_figures
from i0t.report.sweep_data import Number, Sweep, goal_text, link_of, rounded, script_data, sweep_of
from i0t.report.sweep_figures import SERIES, parallel_figure, scatter_figure
from i0t.report.sweep_front import cost, pareto_front
from i0t.report.sweep_jobs import FINISHED, SweepJob
from i0t.report.sweep_lines import TRANSDUCTIVE, SweepLine
from i0t.report.sweep_seeds import SeedSummary
from i0t.report.table import MISSING
from i0t.report.templates import html_template

# Stands in the page's head; by it, the page is known as one that may be written anew.
GENERATOR = "i0t: report over jobs"
_MANY_SEEDS = 200  # lines of means; the others are in seeds.csv
_MOST_NAMED = 8  # keys in the heading; all are in the table's choice
_SCRIPTS = ("sweep_view.js", "sweep_plots.js", "sweep_page.js")  # each needs those before it
_FACTS = ("i0t", "git_commit", "torch", "python", "platform")


def render_sweep_page(
    jobs: Sequence[SweepJob], seeds: Sequence[SeedSummary], *, folder: Path, title: str, study: Path | None
) -> str:
    """The page as HTML.

    Args:
        jobs: Of the sweep, at least one.
        seeds: Means and spreads over seeds.
        folder: Where the page will be.
        title: Its heading.
        study: Another page over the same jobs in that folder, to link to.
    """
    sweep = sweep_of(jobs)
    figures = {} if sweep.x is None else {"scatter": scatter_figure()}
    if len(sweep.keys) + len(sweep.numbers) > 1:
        figures["parallel"] = parallel_figure()
    scripts = [resources.files("i0t.report").joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS]
    embedded = embed_figures(figures, data={"sweep": script_data(sweep, folder)}, scripts=scripts)
    return html_template("sweep_page.html.j2").render(
        title=title,
        generator=GENERATOR,
        embedded=embedded,
        colors=[(light, DARK_COLORS[light]) for light, _ in SERIES],
        study=None if study is None else study.name,
        status=_status_counts(jobs),
        differing=_first_words(sweep.keys),
        sweep=sweep,
        columns=[sweep.numbers[i] for i in sweep.shown_numbers()],
        shown_keys=[sweep.keys[i] for i in sweep.shown_keys()],
        lines=[_line_context(line, sweep, folder) for line in sweep.lines],
        front=_front_context(sweep),
        best=_best_context(sweep),
        seeds=_seeds_context(seeds, sweep),
        failed=[job for job in jobs if job.status != FINISHED],
        facts=_facts(jobs),
        goal_text=goal_text,
        missing=MISSING,
    )


def _status_counts(jobs: Sequence[SweepJob]) -> str:
    """How many jobs there are, and of which status."""
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.status] = counts.get(job.status, 0) + 1
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}: {told}"


def _first_words(keys: Sequence[str]) -> str:
    """The first keys, and how many there are beside them."""
    first = ", ".join(keys[:_MOST_NAMED])
    return first if len(keys) <= _MOST_NAMED else f"{first} and {len(keys) - _MOST_NAMED} more"


def shown_number(number: Number, value: float | None) -> str:
    """A number as the table has it."""
    if value is None:
        return MISSING
    return f"{value:.{number.decimals}f}" if number.decimals else f"{value:g}"


def _line_context(line: SweepLine, sweep: Sweep, folder: Path) -> dict[str, Any]:
    numbers = [sweep.numbers[i] for i in sweep.shown_numbers()]
    return {
        "job": line.job,
        "link": link_of(line.job, folder),
        "row": line.row,
        "given": [line.given[sweep.keys[i]] for i in sweep.shown_keys()],
        "cells": [shown_number(number, line.numbers.get(number.name)) for number in numbers],
        "fitted_on": line.fitted_on,
        "measured_on": line.measured_on,
    }


def front_of(sweep: Sweep) -> list[SweepLine]:
    """The lines on the Pareto fronts of the axes that are drawn first, one front for all that may be compared.

    None where an axis has no goal.
    """
    if sweep.x is None or sweep.y is None:
        return []
    x, y = sweep.numbers[sweep.x], sweep.numbers[sweep.y]
    if x.goal is None or y.goal is None:
        return []
    groups: dict[str, list[SweepLine]] = {}
    for line in sweep.lines:
        if x.name in line.numbers and y.name in line.numbers:
            groups.setdefault(line.group, []).append(line)
    found = []
    for group in groups.values():
        points = [(_value(line, x), _value(line, y)) for line in group]
        found += [group[i] for i in pareto_front(points, (x.goal, y.goal))]
    return found


def _value(line: SweepLine, number: Number) -> float:
    value = rounded(line.numbers[number.name])
    assert value is not None
    return value


def _front_context(sweep: Sweep) -> dict[str, Any] | None:
    if sweep.x is None or sweep.y is None:
        return None
    x, y = sweep.numbers[sweep.x], sweep.numbers[sweep.y]
    rows = [(line, shown_number(x, _value(line, x)), shown_number(y, _value(line, y))) for line in front_of(sweep)]
    return {"x": x, "y": y, "rows": rows}


class Best(NamedTuple):
    """The best line by a number, and the command of its job."""

    number: Number
    line: SweepLine


def best_of(sweep: Sweep) -> Best | None:
    """The best line by the number that is first drawn upwards, or by any that has a goal; the first of equal ones.

    Among the largest group of lines that may be compared, of which transductive ones come last.
    """
    wanted = [sweep.numbers[i] for i in (sweep.y, *range(len(sweep.numbers))) if i is not None]
    for number in wanted:
        groups: dict[str, list[SweepLine]] = {}
        for line in sweep.lines:
            if number.name in line.numbers:
                groups.setdefault(line.group, []).append(line)
        if number.goal is not None and groups:
            largest = max(groups.values(), key=lambda group: (group[0].protocol != TRANSDUCTIVE, len(group)))
            return Best(number, min(largest, key=lambda line: cost(_value(line, number), number.goal)))
    return None


def _best_context(sweep: Sweep) -> dict[str, Any] | None:
    best = best_of(sweep)
    if best is None:
        return None
    shown = shown_number(best.number, _value(best.line, best.number))
    return {"number": best.number, "line": best.line, "value": shown}


def _seeds_context(seeds: Sequence[SeedSummary], sweep: Sweep) -> dict[str, Any] | None:
    """A line for every group of jobs and row of means over seeds, with the columns of the table."""
    columns = [sweep.numbers[i] for i in sweep.shown_numbers()]
    fitted = {(line.job.name, line.row): line for line in sweep.lines}
    first: dict[tuple[tuple[str, str], ...], SweepJob] = {}
    for job in sweep.jobs:
        if job.metrics:
            first.setdefault(_without_seed(job.overrides), job)
    groups: dict[tuple[tuple[tuple[str, str], ...], str], dict[str, SeedSummary]] = {}
    for summary in seeds:
        if summary.metric.count("/") < 2:
            continue
        _, row, name = summary.metric.split("/", 2)
        groups.setdefault((_without_seed(summary.overrides), row), {})[name] = summary
    keys = [key for key in sweep.keys if key != "seed"]
    rows = []
    for (common, row), numbers in groups.items():
        line = fitted.get((first[common].name, row)) if common in first else None
        if line is None or not any(column.name in numbers for column in columns):
            continue
        cells = [_spread(column, numbers.get(column.name)) for column in columns]
        count = max(summary.num_seeds for summary in numbers.values())
        rows.append(
            {"given": [line.given[key] for key in keys], "row": row, "num": count, "cells": cells, "line": line}
        )
    if not rows:
        return None
    return {"keys": keys, "columns": columns, "rows": rows[:_MANY_SEEDS], "left_out": max(0, len(rows) - _MANY_SEEDS)}


def _without_seed(overrides: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in overrides.items() if key != "seed")


def _spread(number: Number, summary: SeedSummary | None) -> str:
    if summary is None:
        return MISSING
    mean = shown_number(number, summary.mean)
    return mean if summary.std is None else f"{mean} ± {shown_number(number, summary.std)}"


def _facts(jobs: Sequence[SweepJob]) -> dict[str, str]:
    """Versions and machines behind the numbers; several where jobs differ."""
    facts = {}
    for name in _FACTS:
        environments = [job.metrics.get("environment") for job in jobs]
        values = {str(e[name]) for e in environments if isinstance(e, Mapping) and name in e}
        if values:
            facts[name] = ", ".join(sorted(values))
    return facts
