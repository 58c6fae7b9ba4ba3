"""Which captions are true of which images: every word of the caption is a value of the image.

Shapes: N images, M captions, P true pairs.
"""

from __future__ import annotations

import numpy as np

from i0t.data.mad_generator.captions import NOT_MENTIONED, SEPARATOR
from i0t.data.mad_generator.factors import FACTORS

_MEANING: dict[str, tuple[int, int]] = {
    word: (factor, value) for factor, words in enumerate(FACTORS.values()) for value, word in enumerate(words)
}
_MAX_MASK_BYTES = 2**24


def parse_caption(caption: str) -> np.ndarray:
    """Codes of a caption.

    Returns:
        ``(6,)`` int64, -1 where a factor is not mentioned.

    Raises:
        ValueError: If a word is unknown, or two words speak of one factor.

    Example:
        >>> parse_caption("yellow-3-no swelling").tolist()
        [3, -1, 0, -1, -1, 6]
    """
    codes = np.full(len(FACTORS), NOT_MENTIONED, dtype=np.int64)
    for word in caption.split(SEPARATOR):
        if word not in _MEANING:
            raise ValueError(f"{word!r} in the caption {caption!r} is not a word of MAD")
        factor, value = _MEANING[word]
        if codes[factor] != NOT_MENTIONED:
            raise ValueError(f"the caption {caption!r} names the factor of {word!r} twice")
        codes[factor] = value
    return codes


def caption_is_true(caption: str, codes: np.ndarray) -> bool:
    """Whether every word of a caption is true of an image.

    Args:
        caption: Words joined by "-".
        codes: ``(6,)`` codes of the image.

    Raises:
        ValueError: If the caption cannot be parsed.

    Example:
        >>> caption_is_true("yellow-3", np.array([3, 0, 1, 1, 0, 6]))
        True
    """
    said = parse_caption(caption)
    return bool(np.all((said == NOT_MENTIONED) | (said == codes)))


def true_caption_pairs(caption_codes: np.ndarray, image_codes: np.ndarray) -> np.ndarray:
    """All pairs of an image and a caption that is true of it.

    Images with the same codes have the same true captions, so one row of the truth table serves them all.

    Args:
        caption_codes: ``(M, 6)`` integers, -1 where a factor is not mentioned.
        image_codes: ``(N, 6)`` integers.

    Returns:
        ``(P, 2)`` int64 of (image row, caption row), sorted by image, then by caption.

    Raises:
        ValueError: If the arrays are not of shape ``(M, 6)`` and ``(N, 6)``.

    Example:
        >>> true_caption_pairs(np.array([[3, -1, -1, -1, -1, -1]]), np.array([[1] * 6, [3] * 6])).tolist()
        [[1, 0]]
    """
    _check_codes(caption_codes, image_codes)
    distinct, kind_of_image = _distinct(image_codes)
    true_captions: list[np.ndarray] = []
    chunk = max(_MAX_MASK_BYTES // max(len(caption_codes), 1), 1)
    for start in range(0, len(distinct), chunk):
        true_captions += [np.flatnonzero(row) for row in _truth_table(caption_codes, distinct[start : start + chunk])]
    per_image = [true_captions[kind] for kind in kind_of_image]
    counts = np.array([len(captions) for captions in per_image], dtype=np.int64)
    pairs = np.empty((int(counts.sum()), 2), dtype=np.int64)
    pairs[:, 0] = np.repeat(np.arange(len(image_codes)), counts)
    pairs[:, 1] = np.concatenate([*per_image, np.empty(0, dtype=np.int64)])
    return pairs


def count_true_pairs(caption_codes: np.ndarray, image_codes: np.ndarray) -> int:
    """How many pairs :func:`true_caption_pairs` would return, in the memory of the distinct codes alone.

    Args:
        caption_codes: ``(M, 6)`` integers, -1 where a factor is not mentioned.
        image_codes: ``(N, 6)`` integers.

    Raises:
        ValueError: If the arrays are not of shape ``(M, 6)`` and ``(N, 6)``.

    Example:
        >>> count_true_pairs(np.array([[3, -1, -1, -1, -1, -1]] * 2), np.array([[1] * 6, [3] * 6, [3] * 6]))
        4
    """
    _check_codes(caption_codes, image_codes)
    captions, kind_of_caption = _distinct(caption_codes)
    images, kind_of_image = _distinct(image_codes)
    num_captions, num_images = np.bincount(kind_of_caption), np.bincount(kind_of_image)
    return int(num_images @ (_truth_table(captions, images) @ num_captions))


def _distinct(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of ``(N, 6)`` codes, and which of them each row is."""
    # As one number per row: np.unique over rows takes twenty times as long.
    base = int(codes.max(initial=0)) + 2
    numbers = (codes.astype(np.int64) + 1) @ base ** np.arange(codes.shape[1])
    _, first, kind = np.unique(numbers, return_index=True, return_inverse=True)
    return codes[first], kind.reshape(-1)


def _check_codes(caption_codes: np.ndarray, image_codes: np.ndarray) -> None:
    for name, array in (("caption_codes", caption_codes), ("image_codes", image_codes)):
        if array.ndim != 2 or array.shape[1] != len(FACTORS):
            raise ValueError(f"{name} must have one row of {len(FACTORS)} codes each, got shape {array.shape}")


def _truth_table(caption_codes: np.ndarray, image_codes: np.ndarray) -> np.ndarray:
    """``(N, M)`` bool."""
    table = np.ones((len(image_codes), len(caption_codes)), dtype=bool)
    for said, is_so in zip(caption_codes.T, image_codes.T, strict=True):
        # Per distinct value one row, looked up by image: a byte-wise "and" is all that is done per pair.
        values, row_of_image = np.unique(is_so, return_inverse=True)
        allowed = (said == NOT_MENTIONED) | (said == values[:, None])
        table &= allowed[row_of_image]
    return table
