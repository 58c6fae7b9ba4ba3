"""What the figures show of an EmbeddingSet: seeded samples of pairs, their cosines, projections, nearest neighbours.

Shapes: N images, M texts, D embedding width, K sampled pairs, Q queries.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet

_ENUMERATION_LIMIT = 1_000_000  # below this many image-text combinations, list them all instead of drawing
_CHUNK = 16_384


@dataclass(frozen=True)
class PairSample:
    """Row pairs whose cosines a histogram shows; the same for every row of a comparison.

    Attributes:
        matched: ``(K, 2)`` (image row, text row) made for each other; empty when the set has no pairs.
        unmatched: ``(K, 2)`` (image row, text row), neither paired nor relevant to each other.
        image_image: ``(K, 2)`` rows of two different images.
        text_text: ``(K, 2)`` rows of two different texts.
    """

    matched: Tensor
    unmatched: Tensor
    image_image: Tensor
    text_text: Tensor


@dataclass(frozen=True)
class CosineSample:
    """``(K,)`` cosines of the four kinds of pairs in a :class:`PairSample`."""

    matched: Tensor
    unmatched: Tensor
    image_image: Tensor
    text_text: Tensor


@dataclass(frozen=True)
class Projection:
    """A 2-D view of both modalities in one embedding space.

    Attributes:
        images: ``(K, 2)`` coordinates of the chosen images.
        texts: ``(K, 2)`` coordinates of the chosen texts.
        explained: Share of the variance of all N + M rows along each axis.
    """

    images: Tensor
    texts: Tensor
    explained: tuple[float, float]


def sample_pairs(embeddings: EmbeddingSet, *, count: int, seed: int = 0) -> PairSample:
    """Draws pairs of every kind, at most ``count`` of each.

    Args:
        embeddings: The set; only its pairs and sizes are looked at.
        count: The most pairs of each kind.
        seed: Seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    return PairSample(
        matched=choose_rows(embeddings.pairs.cpu(), count, generator),
        unmatched=_draw_unmatched(embeddings, count, generator),
        image_image=_draw_distinct(embeddings.num_images, count, generator),
        text_text=_draw_distinct(embeddings.num_texts, count, generator),
    )


def matched_and_unmatched_cosines(sample: PairSample, image_features: Tensor, text_features: Tensor) -> CosineSample:
    """Cosines of the sampled pairs in one row of the comparison.

    Args:
        sample: The pairs.
        image_features: ``(N, D)`` unit rows.
        text_features: ``(M, D)`` unit rows.
    """

    def cosines(first: Tensor, second: Tensor, pairs: Tensor) -> Tensor:
        return (first[pairs[:, 0]] * second[pairs[:, 1]]).sum(dim=1)

    return CosineSample(
        matched=cosines(image_features, text_features, sample.matched),
        unmatched=cosines(image_features, text_features, sample.unmatched),
        image_image=cosines(image_features, image_features, sample.image_image),
        text_text=cosines(text_features, text_features, sample.text_text),
    )


def paired_projection(
    image_features: Tensor, text_features: Tensor, image_rows: Tensor, text_rows: Tensor
) -> Projection:
    """The first two principal components of both modalities together.

    One mean is taken off all N + M rows, not one per modality: the distance between the modalities is part of what the
    components describe, and stays visible.

    Args:
        image_features: ``(N, D)``.
        text_features: ``(M, D)``.
        image_rows: ``(K,)`` image rows to project.
        text_rows: ``(K,)`` text rows to project.

    Returns:
        Coordinates; each component points so that its largest loading is positive.
    """
    total = len(image_features) + len(text_features)
    mean = (_column_sum(image_features) + _column_sum(text_features)) / total
    scatter = _scatter(image_features, mean) + _scatter(text_features, mean)
    eigenvalues, eigenvectors = torch.linalg.eigh(scatter)  # ascending
    axes = eigenvectors[:, -2:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    variance = eigenvalues.clamp_min(0)
    shares = (variance[-2:].flip(0) / variance.sum().clamp_min(torch.finfo(torch.float64).tiny)).tolist()
    return Projection(
        images=(image_features[image_rows].double() - mean) @ axes,
        texts=(text_features[text_rows].double() - mean) @ axes,
        explained=(shares[0], shares[1]),
    )


def top_matches(
    queries: Tensor, gallery: Tensor, *, k: int, same: Sequence[Hashable] | None = None
) -> list[list[tuple[int, float]]]:
    """The nearest gallery rows of each query.

    Args:
        queries: ``(Q, D)`` unit rows.
        gallery: ``(M, D)`` unit rows.
        k: How many to return.
        same: M keys; of rows with equal keys (two captions that read the same) only the nearest is listed.

    Returns:
        For each query up to k (gallery row, cosine), nearest first; ties in order of rows.
    """
    found = []
    for cosines in queries.float() @ gallery.float().T:
        matches: list[tuple[int, float]] = []
        seen: set[Hashable] = set()
        for row in cosines.argsort(descending=True, stable=True).tolist():
            key = row if same is None else same[row]
            if key not in seen:
                seen.add(key)
                matches.append((row, float(cosines[row])))
            if len(matches) == k:
                break
        found.append(matches)
    return found


def choose_rows(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """At most ``count`` rows of a tensor, drawn without repeats and kept in their order."""
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:count].sort().values]


def true_pairs(embeddings: EmbeddingSet) -> Tensor:
    """``(R, 2)`` every (image row, text row) that counts as right: pairs and relevant pairs."""
    if embeddings.relevant_pairs is None:
        return embeddings.pairs.cpu()
    return torch.cat([embeddings.pairs.cpu(), embeddings.relevant_pairs.cpu()])


def _draw_unmatched(embeddings: EmbeddingSet, count: int, generator: torch.Generator) -> Tensor:
    num_texts, combinations = embeddings.num_texts, embeddings.num_images * embeddings.num_texts
    right = true_pairs(embeddings)
    right_keys = np.unique((right[:, 0] * num_texts + right[:, 1]).numpy())
    if combinations <= _ENUMERATION_LIMIT:
        keys = np.setdiff1d(np.arange(combinations), right_keys, assume_unique=True)
    else:
        # Each draw misses with the share of right pairs; oversampling by its inverse leaves enough with certainty.
        share = 1 - len(right_keys) / combinations
        draws = int(4 * count / max(share, 0.01)) + 1
        keys = np.unique(torch.randint(combinations, (draws,), generator=generator).numpy())
        keys = keys[~np.isin(keys, right_keys, assume_unique=True)]
    chosen = choose_rows(torch.from_numpy(keys), count, generator)
    return torch.stack([chosen // num_texts, chosen % num_texts], dim=1)


def _draw_distinct(size: int, count: int, generator: torch.Generator) -> Tensor:
    if size < 2:
        return torch.empty(0, 2, dtype=torch.int64)
    if size * (size - 1) // 2 <= count:
        return torch.combinations(torch.arange(size))
    first = torch.randint(size, (count,), generator=generator)
    step = torch.randint(1, size, (count,), generator=generator)
    return torch.stack([first, (first + step) % size], dim=1)


def _column_sum(features: Tensor) -> Tensor:
    return features.sum(dim=0, dtype=torch.float64)


def _scatter(features: Tensor, mean: Tensor) -> Tensor:
    """``(D, D)`` float64 sum of outer products about ``mean``, chunk by chunk so that no float64 copy is made."""
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for chunk in features.split(_CHUNK):
        centred = chunk.double() - mean
        scatter += centred.T @ centred
    return scatter
