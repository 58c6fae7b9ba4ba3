"""Correlation of caption scores with ratings, against plain NumPy and SciPy."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch.nn.functional import normalize

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.caption_correlation import CaptionCorrelation
from i0t.evaluation.compare import compare_rows, evaluate_row
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc
from i0t.judgements import Judgements

NUM_IMAGES, PER_IMAGE, NUM_REFERENCES, DIM = 30, 6, 3, 8
EVALUATION = CaptionCorrelation(weight=2.5, reduced_weight=1.0, num_cosines=5000, num_resamples=40)


@pytest.fixture(scope="module")
def embeddings():
    """A gap, three references and six candidates of every quality per image, three ratings with holes."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    image = draw(NUM_IMAGES, DIM)
    offset = 2 * normalize(draw(1, DIM), dim=1)
    references = image.repeat_interleave(NUM_REFERENCES, 0) + 0.7 * draw(NUM_IMAGES * NUM_REFERENCES, DIM)
    owner = torch.arange(NUM_IMAGES).repeat_interleave(PER_IMAGE)
    quality = torch.rand(len(owner), 1, generator=generator)
    candidates = quality * image[owner] + (1 - quality) * draw(len(owner), DIM)
    ratings = (1 + 3 * quality + 0.6 * draw(len(owner), 3)).round().clamp(1, 4).double()
    ratings[torch.rand(ratings.shape, generator=generator) < 0.1] = torch.nan
    text = torch.cat([references, candidates]) - offset
    own = torch.arange(NUM_IMAGES).repeat_interleave(NUM_REFERENCES)
    rows = torch.arange(len(owner)) + len(references)
    judged = torch.arange(len(owner)).repeat_interleave(NUM_REFERENCES)
    of_judged = (owner[:, None] * NUM_REFERENCES + torch.arange(NUM_REFERENCES)).flatten()
    return EmbeddingSet(
        image_features=3 * (image + offset),
        text_features=text,
        pairs=torch.stack([own, torch.arange(len(references))], dim=1),
        judgements=Judgements.of(
            torch.stack([owner, rows], dim=1),
            references=torch.stack([judged, of_judged], dim=1),
            ratings=ratings,
            headline="c",
            description="made up ratings from 1 to 4",
        ),
        provenance={"prompt_prefix": "A photo depicts "},
    )


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def expected_scores(embeddings, *, centred, weight):
    """All four forms, from the formulas."""
    image, text = unit(embeddings.image_features.double().numpy()), unit(embeddings.text_features.double().numpy())
    if centred:
        image, text = unit(image - image.mean(0)), unit(text - text.mean(0))
    judgements = embeddings.judgements
    forms = {"": [], "_clipped": [], "ref": [], "ref_clipped": []}
    for number, (i, t) in enumerate(judgements.candidates.tolist()):
        raw = weight * image[i] @ text[t]
        rows = judgements.references[judgements.references[:, 0] == number, 1].numpy()
        nearest = max(0.0, max(text[rows] @ text[t]))
        forms[""].append(raw)
        forms["_clipped"].append(max(raw, 0.0))
        forms["ref"].append(2 * raw * nearest / (abs(raw) + nearest) if nearest > 0 else 0.0)
        forms["ref_clipped"].append(2 * max(raw, 0) * nearest / (max(raw, 0) + nearest) if nearest > 0 else 0.0)
    return forms


def expected_taus(embeddings, **options):
    ratings = embeddings.judgements.ratings.numpy()
    known = ~np.isnan(ratings)
    names = {"": "tau_{}", "_clipped": "tau_{}_clipped", "ref": "ref_tau_{}", "ref_clipped": "ref_tau_{}_clipped"}
    return {
        names[form].format(variant): kendalltau(
            np.repeat(scores, known.sum(1)), ratings[known], variant=variant
        ).statistic
        for form, scores in expected_scores(embeddings, **options).items()
        for variant in "bc"
    }


def measured(embeddings, reducer, evaluation=EVALUATION, **options):
    if reducer.needs_fit:
        reducer.fit(embeddings)
    return evaluate_row("row", reducer, embeddings, {"caption_correlation": evaluation}, split="test", **options)


def numbers(row):
    return {name.removeprefix("caption_correlation/"): value for name, value in row.metrics.items()}


def test_both_rows_against_plain_formulas(embeddings):
    none = measured(embeddings, NoReducer(DIM))
    posthoc = measured(embeddings, Posthoc(DIM, fit_split="test"))
    assert numbers(none) == pytest.approx(expected_taus(embeddings, centred=False, weight=2.5), abs=1e-6)
    assert numbers(posthoc) == pytest.approx(expected_taus(embeddings, centred=True, weight=1.0), abs=1e-6)
    assert set(none.intervals) == set(none.metrics)
    after = numbers(posthoc)
    assert len({round(after[name], 6) for name in after}) == 8  # no form stands for another
    (difference,) = [
        d
        for d in compare_rows([none, dataclasses.replace(posthoc, name="posthoc")])
        if d.metric == "caption_correlation/tau_c"
    ]
    assert difference.value == pytest.approx(after["tau_c"] - numbers(none)["tau_c"])
    assert difference.low < difference.value < difference.high


