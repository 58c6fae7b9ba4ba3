"""The gap evaluation: shift and expectation of fitted reducers, intervals over groups, protocols in words."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.gap import Gap
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc

EVALUATIONS = {"gap": Gap(separability_seed=0, num_resamples=200)}


def draw(num_images, captions=2, dim=32, *, seed=0, moved=0.0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(num_images, dim, generator=generator)
    index = torch.arange(num_images).repeat_interleave(captions)
    text = 0.7 * image[index] + torch.randn(len(index), dim, generator=generator)
    direction = torch.zeros(dim)
    direction[0] = moved
    return EmbeddingSet.from_index(image + 0.5 + direction, text - 0.5, index)


def measured(fit_on, test_on, *, fit_split="train", **fields):
    reducer = Posthoc(32, fit_split=fit_split, **fields)
    reducer.fit(fit_on)
    return evaluate_row("mine", reducer, test_on, EVALUATIONS, split="test")


def test_shift_against_a_plain_computation():
    fit, test = draw(60, seed=1), draw(90, seed=2)
    row = measured(fit, test)
    ratios = {}
    for name, of_fit, of_test, count in (
        ("image", fit.image_features, test.image_features, 60),
        ("text", fit.text_features, test.text_features, 120),
    ):
        x = F.normalize(of_test, dim=1).double().numpy()
        mean = F.normalize(of_fit, dim=1).double().numpy().mean(0)
        units = np.arange(len(x)) // (len(x) // 90)
        parts = [sum(x[i] - x.mean(0) for i in range(len(x)) if units[i] == unit) for unit in range(90)]
        variance = sum(np.square(part).sum() for part in parts) / len(x) ** 2 * 90 / 89
        ratios[f"gap/{name}_shift"] = np.linalg.norm(mean - x.mean(0)) / np.sqrt(variance * (1 + len(x) / count))
    assert {name: row.metrics[name] for name in ratios} == pytest.approx(ratios, abs=1e-5)
    for name, ratio in ratios.items():
        low, high = row.intervals[name]
        assert low < ratio < high
    assert row.notes == ()


def test_a_shift_is_warned_of_with_its_size():
    row = measured(draw(80, seed=1, moved=1.5), draw(80, seed=2))
    (note,) = row.notes
    assert row.metrics["gap/image_shift"] > 1.5 > row.metrics["gap/text_shift"]
    assert f"their means are {row.metrics['gap/image_shift']:.1f} times as far apart as chance allows" in note
    assert note.startswith("the images it was fitted on differ")


def test_expectation_is_near_what_is_measured_and_shrinks_with_the_calibration_set():
    expected, found = [], []
    for seed in range(15):
        row = measured(draw(40, seed=100 + seed), draw(60, seed=200 + seed))
        expected.append(row.metrics["gap/centroid_distance_expected"])
        found.append(row.metrics["gap/centroid_distance"])
        ratio = row.metrics["gap/centroid_distance_unbiased_expected"] / expected[-1]
        assert ratio == pytest.approx(np.sqrt((1 / 40) / (1 / 40 + 1 / 60)))
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.06)
    few = measured(draw(40, seed=100), draw(60, seed=200), fit_samples=10)
    assert few.metrics["gap/centroid_distance_expected"] > 1.3 * expected[0]


def test_where_nothing_was_fitted_or_on_the_same_data_there_is_no_expectation():
    test = draw(30)
    for row in (
        evaluate_row("none", NoReducer(32), test, EVALUATIONS, split="test"),
        measured(test, test, fit_split="test"),
    ):
        assert not [name for name in row.metrics if "expected" in name or "shift" in name]
        assert row.metrics["gap/centroid_distance_unbiased"] ** 2 == pytest.approx(
            abs(row.metrics["gap/centroid_distance_unbiased_squared"])
        )
    # Means of the measured data themselves: the unbiased estimate is below zero, and its root keeps the sign.
    assert row.metrics["gap/centroid_distance_unbiased"] < 0


def test_the_unbiased_interval_covers_the_truth():
    rows = [evaluate_row("none", NoReducer(32), draw(40, seed=s), EVALUATIONS, split="test") for s in range(40)]
    large = evaluate_row("none", NoReducer(32), draw(20_000, captions=1), {}, split="test")
    truth = float((large.image_features.mean(0) - large.text_features.mean(0)).norm())
    inside = [low <= truth <= high for low, high in (r.intervals["gap/centroid_distance_unbiased"] for r in rows)]
    assert 0.8 <= np.mean(inside) <= 1
    below = [
        low <= r.metrics["gap/centroid_distance"] <= high
        for r in rows
        for low, high in [r.intervals["gap/centroid_distance"]]
    ]
    assert all(below)


def test_dependent_images_widen_the_intervals():
    single = draw(40, captions=1)
    rows = torch.arange(40).repeat_interleave(4)
    fields = {"text_image_index": torch.arange(160)}
    many = EmbeddingSet.from_index(single.image_features[rows], single.text_features[rows], **fields)
    grouped = EmbeddingSet.from_index(single.image_features[rows], single.text_features[rows], **fields, groups=rows)

    def width(embeddings, name):
        low, high = evaluate_row("x", NoReducer(32), embeddings, EVALUATIONS, split="test").intervals[name]
        return high - low

    for name in ("gap/centroid_distance", "gap/rmg", "gap/instance_distance", "gap/image_uniformity"):
        assert width(grouped, name) == pytest.approx(width(single, name), rel=0.35)
        assert width(many, name) < 0.7 * width(grouped, name)


def test_a_single_image_has_what_it_can_have_and_no_interval():
    row = evaluate_row("x", NoReducer(32), draw(1, captions=3), EVALUATIONS, split="test")
    assert set(row.metrics) == {
        "gap/centroid_distance",
        "gap/text_uniformity",
        "gap/instance_distance",
        "gap/alignment",
        "gap/matched_cosine",
        "gap/rmg_with_diagonal",
    }
    assert row.intervals == {}


def test_the_protocol_names_sizes_seed_and_units():
    assert evaluate_row("x", NoReducer(32), draw(12), EVALUATIONS, split="test").protocols == {
        "gap": "12 images, 24 texts; linear separability on held-out images with one text each, split by image with "
        "seed 0 (20 % held out for logistic regression, 30 % for least squares); 95 % bootstrap intervals over "
        "12 images"
    }
    with pytest.raises(ValueError, match="num_resamples must be at least 1, got 0"):
        evaluate_row("x", NoReducer(32), draw(5), {"gap": Gap(separability_seed=0, num_resamples=0)}, split="test")
