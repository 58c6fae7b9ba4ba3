"""Cross-modal retrieval: ranks, recall at k and median rank, in both directions, from one product of the embeddings."""

# N images, M texts, D feature width, P pairs.
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both, check_matches, check_row_numbers
from i0t.metrics.functional.sums import block_size, row_blocks

# Scores closer than this many units of rounding are tied: two products of the same rows differ by a few of them.
TIE_ROUNDING_UNITS = 8


class _SortedPairs(NamedTuple):
    """Pairs in order of their image row, with the place where each image's pairs begin (compressed sparse rows)."""

    image: Tensor  # (P,)
    text: Tensor  # (P,)
    offsets: list[int]  # (N + 1,)


class DirectionRanks(NamedTuple):
    """Ranks of one direction's queries from 1, 0 where a query has no pair, and which queries are tied."""

    ranks: Tensor  # (queries,) int64
    tied: Tensor  # (queries,) bool


def retrieval_recall(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
    k: Sequence[int] = (1, 5, 10),
) -> dict[str, Tensor]:
    """Recall at k and median rank, image to text (``i2t``) and text to image (``t2i``).

    A query is a hit at k if any item paired with it ranks k or better (:func:`retrieval_ranks`). Ranks count from 1;
    the median of an even number of ranks is the mean of the middle two. Queries without a pair are left out and
    counted.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        text_image_index: ``(M,)`` image row of every text; None, without ``pairs``, pairs row i with row i.
        pairs: ``(P, 2)`` image row and text row of every correct pair, in any order, instead of ``text_image_index``.
        k: Cut-offs.

    Returns:
        Per direction: ``i2t_r{k}`` in ``[0, 1]`` for each k, ``i2t_medr`` (from 1), and as integers ``i2t_tied``
        (queries whose best pair scores like some wrong item) and ``i2t_unpaired``; ``t2i_…`` likewise. Scalars ``()``.

    Raises:
        ValueError: If a row is not a unit vector, shapes or indices do not fit, a cut-off is not a positive integer, or
            there is no pair at all.

    Example:
        >>> scores = retrieval_recall(torch.eye(3), torch.eye(3)[[0, 2, 1]], k=(1,))
        >>> scores["i2t_r1"], scores["t2i_medr"]
        (tensor(0.3333), tensor(3.))
    """
    return recall_of_ranks(*_rank(image_features, text_features, text_image_index, pairs), k=k)


def recall_of_ranks(
    image_to_text: DirectionRanks, text_to_image: DirectionRanks, *, k: Sequence[int] = (1, 5, 10)
) -> dict[str, Tensor]:
    """What :func:`retrieval_recall` returns, from the ranks of :func:`retrieval_ranks`.

    Args:
        image_to_text: Ranks and ties of the images as queries.
        text_to_image: Ranks and ties of the texts as queries.
        k: Cut-offs of the recall.

    Raises:
        ValueError: If ``k`` lists anything but positive integers.
    """
    if not k or any(isinstance(cut, bool) or not isinstance(cut, int) or cut < 1 for cut in k):
        raise ValueError(f"k must list positive integers, got {k!r}")
    results: dict[str, Tensor] = {}
    for name, (ranks, tied) in (("i2t", image_to_text), ("t2i", text_to_image)):
        paired = ranks[ranks > 0].double()
        results |= {f"{name}_r{cut}": (paired <= cut).double().mean().float() for cut in k}
        results[f"{name}_medr"] = paired.quantile(0.5).float()
        results[f"{name}_tied"] = tied.sum()
        results[f"{name}_unpaired"] = (ranks == 0).sum()
    return results


def retrieval_ranks(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
) -> tuple[DirectionRanks, DirectionRanks]:
    """Rank of the best paired item of every query, in both directions, from 1.

    1 + the number of items *not* paired with the query that score at least as high as the best paired one. Ties count
    against the query (collapsed embeddings rank last, not first), other correct items never do. Scores within rounding
    (8 units of the precision's epsilon) are tied.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        text_image_index: ``(M,)`` image row of every text; None, without ``pairs``, pairs row i with row i.
        pairs: ``(P, 2)`` image row and text row of every correct pair, in any order, instead of ``text_image_index``.

    Returns:
        Of the images as queries ``ranks`` (N,) int64, 0 where a query has no pair, and ``tied`` (N,) bool; likewise
        (M,) of the texts as queries.

    Raises:
        ValueError: If a row is not a unit vector, shapes or indices do not fit, or there is no pair at all.
    """
    return _rank(image_features, text_features, text_image_index, pairs)


def _rank(
    image_features: Tensor, text_features: Tensor, text_image_index: Tensor | None, pairs: Tensor | None
) -> tuple[DirectionRanks, DirectionRanks]:
    image, text = check_both(image_features, text_features)
    return _both_directions(image, text, _sort_pairs(image, text, text_image_index, pairs))


