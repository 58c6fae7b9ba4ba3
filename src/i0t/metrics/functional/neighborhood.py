"""Class structure: how compact and separate classes are, and whether both modalities order them alike."""

# N images, C classes, D feature width.
import math

import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both, check_labels, check_row_numbers, check_unit_rows
from i0t.metrics.functional.sums import block_size, group_sums, row_blocks


def dunn_index(features: Tensor, labels: Tensor) -> Tensor:
    """Dunn index of labelled embeddings (arXiv 2404.07983), with the distance ``(1 - cos) / 2``.

    The smallest distance between two rows of different classes over the largest between two rows of one class.
    Computed block by block: no matrix over all pairs is kept.

    Args:
        features: ``(N, D)`` float, L2-normalised.
        labels: ``(N,)`` integers.

    Returns:
        Scalar ``()``, 0 or more: above 1 every class is farther from the others than it is wide; 0 where rows of two
        classes coincide; infinity where each class is one point.

    Raises:
        ValueError: If a row is not a unit vector, or there is a single class, or no two rows of one class.

    Example:
        >>> dunn_index(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1]))
        tensor(1.)
    """
    rows = check_unit_rows(features, "features")
    classes, num_classes = check_labels(labels, len(rows), "labels")
    if not 1 < num_classes < len(rows):
        raise ValueError(
            f"the Dunn index needs two classes at least and two rows of one class, got {num_classes} classes"
            f" of {len(rows)} rows"
        )
    classes = classes.to(rows.device)
    closest_across, farthest_within = rows.new_tensor(-math.inf), rows.new_tensor(math.inf)
    for block in row_blocks(len(rows), block_size(len(rows))):
        cosines = rows[block] @ rows.T
        same = classes[block, None] == classes
        # A row meets itself among its own class; its cosine of 1 never is the smallest unless all coincide.
        closest_across = torch.maximum(closest_across, cosines.masked_fill(same, -math.inf).amax())
        farthest_within = torch.minimum(farthest_within, cosines.masked_fill_(~same, math.inf).amin())
    separation, width = _rounded_distance(closest_across), _rounded_distance(farthest_within)
    return separation if separation == 0 else separation / width


def _rounded_distance(cosine: Tensor) -> Tensor:
    """``(1 - cos) / 2``, exactly 0 where it is no more than the rounding of a product of unit rows."""
    distance = (1 - cosine) / 2
    return torch.where(distance > 8 * torch.finfo(cosine.dtype).eps, distance, 0)


def neighborhood_distance(image_features: Tensor, text_features: Tensor, labels: Tensor) -> Tensor:
    """How differently images and class prompts order the neighbours of a class (arXiv 2404.07983).

    Image side: mean cosine between the images of two classes; text side: cosine of their prompts; the class itself is
    one of its neighbours. For every class, the two orders of all C classes are compared by the normalised Kendall
    distance, discordant pairs over ``C (C - 1) / 2``, and the classes are averaged. A tied pair is not discordant.

    The reference code applies the distance to the inverse permutations, so that its value depends on how the classes
    are numbered; here it does not.

    Args:
        image_features: ``(N, D)`` float, L2-normalised; every class needs an image.
        text_features: ``(C, D)`` float, L2-normalised, row c the prompt of class c; C >= 2.
        labels: ``(N,)`` integers in ``[0, C)``, class of every image.

    Returns:
        Scalar ``()`` in ``[0, 1]``: 0 the same neighbourhoods, about .5 unrelated ones.

    Raises:
        ValueError: If a row is not a unit vector, shapes or labels do not fit, or a class has no image.
    """
    image, text = check_both(image_features, text_features)
    num_classes = len(text)
    if tuple(labels.shape) != (len(image),):
        raise ValueError(f"labels must have shape ({len(image)},), one per image, got {tuple(labels.shape)}")
    classes = check_row_numbers(labels, num_classes, "labels").to(image.device)
    sizes = torch.bincount(classes, minlength=num_classes)
    if num_classes < 2 or not bool((sizes > 0).all()):
        empty = (sizes == 0).nonzero().flatten().tolist()
        raise ValueError(f"neighborhood distance needs two classes at least and images of each; none of {empty[:5]}")
    means = group_sums(image, classes, num_classes) / sizes[:, None]
    discordant = _discordant_pairs(means @ means.T, text.double() @ text.double().T)
    return (discordant.double() / (num_classes * (num_classes - 1) / 2) / num_classes).to(image.dtype)


def _discordant_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Pairs of columns that the two matrices ``(C, C)`` order differently, summed over rows."""
    num_classes = len(first)
    total = torch.zeros((), dtype=torch.int64, device=first.device)
    for rows in row_blocks(num_classes, block_size(num_classes**2)):
        nearer = first[rows, :, None] < first[rows, None, :]
        farther = second[rows, :, None] > second[rows, None, :]
        total += torch.count_nonzero(nearer.logical_and_(farther))
    return total
