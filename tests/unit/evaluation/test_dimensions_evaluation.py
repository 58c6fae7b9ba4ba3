"""Few dimensions as an evaluation: known answers, sets without pairs, reducers, and real CLIP embeddings."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.dimensions import Dimensions
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc

OPTIONS = {
    "max_dims": 5,
    "num_coarse": 2,
    "num_random": 2,
    "num_queries": 1000,
    "num_points": 40,
    "seed": 0,
    "num_resamples": 200,
}


def planted_set(dim=32, rows=120, noise=0.3):
    """Images and texts with one content and a gap in exactly the dimensions 4 and 21, counting from 1."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(rows, dim, generator=generator)
    text = image + noise * torch.randn(rows, dim, generator=generator)
    for features in (image, text):
        features[:, [3, 20]] = 0
        features -= features.mean(0)
        features[:] = F.normalize(features, dim=1)
    image[:, 3], text[:, 20] = 1.0, -0.8
    return EmbeddingSet.from_index(2 * image, 3 * text, torch.arange(rows))


def measured(embeddings, reducer=None, **changes):
    reducer = NoReducer(embeddings.dim) if reducer is None else reducer
    reducer.fit(embeddings)
    evaluations = {"dimensions": Dimensions(**{**OPTIONS, **changes})}
    return evaluate_row("row", reducer, embeddings, evaluations, split="test")


@pytest.fixture(scope="module")
def planted_row():
    return measured(planted_set())


def test_a_gap_in_two_dimensions_is_found_there_and_dropping_them_closes_it(planted_row):
    numbers = {name.removeprefix("dimensions/"): value for name, value in planted_row.metrics.items()}
    assert numbers["dims_50"] == 1
    assert numbers["dims_90"] == 2
    assert planted_row.intervals["dimensions/dims_90"] == (2, 2)
    assert 3 < numbers["dims_50_chance"] < 6 < 13 < numbers["dims_90_chance"] < 17
    dimensions = planted_row.details["dimensions"].as_json()["dimensions"]
    assert {entry["index_from_1"] for entry in dimensions[:2]} == {4, 21}
    assert numbers["without_0/centroid_distance"] > 0.9
    assert numbers["without_2/centroid_distance"] < 0.06
    assert numbers["without_2/rmg"] < 0.1 < 0.4 < numbers["without_0/rmg"]
    assert {name.split("/")[0] for name in numbers if name.startswith("without")} == {
        "without_0",
        "without_1",
        "without_2",
        "without_5",
    }
    random = planted_row.details["dimensions_gap"].as_json()["random"]
    assert len(random) == 2
    assert random[0]["centroid_distance"][2] > 0.9


def test_numbers_after_dropping_equal_numpy_and_stand_in_the_details(planted_row):
    embeddings = planted_set()
    x, y = (F.normalize(f, dim=1).double().numpy() for f in (embeddings.image_features, embeddings.text_features))
    order = np.argsort(-np.abs(x.mean(0) - y.mean(0)), kind="stable")
    gap = planted_row.details["dimensions_gap"].as_json()["leading"]["centroid_distance"]
    performance = planted_row.details["dimensions_performance"].as_json()["leading"]
    for number in (0, 1, 2, 5):
        a, b = (np.delete(rows, order[:number], axis=1) for rows in (x, y))
        a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
        distance = np.linalg.norm(a.mean(0) - b.mean(0))
        recall = np.mean((a @ b.T).argmax(1) == np.arange(len(a)))
        metrics = planted_row.metrics
        assert metrics[f"dimensions/without_{number}/centroid_distance"] == pytest.approx(distance, abs=1e-6)
        assert metrics[f"dimensions/without_{number}/i2t_r1"] == pytest.approx(recall)
        assert gap[number] == pytest.approx(distance, abs=1e-6)
        assert performance["i2t_r1"][number] == pytest.approx(recall)
        low, high = planted_row.intervals[f"dimensions/without_{number}/i2t_r1"]
        assert low <= recall <= high


def test_protocols_say_how_dimensions_count_and_who_asks(planted_row):
    protocol = planted_row.protocols["dimensions"]
    assert "32 dimensions, which count from 1" in protocol
    assert "R@1 of 120 images among 120 texts and of 120 texts among 120 images" in protocol
    assert set(planted_row.protocols) == {
        "dimensions",
        *(f"dimensions_{name}" for name in ("share", "leading", "gap", "performance")),
    }
    assert set(planted_row.protocols) == set(planted_row.details)
    few = measured(planted_set(), num_queries=10, num_random=0)
    assert "R@1 of 10 images among 120 texts and of 10 texts among 120 images" in few.protocols["dimensions"]
    assert "random dimensions" not in few.protocols["dimensions_gap"]
    assert few.details["dimensions_gap"].as_json()["random"] == []


def test_a_set_without_pairs_has_the_gap_alone():
    embeddings = planted_set()
    apart = EmbeddingSet(
        image_features=embeddings.image_features,
        text_features=embeddings.text_features[:70],
        pairs=torch.empty(0, 2, dtype=torch.int64),
    )
    row = measured(apart)
    assert row.metrics["dimensions/dims_90"] == 2
    assert "dimensions/without_2/centroid_distance" in row.intervals
    assert not [name for name in row.metrics if "rmg" in name or "r1" in name]
    assert "dimensions_performance" not in row.details
    assert "R@1" not in row.protocols["dimensions"]


