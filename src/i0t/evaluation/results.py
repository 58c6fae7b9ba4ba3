"""What evaluations return, and one row of a comparison: a reducer, what it was fitted on, every number it got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from i0t.embeddings import EmbeddingSet


@dataclass(frozen=True)
class Scores:
    """Numbers of one evaluation by short name, and 95 % bootstrap intervals of those that have one."""

    values: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Evaluation(Protocol):
    """A measurement of a reduced EmbeddingSet, whose features and prompts are unit rows.

    What cannot be measured on the set (retrieval without pairs, zero-shot without prompts) gives no number.
    """

    def __call__(self, embeddings: EmbeddingSet) -> Scores:
        """Measures the set."""
        ...


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What one gap reducer made of an EmbeddingSet.

    Attributes:
        name: The row's name in the comparison.
        reducer: The reducer's class, as ``module.Class``.
        fit_split: The split whose statistics it holds, or ``None``.
        fit_samples: How many images these statistics come from; 0 when nothing was fitted.
        protocol: ``"inductive"``, ``"transductive"`` (fitted on the data it is measured on) or ``"none"``.
        metrics: Number by name, e.g. ``gap/centroid_distance``, ``retrieval/i2t_r1``, ``zeroshot/digit``.
        intervals: The 95 % bootstrap interval (low, high) of those metrics that have one.
        image_features: ``(N, D)`` unit rows after the reducer.
        text_features: ``(M, D)`` unit rows after the reducer.
    """

    name: str
    reducer: str
    fit_split: str | None
    fit_samples: int
    protocol: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    image_features: Tensor
    text_features: Tensor
