"""How much a caption says of its image, in bits (the information imbalance of arXiv 2404.07983, section 5)."""

from __future__ import annotations

from math import log2

from i0t.data.mad_generator.captions import MAX_ATTRIBUTES, check_num_attributes
from i0t.data.mad_generator.factors import FACTOR_NAMES, FACTORS, factor_index

IMAGE_BITS: float = sum(log2(len(values)) for values in FACTORS.values())
"""Information of an image's six factors: log2 1680 = 10.71 bits."""


def caption_information(k: int, main_object: str = "digit") -> float:
    """Mutual information between the six factors of an image and its caption.

    The factors are independent and uniform (digits: up to their counts in the source), so an image X is one of 1,680.
    A caption C says in which order it names which factors, the set S, and their values X_S. It is drawn by choosing S
    and the order without a look at the image, so both are independent of X: whoever reads only *which* factors are
    named, and in what order, knows nothing more of the image. S can be read off the caption, as no two factors share a
    word; hence

        I(X; C) = I(X; S, order) + I(X; X_S | S, order) = 0 + E_S H(X_S) = sum_f P(f in S) log2 |f|,

    where the main object is always in S and each of the other five factors in k of 5 cases.

    Args:
        k: Number of captioned factors besides the main object.
        main_object: The factor that every caption names.

    Returns:
        Bits, from the main object's own (k = 0) to ``IMAGE_BITS`` (k = 5).

    Raises:
        ValueError: If k is not 0 to 5 or the main object is not a factor.

    Example:
        >>> round(caption_information(0), 2), round(caption_information(5), 2)
        (3.32, 10.71)
    """
    check_num_attributes(k)
    main = FACTOR_NAMES[factor_index(main_object)]
    of_main = log2(len(FACTORS[main]))
    return of_main + k / MAX_ATTRIBUTES * (IMAGE_BITS - of_main)
