"""Metrics as pure functions of tensors of unit rows.

All take L2-normalised rows, reject a row whose norm is off by more than 1e-2, compute half precision in float32, and
return scalars on the device of the features.
"""

from i0t.metrics.functional.activations import ActivationPeak, activation_peaks, mean_activations
from i0t.metrics.functional.bias import contrast_obstacle, label_contrast, object_bias
from i0t.metrics.functional.bias_resamples import resampled_label_contrast, resampled_object_bias
from i0t.metrics.functional.bootstrap import (
    BootstrapTest,
    balanced_mean,
    bootstrap_interval,
    paired_bootstrap_test,
    percentile_interval,
    resample_counts,
    resampled_balanced_means,
    resampled_means,
    resampled_medians,
    weighted_sums,
)
from i0t.metrics.functional.calibration import calibration_shift, centroid_noise, expected_residual_distance
from i0t.metrics.functional.caption_score import (
    caption_cosines,
    caption_scores,
    preference_hits,
    reference_cosines,
    reference_scores,
)
from i0t.metrics.functional.distribution import (
    alignment,
    logit_entropies,
    logit_entropy,
    uniformity,
    uniformity_contributions,
)
from i0t.metrics.functional.gap import (
    centroid_distance,
    instance_distance,
    relative_modality_gap,
    unbiased_centroid_distance,
)
from i0t.metrics.functional.gap_resamples import (
    centroid_distances,
    gap_measures,
    resampled_mean_distances,
    without_resampling_bias,
)
from i0t.metrics.functional.neighborhood import (
    dunn_index,
    neighborhood_distance,
    resampled_neighborhood_distances,
)
from i0t.metrics.functional.pairing import Pairing, TextLabels, labels_of_texts, make_pairing, one_to_one
from i0t.metrics.functional.rank_correlation import KendallTaus, kendall_tau, resampled_kendall_taus
from i0t.metrics.functional.redraws import Redraws, redraw_set
from i0t.metrics.functional.retrieval import DirectionRanks, recall_of_ranks, retrieval_ranks, retrieval_recall
from i0t.metrics.functional.separability import linear_separability, separability_scores
from i0t.metrics.functional.within_modality import neighbors_kept, within_modality_hits
from i0t.metrics.functional.zero_shot import zero_shot_accuracy, zero_shot_predictions, zero_shot_ranks

__all__ = [
    "ActivationPeak",
    "BootstrapTest",
    "DirectionRanks",
    "KendallTaus",
    "Pairing",
    "Redraws",
    "TextLabels",
    "activation_peaks",
    "alignment",
    "balanced_mean",
    "bootstrap_interval",
    "calibration_shift",
    "caption_cosines",
    "caption_scores",
    "centroid_distance",
    "centroid_distances",
    "centroid_noise",
    "contrast_obstacle",
    "dunn_index",
    "expected_residual_distance",
    "gap_measures",
    "instance_distance",
    "kendall_tau",
    "label_contrast",
    "labels_of_texts",
    "linear_separability",
    "logit_entropies",
    "logit_entropy",
    "make_pairing",
    "mean_activations",
    "neighborhood_distance",
    "neighbors_kept",
    "object_bias",
    "one_to_one",
    "paired_bootstrap_test",
    "percentile_interval",
    "preference_hits",
    "recall_of_ranks",
    "redraw_set",
    "reference_cosines",
    "reference_scores",
    "relative_modality_gap",
    "resample_counts",
    "resampled_balanced_means",
    "resampled_kendall_taus",
    "resampled_label_contrast",
    "resampled_mean_distances",
    "resampled_means",
    "resampled_medians",
    "resampled_neighborhood_distances",
    "resampled_object_bias",
    "retrieval_ranks",
    "retrieval_recall",
    "separability_scores",
    "unbiased_centroid_distance",
    "uniformity",
    "uniformity_contributions",
    "weighted_sums",
    "within_modality_hits",
    "without_resampling_bias",
    "zero_shot_accuracy",
    "zero_shot_predictions",
    "zero_shot_ranks",
]
