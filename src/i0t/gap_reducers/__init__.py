"""Gap reducers: maps applied to both modalities' features after the encoders, which return unit vectors.

The classes need torch. :func:`load`, which reads a saved reducer for use from NumPy, does not, and importing this
package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from i0t.gap_reducers.saved import SavedReducer, load

if TYPE_CHECKING:
    from i0t.gap_reducers.async_bn import AsyncBatchNorm
    from i0t.gap_reducers.base import Embeddings, GapReducer
    from i0t.gap_reducers.errors import NotFittedError
    from i0t.gap_reducers.layer_norm import LayerNorm
    from i0t.gap_reducers.mean_shift import MeanShift
    from i0t.gap_reducers.none import NoReducer
    from i0t.gap_reducers.posthoc import Posthoc

__all__ = [
    "AsyncBatchNorm",
    "Embeddings",
    "GapReducer",
    "LayerNorm",
    "MeanShift",
    "NoReducer",
    "NotFittedError",
    "Posthoc",
    "SavedReducer",
    "load",
]

_MODULE_OF = {
    "AsyncBatchNorm": "async_bn",
    "Embeddings": "base",
    "GapReducer": "base",
    "LayerNorm": "layer_norm",
    "MeanShift": "mean_shift",
    "NoReducer": "none",
    "NotFittedError": "errors",
    "Posthoc": "posthoc",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
