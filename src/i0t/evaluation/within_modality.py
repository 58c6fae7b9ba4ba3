"""Neighbours inside a modality, before and after the reducer."""

# N images, M texts, Q queries.
from __future__ import annotations

import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers
from i0t.metrics import functional as metrics


def add_within_modality(
    numbers: Numbers,
    embeddings: EmbeddingSet,
    before: EmbeddingSet,
    redraws: metrics.Redraws,
    *,
    num_neighbors: int,
    num_queries: int,
) -> str:
    """Adds ``text_to_text_r1``, ``image_to_image_r1/<label>`` and ``image_neighbors_kept``, ``text_neighbors_kept``.

    Args:
        numbers: To add to.
        embeddings: The set after the reducer.
        before: The set before the reducer, as unit rows.
        redraws: Resamples of the set.
        num_neighbors: Neighbours of a row that the reducer may keep or lose; none of this where a modality has fewer.
        num_queries: At most so many rows of a modality ask, drawn with a fixed seed; all rows can answer.

    Returns:
        How, in words.
    """
    image_queries, text_queries = (_draw(n, num_queries) for n in (embeddings.num_images, embeddings.num_texts))
    text_counts = redraws.text_counts if redraws.texts_are_drawn else redraws.text_counts[:0]
    if redraws.texts_follow and embeddings.num_texts > len(embeddings.text_image_index.unique()):
        hits = metrics.within_modality_hits(embeddings.text_features, embeddings.text_image_index, text_queries)
        _add_hits(numbers, "text_to_text_r1", hits, redraws.text_units[text_queries], text_counts)
    if embeddings.labels:
        labels = torch.stack(list(embeddings.labels.values()), dim=1)
        hits = metrics.within_modality_hits(embeddings.image_features, labels, image_queries, groups=embeddings.groups)
        units = redraws.image_units[image_queries]
        for name, column in zip(embeddings.labels, hits.unbind(dim=1), strict=True):
            _add_hits(numbers, f"image_to_image_r1/{name}", column, units, redraws.image_counts)
    modalities = (
        ("image", before.image_features, embeddings.image_features, image_queries, redraws.image_units),
        ("text", before.text_features, embeddings.text_features, text_queries, redraws.text_units),
    )
    for name, first, second, queries, units in modalities:
        if len(first) > num_neighbors:
            kept = metrics.neighbors_kept(first, second, queries, k=num_neighbors)
            counts = redraws.image_counts if name == "image" else text_counts
            numbers.add_mean(f"{name}_neighbors_kept", kept, units[queries], counts)
    asked = max(embeddings.num_images, embeddings.num_texts) > num_queries
    who = f"at most {num_queries:,} random rows" if asked else "every row"
    apart = "" if embeddings.groups is None else ", nearest images of other groups only"
    return f"inside a modality {who} as queries, {num_neighbors} neighbours{apart}"


def _draw(num_rows: int, num_queries: int) -> Tensor:
    """At most ``num_queries`` rows, the same for every reducer."""
    if num_rows <= num_queries:
        return torch.arange(num_rows)
    return torch.randperm(num_rows, generator=torch.Generator().manual_seed(0))[:num_queries].sort().values


def _add_hits(numbers: Numbers, name: str, hits: Tensor, units: Tensor, counts: Tensor) -> None:
    """Queries that nothing can answer are left out."""
    asked = ~hits.isnan().cpu()
    if bool(asked.any()):
        numbers.add_mean(name, hits.cpu()[asked], units[asked], counts)
