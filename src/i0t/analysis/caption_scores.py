"""The scores of captions, one line each, as a table and a picture.

Shapes: J judged captions, R ratings of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from i0t.analysis.colors import INK, MATCHED_COLOR
from i0t.embeddings import EmbeddingSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY_RATINGS = 12  # more distinct ratings than this are drawn as points


@dataclass(frozen=True)
class ScoredCaption:
    """A caption of an image and its scores.

    Attributes:
        line: Its line in the file, counting from 1, or its number where the set names none.
        image: The image's identifier, or its row.
        caption: The text, or its row.
        score: Weighted cosine, of cosines below 0 taken as 0: what CLIP-S and PAC-S print.
        raw: Weighted cosine.
        reference_score: The score with references; ``None`` where there are none.
        rating: Mean of the ratings; ``None`` where there are none.
    """

    line: int
    image: str
    caption: str
    score: float
    raw: float
    reference_score: float | None
    rating: float | None


@dataclass(frozen=True)
class CaptionScores:
    """Every caption with its scores, in the order of the file.

    Attributes:
        captions: The captions.
        weight: Of the cosines.
        means: What the reducer's means were taken of, in words; it stands beside every score.
    """

    captions: tuple[ScoredCaption, ...]
    weight: float
    means: str

    @property
    def title(self) -> str:
        """Heading in the report."""
        return "Scores of the captions"

    def as_json(self) -> dict[str, Any]:
        """The weight, what the means were taken of, and one entry per caption."""
        names = self.header()
        return {
            "weight": self.weight,
            "means": self.means,
            "captions": [dict(zip(names, line, strict=True)) for line in self.lines()],
        }

    def header(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        return ("line", "image", "caption", "score", "raw", "reference_score", "rating", "means")

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        """A line per caption."""
        return [
            (c.line, c.image, c.caption, c.score, c.raw, c.reference_score, c.rating, self.means) for c in self.captions
        ]

    def draw(self, axes: Axes) -> None:
        """Scores against ratings where there are some, otherwise how often each score is given."""
        rated = [(one.rating, one.raw) for one in self.captions if one.rating is not None]
        label = f"{self.weight:g} x cosine"
        if not rated:
            axes.hist([one.raw for one in self.captions], bins=40, color=MATCHED_COLOR)
            axes.set_xlabel(label, fontsize=9, color=INK)
            axes.set_ylabel("captions", fontsize=9, color=INK)
            return
        ratings, raw = np.array(rated).T
        levels = np.unique(ratings)
        if len(levels) > _MANY_RATINGS:
            axes.plot(ratings, raw, ".", color=MATCHED_COLOR, markersize=2, alpha=0.4)
            axes.set_xlabel("mean rating", fontsize=9, color=INK)
        else:
            low, middle, high = np.array([np.quantile(raw[ratings == level], [0.05, 0.5, 0.95]) for level in levels]).T
            axes.errorbar(levels, middle, [middle - low, high - middle], fmt="o", color=MATCHED_COLOR, capsize=3)
            axes.set_xlabel("mean rating (point: median, line: 5 to 95 % of its captions)", fontsize=9, color=INK)
        axes.set_ylabel(label, fontsize=9, color=INK)


def caption_score_table(
    embeddings: EmbeddingSet,
    candidates: Tensor,
    *,
    scores: Tensor,
    raw: Tensor,
    reference_scores: Tensor | None,
    ratings: Tensor,
    source: Sequence[int],
    weight: float,
    means: str,
) -> CaptionScores:
    """Puts scores beside the image and the text they belong to.

    Args:
        embeddings: Its image ids and captions name the rows, captions without the prefix they were encoded with.
        candidates: ``(J, 2)`` int64 (image row, text row).
        scores: ``(J,)`` clipped.
        raw: ``(J,)`` not clipped.
        reference_scores: ``(J,)``, NaN where a caption has no reference; ``None`` where none has.
        ratings: ``(J, R)``, NaN where there is none.
        source: The line of every caption in its file; empty: they are numbered from 1.
        weight: Of the cosines.
        means: What the reducer's means were taken of, in words.
    """
    nothing = torch.full((len(candidates),), torch.nan, dtype=torch.float64)
    columns = (
        source or range(1, len(candidates) + 1),
        candidates.tolist(),
        scores.tolist(),
        raw.tolist(),
        (nothing if reference_scores is None else reference_scores).tolist(),
        (ratings.nanmean(dim=1) if ratings.shape[1] > 0 else nothing).tolist(),
    )
    prefix = str(embeddings.provenance.get("prompt_prefix") or "")
    return CaptionScores(
        tuple(
            ScoredCaption(
                line=line,
                image=str(image) if embeddings.image_ids is None else embeddings.image_ids[image],
                caption=str(text) if embeddings.captions is None else embeddings.captions[text].removeprefix(prefix),
                score=score,
                raw=value,
                reference_score=_known(reference),
                rating=_known(rating),
            )
            for line, (image, text), score, value, reference, rating in zip(*columns, strict=True)
        ),
        weight,
        means,
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
