"""Images and texts in the two dimensions in which their means differ most.

Shapes: N images, M texts, K points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from i0t.analysis.colors import IMAGE_COLOR, INK, TEXT_COLOR
from i0t.analysis.dimensions import DimensionProfile
from i0t.analysis.dimensions_queries import draw_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class LeadingDimensions:
    """Values of some images and texts in two dimensions, as numbers, a table and a picture.

    Attributes:
        dimensions: The two, from 0, the one with the larger difference first.
        image_rows: ``(K,)`` int64 rows of the images.
        text_rows: ``(K,)`` int64 rows of the texts.
        image_values: ``(K, 2)``.
        text_values: ``(K, 2)``.
    """

    dimensions: tuple[int, int]
    image_rows: Tensor
    text_rows: Tensor
    image_values: Tensor
    text_values: Tensor

    @property
    def title(self) -> str:
        """Heading in the report."""
        return "The two leading dimensions"

    def as_json(self) -> dict[str, Any]:
        """The dimensions by both counts, and the points."""
        modalities = (("image", self.image_rows, self.image_values), ("text", self.text_rows, self.text_values))
        return {
            "dimensions": [{"index_from_0": index, "index_from_1": index + 1} for index in self.dimensions],
            **{name: {"rows": rows.tolist(), "values": values.tolist()} for name, rows, values in modalities},
        }

    def header(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        return ("modality", "row (from 0)", "dimension (from 1)", "value", "second dimension (from 1)", "second value")

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        """A line per point, images first."""
        first, second = (index + 1 for index in self.dimensions)
        modalities = (("image", self.image_rows, self.image_values), ("text", self.text_rows, self.text_values))
        return [
            (name, row, first, values[0], second, values[1])
            for name, rows, points in modalities
            for row, values in zip(rows.tolist(), points.tolist(), strict=True)
        ]

    def draw(self, axes: Axes) -> None:
        """Both modalities as points, with room above them for the legend."""
        modalities = (
            ("image", self.image_values.numpy(), IMAGE_COLOR, "o"),
            ("text", self.text_values.numpy(), TEXT_COLOR, "^"),
        )
        size = 12 if max(len(self.image_rows), len(self.text_rows)) <= 600 else 4
        for name, values, color, marker in modalities:
            axes.scatter(
                values[:, 0], values[:, 1], s=size, color=color, marker=marker, linewidths=0, alpha=0.5, label=name
            )
        points = torch.cat([self.image_values, self.text_values])
        low, high = points.amin(dim=0), points.amax(dim=0)
        axes.update_datalim([(float(low[0]), float(high[1] + 0.18 * (high[1] - low[1])))])
        axes.autoscale_view()
        first, second = (index + 1 for index in self.dimensions)
        axes.set_xlabel(f"dimension {first} (counting from 1), the largest difference", fontsize=9, color=INK)
        axes.set_ylabel(f"dimension {second}, the second", fontsize=9, color=INK)
        legend = axes.legend(fontsize=8, framealpha=0.9, edgecolor="none", loc="upper center", ncols=2, markerscale=1.5)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)


def leading_dimensions(
    profile: DimensionProfile, image_features: Tensor, text_features: Tensor, *, num_points: int, seed: int
) -> LeadingDimensions:
    """The two leading dimensions of some rows.

    Args:
        profile: Of these features, two dimensions wide at least.
        image_features: ``(N, D)``.
        text_features: ``(M, D)``.
        num_points: At most so many rows of each modality, drawn at random.
        seed: Of the draw, which depends on the numbers of rows alone.
    """
    image_rows = draw_rows(torch.arange(len(image_features)), num_points, seed=seed)
    text_rows = draw_rows(torch.arange(len(text_features)), num_points, seed=seed + 1)
    first, second = profile.order[:2].tolist()
    return LeadingDimensions(
        dimensions=(first, second),
        image_rows=image_rows,
        text_rows=text_rows,
        image_values=image_features[image_rows][:, [first, second]].double().cpu(),
        text_values=text_features[text_rows][:, [first, second]].double().cpu(),
    )