def _sort_pairs(image: Tensor, text: Tensor, text_image_index: Tensor | None, pairs: Tensor | None) -> _SortedPairs:
    """Check the pairing given either way and order it by image."""
    if pairs is None:
        pair_image = check_matches(text_image_index, image, text)
        pair_text = torch.arange(len(text), device=text.device)
    else:
        if text_image_index is not None:
            raise ValueError("give either text_image_index or pairs, not both")
        if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
            raise ValueError(f"pairs must be a non-empty (P, 2) matrix of row numbers, got shape {tuple(pairs.shape)}")
        pair_image = check_row_numbers(pairs[:, 0], len(image), "pairs[:, 0]").to(image.device)
        pair_text = check_row_numbers(pairs[:, 1], len(text), "pairs[:, 1]").to(image.device)
    if bool((pair_image[1:] < pair_image[:-1]).any()):
        pair_image, order = pair_image.sort()
        pair_text = pair_text[order]
    offsets = torch.bincount(pair_image, minlength=len(image)).cumsum(0)
    return _SortedPairs(pair_image, pair_text, [0, *offsets.tolist()])


def _both_directions(image: Tensor, text: Tensor, pairs: _SortedPairs) -> tuple[DirectionRanks, DirectionRanks]:
    """Rank the queries of both directions in one sweep over blocks of image rows."""
    scores = _pair_scores(image, text, pairs)
    best_of_image = _best_scores(scores, pairs.image, len(image))
    best_of_text = _best_scores(scores, pairs.text, len(text))
    tolerance = TIE_ROUNDING_UNITS * torch.finfo(image.dtype).eps
    # First row: wrong items that score at least the best pair; second row: those that score clearly more.
    over_image = torch.zeros(2, len(image), dtype=torch.int64, device=image.device)
    over_text = torch.zeros(2, len(text), dtype=torch.int64, device=image.device)
    # Narrow blocks make the matrix product slow, wide ones cost memory: two buffers of 64 MiB at 25,000 texts.
    block = min(max(block_size(len(text), entries=2**24), 64), len(image))
    block_scores = image.new_empty(block, len(text))
    exceeds = torch.empty_like(block_scores)
    for rows in row_blocks(len(image), block):
        scores = torch.mm(image[rows], text.T, out=block_scores[: rows.stop - rows.start])
        mine = slice(pairs.offsets[rows.start], pairs.offsets[rows.stop])
        # Correct items never count against a query, nor may rounding count one against itself.
        scores.view(-1)[(pairs.image[mine] - rows.start) * len(text) + pairs.text[mine]] = -torch.inf
        above = exceeds[: len(scores)]
        for row, margin in enumerate((-tolerance, tolerance)):
            # Comparing into a float buffer and summing it beats summing booleans by a factor of two.
            torch.ge(scores, best_of_image[rows, None] + margin, out=above)
            over_image[row, rows] = above.sum(dim=1).long()
            torch.ge(scores, best_of_text + margin, out=above)
            over_text[row] += above.sum(dim=0).long()
    return _to_ranks(over_image, best_of_image), _to_ranks(over_text, best_of_text)


def _pair_scores(image: Tensor, text: Tensor, pairs: _SortedPairs) -> Tensor:
    """Cosine of every pair, ``(P,)``: small products over the texts that a block of images is paired with.

    Gathering both rows of each pair instead would move P x D numbers, too many where P is in the millions.
    """
    scores = image.new_empty(len(pairs.image))
    for rows in row_blocks(len(image), 128):
        mine = slice(pairs.offsets[rows.start], pairs.offsets[rows.stop])
        needed = torch.zeros(len(text), dtype=torch.bool, device=text.device)
        needed[pairs.text[mine]] = True
        column = needed.cumsum(0) - 1  # where the product below holds a text
        scores[mine] = (image[rows] @ text[needed].T)[pairs.image[mine] - rows.start, column[pairs.text[mine]]]
    return scores


def _best_scores(scores: Tensor, query: Tensor, num_queries: int) -> Tensor:
    """Best pair score of every query, ``(queries,)``; infinity, which nothing exceeds, where it has no pair."""
    best = scores.new_full((num_queries,), -torch.inf).scatter_reduce_(0, query, scores, reduce="amax")
    return best.masked_fill_(best == -torch.inf, torch.inf)


def _to_ranks(over: Tensor, best: Tensor) -> DirectionRanks:
    """Ranks and ties from the two counts ``(2, queries)``."""
    paired = best.isfinite()
    return DirectionRanks(torch.where(paired, over[0] + 1, 0), paired & (over[0] > over[1]))
