"""Adjustment of several p-values of one family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

PValue = TypeVar("PValue", float, "float | None")


def holm(p_values: Sequence[PValue]) -> list[PValue]:
    """p-values that keep the family-wise error rate (Holm, Scandinavian Journal of Statistics 6, 1979).

    Args:
        p_values: Of one family; ``None`` is no test and stays.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    order = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted = list(p_values)
    largest = 0.0
    for rank, (p, at) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[at] = largest
    return adjusted
