"""Colouring of grey digits, as MAD's data set does it when an image is read (arXiv 2404.07983)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from i0t.data.mad_generator.factors import FACTORS

# Per colour, what becomes of each channel where there is ink: kept, or set to 255; neither means zero. The background
# is black.
_KEPT_CHANNELS = {
    "gray": (0, 1, 2),
    "red": (0,),
    "green": (1,),
    "blue": (2,),
    "cyan": (0,),
    "magenta": (1,),
    "yellow": (2,),
}
_FILLED_CHANNELS = {"cyan": (1, 2), "magenta": (0, 2), "yellow": (0, 1)}


def _masks(channels_of_color: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    masks = np.zeros((len(FACTORS["color"]), 3, 1), dtype=np.uint8)
    for code, color in enumerate(FACTORS["color"]):
        masks[code, list(channels_of_color.get(color, ()))] = 255
    return masks


_KEEP = _masks(_KEPT_CHANNELS)
_FILL = _masks(_FILLED_CHANNELS)


def colorize(images: np.ndarray, color_codes: np.ndarray) -> np.ndarray:
    """Colour a batch of grey images.

    Where v > 0: gray keeps v in all channels; red, green and blue keep v in theirs and zero the others; yellow, magenta
    and cyan set (R, G), (R, B) and (G, B) to 255 and keep v in the third. Where v = 0 the image is black.

    Args:
        images: ``(B, 28, 28)`` uint8; other sides work as well.
        color_codes: ``(B,)`` integers, indices into ``FACTORS["color"]``.

    Returns:
        ``(B, 3, 28, 28)`` uint8.

    Raises:
        ValueError: If the images are not uint8 or a code is out of range.

    Example:
        >>> colorize(np.array([[[0, 9]]], dtype=np.uint8), np.array([6])).tolist()  # yellow
        [[[[0, 255]], [[0, 255]], [[0, 9]]]]
    """
    if images.dtype != np.uint8:
        raise ValueError(f"images must be uint8, got {images.dtype}")
    codes = np.asarray(color_codes)
    if codes.size and (codes.min() < 0 or codes.max() >= len(_KEEP)):
        raise ValueError(f"color codes must be 0 to {len(_KEEP) - 1}, got {codes.min()} to {codes.max()}")
    # Pixels in one long row: the masks are spread over it in one go, several times faster than over rows of 28.
    values = images.reshape(len(images), 1, -1)
    ink = np.where(values > 0, np.uint8(255), np.uint8(0))
    colored = (values & _KEEP[codes]) | (ink & _FILL[codes])
    return colored.reshape(len(images), 3, *images.shape[1:])
