"""The differences of the two modalities' means, dimension by dimension, the largest first.

Shapes: N images, M texts, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from i0t.analysis.colors import AXIS_COLOR, IMAGE_COLOR, INK, TEXT_COLOR, UNMATCHED_COLOR
from i0t.analysis.dimensions_axis import rank_axis
from i0t.metrics.functional.activations import mean_activations
from i0t.metrics.functional.dimensions import isotropic_squares

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED_DIMENSIONS = 5
_JSON_NAMES = (
    "rank",
    "index_from_1",
    "image_mean",
    "text_mean",
    "absolute_difference",
    "share",
    "cumulative_share",
    "image_share",
    "text_share",
)


@dataclass(frozen=True)
class DimensionProfile:
    """Both modalities' means in every dimension, and in which dimensions they differ most.

    Attributes:
        image_means: ``(D,)`` float64.
        text_means: ``(D,)`` float64.
        order: ``(D,)`` int64 dimensions from 0, the largest ``|image mean - text mean|`` first; of equal ones the lower
            dimension first.
        chance_squares: ``(D,)`` mean squared entries of a random direction, the largest first; they sum to 1.
    """

    image_means: Tensor
    text_means: Tensor
    order: Tensor
    chance_squares: Tensor

    @property
    def difference(self) -> Tensor:
        """``(D,)`` image mean minus text mean."""
        return self.image_means - self.text_means

    @property
    def distance(self) -> float:
        """The centroid distance: length of the difference."""
        return float(torch.linalg.vector_norm(self.difference))

    @property
    def shares(self) -> Tensor:
        """``(D,)`` share of each dimension of :attr:`order` in the squared distance; NaN where that is zero."""
        squares = self.difference.square()[self.order]
        return squares / squares.sum()


def dimension_profile(image_features: Tensor, text_features: Tensor) -> DimensionProfile:
    """Means and differences of means per dimension (Two Effects, One Trigger, arXiv 2404.07983: few dimensions).

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised; need not be paired with the images.

    Raises:
        ValueError: If a row is not a unit vector.
    """
    image, text = (mean_activations(rows.double()).cpu() for rows in (image_features, text_features))
    order = torch.argsort((image - text).abs(), descending=True, stable=True)
    return DimensionProfile(image, text, order, isotropic_squares(len(image)).mean(dim=0))


@dataclass(frozen=True)
class SortedDimensions:
    """Every dimension with both means and its share of the gap, as numbers, a table and a picture.

    Attributes:
        profile: The means.
    """

    profile: DimensionProfile

    @property
    def title(self) -> str:
        """Heading in the report."""
        return "Difference of the means by dimension, largest first"

    def as_json(self) -> dict[str, Any]:
        """A list of dimensions, the largest difference first, by both counts."""
        dimensions = [
            {"index_from_0": int(line[1]) - 1, **dict(zip(_JSON_NAMES, line, strict=True))} for line in self._lines()
        ]
        return {"centroid_distance": self.profile.distance, "dimensions": dimensions}

    def header(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        return (
            "rank",
            "dimension (from 1)",
            "image mean",
            "text mean",
            "|difference|",
            "share of the squared distance",
            "shares so far",
            "share of the image means",
            "share of the text means",
        )

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        """A line per dimension, the largest difference first.

        A dimension's share of a modality's means is ``|mean| / sum |means|``, as the reference implementation has it.
        """
        return [tuple(line) for line in self._lines()]

    def _lines(self) -> list[tuple[int | float, ...]]:
        order, shares = self.profile.order, self.profile.shares
        image, text = self.profile.image_means[order], self.profile.text_means[order]
        columns = (
            torch.arange(1, len(order) + 1),
            order + 1,
            image,
            text,
            (image - text).abs(),
            shares,
            shares.cumsum(0),
            image.abs() / image.abs().sum(),
            text.abs() / text.abs().sum(),
        )
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def draw(self, axes: Axes) -> None:
        """Both means as points and the difference as a line over the rank, the leading dimensions by number."""
        order = self.profile.order
        ranks = np.arange(1, len(order) + 1)
        means = torch.stack([self.profile.image_means, self.profile.text_means])[:, order].numpy()
        sizes = self.profile.difference.abs()[order].numpy()
        chance = self.profile.distance * self.profile.chance_squares.sqrt().numpy()
        axes.axhline(0, color=AXIS_COLOR, linewidth=0.7)
        axes.plot(ranks, sizes, color=INK, linewidth=1.5, zorder=3, label="|difference of means|")
        axes.plot(ranks, chance, "--", color=UNMATCHED_COLOR, linewidth=1.4, zorder=3, label="of a random direction")
        for label, values, marker, color in zip(
            ("image mean", "text mean"), means, "o^", (IMAGE_COLOR, TEXT_COLOR), strict=True
        ):
            axes.plot(ranks, values, marker, color=color, markersize=3.4, alpha=0.75, markeredgewidth=0, label=label)
        tops = np.maximum(means.max(axis=0), sizes)[:LABELLED_DIMENSIONS]
        for rank, top in enumerate(tops, start=1):
            _name_dimension(axes, int(order[rank - 1]) + 1, rank, float(top))
        rank_axis(axes, len(ranks))
        axes.margins(y=0.16)
        axes.set_xlabel("rank by |difference|; numbers are dimensions, counting from 1", fontsize=9, color=INK)
        axes.set_ylabel("mean over images or texts", fontsize=9, color=INK)
        axes.legend(fontsize=8, framealpha=0.9, edgecolor="none", loc="upper right")


def _name_dimension(axes: Axes, name: int, rank: int, height: float) -> None:
    """The dimension's number above its points, upright so that neighbours on a logarithmic axis do not overlap."""
    axes.annotate(
        str(name),
        (rank, height),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        rotation=90,
        fontsize=8,
        color=INK,
    )
