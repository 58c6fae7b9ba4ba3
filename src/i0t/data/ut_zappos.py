"""UT-Zappos50K (Yu and Grauman 2014): photos of shoes of a material, "suede loafers", for object bias and ideal words.

On disk as :mod:`i0t.data.composition_files` describes, below ``root``, for example::

    images/Suede_Shoes.Loafers/*.jpg
    metadata_compositional-split-natural.t7    compositional-split-natural/*_pairs.txt

or, instead of ``images``, the catalogue as it was published, in ``_images`` or ``ut-zap50k-images``::

    _images/Shoes/Loafers/<brand>/*.jpg

16 attributes and 12 objects in 116 compositions, in the split of Purushwalkam et al. 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from i0t.data.compositional import CompositionalDataModule


class UtZapposDataModule(CompositionalDataModule):
    """UT-Zappos; the arguments are those of :class:`~i0t.data.compositional.CompositionalDataModule`."""

    name = "ut_zappos"
    known_counts: ClassVar[Mapping[str, tuple[int, int]]] = {
        "train": (22_998, 83),
        "val": (3_214, 30),
        "test": (2_914, 36),
    }
    other_folders: ClassVar[Sequence[str]] = ("_images", "ut-zap50k-images")
