"""Horizontal axes that count dimensions, with plain numbers instead of powers of ten."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def rank_axis(axes: Axes, last: int) -> None:
    """Ranks from 1 to ``last`` on a logarithmic scale."""
    axes.set_xscale("log")
    _plain_ticks(axes, [tick for tick in _TICKS if 1 <= tick <= last])
    axes.set_xlim(0.85, last * 1.15)


def count_axis(axes: Axes, last: int, *, num_fine: int) -> None:
    """Counts from 0 to ``last``, linear up to ``num_fine`` and logarithmic beyond."""
    if last > num_fine:
        axes.set_xscale("symlog", linthresh=num_fine, linscale=1.6)
        _plain_ticks(axes, [tick for tick in _TICKS if tick == 0 or 0.2 * num_fine <= tick <= last])
    axes.set_xlim(-0.02 * num_fine, last * (1.1 if last > num_fine else 1.02))


def _plain_ticks(axes: Axes, ticks: list[int]) -> None:
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
