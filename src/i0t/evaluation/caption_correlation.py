"""How caption scores correlate with human judgements."""

from __future__ import annotations

from i0t.analysis.cosine_ranges import cosine_ranges
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.judged_scores import JudgedScores, add_taus, check_weights, describe_scores, score_judged
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Detail, Scores
from i0t.metrics import functional as metrics


class CaptionCorrelation:
    """Kendall's tau of CLIP-S, PAC-S or I0T-S with human ratings, and the ranges of cosines behind the scores.

    ``tau_b`` and ``tau_c`` of the unclipped scores, ``…_clipped`` of those that the published code has, and ``ref_…``
    of the scores with references. Which score it is follows from the row: CLIP-S is the embeddings as they are, I0T-S
    the same after ``posthoc``, PAC-S the embeddings of its own weights (with ``weight=2.0``).

    Args:
        weight: Of the cosines of a row that fits nothing; it matters beside references only.
        reduced_weight: Of those after a fitted reducer.
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
        details = self.add_more(numbers, judged, embeddings, context, redraws)
        notes = add_taus(numbers, judged, judgements, redraws)
        parts = [*describe_scores(judged, embeddings, judgements, context), describe_units(embeddings)]
        return Scores(
            values=numbers.values,
            replicates=numbers.replicates,
            protocol="; ".join(parts),
            notes=notes,
            details={**details, "cosine_ranges": cosine_ranges(embeddings, num_cosines=self.num_cosines)},
        )

    def add_more(
        self,
        numbers: Numbers,
        judged: JudgedScores,
        embeddings: EmbeddingSet,
        context: Context,
        redraws: metrics.Redraws,
    ) -> dict[str, Detail]:
        """What a subclass measures beside the taus: adds numbers, returns details."""
        return {}
