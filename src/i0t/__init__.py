"""i0t: measure and close the modality gap of CLIP-like models.

In a notebook::

    import i0t

    pairs = i0t.load("pairs.npz")
    posthoc = i0t.Posthoc(pairs.dim, fit_split="test")
    posthoc.fit(pairs)
    i0t.measure(pairs, {"none": i0t.NoReducer(pairs.dim), "posthoc": posthoc})
    i0t.plots.projection(pairs, posthoc)

Importing the package imports nothing heavy; torch comes with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i0t import losses, metrics, plots
    from i0t.embeddings import EmbeddingSet, PromptTable
    from i0t.gap_reducers import (
        AsyncBatchNorm,
        GapReducer,
        LayerNorm,
        MeanShift,
        NoReducer,
        NotFittedError,
        Posthoc,
        SavedReducer,
    )
    from i0t.library import load, measure, reduced

__version__ = "0.1.0"

__all__ = [
    "AsyncBatchNorm",
    "EmbeddingSet",
    "GapReducer",
    "LayerNorm",
    "MeanShift",
    "NoReducer",
    "NotFittedError",
    "Posthoc",
    "PromptTable",
    "SavedReducer",
    "load",
    "losses",
    "measure",
    "metrics",
    "plots",
    "reduced",
]

_MODULES = {
    "i0t.embeddings": ("EmbeddingSet", "PromptTable"),
    "i0t.library": ("load", "measure", "reduced"),
    "i0t.gap_reducers": (
        *("AsyncBatchNorm", "GapReducer", "LayerNorm", "MeanShift", "NoReducer", "NotFittedError", "Posthoc"),
        "SavedReducer",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
