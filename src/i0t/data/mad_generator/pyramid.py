"""Changes of resolution: up before the morphology, down after it, and the `small` variants.

The same arithmetic as scikit-image's `pyramid_expand`, `pyramid_reduce` and `rescale`, to the last bit, on a stack of
images at once. A matrix product would be a little faster still, but it rounds differently: on the plateaus inside a
stroke 255 x is an integer up to rounding, and the truncation to uint8 turns a last-bit difference into a grey level.

Shapes: V images in a stack, H = 28 * scale rows and columns at the working resolution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from skimage.transform import pyramid_expand

from i0t.data.mad_generator.factors import IMAGE_SIZE, MorphologyParameters

_TRUNCATE = 4.0
# The cubic spline's prefilter decays by .268 per row and has an absolute sum of 3 per axis. Eight rows away from where
# the smoothed image is zero nothing exceeds 255 * 9 * .268^8 = .06 of a grey level, which truncates to 0.
_SPLINE_MARGIN = 8


def expand(digit: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge a digit and binarise it (Morpho-MNIST, Castro et al. 2019).

    Cubic resize and a Gaussian of sigma ``2 scale / 6``, times 255, truncated; ink is what reaches the middle between
    the darkest and the brightest pixel. By that rule alone an image of zeros would be all ink; it is none here, so that
    a blank digit stays blank.

    Args:
        digit: ``(28, 28)`` uint8.
        scale: Factor of enlargement.

    Returns:
        ``(H, H)`` bool, True where there is ink.
    """
    high_resolution = (255.0 * pyramid_expand(digit, upscale=scale, order=3)).astype(np.uint8)
    low, high = float(high_resolution.min()), float(high_resolution.max())
    return (high_resolution >= low + (high - low) * 0.5) & (high_resolution > 0)


def reduce_stack(ink: np.ndarray, scale: int) -> np.ndarray:
    """Shrink binary images to grey ones (Morpho-MNIST, Castro et al. 2019).

    A Gaussian of sigma ``2 scale / 6``, then cubic interpolation at the centre of each block, clipped to the range of
    the smoothed image, times 255, truncated. Lines without ink are left out of each pass.

    Args:
        ink: ``(V, H, H)`` bool.
        scale: Factor of reduction, even and at least 4.

    Returns:
        ``(V, 28, 28)`` uint8.
    """
    reduced = np.zeros((len(ink), ink.shape[1] // scale, ink.shape[2] // scale), dtype=np.uint8)
    if not ink.any():
        return reduced
    sigma = 2 * scale / 6.0
    reach = int(_TRUNCATE * sigma + 0.5)
    columns = _extent(ink.any(axis=(0, 1)), 0)
    rows = _extent(ink.any(axis=(0, 2)), reach)
    smooth = np.zeros((len(ink), rows.stop - rows.start, ink.shape[2]))
    down = ndimage.gaussian_filter1d(ink[:, :, columns].astype(np.float64), sigma, axis=1, mode="reflect")
    smooth[:, :, columns] = down[:, rows]
    smooth = ndimage.gaussian_filter1d(smooth, sigma, axis=2, mode="reflect", truncate=_TRUNCATE)
    low, high = _range_of_full_images(smooth, ink.shape[1])

    coefficients, first_row = _spline_coefficients(smooth, rows, ink.shape[1], scale)
    # The taps of output row k are the working rows scale k + scale / 2 - 2 ... + 1, which all lie within its block:
    # images on top of each other do not touch, and one call serves the whole stack.
    tall = coefficients.reshape(-1, ink.shape[2])
    sampled = ndimage.zoom(tall, 1 / scale, order=3, mode="mirror", grid_mode=True, prefilter=False)
    sampled = np.clip(sampled.reshape(len(ink), -1, reduced.shape[2]), low, high)
    reduced[:, first_row : first_row + sampled.shape[1]] = (255.0 * sampled).astype(np.uint8)
    return reduced


def _range_of_full_images(smooth: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value per image, counting rows that were left out as zeros."""
    low = smooth.min(axis=(1, 2), keepdims=True)
    if smooth.shape[1] < height:
        low = np.minimum(low, 0.0)
    return low, smooth.max(axis=(1, 2), keepdims=True)


def _spline_coefficients(smooth: np.ndarray, rows: slice, height: int, scale: int) -> tuple[np.ndarray, int]:
    """Cubic spline coefficients of a band of whole blocks, and the output row that the band starts at."""
    columns = _extent(smooth.any(axis=(0, 1)), 0)
    first = max(rows.start - _SPLINE_MARGIN, 0) // scale
    last = -(-min(rows.stop + _SPLINE_MARGIN, height) // scale)
    padded = np.zeros((len(smooth), height, columns.stop - columns.start))
    padded[:, rows] = smooth[:, :, columns]
    band = np.zeros((len(smooth), (last - first) * scale, smooth.shape[2]))
    filtered = ndimage.spline_filter1d(padded, 3, axis=1, mode="mirror")
    band[:, :, columns] = filtered[:, first * scale : last * scale]
    return ndimage.spline_filter1d(band, 3, axis=2, mode="mirror"), first


def shrink_into_frame(images: np.ndarray, offsets: np.ndarray, parameters: MorphologyParameters) -> np.ndarray:
    """The `small` variants: bilinear reduction without anti-aliasing, placed in an empty frame (MAD's script).

    Args:
        images: ``(V, 28, 28)`` uint8.
        offsets: ``(V, 2)`` of 0 or 1: which of the two central places, by row and by column.
        parameters: ``small`` is the factor of reduction.

    Returns:
        ``(V, 28, 28)`` uint8.
    """
    side = max(round(parameters.small * IMAGE_SIZE), 1)
    # A factor of 1 along the stack leaves each image's arithmetic as it is.
    zoom = (1.0, side / IMAGE_SIZE, side / IMAGE_SIZE)
    scaled = images.astype(np.float32) / 255
    small = ndimage.zoom(scaled, zoom, order=1, mode="mirror", grid_mode=True)
    small = np.clip(small, scaled.min(axis=(1, 2), keepdims=True), scaled.max(axis=(1, 2), keepdims=True))
    framed = np.zeros_like(images)
    margin = IMAGE_SIZE - side
    for frame, content, offset in zip(framed, (small * 255).astype(np.uint8), offsets, strict=True):
        row, column = (margin - margin // 2 if step else margin // 2 for step in offset)
        frame[row : row + side, column : column + side] = content
    return framed


def _extent(occupied: ArrayLike, reach: int) -> slice:
    """Smallest slice that holds all occupied lines, widened by ``reach`` within the frame."""
    lines = np.flatnonzero(np.asarray(occupied))
    return slice(max(int(lines[0]) - reach, 0), min(int(lines[-1]) + 1 + reach, np.size(occupied)))
