"""Class structure: how compact and separate classes are, and whether both modalities order them alike."""

# N images, C classes, D feature width, G units, R resamples.
import math

import torch
from torch import Tensor

from i0t.metrics.functional.bootstrap import unit_sums, weighted_sums
from i0t.metrics.functional.checks import check_both, check_labels, check_row_numbers, check_unit_rows
from i0t.metrics.functional.inversions import discordant_pairs
from i0t.metrics.functional.sums import block_size, group_sums, row_blocks

# A tile of cosines of 8 MiB in float32.
TILE_ROWS = 1024
TILE_COLUMNS = 2048


def dunn_index(features: Tensor, labels: Tensor) -> Tensor:
    """Dunn index of labelled embeddings (arXiv 2404.07983), with the distance ``(1 - cos) / 2``.

    The smallest distance between two rows of different classes over the largest between two rows of one class. A class
    of a single row counts in the first. Computed tile by tile: no matrix over all pairs is kept.

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
    closest_across, farthest_within = _extreme_cosines(rows, classes.to(rows.device))
    separation, width = _rounded_distance(closest_across), _rounded_distance(farthest_within)
    return separation if separation == 0 else separation / width


def _extreme_cosines(rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Largest cosine of two rows of different classes and smallest of two rows of one class, scalars.

    In order of the classes nearly every tile of the upper triangle holds one kind of pair and needs no mask.
    """
    order = torch.argsort(classes, stable=True)
    ordered, bounds = classes[order], classes[order].tolist()
    closest_across, farthest_within = rows.new_tensor(-math.inf), rows.new_tensor(math.inf)
    for above in row_blocks(len(rows), TILE_ROWS):
        upper = rows[order[above]]
        for start in range(above.start, len(rows), TILE_COLUMNS):
            beside = slice(start, min(start + TILE_COLUMNS, len(rows)))
            cosines = upper @ rows[order[beside]].T
            # A row meets itself among its own class; its cosine of 1 never is the smallest unless all coincide.
            if bounds[above.stop - 1] < bounds[beside.start]:
                closest_across = torch.maximum(closest_across, cosines.amax())
            elif bounds[above.start] == bounds[max(above.stop, beside.stop) - 1]:
                farthest_within = torch.minimum(farthest_within, cosines.amin())
            else:
                same = ordered[above, None] == ordered[beside]
                closest_across = torch.maximum(closest_across, cosines.masked_fill(same, -math.inf).amax())
                farthest_within = torch.minimum(farthest_within, cosines.masked_fill_(~same, math.inf).amin())
    return closest_across, farthest_within


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

    Example:
        >>> x = torch.eye(4)
        >>> neighborhood_distance(x, x, torch.arange(4)).item()
        0.0
    """
    image, text, classes = _check_classes(image_features, text_features, labels)
    num_classes = len(text)
    sizes = torch.bincount(classes, minlength=num_classes)
    if num_classes < 2 or not bool((sizes > 0).all()):
        empty = (sizes == 0).nonzero().flatten().tolist()
        raise ValueError(f"neighborhood distance needs two classes at least and images of each; none of {empty[:5]}")
    means = group_sums(image, classes, num_classes) / sizes[:, None]
    discordant = discordant_pairs(means @ means.T, text.double() @ text.double().T).sum()
    return (discordant.double() / (num_classes * (num_classes - 1) / 2) / num_classes).to(image.dtype)


def resampled_neighborhood_distances(
    image_features: Tensor, text_features: Tensor, labels: Tensor, units: Tensor, counts: Tensor
) -> Tensor:
    """:func:`neighborhood_distance` of every resample of the images, over the classes that occur in it.

    The prompts stay as they are. ``R C^2 log C`` steps: seconds for 100 classes and 1,000 resamples.

    Args:
        image_features: As there.
        text_features: As there.
        labels: As there; classes without images are left out.
        units: ``(N,)`` int64 in ``[0, G)``, unit of every image.
        counts: ``(R, G)`` how often each unit is drawn.

    Returns:
        ``(R,)`` float64; NaN where a resample has images of a single class.

    Example:
        >>> x = torch.eye(4)
        >>> resampled_neighborhood_distances(x, x, torch.arange(4), torch.arange(4), torch.ones(1, 4))
        tensor([0.], dtype=torch.float64)
    """
    image, text, classes = (part.cpu() for part in _check_classes(image_features, text_features, labels))
    num_classes = len(text)
    prompts = text.double() @ text.double().T
    # Of the units only those with images of a class: a class of few images costs little.
    members = [torch.unique(units[classes == number], return_inverse=True) for number in range(num_classes)]
    sums = [
        torch.cat([unit_sums(image[classes == number], local, len(present)), _sizes(local, len(present))], dim=1)
        for number, (present, local) in enumerate(members)
    ]
    blocks = [torch.zeros(0, dtype=torch.float64)]
    for drawn in row_blocks(len(counts), block_size(num_classes * max(num_classes, image.shape[1]))):
        parts = [weighted_sums(counts[drawn][:, present], of) for (present, _), of in zip(members, sums, strict=True)]
        total = torch.stack(parts, dim=1)
        blocks.append(_distances(total[..., :-1] / total[..., -1:], total[..., -1] > 0, prompts))
    return torch.cat(blocks)


def _sizes(local: Tensor, num_units: int) -> Tensor:
    """Rows of each unit, ``(units, 1)`` float64."""
    return torch.bincount(local, minlength=num_units).double()[:, None]


def _distances(means: Tensor, occurs: Tensor, prompts: Tensor) -> Tensor:
    """Distance ``(R,)`` from class means ``(R, C, D)``, which classes occur ``(R, C)`` and cosines of prompts."""
    num_resamples, num_classes = occurs.shape
    # A class that does not occur comes last in both orders and so is discordant with nothing.
    cosines = (means @ means.mT).masked_fill_(~occurs[:, None, :], math.inf)
    of_prompts = prompts.expand_as(cosines).masked_fill(~occurs[:, None, :], math.inf)
    found = discordant_pairs(cosines.view(-1, num_classes), of_prompts.reshape(-1, num_classes))
    discordant = found.view(num_resamples, num_classes).where(occurs, 0).sum(dim=1).double()
    present = occurs.sum(dim=1).double()
    pairs = present * (present - 1) / 2
    return (discordant / pairs / present).where(pairs > 0, torch.nan)


def _check_classes(image_features: Tensor, text_features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of both modalities, and the class ``(N,)`` of every image, one of the rows of the texts."""
    image, text = check_both(image_features, text_features)
    if tuple(labels.shape) != (len(image),):
        raise ValueError(f"labels must have shape ({len(image)},), one per image, got {tuple(labels.shape)}")
    return image, text, check_row_numbers(labels, len(text), "labels").to(image.device)
