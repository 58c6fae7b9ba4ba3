"""What the table of caption scores draws; its numbers are tested with the evaluation."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from i0t.analysis.caption_scores import CaptionScores, ScoredCaption, caption_score_table
from i0t.embeddings import EmbeddingSet


def scored(raw, ratings):
    return CaptionScores(
        tuple(
            ScoredCaption(number, "a.jpg", "a dog", max(value, 0), value, None, rating)
            for number, (value, rating) in enumerate(zip(raw, ratings, strict=True), start=1)
        ),
        weight=2.0,
        means="nothing fitted",
    )


def drawn(detail):
    axes = Figure().subplots()
    detail.draw(axes)
    return axes


def test_few_ratings_are_drawn_as_the_median_of_their_captions():
    raw, ratings = [0.1, 0.3, 0.9, -0.2, 0.5], [1.0, 1.0, 1.0, 2.0, None]
    axes = drawn(scored(raw, ratings))
    points = axes.containers[0].lines[0]
    assert points.get_xdata().tolist() == [1.0, 2.0]
    assert points.get_ydata().tolist() == [0.3, -0.2]
    assert axes.get_ylabel() == "2 x cosine"
    low, high = axes.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert [low, high] == pytest.approx(np.quantile([0.1, 0.3, 0.9], [0.05, 0.95]))


def test_many_ratings_are_drawn_one_by_one_and_none_as_a_histogram():
    raw = np.linspace(-1, 1, 30).tolist()
    axes = drawn(scored(raw, raw))
    assert axes.lines[0].get_ydata().tolist() == raw
    axes = drawn(scored(raw, [None] * 30))
    assert sum(patch.get_height() for patch in axes.patches) == 30
    assert axes.get_xlabel() == "2 x cosine"


def test_several_ratings_are_averaged_and_missing_ones_are_none():
    embeddings = EmbeddingSet.from_index(torch.eye(2), torch.eye(2), torch.arange(2))
    ratings = torch.tensor([[1.0, 4.0], [torch.nan, torch.nan]]).double()
    detail = caption_score_table(
        embeddings,
        torch.tensor([[0, 0], [1, 1]]),
        scores=torch.tensor([0.0, 0.5]),
        raw=torch.tensor([-0.25, 0.5]),
        reference_scores=torch.tensor([torch.nan, 0.25]),
        ratings=ratings,
        source=(3, 7),
        weight=1.0,
        means="means of 9 images",
    )
    means = "means of 9 images"
    assert detail.lines() == [(3, "0", "0", 0.0, -0.25, None, 2.5, means), (7, "1", "1", 0.5, 0.5, 0.25, None, means)]
    assert detail.as_json()["means"] == means
