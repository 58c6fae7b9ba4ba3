"""How the classes of a set lie in each modality, and whether both modalities agree on which classes are neighbours."""

# N images, M texts, C classes, T prompts per class, D width.
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Scores
from i0t.metrics import functional as metrics

# With two classes every class is its own nearest neighbour on both sides: nothing is left to order.
MIN_NEIGHBORHOOD_CLASSES = 3
# The cost of a resample grows with the square of the classes: about 15 ms at this number.
MAX_RESAMPLED_CLASSES = 256


class ClassStructure:
    """Dunn index of images and of texts, and the neighbourhood distance, for every label (arXiv 2404.07983).

    The text of a class is the normalised mean of its unit prompts where the label has a prompt table, and otherwise the
    one text whose images all have this label, if every class has exactly one. Texts have the label that their images
    agree on. The Dunn index has no interval: a bootstrap repeats rows, but never invents nearer or farther ones.

    Args:
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).
    """

    def __init__(self, *, num_resamples: int) -> None:
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features; no number for a set without labels."""
        if not embeddings.labels:
            return Scores()
        redraws = redraws_of(embeddings, self.num_resamples)
        numbers, notes = Numbers(), []
        for name, label in embeddings.labels.items():
            notes += _add_dunn(numbers, "image", name, embeddings.image_features, label)
            if len(embeddings.pairs) > 0:
                notes += _add_dunn_of_texts(numbers, name, embeddings)
            notes += _add_neighborhood(numbers, name, embeddings, redraws)
        protocol = (
            "distance (1 - cos) / 2; Dunn index: nearest rows of two classes over farthest of one, without interval; "
            f"neighbourhood distance: normalised Kendall distance, labels of {MIN_NEIGHBORHOOD_CLASSES} classes and "
            f"more; {describe_units(embeddings)}"
        )
        return Scores(values=numbers.values, replicates=numbers.replicates, protocol=protocol, notes=tuple(notes))


def _add_dunn_of_texts(numbers: Numbers, name: str, embeddings: EmbeddingSet) -> list[str]:
    """Adds the Dunn index of the texts that have an image; returns why there is none."""
    of_text, known, disagree = metrics.labels_of_texts(embeddings.labels[name], embeddings.pairs, embeddings.num_texts)
    if bool(disagree.any()):
        first = int(disagree.nonzero()[0])
        return [f"no Dunn index of the texts by {name}: not the same for all images of a text (first: text {first})"]
    return _add_dunn(numbers, "text", name, embeddings.text_features[known], of_text[known])


def _add_dunn(numbers: Numbers, modality: str, name: str, features: Tensor, labels: Tensor) -> list[str]:
    """Adds the Dunn index of one modality; returns why there is none."""
    missing = f"no Dunn index of the {modality}s by {name}:"
    num_classes = len(labels.unique())
    if num_classes < 2:
        return [f"{missing} there is a single class"]
    if num_classes == len(labels):
        return [f"{missing} every class has a single row"]
    value = metrics.dunn_index(features, labels)
    if bool(value.isinf()):
        return [f"{missing} every class is one point"]
    numbers.add(f"{modality}_dunn/{name}", value)
    return []


def _add_neighborhood(numbers: Numbers, name: str, embeddings: EmbeddingSet, redraws: metrics.Redraws) -> list[str]:
    """Adds the neighbourhood distance, where every class has a text; returns remarks."""
    label = embeddings.labels[name]
    present, text = _class_texts(name, embeddings)
    if len(present) < MIN_NEIGHBORHOOD_CLASSES:
        return []
    measured = torch.isin(label, present)
    image, classes = embeddings.image_features[measured], torch.searchsorted(present, label[measured])
    numbers.add(f"neighborhood/{name}", metrics.neighborhood_distance(image, text, classes))
    if len(present) > MAX_RESAMPLED_CLASSES:
        return [f"no interval of the neighbourhood distance by {name}: more than {MAX_RESAMPLED_CLASSES} classes"]
    if len(redraws.image_counts) > 0:
        units = redraws.image_units[measured]
        replicates = metrics.resampled_neighborhood_distances(image, text, classes, units, redraws.image_counts)
        value = numbers.values[f"neighborhood/{name}"]
        # Redrawn class means are noisier than the set's own, and noise only disorders: all replicates lie too high.
        numbers.add(f"neighborhood/{name}", value, replicates - (replicates.nanmean() - value))
    return []


def _class_texts(name: str, embeddings: EmbeddingSet) -> tuple[Tensor, Tensor]:
    """Classes ``(C,)`` that have images and a text, ascending, and their unit texts ``(C, D)``; none if they have more.

    Texts of one image (captions) are no text of a class.
    """
    label = embeddings.labels[name]
    if name in embeddings.prompts:
        present = label.unique()
        return present, _pooled(embeddings.prompts[name])[present]
    of_text, known, disagree = metrics.labels_of_texts(label, embeddings.pairs, embeddings.num_texts)
    rows = known.nonzero().squeeze(1)
    order = torch.argsort(of_text[rows])
    present, sizes = torch.unique(of_text[rows], return_counts=True)
    if bool(disagree.any()) or bool((sizes > 1).any()):
        return label[:0], embeddings.text_features[:0]
    return present, embeddings.text_features[rows[order]]


def _pooled(table: PromptTable) -> Tensor:
    """Normalised mean of the unit prompts of every class, ``(C, D)``."""
    return normalize((table.features * table.mask[..., None]).sum(dim=1), dim=1)
