"""The sizes and lines that all figures share, and how a figure becomes a PNG; colours are the analyses'."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from i0t.analysis.colors import (
    AXIS_COLOR,
    IMAGE_COLOR,
    INK,
    MATCHED_COLOR,
    SERIES_COLORS,
    TEXT_COLOR,
    UNMATCHED_COLOR,
)

__all__ = [
    "IMAGE_COLOR",
    "INK",
    "MATCHED_COLOR",
    "SERIES_COLORS",
    "TEXT_COLOR",
    "UNMATCHED_COLOR",
    "axes_grid",
    "blank_figure",
    "fit_left_margin",
    "new_axes",
    "png_bytes",
]
_GRID = "#E3E6EA"
_DPI = 150
_LEFT, _RIGHT = 0.72, 0.14  # inches beside each axes of a grid


def blank_figure(width: float, height: float) -> Figure:
    """An empty white figure outside pyplot's global state, with an Agg canvas.

    Args:
        width: Inches.
        height: Inches.
    """
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_axes(title: str, *, width: float = 4.8, height: float = 3.4, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with ``rows`` axes below each other that share their horizontal axis.

    Args:
        title: Title of the figure; shown as it is, never read as a formula.
        width: Inches.
        height: Inches.
        rows: Number of axes.

    Returns:
        The figure and its axes from top to bottom.
    """
    figure = blank_figure(width, height)
    grid = figure.subplots(rows, 1, sharex=True, squeeze=False)
    # Fixed margins in inches: matplotlib's layout engines draw everything twice to find them.
    figure.subplots_adjust(
        left=0.68 / width, right=1 - 0.14 / width, bottom=0.52 / height, top=1 - 0.4 / height, hspace=0.12
    )
    figure.suptitle(title, y=1 - 0.1 / height, va="top", fontsize=11, fontweight="bold", color=INK, parse_math=False)
    for axes in grid[:, 0]:
        _plain(axes)
    return figure, list(grid[:, 0])


def axes_grid(
    count: int, *, columns: int, width: float, height: float, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of axes with the same limits, row by row; each has its own tick labels and room for a title.

    Args:
        count: Number of axes, at least 1.
        columns: Of them side by side.
        width: Inches of each.
        height: Inches of each.
        share_y: Whether the vertical limits are the same too.

    Returns:
        The figure and its ``count`` axes.
    """
    lines = -(-count // columns)
    figure = blank_figure(width * columns, height * lines)
    grid = list(figure.subplots(lines, columns, sharex=True, sharey=share_y, squeeze=False).flat)
    wide, high = width * columns, height * lines
    figure.subplots_adjust(left=_LEFT / wide, right=1 - _RIGHT / wide, bottom=0.52 / high, top=1 - 0.36 / high)
    # The gaps between axes, as matplotlib counts them: in widths and heights of one of them.
    figure.subplots_adjust(wspace=(_LEFT + _RIGHT) / (width - _LEFT - _RIGHT), hspace=0.88 / (height - 0.88))
    for axes in grid[:count]:
        _plain(axes)
        axes.tick_params(labelbottom=True, labelleft=True)
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def fit_left_margin(figure: Figure, grid: list[Axes], *, columns: int) -> None:
    """Widens the room left of each axes of an :func:`axes_grid` with shared limits to that of their longest label.

    By the labels alone: matplotlib's layout engines draw everything twice to the same end.

    Args:
        figure: The figure.
        grid: Its axes, row by row.
        columns: Of them side by side.
    """
    assert isinstance(figure.canvas, FigureCanvasAgg)
    renderer = figure.canvas.get_renderer()
    labels = grid[0].yaxis.get_tightbbox(renderer)
    needed = 0 if labels is None else (grid[0].get_window_extent().x0 - labels.x0) / _DPI + 0.08
    if needed > _LEFT:
        wide = figure.get_size_inches()[0]
        width = wide / columns
        figure.subplots_adjust(left=needed / wide, wspace=(needed + _RIGHT) / (width - needed - _RIGHT))


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(AXIS_COLOR)
    axes.tick_params(colors="#57606A", labelsize=8)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file, the same bytes for the same figure.

    Drawn once and packed by Pillow; ``savefig`` draws twice, which is most of a report's time.
    """
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    data = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(data, format="PNG")
    return data.getvalue()
