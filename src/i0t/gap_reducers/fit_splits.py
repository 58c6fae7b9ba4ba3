"""The splits a reducer may be fitted on, and what each makes of its numbers."""

from __future__ import annotations

FIT_SPLITS = {
    "train": "inductive, statistics from training data",
    "val": "inductive, statistics from held-out data",
    "test": "transductive, statistics from the very data it is tested on: the I0T paper's protocol",
}


def check_fit_split(fit_split: str | None, kind: str) -> None:
    """Refuses what is not a split.

    Args:
        fit_split: The choice.
        kind: Of reducer, for the message.

    Raises:
        ValueError: If it is none of them, with what each means.
    """
    if fit_split not in FIT_SPLITS:
        choices = "; ".join(f"{name} ({meaning})" for name, meaning in FIT_SPLITS.items())
        raise ValueError(f"{kind}: fit_split must be one of: {choices}; got {fit_split!r}")
