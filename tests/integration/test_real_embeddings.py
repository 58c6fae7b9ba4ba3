"""Real CLIP embeddings through the engine give the numbers known for them."""

import statistics

import pytest
import torch

from i0t import engine
from i0t.config import compose
from i0t.data.embeddings import EmbeddingsFile
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.gap import Gap
from i0t.gap_reducers.posthoc import Posthoc


@pytest.mark.data
def test_known_numbers_of_clip_vit_b_32_on_flickr8k(shared_data, tmp_path):
    path = shared_data / "clip_vitb32_flickr8k" / "embeddings.npz"
    overrides = [
        f"data.path={path}",
        "gap_reducer=posthoc",
        "gap_reducer.fit_split=test",
        f"paths.output_dir={tmp_path}",
    ]
    numbers = engine.evaluate(compose("eval", ["data=embeddings", "report=false", *overrides]))
    known = {
        "none/gap/centroid_distance": 0.8430,
        "none/gap/rmg": 0.5890,
        "none/gap/linear_separability": 1.0,
        "none/retrieval/i2t_r1": 0.930,
        "none/retrieval/t2i_r1": 0.832,
        "posthoc/gap/centroid_distance": 0.0309,
        "posthoc/gap/rmg": 0.4026,
        "posthoc/retrieval/i2t_r1": 0.940,
        "posthoc/retrieval/t2i_r1": 0.840,
    }
    assert {name: numbers[f"test/{name}"] for name in known} == pytest.approx(known, abs=5e-5)


def first_captions(embeddings):
    index = embeddings.text_image_index.tolist()
    rows = torch.tensor([index.index(image) for image in range(embeddings.num_images)])
    return EmbeddingSet.from_index(
        embeddings.image_features, embeddings.text_features[rows], torch.arange(embeddings.num_images)
    )


@pytest.mark.data
@pytest.mark.parametrize("captions", [1, 5])
@pytest.mark.parametrize("num_fit", [20, 50])
def test_what_posthoc_leaves_on_other_images_is_what_sampling_error_predicts(shared_data, captions, num_fit):
    path = shared_data / "clip_vitb32_flickr8k" / "embeddings.npz"
    whole = EmbeddingsFile(path=str(path), text_path=None, index_path=None, holdout=None, seed=0).load("test")
    data = first_captions(whole) if captions == 1 else whole
    measured, predicted, simple = [], [], []
    for seed in range(30):
        order = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
        reducer = Posthoc(512, fit_split="train")
        reducer.fit(data.select_images(order[:num_fit]))
        test = data.select_images(order[50:])
        evaluations = {"gap": Gap(separability_seed=0, num_resamples=1)}
        numbers = evaluate_row("posthoc", reducer, test, evaluations, split="test").metrics
        measured.append(numbers["gap/centroid_distance"])
        predicted.append(numbers["gap/centroid_distance_expected"])
        simple.append((2 * (1 - numbers["gap/matched_cosine"]) * (1 / num_fit + 1 / 50)) ** 0.5)
    assert statistics.mean(measured) == pytest.approx(statistics.mean(predicted), rel=0.1)
    if captions == 1:  # the plain formula takes every text for an independent one
        assert statistics.mean(measured) == pytest.approx(statistics.mean(simple), rel=0.1)
