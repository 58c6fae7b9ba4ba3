"""Counting discordant pairs without comparing all of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from i0t.metrics.functional import inversions as module
from i0t.metrics.functional.inversions import discordant_pairs, inversions


def naive_discordant(a, b):
    n = range(len(a))
    return sum((a[i] - a[j]) * (b[i] - b[j]) < 0 for i in n for j in n if i < j)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 17), st.integers(1, 6), st.integers(0, 1000))
def test_ties_and_all_sizes_against_loops(num_rows, num_columns, num_values, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, num_values, (2, num_rows, num_columns)).astype(float)
    found = discordant_pairs(torch.from_numpy(a), torch.from_numpy(b))
    assert found.tolist() == [naive_discordant(*rows) for rows in zip(a, b, strict=True)]


def test_a_thousand_columns_agree_with_scipy(monkeypatch):
    a, b = np.random.default_rng(0).standard_normal((2, 3, 1000))
    pairs = 1000 * 999 / 2
    expected = [round((1 - kendalltau(*rows).statistic) / 2 * pairs) for rows in zip(a, b, strict=True)]
    for entries in (1000, 2000, 2**14):
        monkeypatch.setattr(module, "CACHED_ENTRIES", entries)
        assert discordant_pairs(torch.from_numpy(a), torch.from_numpy(b)).tolist() == expected


def test_known_permutations():
    ranks = torch.stack([torch.arange(9), torch.arange(8, -1, -1), torch.tensor([1, 0, 2, 3, 4, 5, 6, 8, 7])])
    assert inversions(ranks).tolist() == [0, 36, 2]
    assert inversions(torch.zeros(4, 1, dtype=torch.int64)).tolist() == [0, 0, 0, 0]


def test_rounding_makes_ties():
    a = torch.tensor([[0.3, 0.1 + 0.2, 0.5]], dtype=torch.float64)  # the first two differ in the last bit
    assert a[0, 0] != a[0, 1]
    b = torch.tensor([[0.2, 0.1, 0.0]], dtype=torch.float64)
    assert discordant_pairs(a, b).tolist() == [2]
    assert discordant_pairs(a, b.flip(1)).tolist() == pytest.approx([0])
