"""Object bias: do the embeddings of one modality follow the object more than its attributes?"""

# N rows, D feature width, A attribute factors, C classes of a factor.
import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_labels, check_unit_rows
from i0t.metrics.functional.sums import group_sums, row_sum, squared_norm_sum, squared_norms

CROSS_PAIRS = ("all_pairs", "upper_triangle")


def object_bias(
    features: Tensor, object_labels: Tensor, attribute_labels: Tensor, *, cross: str = "all_pairs"
) -> Tensor:
    """Modality object bias, MOAD of one modality (arXiv 2404.07983).

    ``(intra_object - cross_object) - mean over factors (intra_attribute - cross_attribute)``, each difference a
    :func:`label_contrast`. For several attribute factors (MAD has five) each is a term of its own; the reference's
    multi-hot code compares values of different factors.

    Args:
        features: ``(N, D)`` float, L2-normalised, of one modality.
        object_labels: ``(N,)`` integers.
        attribute_labels: ``(N,)`` or ``(N, A)`` integers, one column per factor.
        cross: Which pairs of different labels count, see :func:`label_contrast`.

    Returns:
        Scalar ``()`` in ``[-4, 4]``; above 0 is a bias towards objects.

    Raises:
        ValueError: If a row is not a unit vector, shapes do not fit, or a factor has a single class or no two rows of
            one class.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> object_bias(rows, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
        tensor(1.5000)
    """
    rows = check_unit_rows(features, "features")
    if attribute_labels.ndim not in (1, 2) or len(attribute_labels) != len(rows) or 0 in attribute_labels.shape:
        raise ValueError(
            f"attribute_labels must have shape ({len(rows)},) or ({len(rows)}, factors),"
            f" got {tuple(attribute_labels.shape)}"
        )
    if attribute_labels.ndim == 1:
        factors = [("attribute_labels", attribute_labels)]
    else:
        factors = [(f"attribute_labels[:, {a}]", column) for a, column in enumerate(attribute_labels.unbind(dim=1))]
    attribute_terms = [_contrast(rows, column, cross, name) for name, column in factors]
    object_term = _contrast(rows, object_labels, cross, "object_labels")
    return (object_term - torch.stack(attribute_terms).mean()).to(rows.dtype)


def label_contrast(features: Tensor, labels: Tensor, *, cross: str = "all_pairs") -> Tensor:
    """Mean cosine of the pairs of rows with one label less that of the pairs with different labels.

    One term of MOAD (arXiv 2404.07983): by how much embeddings cluster by this label. Pairs are pooled over classes. In
    sums over rows, so linear in N.

    ``cross="upper_triangle"`` takes those pairs of different labels that the reference implementation takes. For every
    ordered pair of classes it makes the block of cosines of their rows, in row order, and applies the upper triangle
    without diagonal to these rectangles. Over both orders of two classes that is each pair of rows once, *except* pairs
    that stand at the same position within their classes, which never count. (A share of about one over the size of a
    class; of an ordered pair of blocks it is "half", but the halves complement each other.)

    Args:
        features: ``(N, D)`` float, L2-normalised, of one modality.
        labels: ``(N,)`` integers. A class of a single row has no pair of its own, but meets the others.
        cross: ``"all_pairs"`` or ``"upper_triangle"``.

    Returns:
        Scalar ``()`` in ``[-2, 2]``; 0 where rows do not follow the label.

    Raises:
        ValueError: If a row is not a unit vector, labels do not fit, or :func:`contrast_obstacle` names something.

    Example:
        >>> label_contrast(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([7, 7, 3]))
        tensor(1.)
    """
    rows = check_unit_rows(features, "features")
    return _contrast(rows, labels, cross, "labels").to(rows.dtype)


def contrast_obstacle(labels: Tensor, *, cross: str = "all_pairs") -> str | None:
    """Why :func:`label_contrast` cannot be measured on rows with these labels, in words; None where it can.

    Args:
        labels: ``(N,)`` integers.
        cross: As there.

    Raises:
        ValueError: If ``cross`` is unknown.

    Example:
        >>> contrast_obstacle(torch.tensor([0, 0, 1, 1])) is None
        True
        >>> contrast_obstacle(torch.tensor([0, 0, 0]))
        'has a single class; object bias needs rows of two classes at least'
    """
    if cross not in CROSS_PAIRS:
        raise ValueError(f"cross must be one of {', '.join(map(repr, CROSS_PAIRS))}, got {cross!r}")
    sizes = torch.unique(labels, return_counts=True)[1]
    if len(sizes) < 2:
        return "has a single class; object bias needs rows of two classes at least"
    if int(sizes.max()) < 2:
        return "has a single row in every class; object bias needs two rows of one class at least"
    return None


def _contrast(rows: Tensor, labels: Tensor, cross: str, name: str) -> Tensor:
    """:func:`label_contrast` in float64, with the name of the labels for errors."""
    classes, num_classes = check_labels(labels, len(rows), name)
    obstacle = contrast_obstacle(classes, cross=cross)
    if obstacle is not None:
        raise ValueError(f"{name} {obstacle}")
    classes = classes.to(rows.device)
    sizes = torch.bincount(classes, minlength=num_classes).double()
    total, squares = row_sum(rows), squared_norm_sum(rows)
    same, same_pairs = squared_norms(group_sums(rows, classes, num_classes)).sum(), sizes.square().sum()
    cross_cosines, cross_pairs = total @ total - same, len(rows) ** 2 - same_pairs
    if cross == "upper_triangle":
        position = _position_in_class(classes, sizes)
        num_positions = int(sizes.max())
        at_position = torch.bincount(position, minlength=num_positions).double()
        cross_cosines -= squared_norms(group_sums(rows, position, num_positions)).sum() - squares
        cross_pairs -= at_position.square().sum() - len(rows)
    return (same - squares) / (same_pairs - len(rows)) - cross_cosines / cross_pairs


def _position_in_class(classes: Tensor, sizes: Tensor) -> Tensor:
    """How many earlier rows have the row's class, ``(N,)``."""
    order = torch.argsort(classes, stable=True)
    starts = (sizes.cumsum(0) - sizes).long()
    position = torch.empty_like(classes)
    position[order] = torch.arange(len(classes), device=classes.device) - starts[classes[order]]
    return position
