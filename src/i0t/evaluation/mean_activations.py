"""Mean activations: in how few dimensions the modalities differ, before and after the reducer."""

# N images, M texts, D width.
from __future__ import annotations

import math

from i0t.analysis.activation_change import ActivationChange
from i0t.analysis.activations import (
    MIN_RELATIVE_SIZE,
    MIN_ROBUST_Z,
    ActivationProfile,
    activation_profile,
    peak_share,
)
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import Context, Scores

DETAIL = "mean_activations"


class MeanActivations:
    """The mean of every dimension in both modalities, and the peaks that stand out (I0T, arXiv 2412.14384, Sec. 3.2).

    Numbers are those after the reducer; the variant ``before`` has the same of the embeddings as they are. No pairs are
    needed. All means, and every peak with its dimension counted from 0 and from 1, stand in the detail.

    Args:
        labelled_peaks: How many peaks per modality the picture labels, the largest first.

    Raises:
        ValueError: If the number of labelled peaks is negative.
    """

    def __init__(self, *, labelled_peaks: int) -> None:
        if labelled_peaks < 0:
            raise ValueError(f"labelled_peaks must be 0 or more, got {labelled_peaks}")
        self.labelled_peaks = labelled_peaks

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features."""
        before = activation_profile(context.before.image_features, context.before.text_features)
        after = activation_profile(embeddings.image_features, embeddings.text_features)
        protocol = (
            f"means over {embeddings.num_images:,} images and {embeddings.num_texts:,} texts, unit rows; dimensions "
            f"count from 1, as in the I0T paper; a peak is a mean with a robust z-score of {MIN_ROBUST_Z:g} or more "
            f"among the {embeddings.dim:,} means and a size of {MIN_RELATIVE_SIZE:g} / sqrt({embeddings.dim:,}) or "
            "more; the peaks' share is that of their dimensions in the squared distance of the two means"
        )
        return Scores(
            values=_numbers(after),
            protocol=protocol,
            variants={
                "before": Scores(values=_numbers(before), protocol=f"as they are, without a reducer: {protocol}")
            },
            details={DETAIL: ActivationChange(before=before, after=after, labelled_peaks=self.labelled_peaks)},
        )


def _numbers(profile: ActivationProfile) -> dict[str, float]:
    numbers = {
        "num_image_peaks": float(len(profile.image_peaks)),
        "num_text_peaks": float(len(profile.text_peaks)),
        "image_largest_mean": float(profile.image_means.abs().max()),
        "text_largest_mean": float(profile.text_means.abs().max()),
        "peak_share": peak_share(profile),
    }
    return {name: value for name, value in numbers.items() if not math.isnan(value)}
