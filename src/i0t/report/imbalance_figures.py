"""The figures of a sweep over captions: against k, against the bits that captions carry, and along the training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from i0t.report.imbalance_closing import LOGGED
from i0t.report.imbalance_points import (
    ACCURACY,
    BIAS,
    DISTANCE,
    MEAN_ACCURACY,
    OBJECT_ACCURACY,
    RMG,
    ImbalanceJob,
    ImbalancePoint,
    contrast,
    labels_of,
)
from i0t.report.panel import Panel
from i0t.report.style import INK, SERIES_COLORS, axes_grid, png_bytes

_OUTSIDE = "#F0F1F3"
_WIDTHS = {1: 4.8, 2: 4.8, 3: 4.0}  # inches of an axes, by how many stand side by side
_HEIGHT = 3.2
_ACCURACY_LABEL = "zero-shot accuracy"
_K_LABEL = "captioned attributes beside the main object, k"


class Picture(NamedTuple):
    """One axes: its title and vertical label, and the numbers in it with their line style."""

    title: str
    label: str
    numbers: Sequence[tuple[str, str]]


class Series(NamedTuple):
    """A line with its band: one number of one main object."""

    places: list[float]
    means: list[float]
    lows: list[float | None]
    highs: list[float | None]
    ks: list[int]


def imbalance_panels(jobs: Sequence[ImbalanceJob], points: Sequence[ImbalancePoint]) -> list[Panel]:
    """Every figure that the jobs have numbers for.

    Args:
        jobs: From :func:`i0t.report.imbalance_points.imbalance_jobs`.
        points: Of these jobs.
    """
    present = dict.fromkeys(name for point in points for name in point.values)
    groups = _groups(labels_of(present))
    panels = []
    for name, pictures in groups.items():
        shown = [picture for picture in pictures if any(number in present for number, _ in picture.numbers)]
        if not shown:
            continue
        panels.append(_panel(f"{name}_by_k", draw_lines(points, shown, by_bits=False), f"{name} against k"))
        if name != "contrast" and any(point.caption_bits is not None for point in points):
            panels.append(_panel(f"{name}_by_bits", draw_lines(points, shown, by_bits=True), f"{name} against bits"))
    if any(job.history.get(name) for job in jobs for name in LOGGED.values()):
        panels.append(_panel("gap_by_step", draw_training(jobs), "gap along the training"))
    return panels


def _groups(labels: Sequence[str]) -> dict[str, list[Picture]]:
    """Name of a figure to its axes."""
    accuracies = {OBJECT_ACCURACY: "main object", MEAN_ACCURACY: "mean over factors"}
    accuracies |= {ACCURACY + label: label for label in labels}
    return {
        "gap": [
            Picture("RMG", "relative modality gap", [(RMG, "-")]),
            Picture("centroid distance", "distance of unit vectors", [(DISTANCE, "-")]),
        ],
        "object_bias": [
            Picture(f"MOAD of {modality}s", "object bias", [(name, "-")]) for modality, name in BIAS.items()
        ],
        "accuracy": [Picture(title, _ACCURACY_LABEL, [(name, "-")]) for name, title in accuracies.items()],
        "contrast": [
            Picture(label, "contrast (cosine)", [(contrast("image", label), "-"), (contrast("text", label), "--")])
            for label in labels
        ],
    }


def _panel(stem: str, figure: Figure, alt: str) -> Panel:
    return Panel(f"{stem}.png", png_bytes(figure), alt.replace("_", " "), wide=True)


def colours_of(mains: Sequence[str]) -> dict[str, str]:
    """One colour per main object, in order of appearance."""
    return {main: SERIES_COLORS[index % len(SERIES_COLORS)] for index, main in enumerate(dict.fromkeys(mains))}


def draw_lines(points: Sequence[ImbalancePoint], pictures: Sequence[Picture], *, by_bits: bool) -> Figure:
    """Numbers with their 95 % bands, a line per main object; k = 0 hollow, for it is outside the claims.

    Args:
        points: Per main object and k.
        pictures: An axes each.
        by_bits: The horizontal axis is the information that captions carry, not k.
    """
    columns = min(len(pictures), 3 if len(pictures) > 4 else 2)
    figure, grid = axes_grid(len(pictures), columns=columns, width=_WIDTHS[columns], height=_HEIGHT, share_y=False)
    colours = colours_of([point.main_object for point in points])
    for axes, picture in zip(grid, pictures, strict=True):
        for main, color in colours.items():
            for number, style in picture.numbers:
                series = _series([point for point in points if point.main_object == main], number, by_bits=by_bits)
                if series.places:
                    _draw_series(axes, series, color, style, main if style == "-" else f"{main}, texts")
        _finish_axes(axes, picture, points, by_bits=by_bits)
    _add_legend(figure, grid[0])
    return figure


def _series(points: Sequence[ImbalancePoint], number: str, *, by_bits: bool) -> Series:
    found = Series([], [], [], [], [])
    for point in sorted(points, key=lambda point: point.k):
        value, place = point.values.get(number), point.caption_bits if by_bits else float(point.k)
        if value is not None and place is not None:
            for column, cell in zip(found, (place, value.mean, value.low, value.high, point.k), strict=True):
                column.append(cell)  # type: ignore[attr-defined]
    return found


def _draw_series(axes: Axes, series: Series, color: str, style: str, label: str) -> None:
    axes.plot(series.places, series.means, style, color=color, linewidth=1.5, label=label)
    for place, mean, k in zip(series.places, series.means, series.ks, strict=True):
        axes.plot([place], [mean], "o", color=color, markersize=4.5, markerfacecolor="white" if k == 0 else color)
    banded = [
        (place, low, high)
        for place, low, high in zip(series.places, series.lows, series.highs, strict=True)
        if low is not None and high is not None
    ]
    if len(banded) > 1:
        places, lows, highs = zip(*banded, strict=True)
        axes.fill_between(places, lows, highs, color=color, alpha=0.16 if style == "-" else 0.08, linewidth=0)
    elif banded:
        axes.plot([banded[0][0]] * 2, banded[0][1:], color=color, linewidth=1)


def _finish_axes(axes: Axes, picture: Picture, points: Sequence[ImbalancePoint], *, by_bits: bool) -> None:
    axes.set_title(picture.title, fontsize=9.5, fontweight="bold", color=INK, loc="left", parse_math=False)
    axes.set_ylabel(picture.label, fontsize=8.5, color=INK)
    if picture.label == _ACCURACY_LABEL:  # a band of the t distribution knows no bounds, an accuracy does
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1.02))
    if by_bits:
        whole = next((point.image_bits for point in points if point.image_bits is not None), None)
        axes.set_xlabel("bits that a caption carries of the image", fontsize=8.5, color=INK)
        if whole is not None:
            axes.axvline(whole, color=INK, linewidth=0.8, linestyle=":")
            axes.annotate(f"image: {whole:.1f} bits", (whole, 1), xycoords=("data", "axes fraction"), xytext=(-3, -3),
                          textcoords="offset points", ha="right", va="top", fontsize=7, color=INK)  # fmt: skip
        return
    axes.set_xlabel(_K_LABEL, fontsize=8.5, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if any(point.k == 0 for point in points):
        left, right = axes.get_xlim()
        axes.axvspan(left, 0.5, color=_OUTSIDE, zorder=-1, linewidth=0)
        axes.set_xlim(left, right)


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Above all axes, where it covers no line."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    columns = min(len(labels), 6)
    room = 0.25 + 0.17 * -(-len(labels) // columns)
    height = figure.get_size_inches()[1]
    figure.set_figheight(height + room)
    scale = height / (height + room)
    figure.subplots_adjust(top=figure.subplotpars.top * scale, bottom=figure.subplotpars.bottom * scale)
    legend = figure.legend(handles, labels, loc="upper left", ncols=columns, fontsize=8, frameon=False,
                           title="always captioned:", title_fontsize=8, alignment="left",
                           bbox_to_anchor=(0.01, 1.0))  # fmt: skip
    for text in [*legend.get_texts(), legend.get_title()]:
        text.set_parse_math(False)


def draw_training(jobs: Sequence[ImbalanceJob]) -> Figure:
    """The gap of the validation split against the training step, mean over seeds, for the least and the most k.

    Args:
        jobs: Of the sweep; k = 0 is drawn only where there is nothing else.
    """
    figure, grid = axes_grid(len(LOGGED), columns=2, width=_WIDTHS[2], height=_HEIGHT, share_y=False)
    colours = colours_of([job.main_object for job in jobs])
    ks = sorted({job.k for job in jobs})
    least, most = next((k for k in ks if k > 0), ks[0]), ks[-1]
    for axes, (measure, name) in zip(grid, LOGGED.items(), strict=True):
        for (main, k), (steps, means) in _mean_history(jobs, name).items():
            if k in (least, most):
                style = "o-" if k == most else "o--"
                axes.plot(steps, means, style, color=colours[main], linewidth=1.4, markersize=3,
                          label=f"{main}, k = {k}")  # fmt: skip
        axes.set_title(f"{measure} (validation)", fontsize=9.5, fontweight="bold", color=INK, loc="left")
        axes.set_xlabel("training step", fontsize=8.5, color=INK)
        axes.set_ylabel(measure, fontsize=8.5, color=INK)
        axes.set_ylim(bottom=0)
    _add_legend(figure, grid[0])
    return figure


def _mean_history(jobs: Sequence[ImbalanceJob], name: str) -> dict[tuple[str, int], tuple[list[float], list[float]]]:
    """Main object and k to the steps at which all of their jobs have a value, and its mean."""
    groups: dict[tuple[str, int], list[dict[float, float]]] = {}
    for job in jobs:
        if job.history.get(name):
            groups.setdefault((job.main_object, job.k), []).append({p[0]: p[1] for p in job.history[name]})
    found = {}
    for key, tables in groups.items():
        steps = sorted(set.intersection(*map(set, tables)))
        if steps:
            found[key] = (steps, [statistics.fmean(table[step] for table in tables) for step in steps])
    return found
