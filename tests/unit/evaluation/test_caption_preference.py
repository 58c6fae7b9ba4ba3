"""Accuracy over pairs of captions, against loops."""

import dataclasses

import numpy as np
import pytest
import torch

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.caption_preference import CaptionPreference
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.resampling import redraws_of
from i0t.gap_reducers.none import NoReducer
from i0t.judgements import Judgements

NAMES = ("HC", "HI", "HM", "MM")
DIM, NUM_IMAGES, PER_IMAGE = 5, 12, 8


@pytest.fixture(scope="module")
def embeddings():
    """Four pairs for each image, one of every category; MM compares a caption with itself at every third image."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(NUM_IMAGES, DIM, generator=generator)
    owner = torch.arange(NUM_IMAGES).repeat_interleave(PER_IMAGE)
    text = image[owner] * torch.rand(len(owner), 1, generator=generator) + torch.randn(
        len(owner), DIM, generator=generator
    )
    candidates = torch.stack([owner, torch.arange(len(owner))], dim=1)
    pairs = torch.arange(len(owner)).view(-1, 2).clone()
    pairs[3::12, 1] = pairs[3::12, 0]
    references = torch.stack([torch.arange(len(owner)), (torch.arange(len(owner)) * 5 + 1) % len(owner)], dim=1)
    return EmbeddingSet(
        image_features=image,
        text_features=text,
        pairs=torch.empty(0, 2, dtype=torch.int64),
        judgements=Judgements.of(
            candidates,
            references=references,
            preferences=pairs,
            preference_category=torch.arange(len(pairs)) % 4,
            category_names=NAMES,
        ),
    )


def measured(embeddings):
    evaluation = CaptionPreference(weight=2.5, reduced_weight=1.0, num_resamples=25)
    return evaluate_row("x", NoReducer(DIM), embeddings, {"caption_preference": evaluation}, split="test")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def expected_hits(embeddings, form):
    image, text = unit(embeddings.image_features.double().numpy()), unit(embeddings.text_features.double().numpy())
    scores = []
    for number, (i, t) in enumerate(embeddings.judgements.candidates.tolist()):
        score = 2.5 * image[i] @ text[t]
        if "clipped" in form:
            score = max(score, 0.0)
        if "ref" in form:
            reference = max(0.0, text[int(embeddings.judgements.references[number, 1])] @ text[t])
            score = 2 * score * reference / (abs(score) + reference) if reference > 0 else 0.0
        scores.append(score)
    return np.array(
        [
            1.0 if scores[a] > scores[b] else 0.5 if scores[a] == scores[b] else 0.0
            for a, b in embeddings.judgements.preferences
        ]
    )


@pytest.mark.parametrize(
    ("form", "pattern"), [("", "{}"), ("clipped", "{}_clipped"), ("ref", "ref_{}"), ("ref clipped", "ref_{}_clipped")]
)
def test_accuracy_of_every_category_and_their_mean(embeddings, form, pattern):
    row = measured(embeddings)
    hits = expected_hits(embeddings, form)
    expected = {pattern.format(name): hits[c::4].mean() for c, name in enumerate(NAMES)}
    expected[pattern.format("mean")] = np.mean(list(expected.values()))
    found = {name: row.metrics[f"caption_preference/{name}"] for name in expected}
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0.5 in hits
    counts = redraws_of(embeddings, 25).image_counts.numpy()
    weights = counts[4][np.arange(48) // 4]
    means = [np.average(hits[c::4], weights=weights[c::4]) for c in range(4)]
    replicates = row.replicates[f"caption_preference/{pattern.format('mean')}"]
    assert float(replicates[4]) == pytest.approx(np.mean(means), abs=1e-6)


def test_unequal_categories_weigh_the_same_and_have_names(embeddings):
    judgements = embeddings.judgements
    kept = [0, 4, 8, 1]
    few = dataclasses.replace(
        judgements,
        preferences=judgements.preferences[kept],
        preference_category=judgements.preference_category[kept],
        category_names=(),
    )
    row = measured(dataclasses.replace(embeddings, judgements=few))
    hits = expected_hits(embeddings, "")
    assert row.metrics["caption_preference/category_0"] == pytest.approx(hits[[0, 4, 8]].mean())
    assert row.metrics["caption_preference/mean"] == pytest.approx((hits[[0, 4, 8]].mean() + hits[1]) / 2)


def test_the_sentence_and_sets_without_preferences(embeddings):
    sentence = measured(embeddings).protocols["caption_preference"]
    assert sentence.startswith("share of 48 pairs whose preferred caption scores higher, equal scores one half")
    assert "2.5 x cosine" in sentence
    none = dataclasses.replace(embeddings, judgements=Judgements.of(embeddings.judgements.candidates))
    assert measured(none).metrics == {}
    assert measured(dataclasses.replace(embeddings, judgements=None)).protocols == {}


def test_weights_must_be_positive():
    with pytest.raises(ValueError, match=r"weight must be positive, got 0"):
        CaptionPreference(weight=0, reduced_weight=1.0, num_resamples=2)
