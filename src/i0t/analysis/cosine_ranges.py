"""In which ranges the cosines of a set lie, inside and across the modalities: how far a score can be read by itself.

Shapes: N images, M texts, K pairs of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from i0t.analysis.colors import AXIS_COLOR, IMAGE_COLOR, INK, MATCHED_COLOR, SERIES_COLORS, TEXT_COLOR, UNMATCHED_COLOR
from i0t.embeddings import EmbeddingSet
from i0t.metrics.functional import caption_cosines
from i0t.metrics.functional.checks import check_unit_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEVELS = (0.0, 0.05, 0.5, 0.95, 1.0)
_KINDS = {
    "image_image": ("two images", IMAGE_COLOR),
    "text_text": ("two texts", TEXT_COLOR),
    "matched": ("image and its text", MATCHED_COLOR),
    "unmatched": ("image and another text", UNMATCHED_COLOR),
    "judged": ("image and judged caption", SERIES_COLORS[3]),
}


@dataclass(frozen=True)
class CosineRange:
    """Quantiles of one kind of cosines.

    Attributes:
        low: The least.
        p5: 5 % lie below.
        median: Half lie below.
        p95: 95 % lie below.
        high: The greatest.
        num_cosines: How many were looked at.
        sampled: Whether they are a random part of all of this kind; the ends of all of them then lie further out.
    """

    low: float
    p5: float
    median: float
    p95: float
    high: float
    num_cosines: int
    sampled: bool


@dataclass(frozen=True)
class CosineRanges:
    """Ranges by kind: ``image_image``, ``text_text``, ``matched``, ``unmatched``, ``judged``; those that exist.

    With a modality gap, cosines across the modalities lie far below those inside one, and 0.3 may be an excellent
    caption; without one all kinds share a range (I0T, arXiv 2412.14384, Sec. 4.2: I0T-S from -.35 to .66, CLIP-S from
    -.03 to .45).
    """

    ranges: Mapping[str, CosineRange]

    @property
    def title(self) -> str:
        """Heading in the report."""
        return "Ranges of cosines"

    def as_json(self) -> dict[str, Any]:
        """The ranges by kind."""
        return {
            kind: {
                "min": one.low,
                "p5": one.p5,
                "median": one.median,
                "p95": one.p95,
                "max": one.high,
                "num_cosines": one.num_cosines,
                "sampled": one.sampled,
            }
            for kind, one in self.ranges.items()
        }

    def header(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        return ("cosines of", "min", "5 %", "median", "95 %", "max", "number", "sampled")

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        """A line per kind."""
        return [
            (
                _KINDS[kind][0],
                *(one.low, one.p5, one.median, one.p95, one.high),
                one.num_cosines,
                "yes" if one.sampled else "no",
            )
            for kind, one in self.ranges.items()
        ]

    def draw(self, axes: Axes) -> None:
        """A bar from 5 to 95 %, a thin line between the ends, a mark at the median; all rows have one scale."""
        axes.axvline(0, color=AXIS_COLOR, linewidth=0.7, zorder=0)
        for height, (kind, one) in enumerate(self.ranges.items()):
            color = _KINDS[kind][1]
            axes.hlines(height, one.low, one.high, color=color, linewidth=1.2)
            axes.hlines(height, one.p5, one.p95, color=color, linewidth=8)
            axes.plot(one.median, height, "|", color="white", markersize=9, markeredgewidth=1.6)
            for value, side in ((one.low, "right"), (one.high, "left")):
                shift = (-4 if side == "right" else 4, 0)
                axes.annotate(
                    f"{value:.2f}",
                    (value, height),
                    xytext=shift,
                    textcoords="offset points",
                    ha=side,
                    va="center",
                    fontsize=7,
                    color=INK,
                )
            # Inside the frame: tick labels of this length would be cut off at its side.
            axes.text(-1.17, height - 0.28, _KINDS[kind][0], fontsize=8, va="center", color=color)
        axes.set_yticks([])
        axes.set_ylim(len(self.ranges) - 0.4, -0.6)
        axes.set_xlim(-1.2, 1.2)
        axes.set_xlabel("cosine similarity (bar: 5 to 95 %, line: all)", fontsize=9, color=INK)


def cosine_ranges(embeddings: EmbeddingSet, *, num_cosines: int = 50_000, seed: int = 0) -> CosineRanges:
    """Quantiles of cosines of every kind, of all of them or of a random part.

    ``unmatched`` leaves out pairs, relevant pairs and judged captions alike.

    Args:
        embeddings: A set of unit rows. Which cosines are drawn depends on its sizes, pairs and judgements alone, so
            that all reducers are measured on the same.
        num_cosines: At most so many of each kind.
        seed: Of the draw.

    Returns:
        The kinds that the set has: no ``matched`` without pairs, no ``judged`` without judgements.

    Raises:
        ValueError: If the number is not positive or a row is not of unit length.
    """
    if num_cosines < 1:
        raise ValueError(f"num_cosines must be at least 1, got {num_cosines}")
    generator = torch.Generator().manual_seed(seed)
    image = check_unit_rows(embeddings.image_features, "image_features")
    text = check_unit_rows(embeddings.text_features, "text_features")
    judged = torch.empty(0, 2, dtype=torch.int64)
    if embeddings.judgements is not None:
        judged = embeddings.judgements.candidates.cpu()
    kinds = {
        "image_image": (image, image, *_distinct(len(image), num_cosines, generator)),
        "text_text": (text, text, *_distinct(len(text), num_cosines, generator)),
        "matched": (image, text, *_part(embeddings.pairs.cpu(), num_cosines, generator)),
        "unmatched": (image, text, *_unmatched(embeddings, judged, num_cosines, generator)),
        "judged": (image, text, *_part(judged, num_cosines, generator)),
    }
    return CosineRanges(
        {
            kind: _range(caption_cosines(first, second, rows), sampled)
            for kind, (first, second, rows, sampled) in kinds.items()
            if len(rows) > 0
        }
    )


def _range(cosines: Tensor, sampled: bool) -> CosineRange:
    levels = torch.tensor(_LEVELS, dtype=cosines.dtype, device=cosines.device)
    low, p5, median, p95, high = torch.quantile(cosines, levels).clamp(-1, 1).tolist()
    return CosineRange(low, p5, median, p95, high, num_cosines=len(cosines), sampled=sampled)


def _part(pairs: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, bool]:
    """At most ``count`` of the pairs, and whether some are left out."""
    if len(pairs) <= count:
        return pairs, False
    return pairs[torch.randperm(len(pairs), generator=generator)[:count]], True


def _distinct(size: int, count: int, generator: torch.Generator) -> tuple[Tensor, bool]:
    """Pairs of two different rows: all of them, or ``count`` drawn with replacement."""
    if size * (size - 1) // 2 <= count:
        return torch.combinations(torch.arange(size)), False
    first = torch.randint(size, (count,), generator=generator)
    step = torch.randint(1, size, (count,), generator=generator)
    return torch.stack([first, (first + step) % size], dim=1), True


def _unmatched(embeddings: EmbeddingSet, judged: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, bool]:
    """Pairs of an image and a text that nobody has brought together: all of them, or some drawn with replacement."""
    num_texts, combinations = embeddings.num_texts, embeddings.num_images * embeddings.num_texts
    together = [embeddings.pairs.cpu(), judged]
    if embeddings.relevant_pairs is not None:
        together.append(embeddings.relevant_pairs.cpu())
    known = torch.cat(together)
    known_keys = (known[:, 0] * num_texts + known[:, 1]).unique()
    everything = combinations - len(known_keys) <= count
    if everything:
        keys = torch.arange(combinations)
    else:
        # Each draw misses with the share of known pairs: oversampled by its inverse, nearly always enough are left.
        share = 1 - len(known_keys) / combinations
        keys = torch.randint(combinations, (int(1.2 * count / share) + 100,), generator=generator)
    at = torch.searchsorted(known_keys, keys).clamp_max(max(len(known_keys) - 1, 0))
    free = torch.ones_like(keys, dtype=torch.bool) if len(known_keys) == 0 else known_keys[at] != keys
    keys = keys[free][:count]
    return torch.stack([keys // num_texts, keys % num_texts], dim=1), not everything
