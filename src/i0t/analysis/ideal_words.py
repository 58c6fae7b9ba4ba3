"""Ideal words: attributes and objects as means of the texts that combine them, and of the images that show them.

Trager et al. 2023 (arXiv 2302.14383) call the mean of the texts of an attribute over all objects its ideal word. Two
Effects (arXiv 2404.07983, Table 5) asks with them whether the gap harms classification: it compares ideal words with
ideal images, the mean images of the same classes, and moves the words onto the images.

Shapes: N images, M texts, D width; A attributes, O objects, V either; P compositions that have texts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet
from i0t.metrics.functional.sums import block_size, group_sums, row_blocks

_TINY = 1e-24  # of a squared length: a composition without one is like no image


class Words(NamedTuple):
    """Vectors that stand for classes, of either modality.

    Attributes:
        attribute: ``(A, D)`` float64; a row is NaN where the class has no member.
        object: ``(O, D)`` float64, likewise.
        origin: ``(D,)`` float64; a composition is its attribute plus its object less the origin.
    """

    attribute: Tensor
    object: Tensor
    origin: Tensor

    def moved(self, by: Tensor) -> Words:
        """All vectors plus ``by`` ``(D,)``, those of compositions too."""
        return Words(self.attribute + by, self.object + by, self.origin + by)

    def classes(self) -> Tensor:
        """``(A + O, D)``: attributes, then objects."""
        return torch.cat([self.attribute, self.object])


class IdealWords(NamedTuple):
    """What the texts of compositions are made of.

    Attributes:
        words: u_a, u_o and u_0, the mean over compositions.
        compositions: ``(P, 2)`` int64: attribute and object of every composition that has a text.
        texts: ``(P, D)`` float64: the mean of the texts of each.
    """

    words: Words
    compositions: Tensor
    texts: Tensor


def ideal_words(
    text_features: Tensor, attributes: Tensor, objects: Tensor, *, num_attributes: int, num_objects: int
) -> IdealWords:
    """Ideal words of the texts (Trager et al. 2023, Sec. 4; Two Effects, ``gap_ideal_words.py``).

    u_a is the mean over objects o of the text (a, o), u_o that over attributes, u_0 that over both; none is normalised
    again. Several texts of one composition count as their mean. Where not every composition has a text, means are over
    those that have one; the published study has all.

    Args:
        text_features: ``(M, D)`` unit rows.
        attributes: ``(M,)`` int64 in ``[0, A)``.
        objects: ``(M,)`` int64 in ``[0, O)``.
        num_attributes: A.
        num_objects: O.

    Example:
        >>> attributes, objects = torch.tensor([0, 0]), torch.tensor([0, 1])
        >>> found = ideal_words(torch.eye(2), attributes, objects, num_attributes=1, num_objects=2)
        >>> found.words.attribute.tolist(), found.words.origin.tolist()
        ([[0.5, 0.5]], [0.5, 0.5])
    """
    cells, cell_of_text = torch.unique(attributes * num_objects + objects, return_inverse=True)
    sizes = torch.bincount(cell_of_text, minlength=len(cells)).double()
    texts = group_sums(text_features, cell_of_text, len(cells)) / sizes[:, None]
    compositions = torch.stack([cells // num_objects, cells % num_objects], dim=1)
    attribute = class_means(texts, compositions[:, 0], num_attributes)
    object_ = class_means(texts, compositions[:, 1], num_objects)
    return IdealWords(Words(attribute, object_, texts.mean(dim=0)), compositions, texts)


def compositions_of_texts(embeddings: EmbeddingSet, attribute: str, object_: str, num_objects: int) -> Tensor:
    """``(M,)`` int64: ``attribute * O + object`` of every text, by the images it is paired with; -1 where none is.

    Texts as many as there are compositions, each paired one in its place attribute by attribute, are the whole grid:
    those without an image are then known too (``data.compositions=all`` gives such a set).

    Args:
        embeddings: The set.
        attribute: Name of a label.
        object_: Likewise.
        num_objects: O.

    Raises:
        ValueError: If the images of a text are not of one composition.
    """
    of_image = (embeddings.labels[attribute] * num_objects + embeddings.labels[object_]).cpu()
    image, text = embeddings.pairs.cpu().unbind(dim=1)
    codes = of_image[image]
    unknown = torch.full((embeddings.num_texts,), -1, dtype=torch.int64)
    low, high = (unknown.scatter_reduce(0, text, codes, how, include_self=False) for how in ("amin", "amax"))
    mixed = (low != high).nonzero()
    if len(mixed) > 0:
        raise ValueError(
            f"ideal words: {len(mixed):,} texts are paired with images of several compositions of {attribute} and "
            f"{object_}, first text {int(mixed[0])}; a text must name one"
        )
    places = torch.arange(embeddings.num_texts)
    is_grid = embeddings.num_texts == num_values(embeddings, attribute) * num_objects
    return places if is_grid and bool(((low == places) | (low < 0)).all()) else low


def num_values(embeddings: EmbeddingSet, label: str) -> int:
    """How many values a label has: its class names, or without them its greatest value and one more."""
    names = embeddings.class_names.get(label)
    return len(names) if names is not None else int(embeddings.labels[label].max()) + 1


def class_means(features: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Mean of the rows of each class: of unit images, the ideal images of Two Effects.

    Args:
        features: ``(N, D)``.
        classes: ``(N,)`` int64 in ``[0, V)``.
        num_classes: V.

    Returns:
        ``(V, D)`` float64, not normalised; NaN where a class has no row.
    """
    return group_sums(features, classes, num_classes) / torch.bincount(classes, minlength=num_classes)[:, None]


