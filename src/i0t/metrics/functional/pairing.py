"""Which image row belongs with which text row, given either way, and sums over those pairs."""

# N images, M texts, P pairs, D width.
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_integers, check_matches, check_row_numbers
from i0t.metrics.functional.sums import row_blocks


class Pairing(NamedTuple):
    """Distinct pairs of image and text rows.

    Attributes:
        image: ``(P,)`` int64.
        text: ``(P,)`` int64.
        image_of_text: ``(M,)`` int64 where every text has exactly one image (captions), otherwise ``None`` (the prompt
            of a class, shared by its images).
    """

    image: Tensor
    text: Tensor
    image_of_text: Tensor | None


def make_pairing(
    image: Tensor, text: Tensor, text_image_index: Tensor | None = None, *, pairs: Tensor | None = None
) -> Pairing:
    """Checks a pairing given as an index or as pairs.

    Args:
        image: ``(N, D)``.
        text: ``(M, D)``.
        text_image_index: ``(M,)`` image row of every text; None, without ``pairs``, pairs row i with row i.
        pairs: ``(P, 2)`` image row and text row of every pair, instead of ``text_image_index``; repeats count once.

    Returns:
        The pairs; those of ``pairs`` in ascending order.

    Raises:
        ValueError: If both are given, or shapes, types or ranges are wrong, or there is no pair.

    Example:
        >>> x, y = torch.eye(2), torch.eye(2)[[0, 0, 1]]
        >>> make_pairing(x, y, torch.tensor([0, 0, 1])).image
        tensor([0, 0, 1])
    """
    if pairs is None:
        of_text = check_matches(text_image_index, image, text)
        return Pairing(of_text, torch.arange(len(text), device=text.device), of_text)
    if text_image_index is not None:
        raise ValueError("give either text_image_index or pairs, not both")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or len(pairs) == 0:
        raise ValueError(f"pairs must be a non-empty (P, 2) matrix of row numbers, got shape {tuple(pairs.shape)}")
    image_rows = check_row_numbers(pairs[:, 0], len(image), "pairs[:, 0]").to(image.device)
    text_rows = check_row_numbers(pairs[:, 1], len(text), "pairs[:, 1]").to(image.device)
    distinct = torch.unique(image_rows * len(text) + text_rows)
    image_rows, text_rows = distinct // len(text), distinct % len(text)
    if not bool((torch.bincount(text_rows, minlength=len(text)) == 1).all()):
        return Pairing(image_rows, text_rows, None)
    of_text = torch.empty_like(text_rows)
    of_text[text_rows] = image_rows
    return Pairing(of_text, torch.arange(len(text), device=text.device), of_text)


def pair_cosines(image: Tensor, text: Tensor, pairing: Pairing) -> Tensor:
    """Dot product of every pair, ``(P,)`` float64."""
    return torch.cat([(x * y).sum(dim=1) for x, y in _rows_of_pairs(image, text, pairing)])


def pair_squared_distances(image: Tensor, text: Tensor, pairing: Pairing) -> Tensor:
    """Squared Euclidean distance of every pair, ``(P,)`` float64, from differences.

    Differences rather than ``2 - 2 cos``, which loses all digits where the two nearly agree.
    """
    return torch.cat([(x - y).square().sum(dim=1) for x, y in _rows_of_pairs(image, text, pairing)])


def sibling_texts(pairing: Pairing) -> tuple[Tensor, Tensor]:
    """Ordered pairs of texts that share an image, each once, a text with itself included.

    For pairings in which texts are shared by images; where every text has one image, sums per image say the same.

    Returns:
        ``(S,)`` and ``(S,)`` int64 text rows.
    """
    from scipy.sparse import csr_array  # imported here: it would cost every start half a second

    image, text = pairing.image.cpu().numpy(), pairing.text.cpu().numpy()
    table = csr_array((torch.ones(len(text), dtype=torch.int32).numpy(), (image, text)))
    first, second = (table.T @ table).nonzero()
    return torch.from_numpy(first).long(), torch.from_numpy(second).long()


