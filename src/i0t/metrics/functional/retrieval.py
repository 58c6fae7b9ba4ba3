"""Cross-modal retrieval: ranks, recall at k and median rank, in both directions, from one product of the embeddings."""

# N images, M texts, D feature width, P pairs.
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both, check_matches, check_row_numbers
from i0t.metrics.functional.sums import row_blocks

# Scores closer than this many units of rounding are tied: two products of the same rows differ by a few of them.
TIE_ROUNDING_UNITS = 8
# Edges of the tiles in which scores are made and of the strips of a tile in which they are compared. On a processor a
# tile's product runs at full speed and its 4 MiB stay in the shared cache, a strip in a core's own, so that the eight
# passes over the scores cost little beside the product. An accelerator wants few large calls.
CPU_TILE, CPU_STRIP = 1024, 256
ACCELERATOR_TILE = 4096


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

    Example:
        >>> from i0t.metrics.functional import retrieval_ranks
        >>> x = torch.eye(3)
        >>> recall_of_ranks(*retrieval_ranks(x, x), k=(1,))["i2t_r1"].item()
        1.0
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

    Example:
        >>> x, y = torch.eye(2), torch.eye(2)[[1, 0]]
        >>> image_to_text, _ = retrieval_ranks(x, y)
        >>> image_to_text.ranks
        tensor([2, 2])
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
    """Rank the queries of both directions in one sweep over tiles of the score matrix."""
    scores = _pair_scores(image, text, pairs)
    best_of_image = _best_scores(scores, pairs.image, len(image))
    best_of_text = _best_scores(scores, pairs.text, len(text))
    tolerance = TIE_ROUNDING_UNITS * torch.finfo(image.dtype).eps
    over_image = _Counts(best_of_image, tolerance)
    over_text = _Counts(best_of_text, tolerance)
    on_cpu = image.device.type == "cpu"
    tile, strip = (CPU_TILE, CPU_STRIP) if on_cpu else (ACCELERATOR_TILE, ACCELERATOR_TILE)
    exceeds = image.new_empty(2 * min(strip, len(image)) * min(tile, len(text)))
    for rows, columns, scores in _wrong_scores(image, text, pairs, tile):
        for part in row_blocks(len(scores), strip):
            strip_scores = scores[part]
            above = exceeds[: 2 * strip_scores.numel()].view(2, *strip_scores.shape)
            strip_rows = slice(rows.start + part.start, rows.start + part.stop)
            over_image.add(strip_scores, strip_rows, above, dim=1)
            over_text.add(strip_scores, columns, above, dim=0)
    return over_image.ranks(), over_text.ranks()


def _wrong_scores(image: Tensor, text: Tensor, pairs: _SortedPairs, tile: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of the score matrix, with minus infinity where image and text are paired.

    Correct items never count against a query, nor may rounding count one against itself.

    Yields:
        Image rows, text rows and their scores (rows, texts), in a buffer that the next tile overwrites.
    """
    buffer = image.new_empty(min(tile, len(image)) * min(tile, len(text)))
    for rows in row_blocks(len(image), tile):
        mine = slice(pairs.offsets[rows.start], pairs.offsets[rows.stop])
        row_in_tile, pair_text = pairs.image[mine] - rows.start, pairs.text[mine]
        tile_of_pair = pair_text // tile
        for columns in row_blocks(len(text), tile):
            shape = rows.stop - rows.start, columns.stop - columns.start
            scores = buffer[: shape[0] * shape[1]].view(shape)
            torch.mm(image[rows], text[columns].T, out=scores)
            inside = tile_of_pair == columns.start // tile
            scores[row_in_tile[inside], pair_text[inside] - columns.start] = -torch.inf
            yield rows, columns, scores


class _Counts:
    """How many wrong items reach the best pair of every query of one direction.

    Args:
        best: Score of each query's best pair ``(queries,)``, infinity where it has none.
        tolerance: Scores closer than this are tied.
    """

    def __init__(self, best: Tensor, tolerance: float) -> None:
        self._paired = best.isfinite()
        # First row: what counts against the query, ties included; second row: what clearly scores more.
        self._thresholds = torch.stack([best - tolerance, best + tolerance])
        self._over = torch.zeros(2, len(best), dtype=torch.int64, device=best.device)

    def add(self, scores: Tensor, queries: slice, buffer: Tensor, *, dim: int) -> None:
        """Count the items along ``dim`` of a block of scores; ``buffer`` (2, *scores.shape) is overwritten."""
        # Comparing into a float buffer and summing it beats booleans several times over.
        torch.ge(scores, self._thresholds[:, queries].unsqueeze(dim + 1), out=buffer)
        self._over[:, queries] += buffer.sum(dim=dim + 1).long()

    def ranks(self) -> DirectionRanks:
        """Ranks and ties of all queries."""
        ranks = torch.where(self._paired, self._over[0] + 1, 0)
        return DirectionRanks(ranks, self._paired & (self._over[0] > self._over[1]))


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
