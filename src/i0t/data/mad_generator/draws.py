"""Random numbers of one digit, drawn before anything is rendered.

Which pixel a swelling is centred at depends on the skeleton, so what is drawn is a position in [0, 1) along the list of
skeleton pixels. Drawing apart from rendering makes each image reproducible, and lets another implementation consume
the very same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from i0t.data.mad_generator.factors import NUM_VARIANTS, MorphologyParameters


@dataclass(frozen=True)
class Draws:
    """All that is random about the variants of one digit. Each variant has draws of its own, as in MAD.

    Attributes:
        swelling: ``(24,)`` floats in [0, 1): centre of the swelling, as a position along the skeleton's pixels.
        fractures: ``(24, num_fractures)`` floats in [0, 1): centres of the fractures, likewise.
        small_offset: ``(24, 2)`` of 0 or 1: row and column step of a small digit's place in the frame.
        tie_break: Seed of the order in which the medial axis visits pixels of equal distance and cornerness.
    """

    swelling: np.ndarray
    fractures: np.ndarray
    small_offset: np.ndarray
    tie_break: int


def draw(seed: int, source_index: int, parameters: MorphologyParameters) -> Draws:
    """Draws of one digit, from the seed and the digit's place in its source alone.

    Args:
        seed: Seed of the data set, not negative.
        source_index: Place of the digit in its source, the same whatever split the digit is in.
        parameters: The number of fractures is taken from here.
    """
    rng = np.random.default_rng([seed, source_index])
    return Draws(
        swelling=rng.random(NUM_VARIANTS),
        fractures=rng.random((NUM_VARIANTS, parameters.num_fractures)),
        small_offset=rng.integers(0, 2, (NUM_VARIANTS, 2)),
        tie_break=int(rng.integers(2**32)),
    )


def pick(positions: np.ndarray | float, count: int) -> np.ndarray:
    """Index that each position in [0, 1) selects among ``count`` items.

    Example:
        >>> pick(np.array([0.0, 0.5, 0.999]), 4)
        array([0, 2, 3])
    """
    return (np.asarray(positions) * count).astype(np.intp)
