"""Flickr8k-Expert (Hodosh et al. 2013): three experts' ratings of captions for images.

``ExpertAnnotations.txt`` has a line ``<image><tab><caption><tab><rating><tab><rating><tab><rating>`` for each of 5,822
pairs. Without the 158 captions that were written for their image, as in SPICE and CLIP-S (Hessel et al. 2021,
appendix A), 5,664 pairs of 1,000 images are left, and every rating is a judgement of its own: 16,992.
"""

from __future__ import annotations

from collections.abc import Sequence

from i0t.data.flickr8k_judgements import Flickr8kJudgementsDataModule
from i0t.data.judged_rows import UnusableRow, read_rating

KNOWN_PAIRS = 5664  # without self pairs


class Flickr8kExpertDataModule(Flickr8kJudgementsDataModule):
    """Flickr8k's ratings by experts, on the images of its test split; Kendall's tau-c is the usual one."""

    name = "flickr8k_expert"
    annotations = "ExpertAnnotations.txt"
    known_rows = 5822
    headline = "c"
    scale = "three experts' ratings from 1 (does not describe the image) to 4 (describes it), each by itself"

    def read_ratings(self, cells: Sequence[str]) -> tuple[float, ...]:
        """Three ratings from 1 to 4."""
        ratings = tuple(read_rating(cell, low=1, high=4) for cell in cells)
        if not all(rating.is_integer() for rating in ratings):
            raise UnusableRow(f"ratings must be whole numbers from 1 to 4, got {', '.join(cells)}")
        return ratings

    def known_count(self) -> int | None:
        """5,664 without self pairs."""
        return self.known_rows if self.self_pairs else KNOWN_PAIRS
