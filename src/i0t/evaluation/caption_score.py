"""A score for every caption of a user's own file."""

# J judged captions.
from __future__ import annotations

from i0t.analysis.caption_scores import CaptionScores, caption_score_table
from i0t.analysis.cosine_ranges import cosine_ranges
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.judged_scores import (
    JudgedScores,
    add_taus,
    check_weights,
    describe_means,
    describe_scores,
    score_judged,
)
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Scores
from i0t.judgements import Judgements
from i0t.metrics import functional as metrics


class CaptionScore:
    """CLIP-S, PAC-S or I0T-S of every caption, as a table; their means, and Kendall's taus where there are ratings.

    Args:
        weight: Of the cosines of a row that fits nothing: CLIP-S has 2.5, PAC-S 2.0.
        reduced_weight: Of those after a fitted reducer: I0T-S has 1.0.
        num_cosines: At most so many cosines of each kind are drawn, with a fixed seed, for their ranges.
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).

    Raises:
        ValueError: If a weight is not positive.
    """

    def __init__(self, *, weight: float, reduced_weight: float, num_cosines: int, num_resamples: int) -> None:
        check_weights(weight, reduced_weight)
        self.weight = weight
        self.reduced_weight = reduced_weight
        self.num_cosines = num_cosines
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features; no number for a set without candidate captions."""
        judgements = embeddings.judgements
        if judgements is None or len(judgements.candidates) == 0:
            return Scores()
        judged = score_judged(embeddings, judgements, context, weight=self.weight, reduced_weight=self.reduced_weight)
        redraws = redraws_of(embeddings, self.num_resamples)
        numbers = Numbers()
        _add_means(numbers, judged, judgements, redraws)
        notes = add_taus(numbers, judged, judgements, redraws)
        parts = [*describe_scores(judged, embeddings, judgements, context), describe_units(embeddings)]
        return Scores(
            values=numbers.values,
            replicates=numbers.replicates,
            protocol="; ".join(parts),
            notes=notes,
            details={
                "caption_scores": _table(embeddings, judgements, judged, describe_means(context)),
                "cosine_ranges": cosine_ranges(embeddings, num_cosines=self.num_cosines),
            },
        )


def _add_means(numbers: Numbers, judged: JudgedScores, judgements: Judgements, redraws: metrics.Redraws) -> None:
    """The mean score of each form, over the captions that have one."""
    units = redraws.image_units[judgements.candidates[:, 0].cpu()]
    for prefix, suffix, scores in judged.forms:
        known = ~scores.isnan()
        if bool(known.any()):
            numbers.add_mean(f"{prefix}mean{suffix}", scores[known], units[known], redraws.image_counts)


def _table(embeddings: EmbeddingSet, judgements: Judgements, judged: JudgedScores, means: str) -> CaptionScores:
    raw, score = judged.form("", ""), judged.form("", "_clipped")
    assert raw is not None
    assert score is not None
    return caption_score_table(
        embeddings,
        judgements.candidates,
        raw=raw,
        scores=score,
        reference_scores=judged.form("ref_", "_clipped"),
        ratings=judgements.ratings,
        source=judgements.source,
        weight=judged.weight,
        means=means,
    )
