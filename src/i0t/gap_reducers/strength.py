"""``strength``: the share of a mean that is subtracted, which varies the gap and leaves the semantics alone."""

from __future__ import annotations


def check_strength(strength: float) -> None:
    """Refuses a share that is negative or not a number.

    Args:
        strength: 0 subtracts nothing, 1 the whole mean; above 1 it overshoots.

    Raises:
        ValueError: If it is negative, infinite or NaN.
    """
    if not 0 <= strength < float("inf"):
        raise ValueError(f"strength must be at least 0 and finite, got {strength}")
