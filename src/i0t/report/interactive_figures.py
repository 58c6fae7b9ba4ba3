"""The page's Bokeh figures: each has named sources, which the page's script fills with the state that is chosen.

Shapes: D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.renderers import DataRenderer
from bokeh.plotting import figure as bokeh_figure

from i0t.analysis.activation_change import ActivationChange
from i0t.analysis.colors import IMAGE_COLOR, MATCHED_COLOR, TEXT_COLOR, UNMATCHED_COLOR
from i0t.metrics.functional.activations import ActivationPeak
from i0t.report.bokeh_page import FONT, INK, LINE, SOFT, new_figure, style_legend
from i0t.report.samples import CosineSample

Columns: TypeAlias = Mapping[str, Sequence[Any]]
TOOLS = "pan,box_zoom,wheel_zoom,reset"
_BINS = 60
_MOVED = 0.01  # a peak that the reducer moved by less than this is named once


@dataclass(frozen=True)
class InteractiveFigure:
    """A figure and what it shows of each state.

    Attributes:
        name: Of its place in the page.
        figure: With empty sources, where it is switched.
        states: Name of a state to source name to columns; a state that is missing is not shown in this figure.
    """

    name: str
    figure: bokeh_figure
    states: Mapping[str, Mapping[str, Columns]] = field(default_factory=dict)


def plane_figure(limit: float, count: int) -> InteractiveFigure:
    """Both modalities in the plane of the largest joint variance; its points come packed, apart from this.

    Args:
        limit: Both axes run from ``-limit`` to ``limit``.
        count: Points of a modality.
    """
    made = new_figure(
        height=440,
        label="Images and texts in their two leading principal components",
        **_square(limit, TOOLS),
        x_axis_label="component 1",
        y_axis_label="component 2",
    )
    made.xaxis[0].name, made.yaxis[0].name = "x_axis", "y_axis"
    joins = ColumnDataSource({"x0": [], "y0": [], "x1": [], "y1": []}, name="joins")
    made.segment("x0", "y0", "x1", "y1", source=joins, color=SOFT, line_alpha=0.35, line_width=0.7)
    _add_points(made, count)
    return InteractiveFigure("plane", made)


def sphere_figure(count: int) -> InteractiveFigure:
    """Both modalities on a sphere that the page's script turns; seen from far away, so without perspective.

    Args:
        count: Points of a modality.
    """
    made = new_figure(height=440, label="Images and texts on a sphere of three dimensions", **_square(1.06, ""))
    made.axis.visible = False
    made.grid.visible = False
    made.min_border = 0
    turns = np.linspace(0, 2 * math.pi, 121)
    made.line(np.cos(turns).tolist(), np.sin(turns).tolist(), color=SOFT, line_width=1)
    made.multi_line("xs", "ys", source=ColumnDataSource({"xs": [], "ys": []}, name="circles"), color=LINE, line_width=1)
    _add_points(made, count)
    return InteractiveFigure("sphere", made)


def cosine_figure(samples: Mapping[str, CosineSample], *, paired: bool) -> InteractiveFigure:
    """Histograms of cosines between and inside the modalities, with the same bins in every state.

    Args:
        samples: State to its sampled cosines.
        paired: Whether the set knows its pairs.
    """
    edges = _shared_edges(samples.values())
    states = {name: {"bins": _histograms(sample, edges)} for name, sample in samples.items()}
    kinds = (
        ("matched", "image-text, matched", MATCHED_COLOR, True),
        ("unmatched", f"image-text, {'not matched' if paired else 'pairs unknown'}", UNMATCHED_COLOR, True),
        ("image_image", "image-image", IMAGE_COLOR, False),
        ("text_text", "text-text", TEXT_COLOR, False),
    )
    drawn = [kind for kind in kinds if any(any(state["bins"][kind[0]]) for state in states.values())]
    top = max(max(state["bins"][kind[0]]) for state in states.values() for kind in drawn)
    made = new_figure(
        height=320,
        label="Histograms of cosine similarities",
        tools=TOOLS,
        active_drag=None,
        x_range=(float(edges[0]), float(edges[-1])),
        y_range=(0, 1.04 * top),
        x_axis_label="cosine similarity",
        y_axis_label="density",
    )
    source = ColumnDataSource({name: [] for name in ("left", "right", "middle", *(k[0] for k in drawn))}, name="bins")
    bars: list[DataRenderer] = []
    for column, label, color, filled in drawn:
        style = {"source": source, "legend_label": label}
        if filled:
            edge = {"left": "left", "right": "right", "bottom": 0, "top": column}
            bars.append(made.quad(**edge, **style, fill_color=color, fill_alpha=0.6, line_color=None))
        else:
            bars.append(made.step("middle", column, **style, mode="center", color=color, line_width=1.6))
    tips = [("cosine", "@left{0.000} to @right{0.000}"), *((label, f"@{name}{{0.00}}") for name, label, *_ in drawn)]
    made.add_tools(HoverTool(tooltips=tips, mode="vline", renderers=bars[:1]))
    style_legend(made)
    return InteractiveFigure("cosines", made, states)


def activation_figure(name: str, changes: Mapping[str, ActivationChange]) -> InteractiveFigure:
    """Means of every dimension as bars, the peaks named, and as circles what peaks were before the reducer.

    Args:
        name: Of its place in the page.
        changes: State to its means before and after.
    """
    states = {state: _activation_columns(change) for state, change in changes.items()}
    heights = [abs(value) for state in states.values() for source in state.values() for value in source["mean"]]
    limit = 1.15 * max(heights, default=0.0) or 1.0
    dim = len(next(iter(changes.values())).after.image_means)
    made = new_figure(
        height=340,
        label="Mean of every embedding dimension over all images and over all texts",
        tools=TOOLS,
        active_drag=None,
        x_range=(0 - 0.02 * dim, 1 + 1.02 * dim),
        y_range=(-limit, limit),
        x_axis_label="dimension, counting from 1",
        y_axis_label="mean activation",
    )
    made.line([0, dim + 1], [0, 0], color=SOFT, line_width=0.7)
    width = max(0.8, min(4.0, 300 / dim))
    bars: list[DataRenderer] = []
    for modality, color in (("image", IMAGE_COLOR), ("text", TEXT_COLOR)):
        source = ColumnDataSource(
            {"x": [], "dimension": [], "image": [], "text": [], "mean": []}, name=f"{modality}_bars"
        )
        bars.append(
            made.segment(
                "x", 0, "x", "mean", source=source, color=color, line_width=width, legend_label=f"{modality} mean"
            )
        )
    tips = [("dimension", "@dimension"), ("image mean", "@image{+0.0000}"), ("text mean", "@text{+0.0000}")]
    made.add_tools(HoverTool(tooltips=tips, mode="vline", renderers=bars[:1]))
    _add_peaks(made, any_before=any(state["peaks_before"]["x"] for state in states.values()))
    style_legend(made)
    return InteractiveFigure(name, made, states)


def rounded(values: Sequence[float | None] | np.ndarray, digits: int = 4) -> list[float | None]:
    """Numbers with so many significant digits, which is shorter to send; ``None`` for what is missing or not finite."""
    return [None if v is None or not math.isfinite(v) else float(f"{v:.{digits}g}") for v in values]


def _square(limit: float, tools: str) -> dict[str, Any]:
    return {
        "tools": tools,
        "active_drag": None,  # a finger on the figure scrolls the page until a tool is chosen
        "x_range": (-limit, limit),
        "y_range": (-limit, limit),
        "sizing_mode": "scale_width",
        "aspect_ratio": 1.0,
        "toolbar_location": "above" if tools else None,
        "min_border_right": 0,
        "name": "plot",
    }


def _add_points(made: bokeh_figure, count: int) -> None:
    """Images as circles, texts as triangles, and the pair that is pointed at."""
    size = 8 if count <= 300 else 6 if count <= 1200 else 4
    for name, marker, color in (("images", "circle", IMAGE_COLOR), ("texts", "triangle", TEXT_COLOR)):
        source = ColumnDataSource({"x": [], "y": [], "alpha": []}, name=name)
        made.scatter(
            "x", "y", source=source, marker=marker, size=size, color=color, fill_alpha="alpha", line_color=None
        )
    picked = ColumnDataSource({"x": [], "y": []}, name="picked")
    made.line("x", "y", source=picked, color=INK, line_width=1.5)
    made.scatter("x", "y", source=picked, size=size + 7, fill_color=None, line_color=INK, line_width=2)


def _shared_edges(samples: Any) -> np.ndarray:
    everything = np.concatenate([_all_cosines(sample) for sample in samples])
    return np.linspace(everything.min() - 0.02, everything.max() + 0.02, _BINS + 1)


def _all_cosines(sample: CosineSample) -> np.ndarray:
    parts = (sample.matched, sample.unmatched, sample.image_image, sample.text_text)
    return np.concatenate([part.numpy() for part in parts])


def _histograms(sample: CosineSample, edges: np.ndarray) -> dict[str, list[Any]]:
    """Densities of every kind, zero for a kind without pairs."""
    columns = {"left": edges[:-1], "right": edges[1:], "middle": (edges[:-1] + edges[1:]) / 2}
    kinds = ("matched", "unmatched", "image_image", "text_text")
    for kind in kinds:
        values = getattr(sample, kind).numpy()
        columns[kind] = np.histogram(values, edges, density=True)[0] if len(values) else np.zeros(len(edges) - 1)
    return {name: rounded(values) for name, values in columns.items()}


def _activation_columns(change: ActivationChange) -> dict[str, dict[str, list[Any]]]:
    found: dict[str, dict[str, list[Any]]] = {}
    image, text = (rounded(m.tolist()) for m in (change.after.image_means, change.after.text_means))
    dimensions = list(range(1, len(image) + 1))
    for name, means, offset in (("image", image, -0.2), ("text", text, 0.2)):
        places = [dimension + offset for dimension in dimensions]
        found[f"{name}_bars"] = {"x": places, "dimension": dimensions, "image": image, "text": text, "mean": means}
    return {**found, **{name: _peak_columns(peaks, len(image)) for name, peaks in _named_peaks(change).items()}}


def _named_peaks(change: ActivationChange) -> dict[str, list[ActivationPeak]]:
    """The peaks with a name: those after the reducer, and those before it that it moved."""
    count = change.labelled_peaks
    before, after = change.before, change.after
    modalities = (
        (before.image_peaks, after.image_peaks, after.image_means),
        (before.text_peaks, after.text_peaks, after.text_means),
    )
    named: dict[str, list[ActivationPeak]] = {"peaks": [], "peaks_before": []}
    for was, stays, means in modalities:
        named["peaks"] += stays[:count]
        moved = [peak for peak in was if abs(peak.mean - float(means[peak.index_from_0])) > _MOVED]
        named["peaks_before"] += moved[:count]
    return named


def _peak_columns(peaks: Sequence[ActivationPeak], dim: int) -> dict[str, list[Any]]:
    labels = [f"{peak.index_from_1}: {peak.mean:+.2f}".replace("-", "\N{MINUS SIGN}") for peak in peaks]
    at_the_right = [peak.index_from_1 > 0.7 * dim for peak in peaks]  # there, the name stands left of the peak
    return {
        "x": [peak.index_from_1 for peak in peaks],
        "mean": rounded([peak.mean for peak in peaks]),
        "label": labels,
        "align": ["right" if right else "left" for right in at_the_right],
        "offset": [-6 if right else 6 for right in at_the_right],
    }


def _add_peaks(made: bokeh_figure, *, any_before: bool) -> None:
    """The names of peaks, and circles for those that the reducer moved."""
    for name in ("peaks", "peaks_before"):
        columns: dict[str, list[Any]] = {"x": [], "mean": [], "label": [], "align": [], "offset": []}
        source = ColumnDataSource(columns, name=name)
        if name == "peaks_before":
            made.scatter("x", "mean", source=source, size=8, fill_color=None, line_color=INK)
        names = made.text("x", "mean", "label", source=source, x_offset="offset", text_align="align")
        names.glyph.update(text_baseline="middle", text_color=INK, text_font=value(FONT), text_font_size="12px")
    if any_before:
        # The legend draws a glyph's first point, which a state without such peaks does not have.
        nowhere = ColumnDataSource({"x": [math.nan], "y": [math.nan]})
        made.scatter(
            "x", "y", source=nowhere, size=8, fill_color=None, line_color=INK, legend_label="before the reducer"
        )
