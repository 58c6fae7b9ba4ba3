"""Gap reducers: maps applied to both modalities' features after the encoders, which return unit vectors."""

from i0t.gap_reducers.async_bn import AsyncBatchNorm
from i0t.gap_reducers.base import Embeddings, GapReducer, NotFittedError
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc

__all__ = ["AsyncBatchNorm", "Embeddings", "GapReducer", "NoReducer", "NotFittedError", "Posthoc"]
