"""Object bias (MOAD) of images and of texts."""

from __future__ import annotations

import torch

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import Scores
from i0t.metrics import functional as metrics


class ObjectBias:
    """MOAD of both modalities: the object's term minus the mean over the other labels.

    Args:
        object_label: The label that is the object; ``None``: the data set's own (``provenance["main_object"]``).
    """

    def __init__(self, *, object_label: str | None) -> None:
        self.object_label = object_label

    def __call__(self, embeddings: EmbeddingSet) -> Scores:
        """Measures unit features; no number without an object and at least one other label."""
        name = self.object_label or embeddings.provenance.get("main_object")
        others = [label for key, label in embeddings.labels.items() if key != name]
        if name is None or not others:
            return Scores()
        if name not in embeddings.labels:
            raise ValueError(
                f"evaluation.object_bias.object_label={name} is not a label of this set; "
                f"it has {', '.join(embeddings.labels)}"
            )
        objects, attributes = embeddings.labels[name], torch.stack(others, dim=1)
        values = {"image": float(metrics.object_bias(embeddings.image_features, objects, attributes))}
        if embeddings.has_one_image_per_text:
            index = embeddings.text_image_index
            values["text"] = float(metrics.object_bias(embeddings.text_features, objects[index], attributes[index]))
        return Scores(values)
