"""Object bias (MOAD) of images and of texts."""

from __future__ import annotations

import torch

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Scores
from i0t.metrics import functional as metrics


class ObjectBias:
    """MOAD of both modalities: the object's term minus the mean over the other labels.

    Args:
        object_label: The label that is the object; ``None``: the data set's own (``provenance["main_object"]``).
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).
    """

    def __init__(self, *, object_label: str | None, num_resamples: int) -> None:
        self.object_label = object_label
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
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
        redraws = redraws_of(embeddings, self.num_resamples)
        numbers = Numbers()
        modalities = [("image", embeddings.image_features, objects, attributes, redraws.image_units)]
        if embeddings.has_one_image_per_text:
            index = embeddings.text_image_index
            modalities.append(("text", embeddings.text_features, objects[index], attributes[index], redraws.text_units))
        counts = redraws.image_counts
        for modality, features, of_object, of_attributes, units in modalities:
            value = metrics.object_bias(features, of_object, of_attributes)
            replicates = None
            if len(counts) > 0:
                replicates = metrics.resampled_object_bias(features, of_object, of_attributes, units, counts)
            numbers.add(modality, value, replicates)
        protocol = f"object: {name}; {describe_units(embeddings)}"
        return Scores(values=numbers.values, replicates=numbers.replicates, protocol=protocol)
