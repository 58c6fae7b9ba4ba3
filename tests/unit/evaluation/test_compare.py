"""Evaluations see reduced features and prompts, and give no number where there is nothing to measure."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.evaluation.compare import compare_rows, evaluate_row, plain_settings, protocols_of, reduced
from i0t.evaluation.gap import Gap
from i0t.evaluation.object_bias import ObjectBias
from i0t.evaluation.results import RowResult, Scores, reference_splits
from i0t.evaluation.retrieval import Retrieval
from i0t.evaluation.zeroshot import ZeroShot
from i0t.gap_reducers.async_bn import AsyncBatchNorm
from i0t.gap_reducers.base import NotFittedError
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc
from i0t.judgements import Judgements
from i0t.losses.clip import ClipLoss
from i0t.metrics import functional as metrics

EVALUATIONS = {
    "gap": Gap(separability_seed=0, num_resamples=50),
    "retrieval": Retrieval(k=(1, 5), num_neighbors=3, num_within_queries=30, num_resamples=50),
    "zeroshot": ZeroShot(num_resamples=50),
    "object_bias": ObjectBias(object_label=None, num_resamples=50),
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
    assert set(row.metrics) == {
        "gap/centroid_distance",
        "gap/image_uniformity",
        "gap/text_uniformity",
        "retrieval/image_neighbors_kept",
        "retrieval/text_neighbors_kept",
    }
    assert set(row.intervals) == set(row.metrics)
    assert row.protocol == "none"
    assert row.fit_samples == 0
    assert row.protocols["gap"].startswith("40 images, 30 texts, unpaired")


def test_prompts_shared_by_images_have_the_paired_numbers(embeddings):
    image, text = embeddings.image_features, embeddings.text_features
    classes = torch.arange(40) % 4
    shared = EmbeddingSet(
        image_features=image, text_features=text[:4], pairs=torch.stack([torch.arange(40), classes], 1)
    )
    row = evaluate_row("x", NoReducer(8), shared, EVALUATIONS, split="test")
    x, y = F.normalize(image, dim=1).double().numpy(), F.normalize(text[:4], dim=1).double().numpy()
    matched = [x[i] @ y[i % 4] for i in range(40)]
    images = [x[i] @ x[j] for i in range(40) for j in range(40) if i != j]
    texts = [y[k] @ y[m] for k in range(4) for m in range(4) if k != m]
    across = [x[i] @ y[k] for i in range(40) for k in range(4) if i % 4 != k]
    p, d = (1 - np.mean(matched)) / 2, (2 - np.mean(images) - np.mean(texts)) / 4
    assert row.metrics["gap/rmg"] == pytest.approx(p / (p + d), abs=1e-6)
    distances = [np.linalg.norm(x[i] - y[i % 4]) for i in range(40)]
    assert row.metrics["gap/instance_distance"] == pytest.approx(np.mean(distances), abs=1e-6)
    unbiased = np.mean(images) + np.mean(texts) - 2 * np.mean(across)
    assert row.metrics["gap/centroid_distance_unbiased_squared"] == pytest.approx(unbiased, abs=1e-6)
    assert 0 <= row.metrics["gap/linear_separability"] <= 1
    # The texts are the same in every resample: what is of texts alone has no interval.
    assert "gap/text_uniformity" not in row.intervals
    assert {"gap/rmg", "retrieval/i2t_r1", "retrieval/t2i_r1"} <= set(row.intervals)


def test_an_unfitted_reducer_and_an_unknown_object_are_refused(embeddings):
    with pytest.raises(NotFittedError, match="not fitted"):
        reduced(embeddings, Posthoc(8, fit_split="train"))
    with pytest.raises(ValueError, match="object_label=shape is not a label of this set; it has parity, half"):
        evaluate_row(
            "x",
            NoReducer(8),
            embeddings,
            {"object_bias": ObjectBias(object_label="shape", num_resamples=5)},
            split="test",
        )


def test_another_data_set_makes_even_the_test_split_inductive(embeddings):
    reducer = Posthoc(8, fit_split="test")
    reducer.fit(embeddings)
    row = evaluate_row("mine", reducer, embeddings, {}, split="test", fit_data="coco")
    assert (row.protocol, row.fit_data) == ("inductive", "coco")
    plain = evaluate_row("none", NoReducer(8), embeddings, {}, split="test", fit_data="coco")
    assert (plain.protocol, plain.fit_data) == ("none", None)


def test_differences_are_paired_with_the_row_that_fits_nothing(embeddings):
    fitted = Posthoc(8, fit_split="test")
    fitted.fit(embeddings)
    rows = [
        evaluate_row(name, reducer, embeddings, EVALUATIONS, split="test")
        for name, reducer in (("first", fitted), ("plain", NoReducer(8)), ("again", fitted))
    ]
    differences = compare_rows(rows)
    assert {(d.row, d.baseline) for d in differences} == {("first", "plain"), ("again", "plain")}
    assert {d.metric for d in differences} == set(rows[0].replicates) & set(rows[1].replicates)
    for difference in differences:
        row, plain = rows[0], rows[1]
        drawn = (row.replicates[difference.metric] - plain.replicates[difference.metric]).double().numpy()
        drawn = drawn[~np.isnan(drawn)]
        assert difference.value == row.metrics[difference.metric] - plain.metrics[difference.metric]
        assert (difference.low, difference.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
        p = 2 * (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / (len(drawn) + 1)
        assert difference.p_value == pytest.approx(min(p, 1))
    gap = next(d for d in differences if d.metric == "gap/centroid_distance")
    assert gap.significant
    assert gap.high < 0
    assert compare_rows(rows[:1]) == []
    of_fitted = compare_rows([rows[0], rows[2]])
    assert {d.baseline for d in of_fitted} == {"first"}
    assert {(d.value, d.p_value) for d in of_fitted} == {(0.0, 1.0)}


def test_every_number_has_an_interval_but_counts(embeddings):
    fitted = Posthoc(8, fit_split="val")
    fitted.fit(embeddings)
    row = evaluate_row("mine", fitted, embeddings, EVALUATIONS, split="test")
    without = set(row.metrics) - set(row.intervals)
    assert without == {f"retrieval/{way}_{count}" for way in ("i2t", "t2i") for count in ("tied", "unpaired")}
    for name, (low, high) in row.intervals.items():
        assert low <= high, name


def test_a_row_has_the_plain_settings_of_its_reducer(embeddings):
    reducer = Posthoc(8, fit_split="test", strength=0.25, seed=4)
    reducer.fit(embeddings)
    row = evaluate_row("mine", reducer, embeddings, {}, split="test")
    assert row.settings == {"dim": 8, "fit_split": "test", "seed": 4, "strength": 0.25}, "what is None says nothing"
    drawn = Posthoc(8, fit_split="test", fit_samples=16)
    drawn.fit(embeddings)
    settings = evaluate_row("drawn", drawn, embeddings, {}, split="test").settings
    assert (settings["fit_samples"], settings["strength"]) == (16, 1.0)
    trained = plain_settings(AsyncBatchNorm(8, loss=ClipLoss(), learning_rate=0.5, exact_statistics=False))
    assert (trained["learning_rate"], trained["exact_statistics"], trained["epochs"]) == (0.5, False, 3)
    assert "loss" not in trained, "a module is no number and no word"


def test_an_argument_that_is_no_attribute_is_left_out():
    class Doubled(NoReducer):
        def __init__(self, dim, *, factor=2.0, hidden=3):
            super().__init__(dim)
            self.factor = factor

    assert plain_settings(Doubled(4)) == {"dim": 4, "factor": 2.0}


class Told:
    """An evaluation that returns what it was made with, and keeps what it was given."""

    def __init__(self, **scores):
        self.scores = Scores(**scores)
        self.given = []

    def __call__(self, embeddings, context):
        self.given.append((embeddings, context))
        return self.scores


def test_numbers_notes_and_details_of_all_evaluations_and_their_variants_are_gathered(embeddings):
    drawn = torch.linspace(0, 1, 41)
    one_caption = Scores(values={"r1": 0.5}, notes=("not shown",), protocol="one caption")
    first = Told(
        values={"r1": 0.75, "tied": 2.0},
        replicates={"r1": drawn},
        protocol="all captions",
        notes=("look out", "again"),
        variants={"1_caption": one_caption},
        details={"table": "the table"},
    )
    second = Told(values={"x": 1.0}, notes=("third",), details={"other": "the other"})
    row = evaluate_row("mine", NoReducer(8), embeddings, {"retrieval": first, "own": second}, split="test")
    assert row.metrics == {"retrieval/r1": 0.75, "retrieval/tied": 2.0, "retrieval_1_caption/r1": 0.5, "own/x": 1.0}
    assert row.intervals == {"retrieval/r1": pytest.approx((0.025, 0.975))}
    assert row.protocols == {"retrieval": "all captions", "retrieval_1_caption": "one caption"}
    assert row.notes == ("look out", "again", "not shown", "third")
    assert row.details == {"table": "the table", "other": "the other"}


def test_an_evaluation_is_told_what_the_reducer_was_fitted_on(embeddings):
    unit = [F.normalize(x, dim=1) for x in (embeddings.image_features, embeddings.text_features)]
    whole, part, none = Posthoc(8, fit_split="test"), Posthoc(8, fit_split="test", strength=0.5), NoReducer(8)
    for reducer in (whole, part):
        reducer.fit(embeddings)
    told = Told()
    for reducer in (whole, part, none):
        evaluate_row("x", reducer, embeddings, {"own": told}, split="test")
    (reduced_set, context), (_, of_part), (_, of_none) = told.given
    assert (context.protocol, of_none.protocol) == ("transductive", "none")
    assert (context.calibration.num_images, context.calibration.num_texts) == (40, 40)
    torch.testing.assert_close(context.calibration.image_mean, unit[0].mean(0))
    torch.testing.assert_close(context.calibration.text_mean, unit[1].mean(0))
    assert of_part.calibration is None, "half a mean is no calibration whose error alone is left"
    assert of_none.calibration is None
    torch.testing.assert_close(context.before.image_features, unit[0])
    assert not torch.allclose(reduced_set.image_features, unit[0])
    assert set(context.pooled_prompts) == set(), "maxima over prompts are not pooled"


def test_judgements_reach_the_evaluation(embeddings):
    judgements = Judgements.of(torch.tensor([[3, 4]]))
    told = Told()
    evaluate_row("x", NoReducer(8), dataclasses.replace(embeddings, judgements=judgements), {"own": told}, split="test")
    ((measured, context),) = told.given
    assert measured.judgements is judgements
    assert context.before.judgements is judgements


def row_of(name, **protocols):
    one = torch.ones(1, 2)
    return RowResult(
        name=name, reducer="x", fit_split=None, fit_samples=0, protocol="none", metrics={}, intervals={},
        image_features=one, text_features=one, protocols=protocols,
    )  # fmt: skip


def test_a_sentence_that_all_rows_share_is_said_once_and_others_row_by_row():
    rows = [
        row_of("none", gap="40 images", score="w = 2.5"),
        row_of("posthoc", gap="40 images", score="w = 1"),
        row_of("late", extra="alone"),
    ]
    assert protocols_of(rows) == {
        "gap": "40 images",
        "score": "none: w = 2.5 | posthoc: w = 1",
        "extra": "alone",
    }
    assert protocols_of([]) == {}
    assert list(protocols_of(rows)) == ["gap", "score", "extra"]


class _Looks:
    """An evaluation that keeps the contexts it was given."""

    def __init__(self, reference_split=None):
        self.reference_split = reference_split
        self.seen = []

    def __call__(self, embeddings, context):
        self.seen.append(context.reference)
        return Scores(values={"seen": float(len(self.seen))})


def test_a_further_split_is_reduced_as_the_measured_one_and_given_to_who_asks(embeddings):
    reducer = Posthoc(8, fit_split="test")
    reducer.fit(embeddings)
    asks, does_not, lacks = _Looks("train"), _Looks(), _Looks("val")
    assert reference_splits([asks, does_not, lacks, asks, Gap(separability_seed=0, num_resamples=1)]) == [
        "train",
        "val",
    ]
    other = embeddings.select_images(torch.arange(10, 30))
    evaluations = {"asks": asks, "does_not": does_not, "lacks": lacks}
    evaluate_row("mine", reducer, embeddings, evaluations, split="test", references={"train": other})
    assert does_not.seen == [None]
    assert lacks.seen == [None], "the data have no such split"
    (reference,) = asks.seen
    unit = F.normalize(other.image_features, dim=-1)
    mean = F.normalize(embeddings.image_features, dim=-1).mean(0)
    torch.testing.assert_close(reference.image_features, F.normalize(unit - mean, dim=-1))
    assert reference.labels["half"].tolist() == [0] * 10 + [1] * 10
