import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from i0t.metrics import functional as F
from i0t.metrics.functional import retrieval


def naive_ranks(scores, positives):
    """Rank of every row query: 1 + negatives at or above its best positive; 0 without one; and whether it is tied."""
    ranks, tied = [], []
    for row, mine in zip(scores, positives, strict=True):
        best = max((row[j] for j in mine), default=None)
        others = [row[j] for j in range(len(row)) if j not in mine]
        ranks.append(0 if best is None else 1 + sum(s >= best - 1e-6 for s in others))
        tied.append(best is not None and any(abs(s - best) <= 1e-6 for s in others))
    return ranks, tied


def naive_recall(image, text, pairs, cuts):
    scores = image.double().numpy() @ text.double().numpy().T
    of_image = [{t for i, t in pairs if i == row} for row in range(len(image))]
    of_text = [{i for i, t in pairs if t == row} for row in range(len(text))]
    result, all_ranks = {}, []
    for name, matrix, positives in (("i2t", scores, of_image), ("t2i", scores.T, of_text)):
        ranks, tied = naive_ranks(matrix, positives)
        paired = [r for r in ranks if r > 0]
        result |= {f"{name}_r{k}": sum(r <= k for r in paired) / len(paired) for k in cuts}
        result |= {f"{name}_medr": np.median(paired), f"{name}_tied": sum(tied), f"{name}_unpaired": ranks.count(0)}
        all_ranks.append(ranks)
    return result, all_ranks


def compare(image, text, correct, cuts=(1, 5, 10), **arguments):
    expected, expected_ranks = naive_recall(image, text, correct, cuts)
    result = F.retrieval_recall(image, text, k=cuts, **arguments)
    assert {name: float(value) for name, value in result.items()} == pytest.approx(expected)
    assert all(value.shape == () for value in result.values())
    assert result["i2t_tied"].dtype == result["t2i_unpaired"].dtype == torch.int64
    assert [found.ranks.tolist() for found in F.retrieval_ranks(image, text, **arguments)] == expected_ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("captions", [1, 5])
def test_against_loops(paired_set, dtype, captions):
    image, text, index = paired_set(30, captions, noise=1.5, dtype=dtype)
    compare(image, text, list(zip(index.tolist(), range(len(text)), strict=True)), text_image_index=index)


@pytest.fixture(params=[(1, 1), (4, 3), (7, 7), (1000, 128)], ids=str)
def tiles(request, monkeypatch):
    """Tiles and strips that cut a small set in many places, unevenly."""
    tile, strip = request.param
    monkeypatch.setattr(retrieval, "CPU_TILE", tile)
    monkeypatch.setattr(retrieval, "CPU_STRIP", strip)
    return tile


@pytest.mark.usefixtures("tiles")
def test_many_to_many_pairs_with_unpaired_queries_and_duplicates(paired_set):
    image, text, _ = paired_set(23, 2, noise=1.5)
    pairs = torch.randint(3, 21, (60, 2), generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2])
    pairs = torch.cat([pairs, pairs[:10]])
    compare(image, text, [tuple(pair) for pair in pairs.tolist()], cuts=(1, 3), pairs=pairs)


@pytest.mark.usefixtures("tiles")
def test_duplicated_rows_count_as_ties_against_the_query(paired_set):
    image, text, index = paired_set(10, 2, noise=1.0)
    image, text = torch.cat([image, image[:4]]), torch.cat([text, text[:6]])
    index = torch.cat([index, torch.tensor([10, 11, 12, 13, 10, 11])])
    compare(image, text, list(zip(index.tolist(), range(26), strict=True)), text_image_index=index)
    assert int(F.retrieval_recall(image, text, index)["t2i_tied"]) > 0


def test_scores_come_in_tiles_with_the_pairs_struck_out(paired_set, tiles):
    image, text, index = paired_set(9, 2)
    sorted_pairs = retrieval._sort_pairs(image, text, index, None)
    scores = torch.full((9, 18), torch.nan)
    for rows, columns, tile in retrieval._wrong_scores(image, text, sorted_pairs, tiles):
        assert tile.numel() <= tiles**2
        assert scores[rows, columns].isnan().all()  # every score once
        scores[rows, columns] = tile
    expected = np.einsum("nd,md->nm", image.numpy(), text.numpy())
    expected[index, np.arange(18)] = -np.inf
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_thousands_of_rows_against_numpy(paired_set):
    """More rows than a tile of the default size holds, both ways."""
    image, text, index = paired_set(1100, 2, dim=32, noise=1.5)
    assert len(image) > retrieval.CPU_TILE
    scores = image.double().numpy() @ text.double().numpy().T
    paired = np.arange(1100)[:, None] == index.numpy()
    wrong = np.where(paired, -np.inf, scores)
    best = np.where(paired, scores, -np.inf)
    for axis, found in zip((1, 0), F.retrieval_ranks(image, text, index), strict=True):
        gap = wrong - best.max(axis, keepdims=True)
        near = ((gap > -3e-6) & (gap < 3e-6)).any(axis)  # where float32 may see a tie
        expected = 1 + (gap > 0).sum(axis)
        assert near.mean() < 0.05
        assert found.ranks.numpy()[~near].tolist() == expected[~near].tolist()
        assert not found.tied.numpy()[~near].any()


