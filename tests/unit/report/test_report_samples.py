import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet
from i0t.report import samples
from i0t.report.samples import (
    choose_rows,
    matched_and_unmatched_cosines,
    paired_projection,
    sample_pairs,
    top_matches,
)


def unit(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def make_set(num_images: int, num_texts: int, relevant: list[tuple[int, int]] | None = None) -> EmbeddingSet:
    return EmbeddingSet.from_index(
        unit(num_images, 4),
        unit(num_texts, 4, 1),
        torch.arange(num_texts) % num_images,
        relevant_pairs=None if relevant is None else torch.tensor(relevant),
    )


def as_set(pairs: torch.Tensor) -> set[tuple[int, int]]:
    return {(first, second) for first, second in pairs.tolist()}


def test_unmatched_pairs_of_a_small_set_are_exactly_the_rest() -> None:
    embeddings = make_set(3, 6, relevant=[(0, 1), (2, 0)])
    right = {(text % 3, text) for text in range(6)} | {(0, 1), (2, 0)}
    sample = sample_pairs(embeddings, count=1000)
    assert as_set(sample.matched) == {(text % 3, text) for text in range(6)}
    assert as_set(sample.unmatched) == {(i, j) for i in range(3) for j in range(6)} - right
    assert as_set(sample.image_image) == {(0, 1), (0, 2), (1, 2)}
    assert len(sample.text_text) == 15


@pytest.mark.parametrize("limit", [0, 1_000_000])
def test_drawn_pairs_avoid_every_true_one_and_come_in_full_number(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(samples, "_ENUMERATION_LIMIT", limit)
    relevant = [(i, j) for i in range(100) for j in range(300) if (i + j) % 2 == 0]
    embeddings = make_set(100, 300, relevant)
    sample = sample_pairs(embeddings, count=500, seed=3)
    right = as_set(embeddings.pairs) | set(relevant)
    assert len(as_set(sample.unmatched)) == 500
    assert not as_set(sample.unmatched) & right
    assert as_set(sample.matched) <= as_set(embeddings.pairs)
    assert len(as_set(sample.matched)) == 300
    assert bool((sample.image_image[:, 0] != sample.image_image[:, 1]).all())
    assert len(sample.text_text) == 500
    assert int(sample.text_text.max()) < 300
    again = sample_pairs(embeddings, count=500, seed=3)
    assert torch.equal(again.unmatched, sample.unmatched)
    assert not torch.equal(sample_pairs(embeddings, count=500, seed=4).unmatched, sample.unmatched)


def test_a_set_in_which_everything_is_true_has_no_unmatched_pair() -> None:
    sample = sample_pairs(make_set(2, 2, relevant=[(0, 0), (0, 1), (1, 0), (1, 1)]), count=10)
    assert sample.unmatched.shape == (0, 2)


def test_cosines_match_plain_dot_products() -> None:
    embeddings = make_set(5, 10)
    image, text = embeddings.image_features, embeddings.text_features
    sample = sample_pairs(embeddings, count=7)
    cosines = matched_and_unmatched_cosines(sample, image, text)
    for name, first, second in (
        ("matched", image, text),
        ("unmatched", image, text),
        ("image_image", image, image),
        ("text_text", text, text),
    ):
        pairs = getattr(sample, name)
        expected = [float(np.dot(first[i].numpy(), second[j].numpy())) for i, j in pairs.tolist()]
        assert len(expected) == 7
        np.testing.assert_allclose(getattr(cosines, name).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("num_images", "num_texts", "dim"), [(40, 40, 8), (30, 90, 5), (2, 2, 2)])
def test_projection_agrees_with_scikit_learn(
    num_images: int, num_texts: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_CHUNK", 7)
    image, text = unit(num_images, dim) + 0.3, unit(num_texts, dim, 1) - 0.3
    image_rows = torch.tensor([1, 0])
    view = paired_projection(image, text, image_rows, torch.arange(num_texts))
    pca = PCA(2).fit(torch.cat([image, text]).double().numpy())
    signs = np.sign(pca.components_[[0, 1], np.abs(pca.components_).argmax(axis=1)])
    np.testing.assert_allclose(view.images.numpy(), signs * pca.transform(image[image_rows].double()), atol=1e-8)
    np.testing.assert_allclose(view.texts.numpy(), signs * pca.transform(text.double()), atol=1e-8)
    np.testing.assert_allclose(view.explained, pca.explained_variance_ratio_, atol=1e-10)


def test_projection_keeps_the_gap_visible() -> None:
    offset = torch.zeros(6)
    offset[2] = 5.0
    image, text = unit(50, 6) + offset, unit(50, 6, 1) - offset
    view = paired_projection(image, text, torch.arange(50), torch.arange(50))
    assert abs(float(view.images[:, 0].mean() - view.texts[:, 0].mean())) == pytest.approx(10, abs=0.3)
    assert view.explained[0] > 0.9


def test_projection_of_equal_rows_is_the_origin() -> None:
    same = torch.tensor([[0.6, 0.8]]).repeat(3, 1)
    view = paired_projection(same, same, torch.arange(3), torch.arange(3))
    assert float(view.images.abs().max()) < 1e-7
    assert all(0 <= share <= 1 for share in view.explained)


def test_top_matches_order_ties_and_equal_keys() -> None:
    gallery = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    query = torch.tensor([[1.0, 0.0]])
    assert [row for row, _ in top_matches(query, gallery, k=3)[0]] == [1, 2, 3]
    distinct = top_matches(query, gallery, k=3, same=["a", "b", "b", "c"])[0]
    assert distinct == [(1, 1.0), (3, pytest.approx(0.6)), (0, 0.0)]
    assert len(top_matches(query, gallery, k=9)[0]) == 4


def test_choose_rows_keeps_order_and_everything_when_few() -> None:
    rows = torch.arange(100, 150)
    chosen = choose_rows(rows, 10, torch.Generator().manual_seed(0))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == 10
    assert set(chosen.tolist()) <= set(rows.tolist())
    assert torch.equal(choose_rows(rows, 50, torch.Generator().manual_seed(0)), rows)
