import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from i0t.metrics import functional as F

CROSS = ["all_pairs", "upper_triangle"]


def naive_term(x, labels):
    n = range(len(x))
    same = [x[i] @ x[j] for i in n for j in n if i < j and labels[i] == labels[j]]
    different = [x[i] @ x[j] for i in n for j in n if i < j and labels[i] != labels[j]]
    return np.mean(same) - np.mean(different)


def reference_term(x, labels):
    """The published definition, with a block of cosines for every ordered pair of classes."""
    labels = np.array(labels)
    intra, across = [], []
    for a in sorted(set(labels.tolist())):
        block = x[labels == a] @ x[labels == a].T
        intra.extend(block[np.triu_indices(*block.shape[:1], k=1)])
        for b in sorted(set(labels.tolist()) - {a}):
            block = x[labels == a] @ x[labels == b].T
            rows, columns = np.triu_indices(block.shape[0], k=1, m=block.shape[1])
            across.extend(block[rows, columns])
    return np.mean(intra) - np.mean(across)


ORACLES = {"all_pairs": naive_term, "upper_triangle": reference_term}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("num_factors", [None, 1, 5])
@pytest.mark.parametrize("cross", CROSS)
def test_against_loops(paired_set, dtype, num_factors, cross):
    rows, _, _ = paired_set(40, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    objects = torch.randint(-2, 4, (40,), generator=generator)
    attributes = torch.randint(7, 10, (40, num_factors or 1), generator=generator)
    x = rows.double().numpy()
    terms = [ORACLES[cross](x, column.tolist()) for column in attributes.T]
    expected = ORACLES[cross](x, objects.tolist()) - np.mean(terms)
    value = F.object_bias(rows, objects, attributes if num_factors else attributes[:, 0], cross=cross)
    assert float(value) == pytest.approx(expected, abs=1e-6)
    assert float(F.label_contrast(rows, objects, cross=cross)) == pytest.approx(
        ORACLES[cross](x, objects.tolist()), abs=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_both_crosses_against_blocks(data):
    num_rows, num_classes = data.draw(st.integers(3, 14)), data.draw(st.integers(2, 5))
    labels = torch.tensor(data.draw(st.lists(st.integers(1, num_classes), min_size=num_rows, max_size=num_rows)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    rows = normalize(torch.randint(-2, 3, (num_rows, 3), generator=generator) + 0.25, dim=1).double()
    rows = normalize(rows, dim=1)  # duplicates and all
    sizes = labels.unique(return_counts=True)[1]
    if len(sizes) < 2 or sizes.max() < 2:
        assert F.contrast_obstacle(labels) is not None
        return
    for cross in CROSS:
        expected = ORACLES[cross](rows.numpy(), labels.tolist())
        assert float(F.label_contrast(rows, labels, cross=cross)) == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    # Objects: intra cosines 1 and 0 (mean 1/2), cross 0, -1, 0, -1 (mean -1/2): 1. Attributes, rows 0 2 against 1 3:
    # intra 0 (rows 0, 2) and -1 (1, 3): -1/2; cross 1, -1, 0, 0: 0. MOAD = 1 - (-1/2) = 3/2.
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    objects, attributes = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert float(F.object_bias(rows, objects, attributes)) == pytest.approx(1.5)
    # Without pairs at one position (0 2 and 1 3 of the objects): cross -1 and 0, 1/2 + 1/2 = 1. Of the attributes
    # 0 1 and 2 3 fall out: cross -1 (0 3) and 0 (1 2), -1/2 + 1/2 = 0.
    assert float(F.object_bias(rows, objects, attributes, cross="upper_triangle")) == pytest.approx(1.0)


def test_a_class_of_one_row_counts_across_only(paired_set):
    rows, _, _ = paired_set(9, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2])
    for cross in CROSS:
        expected = ORACLES[cross](rows.numpy(), labels.tolist())
        assert float(F.label_contrast(rows, labels, cross=cross)) == pytest.approx(expected, abs=1e-12)
        without = F.label_contrast(rows[:8], labels[:8], cross=cross)
        assert abs(float(without) - expected) > 1e-4


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
    with pytest.raises(ValueError, match=r"attribute_labels\[:, 1\] has a single row in every class"):
        F.object_bias(rows, labels, torch.stack([labels, distinct], 1))
    with pytest.raises(ValueError, match=r"attribute_labels must have shape \(4,\) or \(4, factors\), got \(3,\)"):
        F.object_bias(rows, labels, labels[:3])
    with pytest.raises(ValueError, match=r"object_labels must have shape \(4,\), one label per row, got \(3,\)"):
        F.object_bias(rows, labels[:3], labels)
    with pytest.raises(ValueError, match="labels has a single class"):
        F.label_contrast(rows, constant)
    with pytest.raises(ValueError, match="cross must be one of 'all_pairs', 'upper_triangle', got 'half'"):
        F.label_contrast(rows, labels, cross="half")
