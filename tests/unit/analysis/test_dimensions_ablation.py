"""Ablation of dimensions: queries, sets without dimensions and curves, beside plain NumPy loops."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from i0t.analysis.dimensions_ablation import (
    LostRows,
    ablate,
    drop_dimensions,
    dropped_counts,
    mean_curves,
    random_orders,
)
from i0t.analysis.dimensions_queries import draw_queries, draw_rows, query_hits
from i0t.embeddings import EmbeddingSet, PromptTable


def captioned_set(num_images=12, captions=3, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(num_images).repeat_interleave(captions)
    index = index[torch.randperm(len(index), generator=generator)]
    image = torch.randn(num_images, dim, generator=generator)
    text = image[index] + torch.randn(len(index), dim, generator=generator)
    prompts = PromptTable(
        features=normalize(torch.randn(3, 2, dim, generator=generator), dim=-1),
        mask=torch.tensor([[True, True], [True, False], [True, True]]),
        class_names=("a", "b", "c"),
        aggregate="mean",
        description="made up",
    )
    return EmbeddingSet.from_index(
        normalize(image, dim=1),
        normalize(text, dim=1),
        index,
        labels={"kind": torch.arange(num_images) % 3},
        prompts={"kind": prompts},
    )


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def naive(embeddings, dropped):
    """Centroid distance, RMG, R@1 both ways and accuracy without the dropped columns."""
    x, y, table = (
        unit(np.delete(rows.double().numpy(), dropped, axis=-1))
        for rows in (embeddings.image_features, embeddings.text_features, embeddings.prompts["kind"].features)
    )
    pairs, labels = {tuple(pair) for pair in embeddings.pairs.tolist()}, embeddings.labels["kind"].tolist()
    cosines = x @ y.T
    inside = [np.mean([a @ b for i, a in enumerate(f) for j, b in enumerate(f) if i != j]) for f in (x, y)]
    matched = (1 - np.mean([cosines[pair] for pair in pairs])) / 2
    classes = [
        unit(np.mean([row for row, there in zip(rows, mask, strict=True) if there], axis=0))
        for rows, mask in zip(table, embeddings.prompts["kind"].mask.tolist(), strict=True)
    ]
    return {
        "centroid_distance": np.linalg.norm(x.mean(0) - y.mean(0)),
        "rmg": matched / (matched + np.mean([(1 - c) / 2 for c in inside])),
        "i2t_r1": np.mean([(i, int(cosines[i].argmax())) in pairs for i in range(len(x))]),
        "t2i_r1": np.mean([(int(cosines[:, j].argmax()), j) in pairs for j in range(len(y))]),
        "accuracy/kind": np.mean([int(np.argmax(classes @ row)) == k for row, k in zip(x, labels, strict=True)]),
    }


def test_every_number_of_a_curve_equals_a_plain_computation():
    embeddings = captioned_set()
    order = torch.tensor([3, 1, 7, 0, 2, 5, 4, 6])
    steps = (0, 1, 3, 6)
    curve = ablate(embeddings, order, steps, draw_queries(embeddings, 100, seed=0))
    assert list(curve.gap) == ["centroid_distance", "rmg"]
    assert list(curve.performance) == ["i2t_r1", "t2i_r1", "accuracy/kind"]
    found = {**curve.gap, **curve.performance}
    for place, number in enumerate(steps):
        for name, expected in naive(embeddings, order[:number].tolist()).items():
            assert found[name][place] == pytest.approx(expected, abs=2e-6), (name, number)
    assert len(set(found["t2i_r1"])) > 1
    assert curve.lost is None


def test_sampled_queries_are_answered_by_every_row():
    embeddings = captioned_set(num_images=40, dim=5)
    everyone = draw_queries(embeddings, 1000, seed=0)
    sampled = draw_queries(embeddings, 7, seed=3)
    assert [len(rows) for rows in (sampled.image_rows, sampled.text_rows, sampled.classified)] == [7, 7, 7]
    of_all, of_some = query_hits(embeddings, everyone), query_hits(embeddings, sampled)
    rows = {"i2t_r1": sampled.image_rows, "t2i_r1": sampled.text_rows, "accuracy/kind": sampled.classified}
    for name, chosen in rows.items():
        assert 0 < of_all[name].sum() < len(of_all[name])
        assert torch.equal(of_some[name], of_all[name][chosen])
    again = draw_queries(embeddings, 7, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(sampled, again, strict=True))


def test_only_paired_rows_ask_and_relevant_pairs_say_what_is_correct():
    image, text = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
    base = {"image_features": image, "text_features": text, "pairs": torch.tensor([[0, 0], [1, 1]])}
    made_for_each_other = EmbeddingSet(**base)
    queries = draw_queries(made_for_each_other, 10, seed=0)
    assert queries.image_rows.tolist() == queries.text_rows.tolist() == [0, 1]
    assert query_hits(made_for_each_other, queries)["i2t_r1"].tolist() == [0, 0]
    true_of = EmbeddingSet(**base, relevant_pairs=torch.tensor([[0, 1], [1, 1], [3, 3]]))
    queries = draw_queries(true_of, 10, seed=0)
    hits = query_hits(true_of, queries)
    assert queries.image_rows.tolist() == [0, 1, 3]
    assert hits["i2t_r1"].tolist() == [1, 0, 1]
    assert hits["t2i_r1"].tolist() == [1, 1]


def test_without_pairs_and_prompts_there_is_the_centroid_distance_alone():
    rows = normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    embeddings = EmbeddingSet(
        image_features=rows[:4], text_features=rows[4:], pairs=torch.empty(0, 2, dtype=torch.int64)
    )
    curve = ablate(embeddings, torch.arange(4), (0, 2), draw_queries(embeddings, 5, seed=0))
    assert list(curve.gap) == ["centroid_distance"]
    assert curve.performance == {}


def test_the_curve_ends_where_a_row_has_nothing_left_and_says_which_rows():
    embeddings = captioned_set()
    image, text = embeddings.image_features.clone(), embeddings.text_features.clone()
    image[4] = torch.eye(8)[3]
    text[[2, 5]] = torch.eye(8)[3]
    embeddings = EmbeddingSet.from_index(image, text, embeddings.text_image_index)
    order = torch.tensor([0, 3, 1, 2, 4, 5, 6, 7])
    curve = ablate(embeddings, order, (0, 1, 2, 3), draw_queries(embeddings, 100, seed=0))
    for values in (*curve.gap.values(), *curve.performance.values()):
        assert [value is None for value in values] == [False, False, True, True]
    assert curve.lost == LostRows(num_dropped=2, images=1, texts=2, prompts=0)
    assert str(curve.lost) == "1 images and 2 texts"


def test_a_prompt_with_nothing_left_ends_it_too_but_padding_does_not():
    embeddings = captioned_set()
    table = embeddings.prompts["kind"]
    table.features[1, 1] = 0  # no prompt stands there
    assert isinstance(drop_dimensions(embeddings, torch.tensor([3])), EmbeddingSet)
    table.features[0, 1] = torch.eye(8)[3]
    assert drop_dimensions(embeddings, torch.tensor([3])) == LostRows(num_dropped=1, images=0, texts=0, prompts=1)


def test_counts_are_fine_then_coarse_and_leave_one_dimension():
    assert dropped_counts(6, max_dims=20, num_coarse=8) == (0, 1, 2, 3, 4, 5)
    assert dropped_counts(512, max_dims=3, num_coarse=0) == (0, 1, 2, 3)
    assert dropped_counts(1, max_dims=3, num_coarse=2) == (0,)
    counts = dropped_counts(512, max_dims=20, num_coarse=8)
    assert counts == (*range(21), 30, 45, 67, 101, 152, 227, 341, 511)


def test_random_orders_are_seeded_permutations_and_their_curves_are_averaged():
    orders = random_orders(9, 3, seed=1)
    assert [sorted(order.tolist()) for order in orders] == [list(range(9))] * 3
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert all(torch.equal(a, b) for a, b in zip(orders, random_orders(9, 3, seed=1), strict=True))
    assert mean_curves([{"x": (1.0, 2.0, None)}, {"x": (3.0, None, None)}]) == {"x": (2.0, None, None)}
    assert mean_curves([]) == {}


def test_rows_are_drawn_without_repeats_in_order():
    rows = torch.tensor([2, 5, 8, 9, 11])
    assert draw_rows(rows, 5, seed=0).tolist() == rows.tolist()
    drawn = draw_rows(rows, 3, seed=0).tolist()
    assert drawn == sorted(set(drawn))
    assert set(drawn) < set(rows.tolist())
    assert len(drawn) == 3
