"""The page's curves: what a training logged, and numbers against how many dimensions are dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool
from bokeh.models.renderers import DataRenderer, GlyphRenderer
from bokeh.plotting import figure as bokeh_figure

from i0t.analysis.colors import SERIES_COLORS
from i0t.analysis.dimensions_ablation import mean_curves
from i0t.analysis.dimensions_curves import DroppedDimensions
from i0t.report.bokeh_page import new_figure, style_legend
from i0t.report.figures import SMOOTH_ABOVE, Points, running_mean
from i0t.report.interactive_figures import TOOLS, InteractiveFigure, rounded

_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_NAMES = {"centroid_distance": "centroid distance", "rmg": "RMG", "i2t_r1": "I→T R@1", "t2i_r1": "T→I R@1"}
_MOST_POINTS = 2000  # of a curve: more than a screen is wide


def training_figure(name: str, title: str, curves: Mapping[str, Points]) -> InteractiveFigure:
    """Values against training steps; long noisy curves faintly, with their running mean on top.

    Args:
        name: Of its place in the page.
        title: What the curves are.
        curves: Logged name to (step, value) points.
    """
    made = new_figure(
        height=300,
        label=f"{title} against training steps",
        title=title,
        tools=TOOLS,
        active_drag=None,
        x_axis_label="training step",
    )
    lines: list[DataRenderer] = []
    for index, (label, points) in enumerate(curves.items()):
        steps, values = (np.asarray(column, dtype=float) for column in zip(*points, strict=True))
        style = {"color": SERIES_COLORS[index % len(SERIES_COLORS)], "legend_label": label}
        style["line_dash"] = "solid" if index < len(SERIES_COLORS) else "dashed"
        if len(points) > SMOOTH_ABOVE:
            window = len(points) // 50 * 2 + 1
            _add_curve(
                made, steps, values, **{**style, "legend_label": f"{label} (mean of {window})", "line_alpha": 0.3}
            )
            values, style["legend_label"] = running_mean(values.tolist(), window), f"{label} (mean of {window})"
        lines.append(_add_curve(made, steps, values, **style))
    made.add_tools(_tip("step", "x", lines))
    style_legend(made)
    return InteractiveFigure(name, made)


def ablation_figure(name: str, details: Mapping[str, DroppedDimensions]) -> InteractiveFigure:
    """Curves over the number of dropped dimensions, solid for the leading ones, dotted for the mean over random ones.

    Args:
        name: Of its place in the page.
        details: Row of the comparison to its curves.
    """
    first = next(iter(details.values()))
    labels = list(dict.fromkeys(label for detail in details.values() for label in detail.curves))
    states = {row: _ablation_columns(detail, labels) for row, detail in details.items()}
    values = [v for sources in states.values() for s in sources.values() for v in s["value"] if v is not None]
    top = 1.0 if first.are_shares else max(values, default=1.0)
    last = max(detail.leading.num_dropped[-1] for detail in details.values())
    made = new_figure(
        height=340,
        label=first.title,
        tools=TOOLS,
        active_drag=None,
        x_range=(-0.02 * _place(last, first.num_fine), 1.03 * _place(last, first.num_fine)),
        y_range=(min([0.0, *values]), 1.05 * top),
        x_axis_label="dropped dimensions, the largest difference first",
        y_axis_label=first.ylabel,
    )
    _count_axis(made, last, first.num_fine)
    lines: list[DataRenderer] = []
    for index, label in enumerate(labels):
        shown = _NAMES.get(label, label.replace("accuracy/", "accuracy: "))
        for kind, dash in (("leading", "solid"), ("random", "dotted")):
            source = ColumnDataSource({"x": [], "dropped": [], "value": []}, name=f"{kind}-{index}")
            color = SERIES_COLORS[index % len(SERIES_COLORS)]
            lines.append(
                made.line(
                    "x",
                    "value",
                    source=source,
                    color=color,
                    line_dash=dash,
                    line_width=1.8,
                    legend_label=shown,
                    name=shown if kind == "leading" else f"{shown}, random dimensions",
                )
            )
    made.add_tools(_tip("dimensions dropped", "dropped", lines))
    style_legend(made)
    return InteractiveFigure(name, made, states)


def _add_curve(made: bokeh_figure, steps: np.ndarray, values: np.ndarray, **style: Any) -> GlyphRenderer:
    keep = slice(None, None, math.ceil(len(steps) / _MOST_POINTS))
    source = ColumnDataSource({"x": steps[keep].tolist(), "value": rounded(values[keep].tolist(), 5)})
    if len(steps) <= SMOOTH_ABOVE:
        made.scatter("x", "value", source=source, size=5, color=style["color"], legend_label=style["legend_label"])
    return made.line("x", "value", source=source, line_width=1.6, name=style["legend_label"], **style)


def _tip(count: str, column: str, lines: list[DataRenderer]) -> HoverTool:
    tips = [("", "$name"), (count, f"@{column}{{0,0}}"), ("value", "@value{0.0000}")]
    return HoverTool(tooltips=tips, renderers=lines, mode="mouse", line_policy="nearest")


def _ablation_columns(detail: DroppedDimensions, labels: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    dropped = list(detail.leading.num_dropped)
    places = rounded([_place(number, detail.num_fine) for number in dropped], 5)
    found: dict[str, dict[str, list[Any]]] = {}
    for kind, curves in (("leading", detail.curves), ("random", mean_curves(detail.random))):
        for index, label in enumerate(labels):
            measured = label in curves
            found[f"{kind}-{index}"] = {
                "x": places if measured else [],
                "dropped": dropped if measured else [],
                "value": rounded(curves[label]) if measured else [],
            }
    return found


def _place(number: float, num_fine: int) -> float:
    """Where a count stands on the axis: linear up to ``num_fine``, beyond it by the logarithm, without a kink."""
    return number if number <= num_fine else num_fine * (1 + math.log(number / num_fine))


def _count_axis(made: bokeh_figure, last: int, num_fine: int) -> None:
    ticks = [tick for tick in _TICKS if tick <= last and (tick == 0 or tick >= 0.2 * num_fine)]
    places = [_place(tick, num_fine) for tick in ticks]
    made.xaxis[0].ticker = FixedTicker(ticks=places)
    made.xaxis[0].major_label_overrides = {place: str(tick) for place, tick in zip(places, ticks, strict=True)}
