"""Image-to-text and text-to-image retrieval of a set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import Scores
from i0t.metrics import functional as metrics


class Retrieval:
    """Recall at k and median rank, both ways, ties counted against the query.

    A hit is any item of ``relevant_pairs`` (on MAD: any caption that is true of the image), or of ``pairs``.

    Args:
        k: Cut-offs of the recall.
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).
    """

    def __init__(self, *, k: Sequence[int], num_resamples: int) -> None:
        self.k = tuple(k)
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet) -> Scores:
        """Measures unit features; no number for a set without pairs."""
        pairs = embeddings.pairs if embeddings.relevant_pairs is None else embeddings.relevant_pairs
        if len(pairs) == 0:
            return Scores()
        image, text = embeddings.image_features, embeddings.text_features
        directions = metrics.retrieval_ranks(image, text, pairs=pairs)
        recall = metrics.recall_of_ranks(*directions, k=self.k)
        image_groups = torch.arange(len(image)) if embeddings.groups is None else embeddings.groups
        intervals: dict[str, tuple[float, float]] = {}
        text_groups = self._groups_of_texts(embeddings, image_groups)
        for direction, (rank, _), groups in zip(("i2t", "t2i"), directions, (image_groups, text_groups), strict=True):
            if groups is None:
                continue
            intervals |= {
                f"{direction}_r{k}": interval
                for k in self.k
                if (interval := self._interval(rank, groups, k)) is not None
            }
        return Scores({name: float(value) for name, value in recall.items()}, intervals)

    def _groups_of_texts(self, embeddings: EmbeddingSet, image_groups: Tensor) -> Tensor | None:
        """The group of each text's own image; ``None`` where texts have no single image."""
        return image_groups[embeddings.text_image_index] if embeddings.has_one_image_per_text else None

    def _interval(self, rank: Tensor, groups: Tensor, k: int) -> tuple[float, float] | None:
        measured = rank > 0
        groups = groups[measured]
        if len(groups.unique()) < 2:
            return None
        hits = (rank[measured] <= k).double()
        found = metrics.bootstrap_interval(hits, groups, num_resamples=self.num_resamples)
        return float(found["low"]), float(found["high"])
