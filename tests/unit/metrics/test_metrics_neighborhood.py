import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch.nn.functional import normalize

from i0t.metrics import functional as F
from i0t.metrics.functional import neighborhood


def naive_dunn(x, labels):
    n = range(len(x))
    distance = [[(1 - x[i] @ x[j]) / 2 for j in n] for i in n]
    across = [distance[i][j] for i in n for j in n if labels[i] != labels[j]]
    within = [distance[i][j] for i in n for j in n if i < j and labels[i] == labels[j]]
    return min(across) / max(within)


def naive_neighborhood(x, y, labels):
    classes = range(len(y))
    of_class = [[x[i] for i in range(len(x)) if labels[i] == c] for c in classes]
    image = [[np.mean([a @ b for a in of_class[c] for b in of_class[d]]) for d in classes] for c in classes]
    text = [[y[c] @ y[d] for d in classes] for c in classes]
    distances = []
    for row_a, row_b in zip(image, text, strict=True):
        pairs = [(i, j) for i in classes for j in classes if i < j]
        distances.append(sum((row_a[i] - row_a[j]) * (row_b[i] - row_b[j]) < 0 for i, j in pairs) / len(pairs))
    return np.mean(distances), image, text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_against_loops(paired_set, monkeypatch, dtype):
    image, text, _ = paired_set(36, dtype=dtype)
    labels = torch.arange(36) % 6
    x, y = image.double().numpy(), text[:6].double().numpy()
    expected, _, _ = naive_neighborhood(x, y, labels.tolist())
    dunn = naive_dunn(x, labels.tolist())
    for tile in (1, 5, 7, 100):
        monkeypatch.setattr(neighborhood, "TILE_ROWS", tile)
        monkeypatch.setattr(neighborhood, "TILE_COLUMNS", 2 * tile)
        assert float(F.dunn_index(image, labels)) == pytest.approx(dunn, rel=1e-3)
        assert float(F.neighborhood_distance(image, text[:6], labels)) == pytest.approx(expected, abs=1e-6)


def test_neighborhood_agrees_with_scipy(paired_set):
    image, text, _ = paired_set(60, noise=1.0, dtype=torch.float64)
    labels = torch.arange(60) % 12
    value, rows_a, rows_b = naive_neighborhood(image.numpy(), text[:12].numpy(), labels.tolist())
    taus = [kendalltau(a, b).statistic for a, b in zip(rows_a, rows_b, strict=True)]
    assert value == pytest.approx(np.mean([(1 - tau) / 2 for tau in taus]))  # the oracle itself
    assert float(F.neighborhood_distance(image, text[:12], labels)) == pytest.approx(value)


def test_neighborhood_known_answers():
    generator = torch.Generator().manual_seed(0)
    prompts = normalize(torch.randn(40, 8, generator=generator), dim=1)
    labels = torch.arange(40)
    assert float(F.neighborhood_distance(prompts, prompts, labels)) == 0
    unrelated = normalize(torch.randn(40, 8, generator=generator), dim=1)
    # The class itself is its own nearest neighbour on both sides; the other pairs are a coin's throw.
    assert float(F.neighborhood_distance(unrelated, prompts, labels)) == pytest.approx(0.5 * 38 / 40, abs=0.05)


def test_neighborhood_does_not_depend_on_the_numbering(paired_set):
    image, text, _ = paired_set(30)
    labels, renumbered = torch.arange(30) % 10, torch.randperm(10, generator=torch.Generator().manual_seed(0))
    prompts = torch.empty_like(text[:10])
    prompts[renumbered] = text[:10]
    torch.testing.assert_close(
        F.neighborhood_distance(image, prompts, renumbered[labels]), F.neighborhood_distance(image, text[:10], labels)
    )


def test_dunn_by_hand():
    # Within: rows 0 and 1 at cos 0, d = 1/2. Across: nearest are rows 1 and 2 at cos .6, d = .2.
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.8, 0.6]])
    assert float(F.dunn_index(rows, torch.tensor([4, 4, 9]))) == pytest.approx(0.4)
    points = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.8, -0.6], [0.8, -0.6]])
    assert float(F.dunn_index(points, torch.tensor([0, 0, 1, 1]))) == math.inf
    assert float(F.dunn_index(points, torch.tensor([0, 1, 0, 1]))) == 0


