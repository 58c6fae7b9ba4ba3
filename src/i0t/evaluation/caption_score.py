"""A score for every caption of a user's own file."""

# J judged captions.
from __future__ import annotations

from i0t.analysis.caption_scores import CaptionScores, caption_score_table
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.caption_correlation import CaptionCorrelation
from i0t.evaluation.judged_scores import JudgedScores, describe_means
from i0t.evaluation.resampling import Numbers
from i0t.evaluation.results import Context, Detail
from i0t.judgements import Judgements
from i0t.metrics import functional as metrics


class CaptionScore(CaptionCorrelation):
    """CLIP-S, PAC-S or I0T-S of every caption, as a table; their means, and Kendall's taus where there are ratings.

    Arguments are those of :class:`~i0t.evaluation.caption_correlation.CaptionCorrelation`.
    """

    def add_more(
        self,
        numbers: Numbers,
        judged: JudgedScores,
        embeddings: EmbeddingSet,
        context: Context,
        redraws: metrics.Redraws,
    ) -> dict[str, Detail]:
        """The means of the scores, and the table of all of them."""
        judgements = embeddings.judgements
        assert judgements is not None, "scores are of judged captions"
        _add_means(numbers, judged, judgements, redraws)
        return {"caption_scores": _table(embeddings, judgements, judged, describe_means(context))}


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
