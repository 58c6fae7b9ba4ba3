"""Mean activation per dimension: the few dimensions in which each modality has its own offset.

Shapes: N images, M texts, D embedding width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from i0t.metrics.functional.activations import ActivationPeak, activation_peaks, mean_activations

MIN_ROBUST_Z = 6.0  # normal noise passes this once in 5e8 dimensions, so a named peak is hardly ever noise
# Centring leaves peaks that are sharp and tiny (.0135 in CLIP ViT-B/32, robust z 20): an offset that matters is large
# as well. This many times 1/sqrt(D), the root mean square of a component of a unit row.
MIN_RELATIVE_SIZE = 2.0
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


def activation_profile(
    image_features: Tensor, text_features: Tensor, *, max_peaks: int | None = None
) -> ActivationProfile:
    """Means per dimension of both modalities, and the peaks that stand out (I0T, arXiv 2412.14384, Sec. 3.2).

    In CLIP ViT-B/32 one dimension of the images (93, counting from 1) and two of the texts (134 and 313) carry much of
    the distance between the modalities' centroids. A mean is a peak if its robust z-score among the D means is at least
    :data:`MIN_ROBUST_Z` and its size at least :data:`MIN_RELATIVE_SIZE` / sqrt(D), so that embeddings with an even mean
    (noise, or what centring leaves) have none.

    Args:
        image_features: ``(N, D)`` unit rows.
        text_features: ``(M, D)`` unit rows.
        max_peaks: How many peaks to name per modality at most, the largest; ``None``: all.

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
    ordered = activation_peaks(image_features, text_features, top=image_features.shape[1])
    image_means, text_means = mean_activations(image_features), mean_activations(text_features)
    return ActivationProfile(
        image_means=image_means,
        text_means=text_means,
        image_peaks=_standing_out(ordered["image"], image_means)[:max_peaks],
        text_peaks=_standing_out(ordered["text"], text_means)[:max_peaks],
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


def peak_share(profile: ActivationProfile) -> float:
    """Share of the squared distance of the modalities' means that lies in the dimensions of their peaks.

    Args:
        profile: Of both modalities; a dimension in which both have a peak counts once.

    Returns:
        In ``[0, 1]``; NaN where the means are equal.
    """
    squares = (profile.image_means.double() - profile.text_means.double()).square().cpu()
    dimensions = sorted({peak.index_from_0 for peak in (*profile.image_peaks, *profile.text_peaks)})
    total = float(squares.sum())
    return float(squares[dimensions].sum()) / total if total > 0 else math.nan


def _standing_out(peaks: list[ActivationPeak], means: Tensor) -> tuple[ActivationPeak, ...]:
    scores = robust_z_scores(means).tolist()
    least = MIN_RELATIVE_SIZE / math.sqrt(len(means))
    return tuple(p for p in peaks if scores[p.index_from_0] >= MIN_ROBUST_Z and abs(p.mean) >= least)
