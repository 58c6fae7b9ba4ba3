import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from i0t.metrics import functional as F
from i0t.metrics.functional import within_modality


def naive_hit(x, labels, query, groups):
    others = [j for j in range(len(x)) if j != query and (groups is None or groups[j] != groups[query])]
    same = [x[query] @ x[j] for j in others if labels[j] == labels[query]]
    other = [x[query] @ x[j] for j in others if labels[j] != labels[query]]
    if not same:
        return np.nan
    return float(not other or max(same) > max(other) + 1e-9)


@pytest.mark.parametrize("grouped", [False, True])
def test_hits_against_a_loop(paired_set, monkeypatch, grouped):
    rows, _, _ = paired_set(40, 1, 4, gap=0.0, dtype=torch.float64)
    labels = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0)) * 3
    labels[7] = 99  # nobody else has it
    groups = torch.arange(40) // 4 if grouped else None
    queries = torch.tensor([0, 7, 3, 39, 21, 22, 23, 5])
    monkeypatch.setattr(within_modality, "block_size", lambda *_: 3)
    found = F.within_modality_hits(rows, labels, queries, groups=groups)
    expected = [
        naive_hit(rows.numpy(), labels.tolist(), q, None if groups is None else groups.tolist()) for q in queries
    ]
    np.testing.assert_array_equal(found.numpy(), expected)
    everyone = F.within_modality_hits(rows, labels, groups=groups)
    assert 0.1 < float(everyone.nanmean()) < 0.9
    np.testing.assert_array_equal(everyone[queries].numpy(), expected)
    other = torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(1))
    both = F.within_modality_hits(rows, torch.stack([other, labels], 1), queries, groups=groups)
    np.testing.assert_array_equal(both[:, 1].numpy(), expected)
    np.testing.assert_array_equal(both[:, 0], F.within_modality_hits(rows, other, queries, groups=groups))


def test_ties_count_against_the_query():
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    assert F.within_modality_hits(rows, torch.tensor([0, 0, 1])).tolist()[0] == 0.0
    assert F.within_modality_hits(rows, torch.tensor([0, 0, 0])).tolist() == [1.0, 1.0, 1.0]
    assert F.within_modality_hits(rows, torch.tensor([0, 0, 0]), groups=torch.tensor([0, 0, 0])).isnan().all()


def test_a_tie_up_to_rounding_is_a_tie():
    rows = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.6, -0.8, 0.0]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
        rotated = (rows @ rotation).float()
        assert F.within_modality_hits(rotated, torch.tensor([0, 0, 1]), torch.tensor([0])).tolist() == [0.0]


def naive_kept(before, after, query, k):
    others = [j for j in range(len(before)) if j != query]
    nearest = sorted(others, key=lambda j: -before[query] @ before[j])[:k]
    kth = sorted((after[query] @ after[j] for j in others), reverse=True)[k - 1]
    return np.mean([after[query] @ after[j] >= kth - 1e-9 for j in nearest])


@pytest.mark.parametrize("k", [1, 5])
def test_neighbors_kept_against_a_loop(paired_set, monkeypatch, k):
    before, after, index = paired_set(40, 1, 6, gap=0.3, noise=0.6, dtype=torch.float64)
    after = after[torch.argsort(index)]
    monkeypatch.setattr(within_modality, "block_size", lambda *_: 7)
    found = F.neighbors_kept(before, after, k=k)
    expected = [naive_kept(before.numpy(), after.numpy(), q, k) for q in range(40)]
    assert found.tolist() == pytest.approx(expected)
    assert 0.1 < np.mean(expected) < 0.9
    some = torch.tensor([5, 30, 2])
    assert F.neighbors_kept(before, after, some, k=k).tolist() == pytest.approx([expected[q] for q in some])


def test_the_same_embedding_keeps_all_neighbours_even_among_equal_rows():
    rows = normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=1).repeat(20, 1)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2)))[0]
    assert F.neighbors_kept(rows[order], (rows @ rotation)[order], k=10).tolist() == [1.0] * 120


def test_unrelated_embeddings_keep_what_chance_leaves():
    generator = torch.Generator().manual_seed(0)
    first, second = (normalize(torch.randn(300, 20, generator=generator), dim=1) for _ in range(2))
    assert float(F.neighbors_kept(first, second, k=30).mean()) == pytest.approx(30 / 299, abs=0.015)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"k must lie in 1 … 2, .*got 3"):
        F.neighbors_kept(torch.eye(3), torch.eye(3), k=3)
    with pytest.raises(ValueError, match="before has 3 rows and after 2"):
        F.neighbors_kept(torch.eye(3), torch.eye(2), k=1)
