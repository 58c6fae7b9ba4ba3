"""The rows that ask in an ablation of dimensions: drawn once, so that every set of dimensions answers the same ones.

Shapes: N images, M texts, P pairs, Q queries of one kind.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.metrics import functional as metrics


class Queries(NamedTuple):
    """Rows that ask; all rows can answer.

    Attributes:
        image_rows: ``(Q,)`` int64 images with a text, which ask for it.
        text_rows: ``(Q,)`` int64 texts with an image, which ask for it.
        image_pairs: ``(P, 2)`` int64 place in ``image_rows`` and text row of every pair of these.
        text_pairs: ``(P, 2)`` int64 image row and place in ``text_rows`` of every pair of these.
        classified: ``(Q,)`` int64 images whose class is asked for.
    """

    image_rows: Tensor
    text_rows: Tensor
    image_pairs: Tensor
    text_pairs: Tensor
    classified: Tensor


def draw_rows(rows: Tensor, num_rows: int, *, seed: int) -> Tensor:
    """At most ``num_rows`` of the ``(K,)`` rows, without repeats and in ascending order."""
    if len(rows) <= num_rows:
        return rows
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:num_rows]
    return rows[chosen].sort().values


def draw_queries(embeddings: EmbeddingSet, num_queries: int, *, seed: int) -> Queries:
    """Draws at most ``num_queries`` rows of every kind; the same for every reducer.

    Args:
        embeddings: Its ``relevant_pairs``, or else its ``pairs``, say what is correct.
        num_queries: Of each kind.
        seed: Of the draws.
    """
    pairs = embeddings.pairs if embeddings.relevant_pairs is None else embeddings.relevant_pairs
    pairs = pairs.cpu()
    image_rows = draw_rows(pairs[:, 0].unique(), num_queries, seed=seed)
    text_rows = draw_rows(pairs[:, 1].unique(), num_queries, seed=seed + 1)
    image_place = _places(image_rows, embeddings.num_images)[pairs[:, 0]]
    text_place = _places(text_rows, embeddings.num_texts)[pairs[:, 1]]
    of_image, of_text = image_place >= 0, text_place >= 0
    return Queries(
        image_rows=image_rows,
        text_rows=text_rows,
        image_pairs=torch.stack([image_place[of_image], pairs[of_image, 1]], dim=1),
        text_pairs=torch.stack([pairs[of_text, 0], text_place[of_text]], dim=1),
        classified=draw_rows(torch.arange(embeddings.num_images), num_queries, seed=seed),
    )


def query_hits(embeddings: EmbeddingSet, queries: Queries) -> dict[str, Tensor]:
    """Whether the first answer to each query is correct; ties count against it.

    Args:
        embeddings: Unit rows.
        queries: Drawn from a set of the same rows, of any width.

    Returns:
        ``i2t_r1`` and ``t2i_r1`` ``(Q,)`` for a set with pairs, and ``accuracy/<label>`` ``(Q,)`` for every label with
        prompts; 0 or 1, float64 on the CPU.
    """
    hits: dict[str, Tensor] = {}
    if len(queries.image_rows) > 0:
        image, text = embeddings.image_features, embeddings.text_features
        if len(queries.image_rows) == len(image) and len(queries.text_rows) == len(text):
            of_image, of_text = metrics.retrieval_ranks(image, text, pairs=queries.image_pairs)
        else:
            of_image, _ = metrics.retrieval_ranks(image[queries.image_rows], text, pairs=queries.image_pairs)
            _, of_text = metrics.retrieval_ranks(image, text[queries.text_rows], pairs=queries.text_pairs)
        hits |= {"i2t_r1": _first(of_image.ranks), "t2i_r1": _first(of_text.ranks)}
    for name, table in embeddings.prompts.items():
        image, labels = embeddings.image_features[queries.classified], embeddings.labels[name][queries.classified]
        ranks = metrics.zero_shot_ranks(image, table.features, labels, table.mask, aggregate=table.aggregate)
        hits[f"accuracy/{name}"] = _first(ranks)
    return hits


def _places(rows: Tensor, num_rows: int) -> Tensor:
    """Place of every row ``(num_rows,)`` among the chosen ones, -1 where it was not chosen."""
    places = torch.full((num_rows,), -1, dtype=torch.int64)
    places[rows] = torch.arange(len(rows))
    return places


def _first(ranks: Tensor) -> Tensor:
    return (ranks == 1).double().cpu()
