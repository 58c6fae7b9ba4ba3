"""Object bias: do the embeddings of one modality follow the object more than its attributes?"""

# N rows, D feature width, A attribute factors, C classes of a factor.
import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_labels, check_unit_rows
from i0t.metrics.functional.sums import group_sums, row_sum, squared_norm_sum


def object_bias(features: Tensor, object_labels: Tensor, attribute_labels: Tensor) -> Tensor:
    """Modality object bias, MOAD of one modality (arXiv 2404.07983).

    ``(intra_object - cross_object) - mean over factors (intra_attribute - cross_attribute)``: intra is the mean cosine
    over the pairs of rows with the same label, pooled over classes; cross over the pairs with different labels. For
    several attribute factors (MAD has five) each is a term of its own; the reference's multi-hot code compares values
    of different factors. Its cross term also drops about half of the pairs; here every pair counts.

    Args:
        features: ``(N, D)`` float, L2-normalised, of one modality.
        object_labels: ``(N,)`` integers.
        attribute_labels: ``(N,)`` or ``(N, A)`` integers, one column per factor.

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
    attribute_terms = [_label_contrast(rows, column, name) for name, column in factors]
    object_term = _label_contrast(rows, object_labels, "object_labels")
    return (object_term - torch.stack(attribute_terms).mean()).to(rows.dtype)


def _label_contrast(features: Tensor, labels: Tensor, name: str) -> Tensor:
    """Mean cosine of same-label pairs minus mean cosine of different-label pairs, float64, linear in N."""
    classes, num_classes = check_labels(labels, len(features), name)
    if num_classes < 2:
        raise ValueError(f"{name} has a single class; object bias needs rows of two classes at least")
    classes = classes.to(features.device)
    sizes = torch.bincount(classes, minlength=num_classes).double()
    same_pairs = sizes.square().sum() - len(features)
    if not same_pairs > 0:
        raise ValueError(f"every class of {name} has a single row; object bias needs two rows of one class at least")
    total = row_sum(features)
    same = squared_norm_sum(group_sums(features, classes, num_classes))
    intra = (same - squared_norm_sum(features)) / same_pairs
    cross = (total @ total - same) / (len(features) ** 2 - sizes.square().sum())
    return intra - cross
