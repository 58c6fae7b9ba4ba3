"""Object bias on the resamples of a set."""

# N rows, A attribute factors, G units, R resamples.
import torch
from torch import Tensor

from i0t.metrics.functional.bootstrap import unit_sums, weighted_sums
from i0t.metrics.functional.checks import check_labels, check_unit_rows
from i0t.metrics.functional.sums import squared_norms


def resampled_object_bias(
    features: Tensor, object_labels: Tensor, attribute_labels: Tensor, units: Tensor, counts: Tensor
) -> Tensor:
    """:func:`i0t.metrics.functional.object_bias` of every resample; a row never pairs with its own copy.

    Args:
        features: ``(N, D)`` float, L2-normalised, of one modality.
        object_labels: ``(N,)`` integers.
        attribute_labels: ``(N, A)`` integers, one column per factor.
        units: ``(N,)`` int64 in ``[0, G)``, unit of every row.
        counts: ``(R, G)`` how often each unit is drawn.

    Returns:
        ``(R,)`` float64; NaN where a resample leaves a factor with one class, or no two rows of one class.

    Example:
        >>> x, objects, colours = torch.eye(8), torch.arange(8) // 4, torch.arange(8)[:, None] % 2
        >>> resampled_object_bias(x, objects, colours, torch.arange(8), torch.ones(1, 8)).shape
        torch.Size([1])
    """
    columns = [object_labels, *attribute_labels.unbind(dim=1)]
    terms = [resampled_label_contrast(features, column, units, counts) for column in columns]
    return terms[0] - torch.stack(terms[1:]).mean(dim=0)


def resampled_label_contrast(features: Tensor, labels: Tensor, units: Tensor, counts: Tensor) -> Tensor:
    """:func:`i0t.metrics.functional.label_contrast` over all pairs, of every resample.

    A row never pairs with its own copy.

    Args:
        features: ``(N, D)`` float, L2-normalised, of one modality.
        labels: ``(N,)`` integers.
        units: ``(N,)`` int64 in ``[0, G)``, unit of every row.
        counts: ``(R, G)`` how often each unit is drawn.

    Returns:
        ``(R,)`` float64; NaN where a resample has one class, or no two rows of one class.

    Example:
        >>> x, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> resampled_label_contrast(x, labels, torch.arange(4), torch.ones(1, 4)).shape
        torch.Size([1])
    """
    rows = check_unit_rows(features, "features").cpu()
    classes, num_classes = check_labels(labels.cpu(), len(rows), "labels")
    squares = weighted_sums(counts, unit_sums(squared_norms(rows), units, counts.shape[1]), power=2)
    own_pairs = weighted_sums(counts, torch.bincount(units, minlength=counts.shape[1]).double(), power=2)
    total, size = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64), torch.zeros_like(squares)
    same, same_pairs = torch.zeros_like(squares), torch.zeros_like(squares)
    for number in range(num_classes):
        mine = classes == number
        # Of the units only those with rows of this class: a class of few rows costs little.
        present, local = torch.unique(units[mine], return_inverse=True)
        drawn = counts[:, present]
        class_total = weighted_sums(drawn, unit_sums(rows[mine], local, len(present)))
        class_size = weighted_sums(drawn, torch.bincount(local, minlength=len(present)).double())
        same += class_total.square().sum(dim=1)
        same_pairs += class_size.square()
        total += class_total
        size += class_size
    intra, cross = (
        _ratio(same - squares, same_pairs - own_pairs),
        _ratio(total.square().sum(dim=1) - same, size.square() - same_pairs),
    )
    return intra - cross


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return (numerator / denominator).where(denominator > 0, torch.nan)
