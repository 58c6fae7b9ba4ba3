"""Evaluations see reduced features and prompts, and give no number where there is nothing to measure."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.evaluation.compare import evaluate_row, reduced
from i0t.evaluation.gap import Gap
from i0t.evaluation.object_bias import ObjectBias
from i0t.evaluation.retrieval import Retrieval
from i0t.evaluation.zeroshot import ZeroShot
from i0t.gap_reducers.base import NotFittedError
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc
from i0t.metrics import functional as metrics

EVALUATIONS = {
    "gap": Gap(separability_seed=0),
    "retrieval": Retrieval(k=(1, 5), num_resamples=50),
    "zeroshot": ZeroShot(num_resamples=50),
    "object_bias": ObjectBias(object_label=None),
}


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(40, 8, generator=generator) + 2
    text = image + 0.5 * torch.randn(40, 8, generator=generator) - 3
    table = PromptTable(
        features=torch.randn(2, 3, 8, generator=generator),
        mask=torch.tensor([[True, True, True], [True, True, False]]),
        class_names=("even", "odd"),
        aggregate="max",
        description="made up",
    )
    labels = {"parity": torch.arange(40) % 2, "half": (torch.arange(40) >= 20).long()}
    return EmbeddingSet.from_index(
        image,
        text,
        torch.arange(40),
        labels=labels,
        prompts={"parity": table},
        groups=torch.arange(40) // 2,
        provenance={"main_object": "parity"},
    )


def test_a_row_says_what_it_was_fitted_on_and_equals_the_plain_computation(embeddings):
    reducer = Posthoc(8, fit_split="test")
    reducer.fit(embeddings)
    row = evaluate_row("mine", reducer, embeddings, EVALUATIONS, split="test")
    assert (row.name, row.protocol, row.fit_split, row.fit_samples) == ("mine", "transductive", "test", 40)
    assert row.reducer == "i0t.gap_reducers.posthoc.Posthoc"

    def centred(x, rows):
        return F.normalize(F.normalize(x, dim=-1) - F.normalize(rows, dim=-1).mean(0), dim=-1)

    image, text = (centred(x, x) for x in (embeddings.image_features, embeddings.text_features))
    assert row.metrics["gap/centroid_distance"] == pytest.approx((image.mean(0) - text.mean(0)).norm().item(), abs=1e-6)
    hits = ((image @ text.T).argmax(1) == torch.arange(40)).float().mean().item()
    assert row.metrics["retrieval/i2t_r1"] == pytest.approx(hits)
    low, high = row.intervals["retrieval/i2t_r1"]
    assert low <= hits <= high
    table = embeddings.prompts["parity"]
    prompts = centred(table.features, embeddings.text_features)
    scores = (image @ prompts.flatten(0, 1).T).view(40, 2, 3).masked_fill(~table.mask, -9).amax(2)
    accuracy = (scores.argmax(1) == embeddings.labels["parity"]).float().mean().item()
    assert row.metrics["zeroshot/parity"] == pytest.approx(accuracy)
    moad = metrics.object_bias(image, embeddings.labels["parity"], embeddings.labels["half"][:, None])
    assert row.metrics["object_bias/image"] == pytest.approx(moad.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("measured", "protocol"), [("val", "transductive"), ("test", "inductive"), ("train", "inductive")]
)
def test_the_protocol_is_that_of_the_measured_split(embeddings, measured, protocol):
    reducer = Posthoc(8, fit_split="val")
    reducer.fit(embeddings)
    assert evaluate_row("mine", reducer, embeddings, {}, split=measured).protocol == protocol


def test_relevant_pairs_are_the_hits_where_they_are_given(embeddings):
    everything = torch.cartesian_prod(torch.arange(40), torch.arange(40))
    easy = dataclasses.replace(embeddings, relevant_pairs=everything)
    assert evaluate_row("x", NoReducer(8), easy, EVALUATIONS, split="test").metrics["retrieval/i2t_r1"] == 1.0
    assert evaluate_row("x", NoReducer(8), embeddings, EVALUATIONS, split="test").metrics["retrieval/i2t_r1"] < 1.0


def test_an_unpaired_set_without_labels_has_the_numbers_that_need_neither(embeddings):
    bare = EmbeddingSet(
        image_features=embeddings.image_features,
        text_features=embeddings.text_features[:30],
        pairs=torch.empty(0, 2, dtype=torch.int64),
    )
    row = evaluate_row("none", NoReducer(8), bare, EVALUATIONS, split="test")
    assert set(row.metrics) == {"gap/centroid_distance", "gap/image_uniformity", "gap/text_uniformity"}
    assert row.protocol == "none"
    assert row.fit_samples == 0


def test_a_text_of_several_images_leaves_out_what_needs_one_image_per_text(embeddings):
    shared = dataclasses.replace(embeddings, pairs=torch.tensor([[0, 0], [1, 0], [2, 1]]), prompts={})
    row = evaluate_row("x", NoReducer(8), shared, EVALUATIONS, split="test")
    assert "gap/centroid_distance" in row.metrics
    assert "retrieval/i2t_r1" in row.metrics
    assert "object_bias/image" in row.metrics
    assert "gap/rmg" not in row.metrics
    assert "object_bias/text" not in row.metrics


def test_an_unfitted_reducer_and_an_unknown_object_are_refused(embeddings):
    with pytest.raises(NotFittedError, match="not fitted"):
        reduced(embeddings, Posthoc(8, fit_split="train"))
    with pytest.raises(ValueError, match="object_label=shape is not a label of this set; it has parity, half"):
        ObjectBias(object_label="shape")(reduced(embeddings, NoReducer(8)))
