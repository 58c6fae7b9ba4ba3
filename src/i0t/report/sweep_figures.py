"""The empty figures of the page over a sweep's jobs; its script fills them, anew whenever the reader chooses."""

from __future__ import annotations

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d
from bokeh.plotting import figure as BokehFigure

from i0t.analysis.colors import SERIES_COLORS
from i0t.report.bokeh_page import CARD, FONT, INK, SOFT, new_figure

# Each colour has a dark counterpart, and with its marker a second sign for those who do not tell colours apart.
_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star", "cross")
# The last one is of the eighth value and all further ones.
SERIES = tuple((color.lower(), marker) for color, marker in zip(SERIES_COLORS, _MARKERS, strict=True))
_POINT = ("x", "y", "job", "row", "given", "fitted", "measured", "xs", "ys")
_LINE = ("xs", "ys", "alpha", "width", "job", "row", "given", "fitted")
_TEXT_SIZE = "12px"


def scatter_figure() -> BokehFigure:
    """Points of one number against another, with the Pareto front; models by name: ``points-<i>``, ``front``, …."""
    made = new_figure(
        height=420,
        label="Scatter plot of one number of the jobs against another, with the Pareto front",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        x_range=Range1d(name="x-range"),
        y_range=Range1d(name="y-range"),
    )
    made.toolbar.active_scroll = made.toolbar.active_drag = None  # wheel and finger scroll the page until one is chosen
    made.xaxis[0].name, made.yaxis[0].name = "x-axis", "y-axis"
    front = _source("front", ("x", "y"))
    made.line("x", "y", source=front, line_color=SOFT, line_dash="dashed", line_width=1.5, level="underlay")
    rings = _source("rings", ("x", "y"))
    made.scatter("x", "y", source=rings, size=17, fill_alpha=0, line_color=INK, line_width=1.5)
    renderers = []
    for i, (color, marker) in enumerate(SERIES):
        renderers.append(
            made.scatter(
                "x",
                "y",
                source=_source(f"points-{i}", _POINT),
                size=10,
                marker=marker,
                fill_color=color,
                line_color=CARD if marker != "cross" else color,
                line_width=1,
                alpha=0.9,
            )
        )
    tips = [("job", "@job"), ("row", "@row"), ("given", "@given"), ("", "@xs"), ("", "@ys"), ("fitted on", "@fitted")]
    made.add_tools(HoverTool(renderers=renderers, tooltips=[*tips, ("measured on", "@measured")]))
    return made


def parallel_figure() -> BokehFigure:
    """A line for every job and row across axes of what was varied and measured; ``lines-<i>`` are the sources."""
    made = new_figure(
        height=440,
        label="Parallel coordinates: a line for every job and row across what was varied and measured",
        tools="reset,save",
        x_range=Range1d(name="axes-range"),
        y_range=Range1d(-0.04, 1.2, name="height-range"),
    )
    made.xaxis[0].visible = made.yaxis[0].visible = False
    made.xgrid[0].ticker = made.ygrid[0].ticker = FixedTicker(ticks=[])
    rules = _source("rules", ("x", "low", "high"))
    made.segment("x", "low", "x", "high", source=rules, line_color=SOFT, line_width=1)
    renderers = []
    for i, (color, _) in enumerate(SERIES):
        source = _source(f"lines-{i}", _LINE)
        lines = made.multi_line(
            "xs", "ys", source=source, line_color=color, line_alpha="alpha", line_width="width", hover_line_alpha=1
        )
        renderers.append(lines)
    ticks = _source("ticks", ("x", "y", "text"))
    style = {"source": ticks, "text_color": INK, "text_font_size": _TEXT_SIZE, "text_font": value(FONT)}
    behind = {"background_fill_color": CARD, "background_fill_alpha": 0.75, "padding": 1}  # lines cross the labels
    made.text("x", "y", "text", x_offset=5, text_baseline="middle", **style, **behind)
    names = _source("names", ("x", "y", "text"))
    style |= {"source": names, "text_font_style": "bold", "text_align": "center"}
    made.text("x", "y", "text", text_baseline="bottom", **style)
    tips = [("job", "@job"), ("row", "@row"), ("given", "@given"), ("fitted on", "@fitted")]
    made.add_tools(HoverTool(renderers=renderers, tooltips=tips, line_policy="interp"))
    return made


def _source(name: str, columns: tuple[str, ...]) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns}, name=name)
