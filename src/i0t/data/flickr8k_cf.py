"""Flickr8k-CF (Hodosh et al. 2013): whether paid volunteers (CrowdFlower) say that a caption describes an image.

``CrowdFlowerAnnotations.txt`` has a line ``<image><tab><caption><tab><share of yes><tab><yes><tab><no>`` for each of
47,830 pairs, with three answers or more; copies with fewer lines are about. The rating is the share of yes, as in
CLIP-S and PAC-S. Their preprocessing keeps the captions that were written for their image, and takes them out of its
references (``self_pairs=True``); without them a copy of 47,288 lines leaves 46,575.
"""

from __future__ import annotations

from collections.abc import Sequence

from i0t.data.flickr8k_judgements import Flickr8kJudgementsDataModule
from i0t.data.judged_rows import UnusableRow, read_rating

_ROUNDING = 1e-3  # of the share of yes, which is printed with fifteen digits


class Flickr8kCrowdFlowerDataModule(Flickr8kJudgementsDataModule):
    """Flickr8k's shares of yes, on the images of its test split; Kendall's tau-b is the usual one."""

    name = "flickr8k_cf"
    annotations = "CrowdFlowerAnnotations.txt"
    known_rows = 47_830
    headline = "b"
    scale = "the share of three or more volunteers who say that the caption describes the image"

    def read_ratings(self, cells: Sequence[str]) -> tuple[float, ...]:
        """The share of yes, which must be that of the counts."""
        share = read_rating(cells[0], low=0, high=1)
        if not (cells[1].isdecimal() and cells[2].isdecimal()):
            raise UnusableRow(f"the counts of yes and no must be whole numbers, got {cells[1]!r} and {cells[2]!r}")
        yes, no = int(cells[1]), int(cells[2])
        if yes + no == 0 or not abs(share - yes / (yes + no)) < _ROUNDING:
            raise UnusableRow(f"the share of yes is {cells[0]!r}, with {yes} yes and {no} no")
        return (yes / (yes + no),)
