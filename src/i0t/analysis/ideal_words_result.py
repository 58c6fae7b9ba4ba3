"""The result of a study of ideal words: table, JSON and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i0t.analysis.colors import AXIS_COLOR, IMAGE_COLOR, INK, MATCHED_COLOR, TEXT_COLOR, UNMATCHED_COLOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("attribute", "object", "pair")
_COLORS = dict(zip(KINDS, (IMAGE_COLOR, TEXT_COLOR, MATCHED_COLOR), strict=True))


@dataclass(frozen=True, kw_only=True)
class WordsResult:
    """How well one kind of words classifies.

    Attributes:
        title: What they are.
        accuracies: ``attribute``, ``object`` and ``pair``, as far as there are such words, by dot product.
        cosine_accuracies: The same by cosine.
        cosine: Mean cosine with the images of the same class; ``None`` where it is not known.
        distance: Of the mean word from the mean image; likewise.
    """

    title: str
    accuracies: Mapping[str, float]
    cosine_accuracies: Mapping[str, float]
    cosine: float | None
    distance: float | None


@dataclass(frozen=True, kw_only=True)
class IdealWordsResult:
    """The study of one reducer: a line for each kind of words.

    Attributes:
        rows: Name to result, in the order of the study.
        word_norms: ``attribute`` and ``object`` to the length of every ideal word.
        image_norms: The same of ideal images; empty without them.
    """

    rows: Mapping[str, WordsResult]
    word_norms: Mapping[str, Sequence[float]]
    image_norms: Mapping[str, Sequence[float]]

    @property
    def title(self) -> str:
        """Heading in the report."""
        return "Ideal words"

    def as_json(self) -> dict[str, Any]:
        """Every number."""
        rows = {
            name: {
                "accuracy": dict(row.accuracies),
                "accuracy_by_cosine": dict(row.cosine_accuracies),
                "cosine_with_images": row.cosine,
                "distance_from_images": row.distance,
            }
            for name, row in self.rows.items()
        }
        norms = {"words": self.word_norms, "images": self.image_norms}
        return {
            "words": rows,
            "norms": {side: {kind: list(values) for kind, values in of.items()} for side, of in norms.items()},
        }

    def header(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        by_cosine = tuple(f"{kind} by cosine" for kind in KINDS)
        return ("words", *KINDS, *by_cosine, "cosine with images", "distance from images")

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        """A line per kind of words."""
        return [
            (
                row.title,
                *(row.accuracies.get(kind) for kind in KINDS),
                *(row.cosine_accuracies.get(kind) for kind in KINDS),
                row.cosine,
                row.distance,
            )
            for row in self.rows.values()
        ]

    def draw(self, axes: Axes) -> None:
        """Accuracies by dot product (full) and by cosine (hollow), and the cosine with the images (diamond)."""
        axes.axvline(0, color=AXIS_COLOR, linewidth=0.7, zorder=0)
        for height, row in enumerate(self.rows.values()):
            for kind, color in _COLORS.items():
                if kind in row.accuracies:
                    label = kind if height == 0 else None
                    axes.plot(row.accuracies[kind], height, "o", color=color, markersize=6, label=label)
                    axes.plot(
                        row.cosine_accuracies[kind], height, "o", color=color, markersize=11, markerfacecolor="none"
                    )
            if row.cosine is not None:
                axes.plot(row.cosine, height, "D", color=UNMATCHED_COLOR, markersize=5)
        axes.set_yticks(range(len(self.rows)), [row.title for row in self.rows.values()])
        axes.set_ylim(len(self.rows) - 0.4, -0.6)
        axes.set_xlabel(
            "accuracy (full: dot product, ring: cosine); diamond: cosine with images", fontsize=9, color=INK
        )
        axes.legend(fontsize=8, frameon=False, loc="best")
