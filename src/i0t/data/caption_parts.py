"""Captions cut to a random part of their words: the information imbalance of Two Effects, One Trigger on real data.

Source: arXiv 2404.07983 (its experiments on CC12M) and the code published with it.
"""

from __future__ import annotations

import random
from itertools import pairwise

# In how many parts of consecutive words a caption is cut; one of them is kept.
CAPTION_PARTS = {"full": 1, "half": 2, "quarter": 4}


def split_words(caption: str, num_parts: int) -> list[str]:
    """The parts of a caption that hold at least one word.

    Part i of n words holds the words from floor(i n / num_parts) to floor((i + 1) n / num_parts), as in the published
    code. That code keeps empty parts too: a caption of fewer than ``num_parts`` words is then often cut to nothing, and
    the image is trained to match an empty text. Here such a caption has as many parts as it has words.

    Args:
        caption: Words between white space, at least one.
        num_parts: 1, 2 or 4; 1 gives the caption as it is.

    Example:
        >>> split_words("a cat on a mat", 2), split_words("a cat", 4), split_words("a  cat", 1)
        (['a cat', 'on a mat'], ['a', 'cat'], ['a  cat'])
    """
    if num_parts == 1:
        return [caption]
    words = caption.split()
    bounds = [part * len(words) // num_parts for part in range(num_parts + 1)]
    return [" ".join(words[low:high]) for low, high in pairwise(bounds) if high > low]


class CaptionCutter:
    """Keeps one part of every caption, each with the same probability, drawn afresh every time.

    Args:
        part: ``"full"``, ``"half"`` or ``"quarter"``.
        seed: Of the draws.
    """

    def __init__(self, part: str, *, seed: int) -> None:
        check_caption_part(part)
        self.num_parts = CAPTION_PARTS[part]
        self._generator = random.Random(seed)

    def __call__(self, caption: str) -> str:
        """The kept part of a caption of at least one word."""
        return self._generator.choice(split_words(caption, self.num_parts))


def check_caption_part(part: str) -> None:
    """Refuses what is not a part.

    Raises:
        ValueError: Naming the choices.
    """
    if part not in CAPTION_PARTS:
        raise ValueError(f"data.caption_part={part!r} does not exist; choose one of {', '.join(CAPTION_PARTS)}")
