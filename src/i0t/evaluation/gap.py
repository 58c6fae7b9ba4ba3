"""The modality gap of a set, by every measure of the two papers."""

from __future__ import annotations

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import Scores
from i0t.metrics import functional as metrics


class Gap:
    """Centroid distance, RMG, linear separability, alignment and uniformity.

    Without exactly one image for each text only what needs no pairs is measured: centroid distance and uniformity.

    Args:
        separability_seed: Of the split into training and held-out images of linear separability.
    """

    def __init__(self, *, separability_seed: int) -> None:
        self.separability_seed = separability_seed

    def __call__(self, embeddings: EmbeddingSet) -> Scores:
        """Measures unit features; names are those of ``metrics.functional`` or the papers' short ones."""
        image, text = embeddings.image_features, embeddings.text_features
        values = {"centroid_distance": metrics.centroid_distance(image, text)}
        if len(image) > 1:
            values["image_uniformity"] = metrics.uniformity(image)
        if len(text) > 1:
            values["text_uniformity"] = metrics.uniformity(text)
        if embeddings.has_one_image_per_text:
            index = embeddings.text_image_index
            seed = self.separability_seed
            values |= {
                "centroid_distance_unbiased_squared": metrics.unbiased_centroid_distance(image, text, index),
                "instance_distance": metrics.instance_distance(image, text, index),
                "rmg": metrics.relative_modality_gap(image, text, index),
                "rmg_with_diagonal": metrics.relative_modality_gap(image, text, index, include_diagonal=True),
                "linear_separability": metrics.linear_separability(image, text, index, seed=seed),
                "linear_separability_ols": metrics.linear_separability(image, text, index, method="ols", seed=seed),
                "alignment": metrics.alignment(image, text, index),
            }
        return Scores({name: float(value) for name, value in values.items()})