def nearest_words(image_features: Tensor, words: Tensor, *, normalized: bool) -> Tensor:
    """The word of every image with the greatest dot product; of equal words the first.

    Words are not unit vectors, so that a longer one wins more often: what the published code does. A vector that is
    added to all words alike adds the same to all of an image's products and changes nothing; it does under cosines.

    Args:
        image_features: ``(N, D)`` unit rows.
        words: ``(V, D)``; a word of NaN is never chosen.
        normalized: Compare cosines instead.

    Returns:
        ``(N,)`` int64 in ``[0, V)``.
    """
    known = ~words.isnan().any(dim=1)
    candidates = (F.normalize(words, dim=1) if normalized else words)[known].to(image_features)
    blocks = [
        (image_features[rows] @ candidates.T).argmax(dim=1)
        for rows in row_blocks(len(image_features), block_size(len(candidates)))
    ]
    return known.nonzero()[:, 0].to(image_features.device)[torch.cat(blocks)]


def nearest_compositions(image_features: Tensor, words: Words, compositions: Tensor, *, normalized: bool) -> Tensor:
    """The same among compositions, whose products are sums of those of their words: A + O do for A times O.

    Args:
        image_features: ``(N, D)`` unit rows.
        words: Of their attributes and objects.
        compositions: ``(P, 2)`` int64, attribute and object, none of them without a word.
        normalized: Compare cosines instead.

    Returns:
        ``(N,)`` int64 in ``[0, P)``.
    """
    attribute, object_ = (words.attribute - words.origin).nan_to_num(), words.object.nan_to_num()
    squares = attribute.square().sum(dim=1)[:, None] + object_.square().sum(dim=1) + 2 * attribute @ object_.T
    scale = squares.clamp_min(_TINY).rsqrt() if normalized else torch.ones_like(squares)
    place = torch.full(squares.shape, -1)
    place[compositions[:, 0], compositions[:, 1]] = torch.arange(len(compositions))
    barred = torch.zeros_like(squares).masked_fill_(place < 0, -torch.inf)
    blocks = []
    for rows in row_blocks(len(image_features), block_size(squares.numel())):
        image = image_features[rows].double()
        # Sums over the whole grid: picking its columns would take ten times as long.
        products = (image @ attribute.T).float()[:, :, None] + (image @ object_.T).float()[:, None, :]
        blocks.append(products.mul_(scale.float()).add_(barred.float()).flatten(1).argmax(dim=1))
    return place.flatten()[torch.cat(blocks)]


def agreement(images: Words, words: Words) -> tuple[float, float]:
    """How near attributes and objects of the two modalities are.

    Args:
        images: Ideal images.
        words: Of the same classes.

    Returns:
        The mean cosine of a class's image and word, and the distance of the mean image from the mean word, both over
        the classes that have both.
    """
    image, word = images.classes(), words.classes()
    both = ~(image.isnan().any(dim=1) | word.isnan().any(dim=1))
    cosine = F.cosine_similarity(image[both], word[both], dim=1).mean()
    return float(cosine), float((image[both].mean(dim=0) - word[both].mean(dim=0)).norm())
