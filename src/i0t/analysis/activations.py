"""Mean activation per dimension: the few dimensions in which each modality has its own offset.

Shapes: N images, M texts, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from i0t.metrics.functional.activations import ActivationPeak, activation_peaks, mean_activations

MIN_ROBUST_Z = 6.0  # normal noise passes this once in 5e8 dimensions, so a named peak is hardly ever noise
_MAD_TO_SIGMA = 1.4826  # a normal variable's sigma is this many median absolute deviations


@dataclass(frozen=True)
class ActivationProfile:
    """The mean activation of both modalities in every dimension.

    Attributes:
        image_means: ``(D,)``.
        text_means: ``(D,)``.
        image_peaks: The dimensions in which the image mean stands out, largest absolute mean first.
        text_peaks: The same of the texts. Peaks know their dimension from 0 and from 1; the I0T paper counts from 1.
    """

    image_means: Tensor
    text_means: Tensor
    image_peaks: tuple[ActivationPeak, ...]
    text_peaks: tuple[ActivationPeak, ...]


def activation_profile(image_features: Tensor, text_features: Tensor, *, max_peaks: int = 3) -> ActivationProfile:
    """Means per dimension of both modalities, and the peaks that stand out (I0T, arXiv 2412.14384, Sec. 3.2).

    In CLIP ViT-B/32 one dimension of the images (93, counting from 1) and two of the texts (134 and 313) carry much of
    the distance between the modalities' centroids. Of the largest means only those are named whose robust z-score is at
    least :data:`MIN_ROBUST_Z`, so that embeddings with an even mean (after centring, say) have no peaks.

    Args:
        image_features: ``(N, D)`` unit rows.
        text_features: ``(M, D)`` unit rows.
        max_peaks: How many peaks to name per modality at most.

    Returns:
        Means in feature units, and the peaks.

    Raises:
        ValueError: If the widths differ or a row is not of unit length.

    Example:
        >>> images, texts = torch.eye(8)[[0, 0]], torch.eye(8)[[5, 5]]
        >>> profile = activation_profile(images, texts)
        >>> profile.image_peaks[0].index_from_1, profile.text_peaks[0].index_from_1
        (1, 6)
    """
    largest = activation_peaks(image_features, text_features, top=min(max_peaks, image_features.shape[1]))
    image_means, text_means = mean_activations(image_features), mean_activations(text_features)
    return ActivationProfile(
        image_means=image_means,
        text_means=text_means,
        image_peaks=_standing_out(largest["image"], image_means),
        text_peaks=_standing_out(largest["text"], text_means),
    )


def robust_z_scores(values: Tensor) -> Tensor:
    """Distance of each value from the median, in units of 1.4826 median absolute deviations.

    Args:
        values: ``(D,)``.

    Returns:
        ``(D,)``, zero or more; infinite for what differs where more than half of the values are equal.
    """
    deviation = (values - values.median()).abs()
    scale = _MAD_TO_SIGMA * deviation.median()
    return torch.where(deviation > 0, deviation / scale, torch.zeros_like(deviation))


def _standing_out(peaks: list[ActivationPeak], means: Tensor) -> tuple[ActivationPeak, ...]:
    scores = robust_z_scores(means)
    return tuple(peak for peak in peaks if scores[peak.index_from_0] >= MIN_ROBUST_Z)
