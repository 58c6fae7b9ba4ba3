import base64
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet
from i0t.report.figure_groups import EmbeddingState
from i0t.report.interactive_points import ChosenPoints, choose_points, pack, points_data, sphere_view


def unpack(text, width):
    return np.frombuffer(base64.b64decode(text), "<i2").reshape(-1, width) / 32767


def make_set(num_images=12, captions_each=3, dim=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    texts = num_images * captions_each
    return EmbeddingSet.from_index(
        torch.randn(num_images, dim, generator=generator) + 1,
        torch.randn(texts, dim, generator=generator) - 1,
        torch.arange(texts) // captions_each,
        captions=tuple(f"caption {row}" for row in range(texts)),
        image_ids=tuple(f"photo{row}.jpg" for row in range(num_images)),
    )


def state_of(embeddings, name="none"):
    return EmbeddingState(
        name, F.normalize(embeddings.image_features, dim=1), F.normalize(embeddings.text_features, dim=1)
    )


def test_every_image_comes_once_with_its_first_text():
    embeddings = make_set()
    points = choose_points(embeddings, 100)
    assert points.paired
    assert points.image_rows.tolist() == list(range(12))
    assert points.text_rows.tolist() == [3 * row for row in range(12)]
    fewer = choose_points(embeddings, 5)
    assert len(set(fewer.image_rows.tolist())) == 5
    assert fewer.text_rows.tolist() == [3 * row for row in fewer.image_rows.tolist()]
    assert fewer.image_rows.tolist() != choose_points(embeddings, 5, seed=1).image_rows.tolist()


def test_images_without_a_text_are_left_out_of_pairs():
    embeddings = dataclasses.replace(make_set(4, 1), pairs=torch.tensor([[3, 2], [1, 1], [3, 0]]))
    points = choose_points(embeddings, 100)
    assert (points.image_rows.tolist(), points.text_rows.tolist()) == ([1, 3], [1, 0])


def test_sets_without_pairs_give_points_of_both_sizes():
    embeddings = dataclasses.replace(make_set(4, 3), pairs=torch.empty(0, 2, dtype=torch.int64))
    points = choose_points(embeddings, 5)
    assert not points.paired
    assert points.image_rows.tolist() == [0, 1, 2, 3]
    assert len(set(points.text_rows.tolist())) == 5


@pytest.mark.parametrize("dim", [3, 7, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sphere_is_that_of_the_leading_singular_vectors(dim, dtype):
    embeddings = make_set(dim=dim)
    state = state_of(embeddings)
    images, texts = state.image_features.to(dtype), state.text_features.to(dtype)
    points = choose_points(embeddings, 6)
    view = sphere_view(images, texts, points)
    everything = np.concatenate([images.double().numpy(), texts.double().numpy()])
    _, singular, axes = np.linalg.svd(everything, full_matrices=False)
    assert view.held == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum(), rel=1e-5)
    for found, rows in ((view.images, images[points.image_rows]), (view.texts, texts[points.text_rows])):
        for point, row in zip(found.tolist(), rows.double().numpy(), strict=True):
            first, second, third = (float(row @ axis) for axis in axes[:3])
            length = np.sqrt(first**2 + second**2 + third**2)
            # The direction that holds most stands third; the sign of an axis is free.
            expected = [abs(second) / length, abs(third) / length, abs(first) / length]
            assert [abs(value) for value in point] == pytest.approx(expected, abs=1e-5)
            assert sum(value**2 for value in point) == pytest.approx(1)


def test_two_far_modalities_are_two_caps_on_the_sphere():
    noise = 0.05 * torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    base = torch.zeros(2, 16)
    base[0, 0], base[1, 0], base[0, 1], base[1, 1] = 1, 1, 1, -1  # 90 degrees apart
    images, texts = F.normalize(base[0] + noise[:20], dim=1), F.normalize(base[1] + noise[20:], dim=1)
    view = sphere_view(images, texts, ChosenPoints(torch.arange(20), torch.arange(20), True))
    cosines = view.images @ view.texts.T
    assert float(cosines.abs().max()) < 0.35
    assert float((view.images @ view.images.T).min()) > 0.85
    assert view.held > 0.95
    assert float(torch.cat([view.images, view.texts])[:, 2].min()) > 0.5  # both on the reader's side
    behind = sphere_view(-images, -texts, ChosenPoints(torch.arange(20), torch.arange(20), True))
    assert float(torch.cat([behind.images, behind.texts])[:, 2].min()) > 0.5


@pytest.mark.parametrize("dim", [1, 2])
def test_fewer_than_three_dimensions_still_make_a_sphere(dim):
    embeddings = make_set(dim=dim)
    state = state_of(embeddings)
    view = sphere_view(state.image_features, state.text_features, choose_points(embeddings, 6))
    assert view.images.shape == (6, 3)
    torch.testing.assert_close(view.images.norm(dim=1), torch.ones(6, dtype=torch.float64))
    assert view.held == pytest.approx(1)


def test_an_embedding_outside_of_the_three_directions_is_at_the_centre():
    images = torch.eye(5)[[0, 0, 1, 1, 2, 2, 4]]
    view = sphere_view(images, images, ChosenPoints(torch.tensor([0, 6]), torch.tensor([4]), True))
    assert view.images[1].tolist() == [0, 0, 0]
    assert view.images[0].norm() == pytest.approx(1)


def test_packed_numbers_come_back():
    values = torch.tensor([[-1.0, 0.5, 1.0], [0.0, 0.123456, -0.999]], dtype=torch.float64)
    np.testing.assert_allclose(unpack(pack(values), 3), values.numpy(), atol=0.5 / 32767)


def test_the_page_gets_names_captions_cosines_and_one_scale():
    embeddings = make_set()
    near = dataclasses.replace(state_of(embeddings), name="near")
    far = EmbeddingState("far", -near.image_features, near.text_features)
    points = choose_points(embeddings, 4)
    data = points_data(embeddings, [near, far], points)
    assert data["images"] == [f"photo{row}.jpg" for row in points.image_rows.tolist()]
    assert data["texts"] == [f"caption {row}" for row in points.text_rows.tolist()]
    assert [state["name"] for state in data["states"]] == ["near", "far"]
    for state, given in zip(data["states"], (near, far), strict=True):
        expected = [
            float(given.image_features[image] @ given.text_features[text])
            for image, text in zip(points.image_rows.tolist(), points.text_rows.tolist(), strict=True)
        ]
        np.testing.assert_allclose(unpack(state["cosines"], 1)[:, 0], expected, atol=1e-4)
        planes = [unpack(text, 2) for text in state["plane"]]
        assert [len(plane) for plane in planes] == [4, 4]
        assert np.abs(np.concatenate(planes)).max() <= 1 / 1.08 + 1e-4
        mean = torch.cat([given.image_features, given.text_features]).double().mean(0).numpy()
        centred = given.image_features[points.image_rows].double().numpy() - mean
        # Principal components keep lengths at most: with 2 of 7 dimensions every point is nearer to the centre.
        assert (np.linalg.norm(planes[0], axis=1) * data["limit"] <= np.linalg.norm(centred, axis=1) + 1e-3).all()


def test_without_captions_identifiers_and_pairs_points_are_named_by_row():
    bare = dataclasses.replace(
        make_set(3, 1), captions=None, image_ids=None, pairs=torch.empty(0, 2, dtype=torch.int64)
    )
    data = points_data(bare, [state_of(bare)], choose_points(bare, 9))
    assert data["images"] == ["image 0", "image 1", "image 2"]
    assert data["texts"] == ["text 0", "text 1", "text 2"]
    assert data["states"][0]["cosines"] is None