class TextLabels(NamedTuple):
    """What the images of a text say about it; see :func:`labels_of_texts`.

    Attributes:
        labels: ``(M,)`` int64, the label of its images; anything where it has none, or they disagree.
        known: ``(M,)`` bool, whether it has an image.
        disagree: ``(M,)`` bool, whether it has images of different labels.
    """

    labels: Tensor
    known: Tensor
    disagree: Tensor


def labels_of_texts(labels: Tensor, pairs: Tensor, num_texts: int) -> TextLabels:
    """Labels of the texts from those of their images: a caption has its image's, a class prompt that of its class.

    Args:
        labels: ``(N,)`` integers, one label of every image.
        pairs: ``(P, 2)`` image row and text row of every pair.
        num_texts: M.

    Returns:
        Labels, and for which texts they hold.

    Raises:
        ValueError: If labels are no vector of integers, or a pair points outside of them or of the texts.

    Example:
        >>> labels_of_texts(torch.tensor([5, 5, 8]), torch.tensor([[0, 0], [1, 0], [2, 1], [1, 2], [2, 2]]), 3)
        TextLabels(labels=tensor([5, 8, 5]), known=tensor([True, True, True]), disagree=tensor([False, False,  True]))
    """
    if labels.ndim != 1:
        raise ValueError(f"labels must be a vector, one label per image, got shape {tuple(labels.shape)}")
    check_integers(labels, "labels")
    image_rows = check_row_numbers(pairs[:, 0], len(labels), "pairs[:, 0]").to(labels.device)
    text_rows = check_row_numbers(pairs[:, 1], num_texts, "pairs[:, 1]").to(labels.device)
    of_pair = labels.long()[image_rows]
    none = torch.zeros(num_texts, dtype=torch.int64, device=labels.device)
    lowest, highest = (
        none.scatter_reduce(0, text_rows, of_pair, reduce=reduce, include_self=False) for reduce in ("amin", "amax")
    )
    return TextLabels(lowest, torch.bincount(text_rows, minlength=num_texts) > 0, lowest != highest)


def one_to_one(pairing: Pairing, num_images: int, num_texts: int) -> tuple[Tensor, Tensor]:
    """Pairs in which no image and no text occurs twice: the first text of an image, then the first image of a text.

    Returns:
        ``(K,)`` image rows, ascending where every text has one image, and the ``(K,)`` text rows.

    Example:
        >>> x, y = torch.eye(2), torch.eye(2)[[0, 0, 1]]
        >>> from i0t.metrics.functional import make_pairing
        >>> one_to_one(make_pairing(x, y, torch.tensor([0, 0, 1])), 2, 3)
        (tensor([0, 1]), tensor([0, 2]))
    """
    first = _first(pairing.image, pairing.text, num_images, num_texts)
    image = (first < num_texts).nonzero().squeeze(1)
    text = first[image]
    if pairing.image_of_text is not None:
        return image, text
    of_text = _first(text, image, num_texts, num_images)
    text = (of_text < num_images).nonzero().squeeze(1)
    return of_text[text], text


def _first(key: Tensor, value: Tensor, num_keys: int, missing: int) -> Tensor:
    """Smallest value of every key ``(num_keys,)``, ``missing`` where it has none."""
    smallest = torch.full((num_keys,), missing, dtype=torch.int64, device=key.device)
    return smallest.scatter_reduce_(0, key, value, reduce="amin")


def _rows_of_pairs(image: Tensor, text: Tensor, pairing: Pairing) -> Iterator[tuple[Tensor, Tensor]]:
    """The two rows of every pair in float64, block by block."""
    for rows in row_blocks(len(pairing.text)):
        yield image[pairing.image[rows]].double(), text[pairing.text[rows]].double()
