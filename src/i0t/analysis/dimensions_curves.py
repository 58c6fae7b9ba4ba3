"""Curves over the number of dropped dimensions, the leading ones beside random ones, as a table and a picture.

Shapes: D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from i0t.analysis.colors import INK, SERIES_COLORS
from i0t.analysis.dimensions_ablation import AblationCurve, mean_curves
from i0t.analysis.dimensions_axis import count_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Sequence["float | None"]]
_NAMES = {"centroid_distance": "centroid distance", "rmg": "RMG", "i2t_r1": "I→T R@1", "t2i_r1": "T→I R@1"}


@dataclass(frozen=True, kw_only=True)
class DroppedDimensions:
    """Numbers of one kind against the number of dropped dimensions.

    Attributes:
        title: Heading in the report.
        ylabel: Of the vertical axis.
        num_fine: Up to which number of dimensions the horizontal axis is linear; then it is logarithmic.
        leading: The ablation of the leading dimensions.
        curves: The numbers of ``leading`` that are shown, by name.
        random: The same numbers of each ablation of random dimensions.
        are_shares: Whether the numbers lie in 0 … 1.
    """

    title: str
    ylabel: str
    num_fine: int
    leading: AblationCurve
    curves: Curves
    random: Sequence[Curves]
    are_shares: bool = False

    def as_json(self) -> dict[str, Any]:
        """The dropped dimensions in their order by both counts, and all curves; ``None`` where nothing is measured."""
        lost = self.leading.lost
        dropped = self.leading.order[: self.leading.num_dropped[-1]].tolist()
        return {
            "num_dropped": list(self.leading.num_dropped),
            "dropped_in_order": {"index_from_0": dropped, "index_from_1": [index + 1 for index in dropped]},
            "leading": {name: list(values) for name, values in self.curves.items()},
            "random": [{name: list(values) for name, values in curves.items()} for curves in self.random],
            "rows_without_direction": None if lost is None else f"{lost} after {lost.num_dropped} dimensions",
        }

    def header(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        random = [f"{name}, random dimensions" for name in self._control()]
        return ("dropped dimensions", "last dropped (from 1)", *self.curves, *random)

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        """A line per number of dropped dimensions; a control is the mean over its random orders."""
        columns = [*self.curves.values(), *self._control().values()]
        return [
            (
                number,
                int(self.leading.order[number - 1]) + 1 if number > 0 else None,
                *(column[place] for column in columns),
            )
            for place, number in enumerate(self.leading.num_dropped)
        ]

    def _control(self) -> dict[str, tuple[float | None, ...]]:
        return mean_curves(self.random)

    def draw(self, axes: Axes) -> None:
        """A line per number, dotted for the mean over random dimensions, with room above them for the legend."""
        numbers, control = self.leading.num_dropped, self._control()
        for index, (name, values) in enumerate(self.curves.items()):
            color = SERIES_COLORS[index % len(SERIES_COLORS)]
            label = _NAMES.get(name, name.replace("accuracy/", "accuracy: "))
            axes.plot(numbers, _heights(values), "-", color=color, marker="o", markersize=2.8, label=label)
            if name in control:
                axes.plot(numbers, _heights(control[name]), ":", color=color, linewidth=1.4)
        if control:
            axes.plot([], [], ":", color=INK, linewidth=1.4, label="random dimensions")
        self._limits(axes, (*self.curves.values(), *control.values()))
        axes.set_xlabel("number of dropped dimensions, the largest difference first", fontsize=9, color=INK)
        axes.set_ylabel(self.ylabel, fontsize=9, color=INK)
        legend = axes.legend(fontsize=8, frameon=False, loc="upper center", ncols=2, borderaxespad=0.2)
        for text in legend.get_texts():
            text.set_parse_math(False)

    def _limits(self, axes: Axes, curves: Sequence[Sequence[float | None]]) -> None:
        """Room above the curves for two entries of the legend a line."""
        entries = len(self.curves) + bool(self.random)
        top = 1.0 if self.are_shares else max(value for values in curves for value in values if value is not None)
        if self.are_shares:
            axes.set_yticks(np.linspace(0, 1, 6))
        axes.update_datalim([(0, 0), (0, top * (1.1 + 0.09 * -(-entries // 2)))])
        count_axis(axes, self.leading.num_dropped[-1], num_fine=self.num_fine)
        axes.autoscale_view(scalex=False)


def _heights(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)