def test_class_prompts_give_accuracy_and_texts_that_images_share_are_not_resampled():
    embeddings = planted_set()
    labels = torch.arange(120) % 6
    centres = torch.stack([embeddings.image_features[labels == c].mean(0) for c in range(6)])
    centres[:, 3], centres[:, 20] = 0, -1
    prompts = PromptTable(
        features=centres[:, None],
        mask=torch.ones(6, 1, dtype=torch.bool),
        class_names=tuple("abcdef"),
        aggregate="mean",
        description="a class",
    )
    classes = EmbeddingSet(
        image_features=embeddings.image_features,
        text_features=centres,
        pairs=torch.stack([torch.arange(120), labels], dim=1),
        labels={"kind": labels},
        prompts={"kind": prompts},
    )
    row = measured(classes)
    x, p = (F.normalize(f, dim=1).numpy() for f in (classes.image_features, centres))
    accuracy = np.mean((x @ p.T).argmax(1) == labels.numpy())
    assert row.metrics["dimensions/without_0/accuracy/kind"] == pytest.approx(accuracy)
    assert row.metrics["dimensions/without_0/i2t_r1"] == pytest.approx(accuracy)
    assert "dimensions/without_0/accuracy/kind" in row.intervals
    assert "dimensions/without_0/t2i_r1" not in row.intervals
    assert "zero-shot accuracy of 120 images" in row.protocols["dimensions"]


def test_after_posthoc_on_the_same_rows_only_noise_is_left_and_the_row_says_so():
    row = measured(planted_set(), Posthoc(32, fit_split="test"))
    assert row.metrics["dimensions/dims_50"] > 2
    assert "dimensions/dims_50" not in row.intervals
    assert any("no farther apart than their sampling noise" in note for note in row.notes)
    assert row.metrics["dimensions/without_0/centroid_distance"] < 0.1


def test_equal_means_have_no_dimensions_and_say_so():
    rows = planted_set().image_features
    row = measured(EmbeddingSet.from_index(rows, rows, torch.arange(len(rows))))
    assert row.metrics == {}
    assert row.details == {}
    assert row.notes == ("images and texts have the same mean, so no dimension carries a gap",)


def test_rows_that_lie_in_the_leading_dimensions_end_the_ablation_with_a_sentence():
    embeddings = planted_set()
    image = embeddings.image_features.clone()
    image[:5] = torch.eye(32)[3]
    row = measured(EmbeddingSet.from_index(image, embeddings.text_features, torch.arange(len(image))))
    assert "dimensions/without_0/i2t_r1" in row.metrics
    assert "dimensions/without_2/i2t_r1" not in row.metrics
    assert any("5 images have nothing left and so no direction" in note for note in row.notes)
    assert not any(np.isnan(value) for value in row.metrics.values())


def test_a_set_of_one_dimension_has_neither_scatter_nor_ablation():
    one = EmbeddingSet.from_index(torch.ones(4, 1), -torch.ones(4, 1), torch.arange(4))
    row = measured(one)
    assert row.metrics["dimensions/dims_90"] == row.metrics["dimensions/dims_90_chance"] == 1
    assert "dimensions_leading" not in row.details
    assert row.details["dimensions_gap"].leading.num_dropped == (0,)


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("max_dims", 0, 1), ("num_queries", 0, 1), ("num_points", 0, 1), ("num_coarse", -1, 0), ("num_random", -1, 0)],
)
def test_numbers_out_of_range_are_refused(name, value, least):
    with pytest.raises(ValueError, match=f"evaluation.dimensions.{name} must be {least} or more, got {value}"):
        Dimensions(**{**OPTIONS, name: value})


@pytest.mark.data
def test_a_handful_of_dimensions_carries_the_gap_of_clip_vit_b_32(shared_data):
    file = np.load(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz")
    embeddings = EmbeddingSet.from_index(
        *(torch.from_numpy(file[name]) for name in ("image", "text", "text_image_index"))
    )
    row = measured(embeddings, num_coarse=0)
    numbers = {name.removeprefix("dimensions/"): value for name, value in row.metrics.items()}
    dimensions = row.details["dimensions"].as_json()["dimensions"]
    assert [entry["index_from_1"] for entry in dimensions[:3]] == [93, 134, 313]
    assert dimensions[2]["cumulative_share"] == pytest.approx(0.6444, abs=1e-3)
    assert (numbers["dims_50"], numbers["dims_90"]) == (2, 82)
    assert numbers["dims_50_chance"] == pytest.approx(64, abs=1.5)
    assert row.intervals["dimensions/dims_50"] == (2, 3)
    assert numbers["without_0/centroid_distance"] == pytest.approx(0.8430, abs=5e-5)
    assert numbers["without_0/rmg"] == pytest.approx(0.5890, abs=5e-5)
    assert numbers["without_0/i2t_r1"] == pytest.approx(0.930)
    assert numbers["without_0/t2i_r1"] == pytest.approx(0.832)
    assert numbers["without_5/centroid_distance"] == pytest.approx(0.5857, abs=1e-3)
    assert numbers["without_5/t2i_r1"] == pytest.approx(0.828, abs=5e-3)
    random = row.details["dimensions_gap"].as_json()["random"]
    assert all(curves["centroid_distance"][5] == pytest.approx(0.843, abs=0.02) for curves in random)
