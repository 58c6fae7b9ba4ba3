"""A score per caption of a file, against plain arithmetic."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.caption_score import CaptionScore
from i0t.evaluation.compare import evaluate_row
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc
from i0t.judgements import Judgements

EVALUATION = CaptionScore(weight=2.5, reduced_weight=1.0, num_cosines=100, num_resamples=20)
ANGLES = {"image": [0.0, 90.0, 0.0], "text": [60.0, 180.0, 90.0, 30.0]}


def on_circle(angles):
    radians = torch.deg2rad(torch.tensor(angles))
    return torch.stack([radians.cos(), radians.sin()], dim=1)


@pytest.fixture
def embeddings():
    """Cosines .5, -1, 1 and (the first candidate again) .5; references at 30 and 180 degrees of the first two."""
    return EmbeddingSet(
        image_features=on_circle(ANGLES["image"]),
        text_features=5 * on_circle(ANGLES["text"]),
        pairs=torch.tensor([[0, 3]]),
        image_ids=("a.jpg", "b.jpg", "c.jpg"),
        captions=("this: a dog", "this: no dog", "this: a cat", "this: the dog"),
        provenance={"prompt_prefix": "this: "},
        judgements=Judgements.of(
            torch.tensor([[0, 0], [2, 1], [1, 2], [0, 0]]),
            references=torch.tensor([[0, 3], [1, 3], [0, 1]]),
            ratings=torch.tensor([[4.0, 3.0], [1.0, torch.nan], [torch.nan, torch.nan], [2.0, 2.0]]).double(),
            source=(1, 2, 4, 5),
        ),
    )


def measured(embeddings, reducer=None):
    reducer = reducer or NoReducer(2)
    return evaluate_row("x", reducer, embeddings, {"caption_score": EVALUATION}, split="test")


def test_every_caption_has_its_line(embeddings):
    detail = measured(embeddings).details["caption_scores"]
    near = 3**0.5 / 2  # the reference at 30 degrees
    both = 2 * 1.25 * near / (1.25 + near)
    expected = [
        (1, "a.jpg", "a dog", 1.25, 1.25, both, 3.5),
        (2, "c.jpg", "no dog", 0.0, -2.5, 0.0, 1.0),
        (4, "b.jpg", "a cat", 2.5, 2.5, None, None),
        (5, "a.jpg", "a dog", 1.25, 1.25, None, 2.0),
    ]
    for line, right in zip(detail.lines(), expected, strict=True):
        assert line[:3] == right[:3]
        assert line[3:-1] == pytest.approx(right[3:], abs=1e-6)
        assert line[-1] == "nothing fitted"
    assert detail.header() == ("line", "image", "caption", "score", "raw", "reference_score", "rating", "means")
    written = detail.as_json()
    assert written["weight"] == 2.5
    assert written["captions"][1]["raw"] == pytest.approx(-2.5)


def test_means_and_taus(embeddings):
    row = measured(embeddings)
    near = 3**0.5 / 2
    both = 2 * 1.25 * near / (1.25 + near)
    expected = {
        "mean": (1.25 - 2.5 + 2.5 + 1.25) / 4,
        "mean_clipped": (1.25 + 2.5 + 1.25) / 4,
        "ref_mean_clipped": both / 2,
        "tau_b": kendalltau([1.25, 1.25, -2.5, 1.25, 1.25], [4, 3, 1, 2, 2], variant="b").statistic,
        "tau_c_clipped": kendalltau([1, 1, 0, 1, 1], [4, 3, 1, 2, 2], variant="c").statistic,
        "ref_tau_c": kendalltau([1, 1, -1], [4, 3, 1], variant="c").statistic,
    }
    found = {name: row.metrics[f"caption_score/{name}"] for name in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    assert "caption_score/mean" in row.intervals
    assert "4 captions of 3 images" in row.protocols["caption_score"]
    assert "nearest of 1 to 2 references, for 2 captions" in row.protocols["caption_score"]


def test_a_reduced_row_has_its_own_weight(embeddings):
    reducer = Posthoc(2, fit_split="test")
    reducer.fit(embeddings)
    detail = measured(embeddings, reducer).details["caption_scores"]
    text = on_circle(ANGLES["text"]).numpy()
    image = on_circle(ANGLES["image"]).numpy()

    def centred(rows):
        rows = rows - rows.mean(0)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    cosines = (centred(image)[[0, 2, 1, 0]] * centred(text)[[0, 1, 2, 0]]).sum(1)
    assert detail.weight == 1.0
    assert [one.raw for one in detail.captions] == pytest.approx(cosines, abs=1e-6)


def test_without_ratings_references_names_and_lines(embeddings):
    bare = dataclasses.replace(
        embeddings,
        image_ids=None,
        captions=None,
        judgements=Judgements.of(embeddings.judgements.candidates),
    )
    row = measured(bare)
    assert {name.partition("/")[2] for name in row.metrics} == {"mean", "mean_clipped"}
    detail = row.details["caption_scores"]
    assert [one.line for one in detail.captions] == [1, 2, 3, 4]
    assert detail.captions[1].image == "2"
    assert detail.captions[1].caption == "1"
    assert all(one.reference_score is None and one.rating is None for one in detail.captions)
    assert set(row.details) == {"caption_scores", "cosine_ranges"}


def test_nothing_to_score_and_wrong_weights(embeddings):
    row = measured(dataclasses.replace(embeddings, judgements=None))
    assert (row.metrics, row.details) == ({}, {})
    with pytest.raises(ValueError, match="weight must be positive"):
        CaptionScore(weight=-2.5, reduced_weight=1.0, num_cosines=1, num_resamples=1)
