"""What a reducer fitted on a calibration set can leave behind: by chance, and because the data differ."""

# N rows, D feature width, n rows of the calibration set.
import torch
from torch import Tensor

from i0t.metrics.functional.bootstrap import unit_sums
from i0t.metrics.functional.checks import check_both, check_labels, check_unit_rows
from i0t.metrics.functional.pairing import make_pairing, pair_cosines
from i0t.metrics.functional.sums import row_sum


def expected_residual_distance(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
    num_fit: int,
    num_test: int | None,
) -> Tensor:
    """The centroid distance that centring leaves behind for want of samples alone.

    ``sqrt(2 (1 - c) (1/n + 1/N))``: modality means fitted on n pairs and subtracted from N other pairs of the same
    distribution, c the mean matched cosine *after* the reduction. A measured :func:`centroid_distance` well above it
    means that calibration and test data differ. Without N, ``sqrt(2 (1 - c) / n)``: what
    :func:`unbiased_centroid_distance` (its root) estimates, the gap that stays however much is measured.

    Args:
        image_features: ``(N, D)`` float, L2-normalised, after the reduction.
        text_features: ``(M, D)`` float, L2-normalised, after the reduction.
        text_image_index: ``(M,)`` image row of every text; None, without ``pairs``, pairs row i with row i.
        pairs: ``(P, 2)`` image row and text row of every pair, instead of ``text_image_index``: the form for texts that
            belong to many images, such as the prompts of classes.
        num_fit: n, pairs (images) that the means were fitted on.
        num_test: N, pairs (images) that are measured; None for endlessly many.

    Returns:
        Scalar ``()``, feature units.

    Raises:
        ValueError: If a row is not a unit vector, shapes or indices do not fit, or a count is not positive.

    Example:
        >>> x = torch.eye(4)
        >>> expected_residual_distance(x, x, num_fit=4, num_test=None).ndim
        0
    """
    image, text = check_both(image_features, text_features)
    pairing = make_pairing(image, text, text_image_index, pairs=pairs)
    for name, count in (("num_fit", num_fit), ("num_test", num_test)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    noise = 1 / num_fit + (0 if num_test is None else 1 / num_test)
    distance = (1 - pair_cosines(image, text, pairing).mean()).clamp_min(0)
    return (2 * distance * noise).sqrt().to(image.dtype)


def centroid_noise(
    image_features: Tensor, text_features: Tensor, image_units: Tensor, text_units: Tensor | None = None
) -> Tensor:
    """Squared standard error of the difference of the modality centroids, as what each independent unit adds to it.

    ``G/(G-1) ||sum_i (x_i - m_x)/N - sum_k (y_k - m_y)/M||^2`` over the rows i, k of a unit. Its sum V says what
    centring leaves by chance: fitted on n images and measured on N others of the same kind, ``V (1 + N/n)`` is the
    expected squared centroid distance and ``V N/n`` the true one. With one caption per image and independent images V
    is about ``2 (1 - c)/N``, the form of :func:`expected_residual_distance`. That form is too large for several
    captions, whose mean scatters less than one of them, and too small for images that come in groups.

    Args:
        image_features: ``(N, D)`` float, L2-normalised, after the reduction.
        text_features: ``(M, D)`` float, L2-normalised, after the reduction.
        image_units: ``(N,)`` int64 in ``[0, G)``.
        text_units: ``(M,)`` int64 in ``[0, G)``, unit of every text; None: the texts are the same wherever the images
            come from (prompts of classes) and add no noise.

    Returns:
        ``(G,)`` float64, zero or more.

    Raises:
        ValueError: If a row is not a unit vector, or there is a single unit.

    Example:
        >>> x = torch.eye(4)
        >>> centroid_noise(x, x, torch.arange(4)).ndim
        1
    """
    image, text = check_both(image_features, text_features)
    num_units = int(image_units.max()) + 1
    if num_units < 2:
        raise ValueError(f"the noise of centroids needs two independent units at least, got {num_units}")
    parts = _centred_sums(image, image_units, num_units) / len(image)
    if text_units is not None:
        parts -= _centred_sums(text, text_units, num_units) / len(text)
    return parts.square().sum(dim=1) * num_units / (num_units - 1)


def _centred_sums(rows: Tensor, units: Tensor, num_units: int) -> Tensor:
    """Sum over each unit of its rows minus the mean row, ``(G, D)`` float64."""
    units = units.to(rows.device)
    sizes = torch.bincount(units, minlength=num_units).double()
    return unit_sums(rows, units, num_units) - sizes[:, None] * (row_sum(rows) / len(rows))


def calibration_shift(
    features: Tensor, fit_mean: Tensor, *, num_fit: int, units: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Distance between the mean that a reducer was fitted on and the mean of the measured rows, and its chance value.

    ``||m_fit - m||`` and ``sqrt(tr S (1/n + 1/N))``, S the covariance of the rows: their ratio is about 1 where both
    sets come from one distribution; above 1.5 the calibration data differ from the measured ones. Where rows depend on
    each other (captions of one image), the variance of the mean is that of the sums over units, in both sets.

    Args:
        features: ``(N, D)`` float, L2-normalised, *before* the reduction, of one modality.
        fit_mean: ``(D,)`` mean of the unit rows of the calibration set.
        num_fit: n, rows of the calibration set.
        units: ``(N,)`` integers, which independent unit each row belongs to; None makes each row its own.

    Returns:
        Distance and its chance value, scalars ``()``, feature units.

    Raises:
        ValueError: If a row is not a unit vector, shapes do not fit, n is not positive, or there is a single unit.

    Example:
        >>> x = torch.eye(4)
        >>> squared, variance = calibration_shift(x, x.mean(dim=0), num_fit=4)
        >>> round(squared.item(), 4)
        0.0
    """
    rows = check_unit_rows(features, "features")
    if tuple(fit_mean.shape) != (rows.shape[1],):
        raise ValueError(f"fit_mean must have shape ({rows.shape[1]},), got {tuple(fit_mean.shape)}")
    if num_fit < 1:
        raise ValueError(f"num_fit must be at least 1, got {num_fit}")
    given = torch.arange(len(rows), device=rows.device) if units is None else units
    unit, num_units = check_labels(given, len(rows), "units")
    if num_units < 2:
        raise ValueError(f"the chance distance of two means needs two independent rows at least, got {num_units}")
    mean = row_sum(rows) / len(rows)
    scatter = _centred_sums(rows, unit, num_units).square().sum()
    variance = scatter / len(rows) ** 2 * num_units / (num_units - 1)
    chance = (variance * (1 + len(rows) / num_fit)).sqrt()
    distance = torch.linalg.vector_norm(fit_mean.detach().to(mean) - mean)
    return distance.to(rows.dtype), chance.to(rows.dtype)
