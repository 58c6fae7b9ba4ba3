"""A few retrieval queries with what each row of the comparison finds for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import RowResult
from i0t.report.samples import choose_rows, top_matches, true_pairs


@dataclass(frozen=True)
class RetrievedItem:
    """One answer to a query: its row in the gallery, its cosine with the query, and whether it is right."""

    row: int
    cosine: float
    correct: bool


@dataclass(frozen=True)
class RetrievalExample:
    """One query and, for each row of the comparison, its nearest items.

    Attributes:
        query: The query's row in its modality.
        answers: Name of the comparison's row, and its answers, nearest first.
    """

    query: int
    answers: tuple[tuple[str, tuple[RetrievedItem, ...]], ...]


def image_queries(
    embeddings: EmbeddingSet, rows: Sequence[RowResult], *, count: int = 4, k: int = 5, seed: int = 0
) -> list[RetrievalExample]:
    """Images as queries, texts as answers; captions that read the same count as one text.

    Args:
        embeddings: The set, with pairs.
        rows: The rows of the comparison to show.
        count: Number of queries, drawn among the images that have a true text.
        k: Number of answers.
        seed: Seed of the draw.
    """
    right = true_pairs(embeddings)
    queries = choose_rows(right[:, 0].unique(), count, torch.Generator().manual_seed(seed)).tolist()
    names = embeddings.captions or tuple(map(str, range(embeddings.num_texts)))
    found = {row.name: top_matches(row.image_features[queries], row.text_features, k=k, same=names) for row in rows}
    truths = [{names[text] for text in right[right[:, 0] == query, 1].tolist()} for query in queries]
    return [
        RetrievalExample(
            query=query,
            answers=tuple(
                (
                    name,
                    tuple(RetrievedItem(text, cosine, names[text] in truths[place]) for text, cosine in answers[place]),
                )
                for name, answers in found.items()
            ),
        )
        for place, query in enumerate(queries)
    ]


def text_queries(
    embeddings: EmbeddingSet, rows: Sequence[RowResult], *, count: int = 4, k: int = 5, seed: int = 0
) -> list[RetrievalExample]:
    """Texts as queries, images as answers.

    Args:
        embeddings: The set, with pairs.
        rows: The rows of the comparison to show.
        count: Number of queries, drawn among the texts that have a true image.
        k: Number of answers.
        seed: Seed of the draw.
    """
    right = true_pairs(embeddings)
    queries = choose_rows(right[:, 1].unique(), count, torch.Generator().manual_seed(seed)).tolist()
    found = {row.name: top_matches(row.text_features[queries], row.image_features, k=k) for row in rows}
    truths = [set(right[right[:, 1] == query, 0].tolist()) for query in queries]
    return [
        RetrievalExample(
            query=query,
            answers=tuple(
                (name, tuple(RetrievedItem(image, cosine, image in truths[place]) for image, cosine in answers[place]))
                for name, answers in found.items()
            ),
        )
        for place, query in enumerate(queries)
    ]


def example_pairs(embeddings: EmbeddingSet, *, count: int = 8, seed: int = 0) -> list[tuple[int, int | None]]:
    """Image rows to show with one of their texts each; ``None`` where the set pairs none with the image.

    Args:
        embeddings: The set.
        count: Number of images.
        seed: Seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = embeddings.pairs.cpu()
    if len(pairs) == 0:
        return [(row, None) for row in choose_rows(torch.arange(embeddings.num_images), count, generator).tolist()]
    chosen = choose_rows(pairs[:, 0].unique(), count, generator).tolist()
    return [(row, _first_text(pairs, row)) for row in chosen]


def _first_text(pairs: Tensor, image_row: int) -> int:
    return int(pairs[pairs[:, 0] == image_row, 1].min())
