"""A few retrieval queries, hits and misses, with what each row of the comparison finds for them.

Shapes: Q queries, M items of the gallery, D embedding width.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import RowResult
from i0t.report.samples import choose_rows, top_matches, true_pairs

_CANDIDATES = 200  # random queries among which hits and misses are looked for


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
        ranks: The first right answer's rank under each of these rows, from 1; ties count against it.
    """

    query: int
    answers: tuple[tuple[str, tuple[RetrievedItem, ...]], ...]
    ranks: tuple[int, ...]


def image_queries(
    embeddings: EmbeddingSet, rows: Sequence[RowResult], *, count: int = 4, k: int = 5, seed: int = 0
) -> list[RetrievalExample]:
    """Images as queries, texts as answers; captions that read the same count as one text.

    Args:
        embeddings: The set, with pairs.
        rows: The rows of the comparison to show, one or more.
        count: Number of queries, drawn among the images that have a true text; as far as there are as many, half of
            them are hits of the first row and half are misses.
        k: Number of answers.
        seed: Seed of the draw.
    """
    names = embeddings.captions or range(embeddings.num_texts)
    features = {row.name: (row.image_features, row.text_features) for row in rows}
    return _examples(features, true_pairs(embeddings), names, count=count, k=k, seed=seed)


def text_queries(
    embeddings: EmbeddingSet, rows: Sequence[RowResult], *, count: int = 4, k: int = 5, seed: int = 0
) -> list[RetrievalExample]:
    """Texts as queries, images as answers.

    Args:
        embeddings: The set, with pairs.
        rows: The rows of the comparison to show, one or more.
        count: Number of queries, drawn as in :func:`image_queries`.
        k: Number of answers.
        seed: Seed of the draw.
    """
    features = {row.name: (row.text_features, row.image_features) for row in rows}
    right = true_pairs(embeddings).flip(1)
    return _examples(features, right, range(embeddings.num_images), count=count, k=k, seed=seed)


def _examples(
    features: dict[str, tuple[Tensor, Tensor]],
    right: Tensor,
    names: Sequence[Hashable],
    *,
    count: int,
    k: int,
    seed: int,
) -> list[RetrievalExample]:
    """Examples of queries.

    Args:
        features: Name of a row to ``(N, D)`` features that ask and ``(M, D)`` that answer.
        right: ``(R, 2)`` int64 (asking row, right answer).
        names: M names; answers of one name count as one.
        count: Of queries.
        k: Answers.
        seed: Of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    candidates = choose_rows(right[:, 0].unique(), _CANDIDATES, generator)
    of_candidates = right[torch.isin(right[:, 0], candidates)].numpy()
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(name, len(numbers)) for name in names])
    truths = {int(query): np.unique(codes[of_candidates[of_candidates[:, 0] == query, 1]]) for query in candidates}
    asking, answering = next(iter(features.values()))
    first_ranks = _ranks(asking[candidates], answering, codes, [truths[int(query)] for query in candidates])
    queries = _hits_and_misses(candidates, torch.tensor(first_ranks), count, generator)
    chosen = [truths[query] for query in queries]
    found = {
        name: top_matches(ask[queries], answer, k=k, same=codes.tolist()) for name, (ask, answer) in features.items()
    }
    ranks = {name: _ranks(ask[queries], answer, codes, chosen) for name, (ask, answer) in features.items()}
    return [
        RetrievalExample(
            query=query,
            answers=tuple(
                (name, tuple(RetrievedItem(row, cosine, codes[row] in chosen[place]) for row, cosine in answers[place]))
                for name, answers in found.items()
            ),
            ranks=tuple(ranks[name][place] for name in features),
        )
        for place, query in enumerate(queries)
    ]


def _hits_and_misses(candidates: Tensor, ranks: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Half of the count from the hits and half from the misses, or more of one kind where the other has too few."""
    hits, misses = candidates[ranks == 1], candidates[ranks > 1]
    num_misses = min(len(misses), max(count // 2, count - len(hits)))
    chosen_hits = choose_rows(hits, count - num_misses, generator)
    return [*chosen_hits.tolist(), *choose_rows(misses, num_misses, generator).tolist()]


def _ranks(queries: Tensor, gallery: Tensor, codes: np.ndarray, truths: Sequence[np.ndarray]) -> list[int]:
    """One more than the number of different wrong answers that are at least as near as the nearest right one."""
    found = []
    for cosines, truth in zip((queries.float() @ gallery.float().T).numpy(), truths, strict=True):
        is_right = np.isin(codes, truth)
        nearer = codes[~is_right & (cosines >= cosines[is_right].max())]
        found.append(1 + len(np.unique(nearer)))
    return found


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
