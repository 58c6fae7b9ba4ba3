"""How many dimensions carry how much of the squared distance of the means, beside what chance gives.

Shapes: D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from i0t.analysis.colors import INK, MATCHED_COLOR, UNMATCHED_COLOR
from i0t.analysis.dimensions import DimensionProfile
from i0t.analysis.dimensions_axis import rank_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class CumulativeShare:
    """The share of the gap that the n leading dimensions carry, as numbers, a table and a picture.

    Attributes:
        profile: The means.
        carrying: Percentage to the number of dimensions that carry as much.
        chance: Percentage to the mean number of dimensions that carry as much of a random direction.
    """

    profile: DimensionProfile
    carrying: Mapping[int, float]
    chance: Mapping[int, float]

    @property
    def title(self) -> str:
        """Heading in the report."""
        return "How few dimensions carry the gap"

    def as_json(self) -> dict[str, Any]:
        """Numbers of dimensions, and the cumulative share of the first n, n from 1, here and by chance."""
        return {
            "num_dimensions": {str(percent): number for percent, number in self.carrying.items()},
            "num_dimensions_by_chance": {str(percent): number for percent, number in self.chance.items()},
            "cumulative_share": self.profile.shares.cumsum(0).tolist(),
            "cumulative_share_by_chance": self.profile.chance_squares.cumsum(0).tolist(),
        }

    def header(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        return ("share of the squared distance", "dimensions", "dimensions by chance", "width")

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        """A line per share."""
        width = len(self.profile.order)
        return [
            (f"{percent} %", round(number), self.chance[percent], width) for percent, number in self.carrying.items()
        ]

    def draw(self, axes: Axes) -> None:
        """Both cumulative curves over the number of dimensions, a point where each reaches a named share."""
        curves = (
            ("difference of means", self.profile.shares, self.carrying, "-", MATCHED_COLOR),
            ("random direction", self.profile.chance_squares, self.chance, "--", UNMATCHED_COLOR),
        )
        ranks = np.arange(1, len(self.profile.order) + 1)
        for name, shares, carrying, style, color in curves:
            words = ", ".join(f"{percent} % in {number:.0f}" for percent, number in carrying.items())
            axes.plot(ranks, shares.cumsum(0).numpy(), style, color=color, linewidth=1.8, label=f"{name}: {words}")
            heights = [percent / 100 for percent in carrying]
            axes.plot(list(carrying.values()), heights, "o", color=color, markersize=4.5)
        rank_axis(axes, len(ranks))
        axes.set_ylim(-0.32, 1.05)  # room for the legend below the curves
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_xlabel("number of leading dimensions", fontsize=9, color=INK)
        axes.set_ylabel("share of the squared distance", fontsize=9, color=INK)
        axes.legend(fontsize=8, framealpha=0.9, edgecolor="none", loc="lower right")
