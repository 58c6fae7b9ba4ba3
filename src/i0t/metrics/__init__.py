"""Metrics of paired embeddings: pure functions in :mod:`i0t.metrics.functional`, and torchmetrics classes around them.

The classes work together in one ``torchmetrics.MetricCollection``, where they keep the features of an epoch once.
"""

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
