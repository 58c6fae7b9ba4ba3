"""Metrics of paired embeddings: pure functions in :mod:`i0t.metrics.functional`, and torchmetrics classes around them.

The classes work together in one ``torchmetrics.MetricCollection``, where they keep the features of an epoch once. They
are imported when they are first asked for: torchmetrics takes seconds, and the functions do not need it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i0t.metrics.bias import ObjectBias
    from i0t.metrics.distribution import Alignment, LogitEntropy, Uniformity
    from i0t.metrics.gap import (
        CentroidDistance,
        InstanceDistance,
        LinearSeparability,
        RelativeModalityGap,
        UnbiasedCentroidDistance,
    )
    from i0t.metrics.paired_embedding_metric import PairedEmbeddingMetric, PairedEmbeddings
    from i0t.metrics.retrieval import RetrievalRecall

__all__ = [
    "Alignment",
    "CentroidDistance",
    "InstanceDistance",
    "LinearSeparability",
    "LogitEntropy",
    "ObjectBias",
    "PairedEmbeddingMetric",
    "PairedEmbeddings",
    "RelativeModalityGap",
    "RetrievalRecall",
    "UnbiasedCentroidDistance",
    "Uniformity",
]

_MODULES = {
    "bias": ("ObjectBias",),
    "distribution": ("Alignment", "LogitEntropy", "Uniformity"),
    "gap": (
        "CentroidDistance",
        "InstanceDistance",
        "LinearSeparability",
        "RelativeModalityGap",
        "UnbiasedCentroidDistance",
    ),
    "paired_embedding_metric": ("PairedEmbeddingMetric", "PairedEmbeddings"),
    "retrieval": ("RetrievalRecall",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
