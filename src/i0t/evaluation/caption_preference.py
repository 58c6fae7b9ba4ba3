"""How often caption scores prefer what people prefer (PASCAL-50S)."""

# J judged captions, Q preferences.
from __future__ import annotations

import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.judged_scores import ScoreForm, check_weights, describe_scores, score_judged
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Scores
from i0t.judgements import Judgements
from i0t.metrics import functional as metrics


class CaptionPreference:
    """Share of pairs of captions whose preferred one scores higher, per category and as the mean of categories.

    Equal scores count one half. Names are those of ``caption_correlation``: ``<category>``, ``<category>_clipped``,
    ``ref_<category>``, and ``mean`` likewise.

    Args:
        weight: Of the cosines of a row that fits nothing; it matters beside references only.
        reduced_weight: Of those after a fitted reducer.
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).

    Raises:
        ValueError: If a weight is not positive.
    """

    def __init__(self, *, weight: float, reduced_weight: float, num_resamples: int) -> None:
        check_weights(weight, reduced_weight)
        self.weight = weight
        self.reduced_weight = reduced_weight
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features; no number for a set without preferences."""
        judgements = embeddings.judgements
        if judgements is None or len(judgements.preferences) == 0:
            return Scores()
        judged = score_judged(embeddings, judgements, context, weight=self.weight, reduced_weight=self.reduced_weight)
        redraws = redraws_of(embeddings, self.num_resamples)
        numbers = Numbers()
        for form in judged.forms:
            _add_accuracies(numbers, form, judgements, redraws)
        parts = [
            f"share of {len(judgements.preferences):,} pairs whose preferred caption scores higher, equal scores one "
            "half; mean over categories",
            *describe_scores(judged, embeddings, judgements, context),
            describe_units(embeddings),
        ]
        return Scores(values=numbers.values, replicates=numbers.replicates, protocol="; ".join(parts))


def _add_accuracies(numbers: Numbers, form: ScoreForm, judgements: Judgements, redraws: metrics.Redraws) -> None:
    """Accuracy in every category and its mean over categories, of the pairs whose captions both have a score."""
    hits = metrics.preference_hits(form.scores, judgements.preferences)
    # Both captions of a pair are of one image, so the pair is drawn with it.
    units = redraws.image_units[judgements.candidates[judgements.preferences[:, 0], 0].cpu()]
    counts = redraws.image_counts
    means, replicates = [], []
    for category in judgements.preference_category.unique().tolist():
        mine = (judgements.preference_category == category).cpu() & ~hits.isnan()
        if not bool(mine.any()):
            continue
        names = judgements.category_names
        name = names[category] if category < len(names) else f"category_{category}"
        means.append(hits[mine].mean())
        replicates.append(_replicates(hits[mine], units[mine], counts))
        numbers.add(f"{form.prefix}{name}{form.suffix}", means[-1], replicates[-1])
    if means:
        numbers.add(f"{form.prefix}mean{form.suffix}", torch.stack(means).mean(), torch.stack(replicates).mean(dim=0))


def _replicates(hits: Tensor, units: Tensor, counts: Tensor) -> Tensor:
    return metrics.resampled_means(hits, units, counts) if len(counts) > 0 else hits.new_zeros(0)
