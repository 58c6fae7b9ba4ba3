"""Metrics as pure functions of tensors of unit rows.

All take L2-normalised rows, reject a row whose norm is off by more than 1e-2, compute half precision in float32, and
return scalars on the device of the features.
"""

from i0t.metrics.functional.activations import ActivationPeak, activation_peaks, mean_activations
from i0t.metrics.functional.bias import object_bias
from i0t.metrics.functional.bootstrap import bootstrap_interval
from i0t.metrics.functional.distribution import alignment, logit_entropy, uniformity
from i0t.metrics.functional.gap import (
    centroid_distance,
    expected_residual_distance,
    instance_distance,
    relative_modality_gap,
    unbiased_centroid_distance,
)
from i0t.metrics.functional.neighborhood import dunn_index, neighborhood_distance
from i0t.metrics.functional.retrieval import DirectionRanks, recall_of_ranks, retrieval_ranks, retrieval_recall
from i0t.metrics.functional.separability import linear_separability
from i0t.metrics.functional.zero_shot import zero_shot_accuracy, zero_shot_predictions

__all__ = [
    "ActivationPeak",
    "DirectionRanks",
    "activation_peaks",
    "alignment",
    "bootstrap_interval",
    "centroid_distance",
    "dunn_index",
    "expected_residual_distance",
    "instance_distance",
    "linear_separability",
    "logit_entropy",
    "mean_activations",
    "neighborhood_distance",
    "object_bias",
    "recall_of_ranks",
    "relative_modality_gap",
    "retrieval_ranks",
    "retrieval_recall",
    "unbiased_centroid_distance",
    "uniformity",
    "zero_shot_accuracy",
    "zero_shot_predictions",
]
