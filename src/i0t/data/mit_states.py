"""MIT-States (Isola et al. 2015): photos of objects in states, "sliced apple", for object bias and ideal words.

On disk as :mod:`i0t.data.composition_files` describes, below ``root``, for example::

    images/sliced apple/*.jpg
    metadata_compositional-split-natural.t7    compositional-split-natural/*_pairs.txt

115 attributes and 245 objects in 1,962 compositions, in the split of Purushwalkam et al. 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from i0t.data.compositional import CompositionalDataModule


class MitStatesDataModule(CompositionalDataModule):
    """MIT-States; the arguments are those of :class:`~i0t.data.compositional.CompositionalDataModule`."""

    name = "mit_states"
    known_counts: ClassVar[Mapping[str, tuple[int, int]]] = {
        "train": (30_338, 1_262),
        "val": (10_420, 600),
        "test": (12_995, 800),
    }
