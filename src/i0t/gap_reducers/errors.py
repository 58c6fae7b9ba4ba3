"""What goes wrong with a reducer as such, not with its input."""

from __future__ import annotations


class NotFittedError(RuntimeError, ValueError):
    """A reducer that needs fitting was used before it was fitted, or on the modality it was not fitted on.

    A ``ValueError`` as well (as scikit-learn's), so that the commands print it as one line.
    """


class NotAffineError(ValueError):
    """A reducer is not of the form N(scale * N(x) + shift)."""


def not_fitted(kind: str, fit_split: str | None) -> NotFittedError:
    """The error of a reducer that was never fitted."""
    return NotFittedError(
        f"{kind} is not fitted: call fit() with the embeddings of its fit_split ({fit_split!r}), "
        "or load a checkpoint in which it is fitted"
    )


def half_fitted(kind: str, done: str) -> NotFittedError:
    """The error of a reducer that lacks the modality other than ``done``."""
    missing = "text" if done == "image" else "image"
    return NotFittedError(f"{kind} is fitted on {done}s alone: call fit_{missing}() as well")
