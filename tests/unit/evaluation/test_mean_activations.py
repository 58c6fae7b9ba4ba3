"""Mean activations as an evaluation: peaks before and after each reducer, on planted and on real embeddings."""

import dataclasses

import numpy as np
import pytest
import torch

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.mean_activations import MeanActivations
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc

EVALUATIONS = {"mean_activations": MeanActivations(labelled_peaks=3)}


def planted_set(dim=256, rows=300):
    generator = torch.Generator().manual_seed(0)
    image = 0.05 * torch.randn(rows, dim, generator=generator)
    text = 0.05 * torch.randn(rows, dim, generator=generator)
    image[:, 92] -= 0.9
    text[:, 133] += 0.6
    text[:, 200] += 0.5
    return EmbeddingSet.from_index(3 * image, 2 * text, torch.arange(rows))


def measured(embeddings, *, fitted):
    reducer = Posthoc(embeddings.dim, fit_split="test") if fitted else NoReducer(embeddings.dim)
    reducer.fit(embeddings)
    return evaluate_row("row", reducer, embeddings, EVALUATIONS, split="test")


def peaks(row, stage, modality):
    found = row.details["mean_activations"].as_json()[stage][modality]["peaks"]
    return {peak["index_from_1"]: peak["mean"] for peak in found}


def test_planted_peaks_are_found_and_numbers_equal_a_plain_computation():
    embeddings = planted_set()
    row = measured(embeddings, fitted=False)
    x, y = (
        (f / f.norm(dim=1, keepdim=True)).double().numpy().mean(0)
        for f in (embeddings.image_features, embeddings.text_features)
    )
    assert set(peaks(row, "after", "image")) == {93}
    assert list(peaks(row, "after", "text")) == [134, 201]
    square = (x - y) ** 2
    expected = {
        "num_image_peaks": 1,
        "num_text_peaks": 2,
        "image_largest_mean": abs(x[92]),
        "text_largest_mean": y[133],
        "peak_share": (square[92] + square[133] + square[200]) / square.sum(),
    }
    for prefix in ("mean_activations", "mean_activations_before"):
        for name, value in expected.items():
            assert row.metrics[f"{prefix}/{name}"] == pytest.approx(value, rel=1e-5)
    assert len(row.metrics) == 10
    assert "dimensions count from 1, as in the I0T paper" in row.protocols["mean_activations"]
    assert "300 images and 300 texts" in row.protocols["mean_activations"]


def test_posthoc_leaves_no_peak_and_the_row_still_knows_those_before():
    row = measured(planted_set(), fitted=True)
    assert peaks(row, "after", "image") == peaks(row, "after", "text") == {}
    assert set(peaks(row, "before", "image")) == {93}
    numbers = {name: row.metrics[f"mean_activations/{name}"] for name in ("num_image_peaks", "num_text_peaks")}
    assert numbers == {"num_image_peaks": 0, "num_text_peaks": 0}
    assert row.metrics["mean_activations/peak_share"] == 0
    assert row.metrics["mean_activations_before/num_text_peaks"] == 2


def test_noise_has_no_peak_and_no_pairs_are_needed():
    generator = torch.Generator().manual_seed(1)
    noise = EmbeddingSet(
        image_features=torch.randn(50, 128, generator=generator),
        text_features=torch.randn(70, 128, generator=generator),
        pairs=torch.empty(0, 2, dtype=torch.int64),
    )
    row = measured(noise, fitted=False)
    assert row.metrics["mean_activations/num_image_peaks"] == row.metrics["mean_activations/num_text_peaks"] == 0


def test_equal_means_have_no_share():
    same = dataclasses.replace(planted_set(), text_features=planted_set().image_features)
    row = measured(same, fitted=False)
    assert "mean_activations/peak_share" not in row.metrics
    assert row.metrics["mean_activations/num_text_peaks"] == 1


def test_a_negative_number_of_labels_is_refused():
    with pytest.raises(ValueError, match="labelled_peaks must be 0 or more, got -1"):
        MeanActivations(labelled_peaks=-1)


@pytest.mark.data
def test_clip_vit_b_32_has_the_peaks_of_the_paper_and_posthoc_none(shared_data):
    file = np.load(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz")
    embeddings = EmbeddingSet.from_index(
        *(torch.from_numpy(file[name]) for name in ("image", "text", "text_image_index"))
    )
    row = measured(embeddings, fitted=False)
    image, text = peaks(row, "after", "image"), peaks(row, "after", "text")
    assert next(iter(image)) == 93
    assert image[93] == pytest.approx(-0.622, abs=5e-4)
    assert list(text)[:2] == [134, 313]
    assert [text[134], text[313]] == pytest.approx([0.397, 0.397], abs=5e-4)
    assert row.metrics["mean_activations/peak_share"] == pytest.approx(0.729, abs=1e-3)
    after = measured(embeddings, fitted=True)
    assert peaks(after, "after", "image") == peaks(after, "after", "text") == {}
    assert after.metrics["mean_activations/text_largest_mean"] == pytest.approx(0.0135, abs=5e-4)