def test_the_weight_matters_beside_references_only(embeddings):
    heavy = numbers(
        measured(
            embeddings,
            NoReducer(DIM),
            CaptionCorrelation(weight=50.0, reduced_weight=1.0, num_cosines=9, num_resamples=2),
        )
    )
    light = numbers(measured(embeddings, NoReducer(DIM)))
    assert heavy["tau_c"] == light["tau_c"]
    assert heavy == pytest.approx(expected_taus(embeddings, centred=False, weight=50.0), abs=1e-6)
    assert heavy["ref_tau_c"] != pytest.approx(light["ref_tau_c"], abs=1e-6)


def test_resamples_draw_images_with_all_their_captions(embeddings):
    row = measured(embeddings, NoReducer(DIM))
    from i0t.evaluation.resampling import redraws_of

    counts = redraws_of(embeddings, 40).image_counts.numpy()
    judgements = embeddings.judgements
    scores = np.array(expected_scores(embeddings, centred=False, weight=2.5)["ref_clipped"])
    ratings = judgements.ratings.numpy()
    for number in (0, 17):
        items = np.repeat(np.arange(len(scores)), counts[number][judgements.candidates[:, 0].numpy()])
        known = ~np.isnan(ratings[items])
        found = kendalltau(np.repeat(scores[items], known.sum(1)), ratings[items][known], variant="c").statistic
        assert float(row.replicates["caption_correlation/ref_tau_c_clipped"][number]) == pytest.approx(found, abs=1e-6)


def test_the_sentence_names_score_weight_pairs_ratings_references_and_calibration(embeddings):
    none, posthoc = measured(embeddings, NoReducer(DIM)), measured(embeddings, Posthoc(DIM, fit_split="test"))
    num_ratings = int((~embeddings.judgements.ratings.isnan()).sum())
    for row, weight, fitted in (
        (none, "2.5 x cosine", "nothing fitted"),
        (posthoc, "1 x cosine", "means of 30 images and 270 texts, transductive"),
    ):
        sentence = row.protocols["caption_correlation"]
        for part in (
            weight,
            fitted,
            "180 captions of 30 images",
            f"{num_ratings} ratings",
            "nearest of 3 references",
            "made up ratings from 1 to 4",
            "tau_c, which papers print times 100",
            "'A photo depicts '",
            "intervals over 30 images",
        ):
            assert part in sentence
    assert next(iter(numbers(none))) == "tau_c"
    headline_b = dataclasses.replace(embeddings, judgements=dataclasses.replace(embeddings.judgements, headline="b"))
    row = measured(headline_b, NoReducer(DIM))
    assert next(iter(numbers(row))) == "tau_b"
    assert "tau_b, which papers print" in row.protocols["caption_correlation"]


def test_without_references_ratings_or_judgements(embeddings):
    judgements = embeddings.judgements
    bare = dataclasses.replace(embeddings, judgements=Judgements.of(judgements.candidates, ratings=judgements.ratings))
    assert set(numbers(measured(bare, NoReducer(DIM)))) == {"tau_b", "tau_c", "tau_b_clipped", "tau_c_clipped"}
    unrated = dataclasses.replace(embeddings, judgements=Judgements.of(judgements.candidates))
    row = measured(unrated, NoReducer(DIM))
    assert row.metrics == {}
    assert set(row.details) == {"cosine_ranges"}
    row = measured(dataclasses.replace(embeddings, judgements=None), NoReducer(DIM))
    assert (row.metrics, row.details, row.protocols) == ({}, {}, {})


def test_captions_without_references_are_left_out_of_their_numbers_alone(embeddings):
    judgements = embeddings.judgements
    some = judgements.references[judgements.references[:, 0] < 100]
    fewer = dataclasses.replace(embeddings, judgements=dataclasses.replace(judgements, references=some))
    row = measured(fewer, NoReducer(DIM))
    first = dataclasses.replace(
        judgements, candidates=judgements.candidates[:100], ratings=judgements.ratings[:100], references=some
    )
    expected = expected_taus(dataclasses.replace(embeddings, judgements=first), centred=False, weight=2.5)
    assert numbers(row)["ref_tau_c"] == pytest.approx(expected["ref_tau_c"], abs=1e-6)
    assert numbers(row)["tau_c"] == pytest.approx(numbers(measured(embeddings, NoReducer(DIM)))["tau_c"])
    assert "for 100 captions" in row.protocols["caption_correlation"]


def test_scores_that_all_tie_have_no_number_and_a_note(embeddings):
    opposite = dataclasses.replace(
        embeddings,
        image_features=torch.eye(1, DIM).repeat(NUM_IMAGES, 1),
        text_features=-torch.eye(1, DIM) + 0.01 * torch.randn(270, DIM, generator=torch.Generator().manual_seed(1)),
    )
    row = measured(opposite, NoReducer(DIM))
    assert set(numbers(row)) == {"tau_c", "tau_b", "ref_tau_c", "ref_tau_b"}
    assert sum("tau_c_clipped" in note for note in row.notes) == 2


def test_weights_must_be_positive():
    with pytest.raises(ValueError, match=r"reduced_weight must be positive, got -1.0"):
        CaptionCorrelation(weight=2.5, reduced_weight=-1.0, num_cosines=9, num_resamples=2)
