"""Scatter plots over models: colour is training data, marker the kind of image tower, size the number of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from i0t.analysis.colors import AXIS_COLOR
from i0t.report.model_correlations import ALL, Correlation, Question
from i0t.report.model_facts import UNKNOWN
from i0t.report.model_points import StudiedModel
from i0t.report.model_statistics import FEWEST
from i0t.report.style import INK, SERIES_COLORS, blank_figure

_COLORS = (*SERIES_COLORS, "#7B2D8B", "#A6761D", "#66A61E", "#B2182B", "#17BECF", "#F5A3C7")
_UNKNOWN_COLOR = "#B8BEC6"
_MARKERS = {"ViT": "o", "ResNet": "s", "ConvNeXt": "D", "EVA": "^", "ViTamin": "v", "FastViT": "P", "Swin": "X"}
_OTHER_MARKER = "*"
_SIZES = (1e7, 1e8, 1e9)  # parameters that the legend shows
_NAMED = 8  # of more models, points have no names
_PANEL_WIDTH, _PANEL_HEIGHT, _LEGEND_WIDTH, _LINE = 3.9, 3.3, 2.75, 0.155  # inches
_COLUMNS = 3
_GREY = "#59636E"


def draw_questions(
    models: Sequence[StudiedModel], asked: Sequence[Question], answers: Sequence[Correlation]
) -> Figure | None:
    """A panel per question, and one legend beside them all; models that do not count in correlations are hollow.

    Args:
        models: All that were studied.
        asked: What the panels show.
        answers: Of :func:`i0t.report.model_correlations.correlations`; those over all models stand above the panels.

    Returns:
        ``None`` where nothing is asked.
    """
    if not asked:
        return None
    columns = min(_COLUMNS, len(asked))
    lines = -(-len(asked) // columns)
    colors = _colors(models)
    families = sorted({model.shape.family for model in models}, key=_order_of_family)
    legend_lines = len(colors) + len(families) + len(_SIZES) + (2 if _has_left_out(models) else 0) + 5
    width = columns * _PANEL_WIDTH + _LEGEND_WIDTH
    height = max(lines * _PANEL_HEIGHT, legend_lines * _LINE + 0.3)
    figure = blank_figure(width, height)
    for at, question in enumerate(asked):
        axes = _panel_axes(figure, at, columns, width, height)
        _draw_panel(axes, models, question, colors, _answer(answers, question))
    _draw_legend(figure, models, colors, families, left=columns * _PANEL_WIDTH + 0.1, width=width, height=height)
    return figure


def _panel_axes(figure: Figure, at: int, columns: int, width: float, height: float) -> Axes:
    """The axes in a line and column, with fixed margins in inches."""
    left = (at % columns) * _PANEL_WIDTH + 0.72
    bottom = height - (at // columns + 1) * _PANEL_HEIGHT + 0.52
    axes = figure.add_axes(
        (left / width, bottom / height, (_PANEL_WIDTH - 0.9) / width, (_PANEL_HEIGHT - 0.95) / height)
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(AXIS_COLOR)
    axes.tick_params(colors=_GREY, labelsize=8)
    axes.grid(color="#E3E6EA", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _draw_panel(
    axes: Axes, models: Sequence[StudiedModel], question: Question, colors: dict[str, str], answer: Correlation | None
) -> None:
    named = len(models) <= _NAMED
    axes.margins(0.1 if not named else 0.22)
    places: list[tuple[float, float, str]] = []
    for model in models:
        x, y = question.x.of(model), question.y.of(model)
        if x is None or y is None:
            continue
        color = colors[model.training.family]
        axes.scatter(
            [x],
            [y],
            s=_area(model.shape.num_parameters),
            marker=_marker(model.shape.family),
            facecolors=color if model.left_out is None else "none",
            edgecolors="white" if model.left_out is None else color,
            linewidths=0.5 if model.left_out is None else 1.0,
            alpha=0.9,
            zorder=3,
        )
        places.append((x, y, model.name))
    axes.set_xlabel(question.x.label, fontsize=8.5, color=INK, parse_math=False)
    axes.set_ylabel(question.y.label, fontsize=8.5, color=INK, parse_math=False)
    axes.set_title(_title(answer), fontsize=8.5, color=INK, loc="left", parse_math=False)
    if named:
        _name_points(axes, places)


def _title(answer: Correlation | None) -> str:
    if answer is None or answer.tau.value is None:
        num = 0 if answer is None else answer.tau.num_models
        return f"too few models (n = {num})" if num < FEWEST else f"constant (n = {num})"
    return f"τ = {answer.tau.value:.2f}, p = {format_p(answer.tau.p_value)}, n = {answer.tau.num_models}"


def format_p(p_value: float | None) -> str:
    """A p-value for people.

    Example:
        >>> [format_p(p) for p in (None, 0.0002, 0.0412, 0.5)]
        ['', '0.0002', '0.041', '0.50']
    """
    if p_value is None:
        return ""
    return f"{p_value:.4f}" if p_value < 0.001 else f"{p_value:.3f}" if p_value < 0.1 else f"{p_value:.2f}"


def _name_points(axes: Axes, places: Sequence[tuple[float, float, str]]) -> None:
    """Names above their points, or below one that another name is near to."""
    axes.autoscale_view()
    drawn: list[tuple[float, float]] = []
    low, high = axes.transAxes.transform((0, 0))[0], axes.transAxes.transform((1, 0))[0]
    for x, y, name in sorted(places, key=lambda place: place[1]):
        right, up = axes.transData.transform((x, y))
        shift = 7.0
        while any(abs(right - other) < 190 and abs(up + 2 * shift - at) < 17 for other, at in drawn):
            shift += 8
        share = (right - low) / (high - low)
        side = "left" if share < 0.3 else "right" if share > 0.7 else "center"
        axes.annotate(name, (x, y), (0, shift), textcoords="offset points", fontsize=6.5, color=INK, ha=side,
                      parse_math=False, annotation_clip=False)  # fmt: skip
        drawn.append((right, up + 2 * shift))


def _draw_legend(
    figure: Figure,
    models: Sequence[StudiedModel],
    colors: dict[str, str],
    families: Sequence[str],
    *,
    left: float,
    width: float,
    height: float,
) -> None:
    """Three lists below each other: colours, markers, sizes."""
    blocks = [
        ("training data", [_key("o", color, 7, name) for name, color in colors.items()]),
        ("image tower", [_key(_marker(family), _GREY, 7, family) for family in families]),
        ("parameters", [_key("o", _GREY, math.sqrt(_area(size)), f"{size / 1e6:,.0f} M") for size in _SIZES]),
    ]
    if _has_left_out(models):
        hollow = Line2D([], [], marker="o", linestyle="none", color="none", markeredgecolor=_GREY, markersize=7)
        hollow.set_label("not in the correlations")
        blocks.append(("hollow", [hollow]))
    top = 0.15
    for title, handles in blocks:
        legend = figure.legend(handles=handles, title=title, loc="upper left", fontsize=7.5, title_fontsize=8,
                               bbox_to_anchor=(left / width, 1 - top / height), frameon=False, alignment="left",
                               borderaxespad=0, borderpad=0, labelspacing=0.45)  # fmt: skip
        texts: list[Text] = [*legend.get_texts(), legend.get_title()]
        for text in texts:
            text.set_parse_math(False)
        top += (len(handles) + 1) * _LINE + 0.12


def _key(marker: str, color: str, size: float, label: str) -> Line2D:
    """An entry of a legend, drawn as the points are."""
    line = Line2D([], [], linestyle="none", marker=marker, color=color, markersize=size, label=label)
    line.set_markeredgecolor("white")
    line.set_markeredgewidth(0.5)
    return line


def _colors(models: Sequence[StudiedModel]) -> dict[str, str]:
    """Training data to colour, most models first; what is unknown is grey and last."""
    counts: dict[str, int] = {}
    for model in models:
        counts[model.training.family] = counts.get(model.training.family, 0) + 1
    known = sorted((name for name in counts if name != UNKNOWN), key=lambda name: (-counts[name], name))
    colors = {name: _COLORS[at % len(_COLORS)] for at, name in enumerate(known)}
    return colors | ({UNKNOWN: _UNKNOWN_COLOR} if UNKNOWN in counts else {})


def _marker(family: str) -> str:
    return _MARKERS.get(family, _OTHER_MARKER)


def _order_of_family(family: str) -> tuple[int, str]:
    return (list(_MARKERS).index(family) if family in _MARKERS else len(_MARKERS), family)


def _area(num_parameters: float | None) -> float:
    """Square points: from 14 at ten million parameters to 110 at three billion."""
    if num_parameters is None:
        return 20.0
    share = (math.log10(max(num_parameters, 1)) - 7) / (math.log10(3e9) - 7)
    return 14 + 96 * min(1.0, max(0.0, share))


def _has_left_out(models: Sequence[StudiedModel]) -> bool:
    return any(model.left_out is not None for model in models)


def _answer(answers: Sequence[Correlation], question: Question) -> Correlation | None:
    labels = (question.family, question.x.label, question.y.label)
    return next((a for a in answers if a.kind == ALL and (a.family, a.x, a.y) == labels), None)
