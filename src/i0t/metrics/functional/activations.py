"""Mean activations: the few dimensions that carry the modality gap."""

# N images, M texts, D feature width.
from dataclasses import dataclass

import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both, check_unit_rows
from i0t.metrics.functional.sums import row_sum


@dataclass(frozen=True)
class ActivationPeak:
    """A dimension with a large mean activation.

    Attributes:
        index_from_0: The dimension as Python counts.
        index_from_1: The dimension as the I0T paper counts (arXiv 2412.14384: 93 for image, 134 and 313 for text).
        mean: Mean activation of the unit rows there, in ``[-1, 1]``.
    """

    index_from_0: int
    index_from_1: int
    mean: float


def mean_activations(features: Tensor) -> Tensor:
    """Mean of the unit rows, dimension by dimension (arXiv 2412.14384 §3.2).

    Args:
        features: ``(N, D)`` float, L2-normalised, of one modality.

    Returns:
        ``(D,)`` in ``[-1, 1]``.

    Raises:
        ValueError: If a row is not a unit vector.

    Example:
        >>> mean_activations(torch.eye(2))
        tensor([0.5000, 0.5000])
    """
    rows = check_unit_rows(features, "features")
    return (row_sum(rows) / len(rows)).to(rows.dtype)


def activation_peaks(image_features: Tensor, text_features: Tensor, top: int = 3) -> dict[str, list[ActivationPeak]]:
    """The dimensions with the largest absolute mean activation of each modality.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised; need not be paired with the images.
        top: How many dimensions, in ``[1, D]``.

    Returns:
        ``{"image": [...], "text": [...]}``, largest first; of equal ones the lower dimension first.

    Raises:
        ValueError: If a row is not a unit vector, the widths differ, or ``top`` is out of range.

    Example:
        >>> x = torch.nn.functional.normalize(torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, -1.0]]), dim=-1)
        >>> peaks = activation_peaks(x, -x, top=1)
        >>> peaks["image"][0].index_from_1, round(peaks["text"][0].mean, 2)
        (2, -0.95)
    """
    image, text = check_both(image_features, text_features)
    if not 1 <= top <= image.shape[1]:
        raise ValueError(f"top must lie in 1 … {image.shape[1]}, the feature width, got {top}")
    return {"image": _peaks(mean_activations(image), top), "text": _peaks(mean_activations(text), top)}


def _peaks(means: Tensor, top: int) -> list[ActivationPeak]:
    """Peaks of a mean vector ``(D,)``."""
    order = torch.argsort(means.abs(), descending=True, stable=True)[:top].tolist()
    return [ActivationPeak(dimension, dimension + 1, float(means[dimension])) for dimension in order]
