"""I0T's Table 3 as a figure: the gap that stays against the size of the calibration set, with the theory beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from i0t.report.calibration_points import CalibrationPoint, CalibrationSeries, calibration_series
from i0t.report.detail_table import format_cell
from i0t.report.jobs import Spread
from i0t.report.style import INK, SERIES_COLORS, new_axes, png_bytes
from i0t.report.table_formats import markdown_table
from i0t.report.whole_files import write_whole

# arXiv 2412.14384, Table 3: I0T_post on Flickr30k; images (one caption each) that the means were taken of -> CD. The
# last row takes them of all 1,000 that are measured.
PUBLISHED = {32: 0.1880, 64: 0.1387, 128: 0.0986, 256: 0.0710, 512: 0.0542, 1000: 0.0102}
_PUBLISHED_LABEL = "CD of I0T Table 3 (another model, N = 1,000)"
_STEM = "calibration_curve"
_HEADER = (
    "calibration",
    "n",
    "jobs",
    "CD",
    "CD low",
    "CD high",
    "CD theory",
    "CD / theory",
    "CD_u",
    "CD_u low",
    "CD_u high",
    "CD_u theory",
    "matched cosine",
    "I0T Table 3 CD",
)
_NOTE = (
    "n images the means were fitted on. low and high: mean minus and plus the standard deviation over jobs that differ "
    "in their seed; for a single job its 95 % bootstrap interval over images. Theory: CD² = a (1/n + 1/N) and "
    "CD_u² = a / n for N images other than the n; a (1/n - 1/N) where the n are among them (transductive); "
    "a = 2 (1 - c) with one caption per image, c the matched cosine. The published CD are another model's."
)


def write_calibration_curve(jobs: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Writes ``calibration_curve.png``, ``.csv`` and ``.md``, each whole or not at all.

    Args:
        jobs: As :func:`i0t.report.jobs.read_jobs` reads them: runs with ``evaluation=gap`` whose reducer was fitted on
            different numbers of images (``gap_reducer.fit_samples``), repeated over seeds or not.
        folder: Where to.

    Returns:
        The files.

    Raises:
        ValueError: If no job has a fitted row with a centroid distance and pairs.
    """
    series = calibration_series(jobs)
    contents: dict[str, str | bytes] = {
        "png": png_bytes(draw_calibration_curve(series)),
        "csv": _csv(series),
        "md": f"{markdown_table(_HEADER, [list(map(format_cell, line)) for line in _lines(series)])}\n\n{_NOTE}\n",
    }
    return [write_whole(folder / f"{_STEM}.{ending}", content) for ending, content in contents.items()]


def draw_calibration_curve(series: Sequence[CalibrationSeries]) -> Figure:
    """Measured CD (filled) and CD_u (hollow) with their bands, theory as lines, and the paper's points, log-log.

    Args:
        series: From :func:`i0t.report.calibration_points.calibration_series`.
    """
    figure, (axes,) = new_axes("The gap that a calibration set of n images leaves", width=7.2, height=5.0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = [*PUBLISHED, *(point.num_fit for line in series for point in line.points)]
    for number, line in enumerate(series):
        color = SERIES_COLORS[number % len(SERIES_COLORS)]
        _draw_series(axes, line, sizes, color, SERIES_COLORS[1] if len(series) == 1 else color)
    axes.plot(*zip(*PUBLISHED.items(), strict=True), "x", color=INK, markersize=6, label=_PUBLISHED_LABEL)
    ticks = sorted({*PUBLISHED, *(point.num_fit for line in series for point in line.points)})
    axes.set_xticks(_apart(ticks), minor=False)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("images the means were fitted on, n", fontsize=9, color=INK)
    axes.set_ylabel("centroid distance (unit vectors)", fontsize=9, color=INK)
    legend = axes.legend(fontsize=7.5, framealpha=0.9, edgecolor="none", loc="lower left")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw_series(axes: Axes, series: CalibrationSeries, sizes: Sequence[int], color: str, unbiased_color: str) -> None:
    bars = _bars(series)
    _draw_measured(axes, [(p.num_fit, p.distance) for p in series.points], color, f"CD of {series.label}{bars}", True)
    unbiased = [(p.num_fit, p.unbiased) for p in series.points if p.unbiased is not None and p.unbiased.mean > 0]
    if unbiased and not series.theory.among:
        _draw_measured(axes, unbiased, unbiased_color, "CD_u of the same", False)
    grid = np.geomspace(min(sizes), max(sizes), 200).tolist()
    sign = "\N{MINUS SIGN}" if series.theory.among else "+"
    theory = [(n, value) for n in grid if (value := series.theory.distance(n))]
    if theory:
        label = f"theory √(a (1/n {sign} 1/N)), a = {series.theory.spread:.2f}"
        axes.plot(*zip(*theory, strict=True), "-", color=color, linewidth=1.1, label=label)
    if not series.theory.among:
        values = [value for n in grid if (value := series.theory.unbiased(n)) is not None]
        axes.plot(grid, values, "--", color=unbiased_color, linewidth=1.1, label="theory √(a / n)")


def _draw_measured(axes: Axes, points: Sequence[tuple[int, Spread]], color: str, label: str, filled: bool) -> None:
    sizes, values = [n for n, _ in points], [spread.mean for _, spread in points]
    face = color if filled else "none"
    axes.plot(sizes, values, "o" if filled else "s", color=color, markerfacecolor=face, markersize=5, label=label)
    # A logarithmic axis has no place for a band that reaches below zero: it ends a little under its point.
    banded = [(n, max(s.low, 0.2 * s.mean), s.high) for n, s in points if s.low is not None and s.high is not None]
    if len(banded) > 1:
        places, lows, highs = zip(*banded, strict=True)
        axes.fill_between(places, lows, highs, color=color, alpha=0.16 if filled else 0.09, linewidth=0)
    for n, low, high in banded:
        axes.plot([n, n], [low, high], color=color, linewidth=1, alpha=0.7)


def _bars(series: CalibrationSeries) -> str:
    """What the bands are, in words."""
    counts = {point.num_jobs for point in series.points}
    if counts == {1}:
        return "; band: 95 % bootstrap" if all(p.distance.low is not None for p in series.points) else ""
    few, many = min(counts), max(counts)
    return f"; band: ± sd, {few if few == many else f'{few} to {many}'} seeds"


def _apart(ticks: Sequence[int]) -> list[int]:
    """Those ticks whose labels do not run into each other on a logarithmic axis."""
    kept: list[int] = []
    for tick in ticks:
        if not kept or tick >= 1.25 * kept[-1]:
            kept.append(tick)
    return kept


def _lines(series: Sequence[CalibrationSeries]) -> list[list[str | int | float | None]]:
    return [_line(line.label, point) for line in series for point in line.points]


def _line(label: str, point: CalibrationPoint) -> list[str | int | float | None]:
    theory, unbiased = point.theory.distance(point.num_fit), point.unbiased
    return [
        label,
        point.num_fit,
        point.num_jobs,
        point.distance.mean,
        point.distance.low,
        point.distance.high,
        theory,
        point.distance.mean / theory if theory else None,
        *((unbiased.mean, unbiased.low, unbiased.high) if unbiased is not None else (None, None, None)),
        point.theory.unbiased(point.num_fit),
        point.cosine,
        PUBLISHED.get(point.num_fit),
    ]


def _csv(series: Sequence[CalibrationSeries]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    writer.writerows(_lines(series))
    return text.getvalue()
