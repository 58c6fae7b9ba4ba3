import numpy as np
import pytest
import torch

from i0t.metrics import functional as F


def naive_term(x, labels):
    n = range(len(x))
    same = [x[i] @ x[j] for i in n for j in n if i < j and labels[i] == labels[j]]
    different = [x[i] @ x[j] for i in n for j in n if i < j and labels[i] != labels[j]]
    return np.mean(same) - np.mean(different)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("num_factors", [None, 1, 5])
def test_against_loops(paired_set, dtype, num_factors):
    rows, _, _ = paired_set(40, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    objects = torch.randint(-2, 4, (40,), generator=generator)
    attributes = torch.randint(7, 10, (40, num_factors or 1), generator=generator)
    x = rows.double().numpy()
    terms = [naive_term(x, column.tolist()) for column in attributes.T]
    expected = naive_term(x, objects.tolist()) - np.mean(terms)
    value = F.object_bias(rows, objects, attributes if num_factors else attributes[:, 0])
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_by_hand():
    # Objects: intra cosines 1 and 0 (mean 1/2), cross 0, -1, 0, -1 (mean -1/2): 1. Attributes, rows 0 2 against 1 3:
    # intra 0 (rows 0, 2) and -1 (1, 3): -1/2; cross 1, -1, 0, 0: 0. MOAD = 1 - (-1/2) = 3/2.
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert float(F.object_bias(rows, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))) == pytest.approx(1.5)


def test_swapping_objects_and_attributes_turns_the_sign(paired_set):
    rows, _, _ = paired_set(30)
    first, second = torch.arange(30) % 3, torch.arange(30) % 5
    torch.testing.assert_close(F.object_bias(rows, first, second), -F.object_bias(rows, second, first))
    assert float(F.object_bias(rows, first, first)) == pytest.approx(0, abs=1e-7)


def test_a_factor_without_classes_or_pairs_is_named():
    rows, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    constant, distinct = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    with pytest.raises(ValueError, match="object_labels has a single class"):
        F.object_bias(rows, constant, labels)
    with pytest.raises(ValueError, match="attribute_labels has a single class"):
        F.object_bias(rows, labels, constant)
    with pytest.raises(ValueError, match=r"every class of attribute_labels\[:, 1\] has a single row"):
        F.object_bias(rows, labels, torch.stack([labels, distinct], 1))
    with pytest.raises(ValueError, match=r"attribute_labels must have shape \(4,\) or \(4, factors\), got \(3,\)"):
        F.object_bias(rows, labels, labels[:3])
    with pytest.raises(ValueError, match="object_labels must have shape"):
        F.object_bias(rows, labels[:3], labels)
