"""The scores of judged captions in all their forms, and their rank correlation with ratings."""

# J judged captions, R ratings of each.
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers
from i0t.evaluation.results import Context
from i0t.judgements import Judgements
from i0t.metrics import functional as metrics


class ScoreForm(NamedTuple):
    """One way to score the captions.

    Attributes:
        prefix: ``"ref_"`` with references, before the name of a number.
        suffix: ``"_clipped"`` where negative cosines count as 0, behind it.
        scores: ``(J,)`` float64; NaN where a caption has no reference.
    """

    prefix: str
    suffix: str
    scores: Tensor


class JudgedScores(NamedTuple):
    """Judged captions, scored after a reducer.

    Attributes:
        weight: w.
        forms: Without references as it is and clipped, then the same with references, where there are any.
    """

    weight: float
    forms: tuple[ScoreForm, ...]

    def form(self, prefix: str, suffix: str) -> Tensor | None:
        """Scores of one form, or ``None`` where there are no references."""
        return next((f.scores for f in self.forms if (f.prefix, f.suffix) == (prefix, suffix)), None)


def check_weights(weight: float, reduced_weight: float) -> None:
    """Refuses weights that would turn the order of the scores round.

    Args:
        weight: Of the cosines of a row that fits nothing.
        reduced_weight: Of those after a fitted reducer.

    Raises:
        ValueError: If one is not positive.
    """
    for name, value in {"weight": weight, "reduced_weight": reduced_weight}.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}; CLIP-S has 2.5, PAC-S 2.0 and I0T-S 1.0")


def score_judged(
    embeddings: EmbeddingSet, judgements: Judgements, context: Context, *, weight: float, reduced_weight: float
) -> JudgedScores:
    """Scores every judged caption.

    Args:
        embeddings: The set after the reducer.
        judgements: Its judgements.
        context: Says whether anything was fitted.
        weight: Of the cosines of a row that fits nothing.
        reduced_weight: Of those after a fitted reducer.
    """
    image, text, candidates = embeddings.image_features, embeddings.text_features, judgements.candidates
    used = weight if context.protocol == "none" else reduced_weight
    cosines = metrics.caption_cosines(image, text, candidates).cpu()
    plain = [
        ScoreForm("", suffix, metrics.caption_scores(cosines, weight=used, clipped=clipped))
        for suffix, clipped in (("", False), ("_clipped", True))
    ]
    if len(judgements.references) == 0:
        return JudgedScores(used, tuple(plain))
    nearest = metrics.reference_cosines(text, candidates[:, 1], judgements.references).cpu()
    with_references = [ScoreForm("ref_", form.suffix, metrics.reference_scores(form.scores, nearest)) for form in plain]
    return JudgedScores(used, (*plain, *with_references))


def add_taus(
    numbers: Numbers, judged: JudgedScores, judgements: Judgements, redraws: metrics.Redraws
) -> tuple[str, ...]:
    """Adds ``tau_b`` and ``tau_c`` of every form, the data's usual one first; nothing where nobody has rated.

    Args:
        numbers: To add to.
        judged: The scores.
        judgements: The ratings.
        redraws: Resamples over the images of the set.

    Returns:
        Sentences on numbers that do not exist.
    """
    if not bool((~judgements.ratings.isnan()).any()):
        return ()
    notes = []
    known: list[tuple[Tensor, metrics.KendallTaus]] = []
    for prefix, suffix, scores in judged.forms:
        resampled = next((taus for seen, taus in known if torch.equal(seen, scores)), None)
        if resampled is None:
            resampled = _resampled(scores, judgements, redraws)
            known.append((scores, resampled))
        for variant in sorted(metrics.KendallTaus._fields, key=lambda v: v != judgements.headline):
            tau = float(metrics.kendall_tau(scores, judgements.ratings, variant=variant))
            name = f"{prefix}tau_{variant}{suffix}"
            if math.isnan(tau):
                notes.append(f"no {name}: all rated captions have one score, or all ratings are equal")
            else:
                numbers.add(name, tau, getattr(resampled, variant))
    return tuple(notes)


def _resampled(scores: Tensor, judgements: Judgements, redraws: metrics.Redraws) -> metrics.KendallTaus:
    units = redraws.image_units[judgements.candidates[:, 0].cpu()]
    return metrics.resampled_kendall_taus(scores, judgements.ratings, units, redraws.image_counts)


def describe_scores(
    judged: JudgedScores, embeddings: EmbeddingSet, judgements: Judgements, context: Context
) -> list[str]:
    """What was scored and how, in words: parts of a protocol sentence."""
    num_images = len(judgements.candidates[:, 0].unique())
    parts = [
        f"{judged.weight:g} x cosine of image and caption (…_clipped: of cosines below 0 taken as 0)",
        f"{len(judgements.candidates):,} captions of {num_images:,} images",
    ]
    if judgements.description:
        parts.append(judgements.description)
    num_rated = int((~judgements.ratings.isnan()).sum())
    if num_rated > 0:
        parts.append(
            f"{num_rated:,} ratings, each an observation of its own; usual for these data is "
            f"tau_{judgements.headline}, which papers print times 100"
        )
    if len(judgements.references) > 0:
        owners = judgements.references[:, 0].unique()
        parts.append(
            f"ref_…: harmonic mean with the cosine to the nearest of {_per_caption(judgements.references[:, 0])} "
            f"references, for {len(owners):,} captions"
        )
    if embeddings.provenance.get("prompt_prefix"):
        parts.append(f"texts begin with {str(embeddings.provenance['prompt_prefix'])!r}")
    parts.append(describe_means(context))
    return parts


def _per_caption(owners: Tensor) -> str:
    sizes: Sequence[int] = sorted(set(torch.bincount(owners)[owners.unique()].tolist()))
    return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def describe_means(context: Context) -> str:
    """What the means of a row were taken of, in words."""
    if context.protocol == "none":
        return "nothing fitted"
    if context.calibration is None:
        return f"reducer fitted, {context.protocol}"
    fitted = context.calibration
    return f"means of {fitted.num_images:,} images and {fitted.num_texts:,} texts, {context.protocol}"
