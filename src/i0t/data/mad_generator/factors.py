"""The factors of MAD, their values, and the parameters of the morphological operations.

MAD (Multi-modal Attributes and Digits) is the synthetic data set of "Two Effects, One Trigger" (arXiv 2404.07983):
every handwritten digit in all combinations of four morphological factors, coloured at random when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

import numpy as np

FACTORS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "digit": tuple(str(digit) for digit in range(10)),
        "thickness": ("no thickthinning", "thickening", "thinning"),
        "swelling": ("no swelling", "swelling"),
        "fracture": ("no fracture", "fracture"),
        "scale": ("large", "small"),
        "color": ("gray", "red", "green", "blue", "cyan", "magenta", "yellow"),
    }
)
"""Name of each factor -> its values as caption words. An image's *codes* are six indices into these, in this order."""

FACTOR_NAMES: tuple[str, ...] = tuple(FACTORS)
MORPHOLOGICAL_FACTORS: tuple[str, ...] = ("thickness", "swelling", "fracture", "scale")

VARIANTS: tuple[tuple[str, str, str, str], ...] = tuple(
    product(FACTORS["thickness"], FACTORS["swelling"], FACTORS["fracture"], FACTORS["scale"])
)
"""The 24 morphological variants of one digit, the last factor running fastest."""

NUM_VARIANTS: int = len(VARIANTS)

VARIANT_CODES: np.ndarray = np.array(
    [
        [FACTORS[name].index(value) for name, value in zip(MORPHOLOGICAL_FACTORS, variant, strict=True)]
        for variant in VARIANTS
    ],
    dtype=np.uint8,
)
"""``(24, 4)`` uint8 codes of thickness, swelling, fracture and scale."""
VARIANT_CODES.setflags(write=False)

IMAGE_SIZE: int = 28
"""Side of a digit in pixels, as in MNIST."""


def factor_index(factor: str) -> int:
    """Position of a factor among the six.

    Raises:
        ValueError: If there is no such factor.

    Example:
        >>> factor_index("color")
        5
    """
    if factor not in FACTORS:
        raise ValueError(f"{factor!r} is not a factor of MAD; choose one of {', '.join(FACTOR_NAMES)}")
    return FACTOR_NAMES.index(factor)


def value_index(factor: str, value: str) -> int:
    """Code of a value within its factor.

    Raises:
        ValueError: If there is no such factor or value.

    Example:
        >>> value_index("scale", "small")
        1
    """
    values = FACTORS[FACTOR_NAMES[factor_index(factor)]]
    if value not in values:
        raise ValueError(f"{value!r} is not a value of {factor!r}; choose one of {', '.join(values)}")
    return values.index(value)


def image_codes(labels: np.ndarray, variants: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Codes of all six factors.

    Args:
        labels: ``(N,)`` digit labels 0 to 9.
        variants: ``(N,)`` rows of :data:`VARIANTS`.
        colors: ``(N,)`` colour codes.

    Returns:
        ``(N, 6)`` uint8, columns in the order of :data:`FACTORS`.

    Example:
        >>> image_codes(np.array([7]), np.array([23]), np.array([1])).tolist()
        [[7, 2, 1, 1, 1, 1]]
    """
    codes = np.empty((len(labels), len(FACTORS)), dtype=np.uint8)
    codes[:, 0], codes[:, -1] = labels, colors
    for column, values in enumerate(VARIANT_CODES.T, start=1):
        codes[:, column] = values[variants]
    return codes


@dataclass(frozen=True)
class MorphologyParameters:
    """Strengths of the operations; the defaults are MAD's.

    Attributes:
        amount: Share of the mean thickness added by thickening or taken by thinning.
        strength: Exponent of the swelling's radial power transform, > 1.
        radius: Radius of the swelling in low-resolution pixels, before the factor sqrt(thickness) / 2.
        num_fractures: Fractures per fractured digit.
        thickness: Width of a fracture in low-resolution pixels.
        prune: Radius in low-resolution pixels around stroke tips and forks that no fracture is centred in.
        scale: Working resolution, in pixels per low-resolution pixel.
        small: Side of a small digit's image relative to a large one's.
    """

    amount: float = 0.7
    strength: float = 3.0
    radius: float = 7.0
    num_fractures: int = 3
    thickness: float = 1.5
    prune: float = 2.0
    scale: int = 4
    small: float = 0.75

    def __post_init__(self) -> None:
        """Reject values for which an operation is not defined."""
        # At amount >= 1 thinning can erase a digit, below it never does; see `morphology.thin`.
        self._require(0 <= self.amount < 1, "amount", "in [0, 1)")
        self._require(self.strength > 1, "strength", "above 1")
        self._require(self.radius > 0, "radius", "above 0")
        self._require(self.num_fractures >= 1, "num_fractures", "at least 1")
        # The smallest brush that Castro et al.'s code can draw with has radius 1.
        self._require(self.thickness * self.scale > 1, "thickness", "above 1 / scale")
        self._require(self.prune >= 0, "prune", "at least 0")
        # Cubic sampling then never reaches over the border of an image: see `pyramid.reduce_stack`.
        self._require(self.scale >= 4 and self.scale % 2 == 0, "scale", "an even number of at least 4")
        self._require(0 < self.small <= 1, "small", "in (0, 1]")

    def _require(self, condition: bool, name: str, wanted: str) -> None:
        if not condition:
            raise ValueError(f"{name}={getattr(self, name)!r} must be {wanted}")
