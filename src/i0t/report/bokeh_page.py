"""Bokeh figures in pages of our own: one file that opens without a network, light and dark, under a strict policy.

The template puts ``figures[name]`` where a figure stands, ``scripts`` before ``</body>`` and ``policy`` into a
``Content-Security-Policy`` meta element. Only scripts whose hash stands in that policy run, so a caption that were a
script would not, even if it were not escaped; nothing is evaluated, hence no ``CustomJS``: a page's own scripts find
models by their name.

In a page's script ``i0t.ready(callback)`` calls back once all figures stand (and the document is parsed),
``i0t.model(figure, name)`` is a model by its ``name`` in a figure, ``i0t.data(name)`` is what :func:`embed_figures` got
under ``data``, and ``i0t.color(light)`` a colour as it is in the reader's scheme.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from bokeh import __version__
from bokeh.document import Document
from bokeh.models import Axis, Grid
from bokeh.models.annotations import Legend
from bokeh.models.ui import UIElement
from bokeh.plotting import figure as bokeh_figure
from bokeh.resources import Resources
from markupsafe import Markup, escape

from i0t.analysis.colors import SERIES_COLORS, UNMATCHED_COLOR

# Light colour to its dark counterpart. Every colour property of a figure that has the light value is switched.
INK, SOFT, LINE, CARD = "#1f2328", "#59636e", "#d9dee4", "#ffffff"
_DARK_SERIES = ("#5cb8ee", "#f58b45", "#3fcf9f", "#e59ac4", "#f4b63c", "#8fd0f7", "#c9d0d8", "#d3b24a")
DARK_COLORS: dict[str, str] = {
    **{INK: "#e6e9ee", SOFT: "#9aa4b1", LINE: "#303741", CARD: "#181c23"},
    **{light.lower(): dark for light, dark in zip(SERIES_COLORS, _DARK_SERIES, strict=True)},
    UNMATCHED_COLOR.lower(): "#7d8793",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_MODEL_ID = re.compile(r"p\d+")


@dataclass(frozen=True)
class EmbeddedFigures:
    """What a template needs.

    Attributes:
        policy: Content of the ``Content-Security-Policy``.
        scripts: Everything that runs, and its data, to stand before ``</body>``.
        figures: Name to the element that the figure fills.
    """

    policy: str
    scripts: Markup
    figures: Mapping[str, Markup]


def new_figure(*, height: int, label: str, **options: Any) -> bokeh_figure:
    """An empty figure in the pages' style, as wide as its place and transparent.

    Args:
        height: Pixels.
        label: What it shows, in words, for readers who do not see it.
        **options: Of :func:`bokeh.plotting.figure`, such as ``tools``, ``x_range``, ``x_axis_label``.
    """
    made = bokeh_figure(
        height=height,
        **{
            "sizing_mode": "stretch_width",
            "tools": "",
            "toolbar_location": "above",
            "min_border_right": 12,
            "background_fill_color": None,
            "border_fill_color": None,
            "outline_line_color": None,
            "tags": [label],
            **options,
        },
    )
    made.toolbar.logo = None
    made.title.update(text_color=INK, text_font=FONT, text_font_size="14px")
    for axis in made.select({"type": Axis}):
        axis.update(
            axis_line_color=SOFT,
            major_tick_line_color=SOFT,
            minor_tick_line_color=None,
            major_label_text_color=SOFT,
            major_label_text_font=FONT,
            major_label_text_font_size="12px",
            axis_label_text_color=INK,
            axis_label_text_font=FONT,
            axis_label_text_font_size="13px",
            axis_label_text_font_style="normal",
        )
    for grid in made.select({"type": Grid}):
        grid.update(grid_line_color=LINE)
    return made


def style_legend(figure: bokeh_figure, *, place: Literal["above", "below", "left", "right"] = "above") -> None:
    """Puts the figure's legend beside the plot, in the pages' style; a click on an entry hides or shows it.

    Args:
        figure: The figure, with its glyphs.
        place: Side of the plot.
    """
    flat = place in ("above", "below")
    for legend in [found for found in figure.select({"type": Legend}) if isinstance(found, Legend)]:
        legend.update(
            orientation="horizontal" if flat else "vertical",
            ncols="auto",
            click_policy="hide",
            background_fill_alpha=0,
            border_line_alpha=0,
            label_text_color=INK,
            label_text_font=FONT,
            label_text_font_size="12px",
            padding=2,
            margin=0,
            spacing=12,
        )
        figure.add_layout(legend, place)


def embed_figures(
    figures: Mapping[str, UIElement], *, data: Mapping[str, Any] | None = None, scripts: Sequence[str] = ()
) -> EmbeddedFigures:
    """Figures as parts of a page: the same bytes for the same figures.

    Args:
        figures: Name (letters, digits, hyphens, underscores) to the figure; a tag that is a text is its description.
        data: Name to what the page's scripts read, plain JSON.
        scripts: The page's own scripts.

    Raises:
        ValueError: If a name is not made of those characters.
    """
    for name in [*figures, *(data or {})]:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"a figure is named by letters, digits, hyphens and underscores, got {name!r}")
    blocks = {f"data-{name}": value for name, value in (data or {}).items()}
    blocks |= {f"bokeh-{name}": _item(name, figure) for name, figure in figures.items()}
    blocks["data-dark-colors"] = DARK_COLORS
    running = [_bokeh_script(), resources.files("i0t.report").joinpath("bokeh_page.js").read_text("utf-8"), *scripts]
    if not figures:
        running = running[1:]
    parts = [
        f'<script type="application/json" id="{name}">{script_json(value)}</script>' for name, value in blocks.items()
    ]
    for source in running:
        assert "</script" not in source.lower(), "a script would end too early"
    parts += [f"<script>{source}</script>" for source in running]
    return EmbeddedFigures(
        policy=_policy(running),
        scripts=Markup("\n".join(parts)),
        figures={name: _place(name, figure) for name, figure in figures.items()},
    )


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _place(name: str, figure: UIElement) -> Markup:
    label = next((tag for tag in figure.tags if isinstance(tag, str)), name)
    return Markup(f'<div class="bokeh-figure" id="figure-{name}" role="img" aria-label="{escape(label)}"></div>')


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    # Bokeh writes style elements into its shadow trees; images are the page's own data or Bokeh's canvases.
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes}"


@cache
def _bokeh_script() -> str:
    """BokehJS without widgets, tables, WebGL and MathJax."""
    return Resources(mode="inline", minified=True, components=["bokeh"]).js_raw[0].strip().replace("\r\n", "\n")


def _item(name: str, figure: UIElement) -> Any:
    """The figure as JSON, its models numbered from 1 under its name: Bokeh counts over the whole process."""
    new_ids: dict[str, str] = {}

    def renamed(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: _new_id(value) if key == "id" else renamed(value) for key, value in node.items()}
        return [renamed(value) for value in node] if isinstance(node, list) else node

    def _new_id(old: Any) -> Any:
        if not isinstance(old, str) or not _MODEL_ID.fullmatch(old):
            return renamed(old)
        return new_ids.setdefault(old, f"{name}-{len(new_ids) + 1}")

    # What json_item does, without a second pass over all models that looks for mistakes.
    document = Document(title="")
    document.add_root(figure)
    model_id = figure.id
    try:
        content = renamed(document.to_json(deferred=False))
    finally:
        document.remove_root(figure)
    return {"target_id": f"figure-{name}", "root_id": _new_id(model_id), "doc": content, "version": __version__}
