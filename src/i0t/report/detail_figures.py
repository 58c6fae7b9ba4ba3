"""The picture of a detail: all rows of the comparison side by side on the same axes."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from i0t.evaluation.results import Detail
from i0t.report.style import INK, axes_grid, fit_left_margin

_COLUMNS = 2


def draw_details(details: Mapping[str, Detail]) -> Figure:
    """One picture per row, named by it, all with the same limits.

    Args:
        details: Row name to its detail.
    """
    columns = min(_COLUMNS, len(details))
    figure, grid = axes_grid(len(details), columns=columns, width=5.6, height=3.5)
    for axes, (row, detail) in zip(grid, details.items(), strict=True):
        axes.set_title(row, fontsize=11, fontweight="bold", color=INK, parse_math=False)
        detail.draw(axes)
    fit_left_margin(figure, grid, columns=columns)  # an evaluation may name its heights by words
    return figure
