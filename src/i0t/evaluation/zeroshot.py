"""Zero-shot classification of every label that has prompts."""

from __future__ import annotations

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import Scores
from i0t.metrics import functional as metrics


class ZeroShot:
    """Accuracy and balanced accuracy per label; the form of the prompts stands in ``EmbeddingSet.prompts``.

    Args:
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).
    """

    def __init__(self, *, num_resamples: int) -> None:
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet) -> Scores:
        """Measures unit features against unit prompts; no number for a set without prompts."""
        values: dict[str, float] = {}
        intervals: dict[str, tuple[float, float]] = {}
        for name, table in embeddings.prompts.items():
            labels = embeddings.labels[name]
            predictions = metrics.zero_shot_predictions(
                embeddings.image_features, table.features, table.mask, aggregate=table.aggregate
            )
            accuracy = metrics.zero_shot_accuracy(predictions, labels, len(table.class_names))
            values[name] = float(accuracy["accuracy"])
            values[f"balanced/{name}"] = float(accuracy["balanced_accuracy"])
            hits = (predictions == labels).double()
            if embeddings.groups is None or len(embeddings.groups.unique()) > 1:
                found = metrics.bootstrap_interval(hits, embeddings.groups, num_resamples=self.num_resamples)
                intervals[name] = (float(found["low"]), float(found["high"]))
        return Scores(values, intervals)