def test_missing_classes_are_refused():
    rows = torch.eye(3)
    for labels in (torch.zeros(3, dtype=torch.int64), torch.arange(3)):
        with pytest.raises(ValueError, match="two classes at least and two rows of one class"):
            F.dunn_index(rows, labels)
    with pytest.raises(ValueError, match=r"none of \[1\]"):
        F.neighborhood_distance(rows, rows, torch.tensor([0, 0, 2]))
    with pytest.raises(ValueError, match=r"labels\[2\] is 3, outside the rows 0 … 2"):
        F.neighborhood_distance(rows, rows, torch.tensor([0, 1, 3]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(4, 20), st.integers(2, 5), st.integers(1, 6), st.integers(1, 6))
def test_dunn_of_any_classes_and_tiles(seed, num_rows, num_classes, tile_rows, tile_columns):
    generator = torch.Generator().manual_seed(seed)
    rows = normalize(torch.randn(num_rows, 3, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(0, num_classes, (num_rows,), generator=generator)
    labels[:3] = torch.tensor([0, 0, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighborhood, "TILE_ROWS", tile_rows)
        patch.setattr(neighborhood, "TILE_COLUMNS", tile_columns)
        found = float(F.dunn_index(rows, labels))
    assert found == pytest.approx(naive_dunn(rows.numpy(), labels.tolist()), rel=1e-9)


def test_a_class_of_one_row_is_a_neighbour_of_the_others():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.8, -0.6], [0.6, 0.8]])
    # Within: d = 1/2 (rows 0 and 1). Across: row 3, alone in its class, is at cos .8 of row 1, d = .1.
    assert float(F.dunn_index(rows, torch.tensor([0, 0, 1, 2]))) == pytest.approx(0.2)


def test_equal_prompts_are_tied(paired_set):
    image, text, _ = paired_set(24, dtype=torch.float32)
    labels = torch.arange(24) % 4
    prompts = text[[0, 1, 1, 2]]
    x, y = image.double().numpy(), prompts.double().numpy()
    expected, _, _ = naive_neighborhood(x, y, labels.tolist())
    assert float(F.neighborhood_distance(image, prompts, labels)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resampled_neighborhoods_against_repeated_rows(paired_set, monkeypatch, dtype):
    image, text, _ = paired_set(14, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(4), torch.randint(0, 4, (10,), generator=generator)])
    units = torch.arange(14) // 2
    counts = F.resample_counts(7, num_resamples=12)
    x, y = image.double().numpy(), text[:4].double().numpy()
    for block in (1, 5, 100):
        monkeypatch.setattr(neighborhood, "block_size", lambda *_, block=block, **__: block)
        found = F.resampled_neighborhood_distances(image, text[:4], labels, units, counts)
        for r in range(12):
            rows = [i for i in range(14) for _ in range(int(counts[r, units[i]]))]
            present = sorted({int(labels[i]) for i in rows})
            expected = math.nan
            if len(present) > 1:
                number = [present.index(int(labels[i])) for i in rows]
                expected, _, _ = naive_neighborhood(x[rows], y[present], number)
            assert float(found[r]) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert any(len({int(labels[i]) for i in range(14) if counts[r, units[i]]}) < 4 for r in range(12))
    whole = F.resampled_neighborhood_distances(image, text[:4], labels, units, torch.ones(1, 7, dtype=torch.uint8))
    assert float(whole) == pytest.approx(float(F.neighborhood_distance(image, text[:4], labels)), abs=1e-6)


def test_a_resample_of_one_class_has_no_neighborhood(paired_set):
    image, text, _ = paired_set(4)
    counts = torch.tensor([[4, 0, 0, 0], [2, 2, 0, 0]], dtype=torch.uint8)
    found = F.resampled_neighborhood_distances(image, text[:3], torch.tensor([0, 1, 2, 2]), torch.arange(4), counts)
    assert math.isnan(found[0])
    assert 0 <= float(found[1]) <= 1
