"""Object bias (MOAD) of images and of texts, and how far each of them clusters by every label."""

# N images, M texts, K rows of a modality, D width, G units, R resamples.
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Scores
from i0t.metrics import functional as metrics

_ALL_PAIRS = "all_pairs"


class _Side(NamedTuple):
    """The rows of one modality, as far as they have labels."""

    modality: str
    features: Tensor  # (K, D)
    labels: Mapping[str, Tensor]  # (K,) each
    obstacles: Mapping[str, str]  # why a label is not among them
    units: Tensor  # (K,)
    counts: Tensor  # (R, G); R = 0 where there is nothing to redraw


class ObjectBias:
    """MOAD of both modalities: the object's term minus the mean over the other labels; and each term by itself.

    A text has the label that its images agree on (a caption that of its image, a class prompt that of its class). What
    cannot be measured (one class; one row in every class; images of one text that disagree) gives no number and a note.

    Args:
        object_label: The label that is the object; ``None``: the data set's own (``provenance["main_object"]``).
        cross: Which pairs of different labels count: ``"all_pairs"``, or ``"upper_triangle"`` for what the reference
            implementation of *Two Effects* computes (:func:`i0t.metrics.functional.label_contrast`; a text that many
            images share stands there once for each of them). Intervals for ``"all_pairs"`` only.
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).

    Raises:
        ValueError: If ``cross`` is unknown.
    """

    def __init__(self, *, object_label: str | None, cross: str = "all_pairs", num_resamples: int) -> None:
        metrics.contrast_obstacle(torch.arange(2), cross=cross)
        self.object_label = object_label
        self.cross = cross
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features; no number without an object and at least one other label."""
        name = self.object_label or embeddings.provenance.get("main_object")
        others = [key for key in embeddings.labels if key != name]
        if self.object_label is not None and name not in embeddings.labels:
            raise ValueError(
                f"evaluation.object_bias.object_label={name} is not a label of this set; "
                f"it has {', '.join(embeddings.labels) or 'none'}"
            )
        if name is None or name not in embeddings.labels or not others:
            return Scores()
        redraws = redraws_of(embeddings, self.num_resamples)
        image = _Side(
            "image", embeddings.image_features, embeddings.labels, {}, redraws.image_units, redraws.image_counts
        )
        numbers = Numbers()
        notes = self._measure(numbers, image, name)
        if len(embeddings.pairs) > 0:
            notes += self._measure(numbers, self._texts(embeddings, redraws), name)
        return Scores(
            values=numbers.values,
            replicates=numbers.replicates,
            protocol=f"object: {name}; {self._pairs(embeddings)}",
            notes=tuple(notes),
        )

    def _texts(self, embeddings: EmbeddingSet, redraws: metrics.Redraws) -> _Side:
        """The texts with the labels of their images."""
        text, pairs = embeddings.text_features, embeddings.pairs
        if self.cross != _ALL_PAIRS and not embeddings.has_one_image_per_text:
            pairs = pairs[torch.argsort(pairs[:, 0], stable=True)]
            labels = {name: label[pairs[:, 0]] for name, label in embeddings.labels.items()}
            return _Side("text", text[pairs[:, 1]], labels, {}, pairs[:, 1], redraws.text_counts[:0])
        labels, obstacles = {}, {}
        known = torch.zeros(len(text), dtype=torch.bool)
        for name, label in embeddings.labels.items():
            of_text, known, disagree = metrics.labels_of_texts(label, pairs, len(text))
            if bool(disagree.any()):
                first = int(disagree.nonzero()[0])
                obstacles[name] = f"is not the same for all images of a text (first: text {first})"
            else:
                labels[name] = of_text[known]
        counts = redraws.text_counts if redraws.texts_follow else redraws.text_counts[:0]
        return _Side("text", text[known], labels, obstacles, redraws.text_units[known], counts)

    def _measure(self, numbers: Numbers, side: _Side, object_label: str) -> list[str]:
        """Adds the numbers of one modality; returns what could not be measured."""
        obstacles = dict(side.obstacles)
        values, replicates = {}, {}
        for name, label in side.labels.items():
            obstacle = metrics.contrast_obstacle(label, cross=self.cross)
            if obstacle is not None:
                obstacles[name] = obstacle
                continue
            values[name] = metrics.label_contrast(side.features, label, cross=self.cross).double()
            if self.cross == _ALL_PAIRS and len(side.counts) > 0:
                replicates[name] = metrics.resampled_label_contrast(side.features, label, side.units, side.counts)
            numbers.add(f"{side.modality}_contrast/{name}", values[name], replicates.get(name))
        if not obstacles:
            resampled = _object_bias(replicates, object_label) if replicates else None
            numbers.add(side.modality, _object_bias(values, object_label), resampled)
        return [f"no object bias of the {side.modality}s: label {name} {why}" for name, why in obstacles.items()]

    def _pairs(self, embeddings: EmbeddingSet) -> str:
        if self.cross == _ALL_PAIRS:
            return f"all pairs of rows; {describe_units(embeddings)}"
        shared = len(embeddings.pairs) > 0 and not embeddings.has_one_image_per_text
        texts = ", a text once for each of its images" if shared else ""
        return (
            "pairs of different labels as the reference implementation takes them: none at the same position within "
            f"their classes{texts}; no intervals"
        )


def _object_bias(contrasts: Mapping[str, Tensor], object_label: str) -> Tensor:
    """The object's contrast less the mean of the others', in any shape."""
    others = [contrast for name, contrast in contrasts.items() if name != object_label]
    return contrasts[object_label] - torch.stack(others).mean(dim=0)