@pytest.mark.parametrize(("rows", "dim"), [(5, 3), (129, 64), (513, 512), (300, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_collapsed_embeddings_retrieve_nothing(rows, dim, dtype):
    generator = torch.Generator().manual_seed(dim)
    row = normalize(torch.randn(1, dim, generator=generator), dim=1).to(dtype)
    result = F.retrieval_recall(row.repeat(rows, 1), row.repeat(rows, 1), k=(1, rows - 1, rows))
    assert float(result["i2t_r1"]) == float(result["t2i_r1"]) == float(result[f"i2t_r{rows - 1}"]) == 0
    assert float(result[f"i2t_r{rows}"]) == float(result[f"t2i_r{rows}"]) == 1
    assert float(result["i2t_medr"]) == rows
    assert int(result["i2t_tied"]) == int(result["t2i_tied"]) == rows


def test_other_positives_never_count_against_a_query():
    # Text 0 scores higher than text 1; both are the image's, so neither rank is above 1.
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    ranks = F.retrieval_ranks(image, text, torch.tensor([0, 0, 1]))
    assert ranks[0].ranks.tolist() == [1, 1]
    assert ranks[1].ranks.tolist() == [1, 2, 1]


def test_known_answers():
    perfect = F.retrieval_recall(torch.eye(4), torch.eye(4))
    assert [float(perfect[f"{d}_{m}"]) for d in ("i2t", "t2i") for m in ("r1", "medr", "tied")] == [1, 1, 0, 1, 1, 0]
    angles = torch.arange(4) * 0.1
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    shifted = F.retrieval_recall(rows, rows.roll(1, 0))  # image i belongs with the angle of i - 1
    # Images 1 and 2 meet their own angle first and then a tie between the pair and the next angle.
    assert F.retrieval_ranks(rows, rows.roll(1, 0))[0].ranks.tolist() == [4, 3, 3, 2]
    assert float(shifted["i2t_medr"]) == 3
    assert int(shifted["i2t_tied"]) == 2
    even = F.retrieval_recall(rows[:2], rows[[0, 0]] * torch.tensor([[1.0], [-1.0]]))
    assert float(even["i2t_medr"]) == 1.5  # the mean of ranks 1 and 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairs": torch.empty(0, 2, dtype=torch.int64)}, "non-empty"),
        ({"pairs": torch.tensor([0, 1])}, "non-empty"),
        ({"pairs": torch.tensor([[0, 3]])}, r"pairs\[:, 1\]\[0\] is 3, outside the rows 0 … 2"),
        ({"pairs": torch.tensor([[-1, 0]])}, r"pairs\[:, 0\]\[0\] is -1"),
        ({"pairs": torch.tensor([[0, 0]]), "text_image_index": torch.arange(3)}, "not both"),
        ({"k": (0,)}, "positive integers"),
        ({"k": ()}, "positive integers"),
        ({"k": (1.5,)}, "positive integers"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        F.retrieval_recall(torch.eye(3), torch.eye(3), **arguments)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), num_images=st.integers(2, 9), captions=st.integers(1, 3))
def test_properties(paired_set, seed, num_images, captions):
    image, text, index = paired_set(num_images, captions, noise=2.0, seed=seed, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    ranks = F.retrieval_ranks(image, text, index)
    torch.testing.assert_close(F.retrieval_ranks(image @ rotation, text @ rotation, index), ranks)
    pairs = torch.stack([torch.arange(len(text)), index], 1)
    torch.testing.assert_close(F.retrieval_ranks(text, image, pairs=pairs), ranks[::-1])  # swapped modalities
    result = F.retrieval_recall(image, text, index)
    for direction in ("i2t", "t2i"):
        recalls = [float(result[f"{direction}_r{k}"]) for k in (1, 5, 10)]
        assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 1
        assert math.isfinite(float(result[f"{direction}_medr"]))


@pytest.mark.slow
def test_millions_of_pairs_take_seconds():
    rows = 8616
    generator = torch.Generator().manual_seed(0)
    pairs = (torch.rand(rows, rows, generator=generator) < 0.1).nonzero()
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    features = normalize(torch.randn(2, rows, 64, generator=generator), dim=2)
    start = time.perf_counter()
    result = F.retrieval_recall(features[0], features[1], pairs=pairs)
    assert time.perf_counter() - start < 30
    # With a tenth of all items correct and no signal, the first one is correct a tenth of the time.
    assert float(result["i2t_r1"]) == pytest.approx(0.1, abs=0.02)
