"""What goes wrong with a reducer as such, not with its input."""

from __future__ import annotations


class NotFittedError(RuntimeError):
    """A reducer that needs fitting was used before it was fitted, or on the modality it was not fitted on."""


class NotAffineError(ValueError):
    """A reducer is not of the form N(scale * N(x) + shift)."""
