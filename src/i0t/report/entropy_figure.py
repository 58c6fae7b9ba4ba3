"""The picture of an entropy study: entropy, temperature and gap against the step, temperature learnt and frozen."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from i0t.report.entropy_curves import QUANTITIES, EntropyCurves, estimate
from i0t.report.style import INK, SERIES_COLORS, axes_grid

_TITLES = {
    "logit_entropy": "logit entropy (nats, image to text)",
    "temperature": "temperature (1 / logit scale)",
    "centroid_distance": "gap: centroid distance",
    "rmg": "gap: RMG",
}


def draw_entropy_study(curves: EntropyCurves) -> Figure:
    """Means of the runs with 95 % bands where there are several, and every single run as a thin line.

    Args:
        curves: From :func:`i0t.report.entropy_curves.entropy_curves`.
    """
    figure, grid = axes_grid(len(QUANTITIES), columns=2, width=4.6, height=3.3, share_y=False)
    for axes, name in zip(grid, QUANTITIES, strict=True):
        axes.set_title(_TITLES[name], fontsize=9.5, color=INK, loc="left", parse_math=False)
        axes.set_xlabel("optimizer step", fontsize=8.5, color=INK)
        _draw_arm(axes, curves.steps, curves.learnt[name], SERIES_COLORS[0], "-", "temperature learnt")
        _draw_arm(axes, curves.steps, curves.frozen[name], SERIES_COLORS[1], "--", "temperature frozen")
        axes.margins(x=0.02, y=0.08)
    count = len(curves.repeats)
    band = "single runs" if count == 1 else f"band: 95 % interval of the mean over {count} runs"
    grid[0].legend(title=band, fontsize=8, title_fontsize=7.5, framealpha=0.85, edgecolor="none")
    return figure


def _draw_arm(axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, style: str, label: str) -> None:
    axes.plot(steps, values.mean(axis=0), style, color=color, linewidth=1.8, label=label)
    if len(values) == 1:
        return
    for run in values:
        axes.plot(steps, run, style, color=color, linewidth=0.6, alpha=0.45)
    bounds = [estimate(column) for column in values.T]
    lows = [bound.mean if bound.low is None else bound.low for bound in bounds]
    highs = [bound.mean if bound.high is None else bound.high for bound in bounds]
    axes.fill_between(steps, lows, highs, color=color, alpha=0.15, linewidth=0)
