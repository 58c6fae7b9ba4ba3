"""Colours and sizes that all figures share, and how a figure becomes a PNG."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours, told apart by colour-blind readers too.
IMAGE_COLOR = "#0072B2"
TEXT_COLOR = "#D55E00"
MATCHED_COLOR = "#009E73"
UNMATCHED_COLOR = "#8A8F98"
SERIES_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#3B3F46", "#8A6D00")
INK = "#24292F"
_GRID = "#E3E6EA"
_DPI = 150


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
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9AA1AA")
        axes.tick_params(colors="#57606A", labelsize=8)
        axes.grid(color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
    return figure, list(grid[:, 0])


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
