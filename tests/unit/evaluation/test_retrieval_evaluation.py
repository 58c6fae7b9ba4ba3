"""Retrieval in its two protocols and inside a modality, against plain loops."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.resampling import redraws_of
from i0t.evaluation.retrieval import Retrieval
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc


def evaluation(**changes):
    options = {"k": (1, 5), "num_neighbors": 3, "num_within_queries": 1000, "num_resamples": 40} | changes
    return {"retrieval": Retrieval(**options)}


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(25, 8, generator=generator)
    index = torch.arange(25).repeat_interleave(3)[torch.randperm(75, generator=generator)]
    text = image[index] + 0.8 * torch.randn(75, 8, generator=generator)
    return EmbeddingSet.from_index(image, text, index, labels={"kind": torch.arange(25) % 3})


def ranks(x, y, pairs):
    """Rank of the best true item of every query, ties aside."""
    found = []
    for i in range(len(x)):
        mine = [j for a, j in pairs if a == i]
        best = max(x[i] @ y[j] for j in mine)
        found.append(1 + sum(x[i] @ y[j] > best for j in range(len(y)) if j not in mine))
    return np.array(found)


def unit(features):
    return F.normalize(features, dim=1).double().numpy()


def resampled(embeddings, per_image, per_text, statistic):
    """Replicates of a statistic of the queries of both directions, from the counts of the resamples."""
    redraws = redraws_of(embeddings, 40)
    index = embeddings.text_image_index.tolist()
    results = []
    for counts in redraws.image_counts.tolist():
        units = redraws.image_units.tolist()
        images = [v for i, v in enumerate(per_image) for _ in range(counts[units[i]])]
        texts = [v for k, v in enumerate(per_text) for _ in range(counts[units[index[k]]])]
        results.append((statistic(np.array(images)), statistic(np.array(texts))))
    return np.array(results).T


def test_all_captions_and_the_first_of_each_image(embeddings):
    row = evaluate_row("x", NoReducer(8), embeddings, evaluation(), split="test")
    x, y, index = unit(embeddings.image_features), unit(embeddings.text_features), embeddings.text_image_index.tolist()
    pairs = list(zip(index, range(75), strict=True))
    i2t, t2i = ranks(x, y, pairs), ranks(y, x, [(k, i) for i, k in pairs])
    expected = {"i2t_r1": (i2t <= 1).mean(), "t2i_r5": (t2i <= 5).mean(), "t2i_medr": np.median(t2i)}
    assert {k: row.metrics[f"retrieval/{k}"] for k in expected} == pytest.approx(expected, abs=1e-6)
    first = [index.index(i) for i in range(25)]
    one = ranks(x, y[first], [(i, i) for i in range(25)]), ranks(y[first], x, [(i, i) for i in range(25)])
    expected = {"i2t_r1": (one[0] <= 1).mean(), "t2i_r1": (one[1] <= 1).mean(), "i2t_medr": np.median(one[0])}
    found = {k: row.metrics[f"retrieval_1_caption/{k}"] for k in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    assert row.metrics["retrieval_1_caption/t2i_r1"] != row.metrics["retrieval/t2i_r1"]
    assert row.protocols["retrieval"].startswith("3 captions per image: 25 images x 75 texts, ties count against")
    assert row.protocols["retrieval_1_caption"].startswith("the first caption of each image: 25 images x 25 texts")
    # Replicates redraw the queries with their images.
    for name, statistic in (("r1", lambda r: (r <= 1).mean()), ("medr", np.median)):
        of_images, of_texts = resampled(embeddings, i2t, t2i, statistic)
        assert row.replicates[f"retrieval/i2t_{name}"].tolist() == pytest.approx(of_images, abs=1e-6)
        assert row.replicates[f"retrieval/t2i_{name}"].tolist() == pytest.approx(of_texts, abs=1e-6)
    redraws = redraws_of(embeddings, 40)
    of_first = [(redraws.image_counts.double() @ torch.from_numpy(r <= 1).double()) / 25 for r in one]
    assert torch.equal(redraws.image_units, torch.arange(25))
    for direction, replicates in zip(("i2t", "t2i"), of_first, strict=True):
        found = row.replicates[f"retrieval_1_caption/{direction}_r1"].tolist()
        assert found == pytest.approx(replicates.tolist(), abs=1e-6)


def test_inside_a_modality(embeddings):
    reducer = Posthoc(8, fit_split="test")
    reducer.fit(embeddings)
    row = evaluate_row("x", reducer, embeddings, evaluation(), split="test")
    x, y = row.image_features.double().numpy(), row.text_features.double().numpy()
    index, kind = embeddings.text_image_index.tolist(), embeddings.labels["kind"].tolist()

    def nearest(z, query, k=1):
        return sorted((j for j in range(len(z)) if j != query), key=lambda j: -z[query] @ z[j])[:k]

    expected = {
        "text_to_text_r1": np.mean([index[nearest(y, k)[0]] == index[k] for k in range(75)]),
        "image_to_image_r1/kind": np.mean([kind[nearest(x, i)[0]] == kind[i] for i in range(25)]),
    }
    for name, before, after in (
        ("image_neighbors_kept", unit(embeddings.image_features), x),
        ("text_neighbors_kept", unit(embeddings.text_features), y),
    ):
        kept = [len(set(nearest(before, q, 3)) & set(nearest(after, q, 3))) / 3 for q in range(len(after))]
        expected[name] = np.mean(kept)
    assert {k: row.metrics[f"retrieval/{k}"] for k in expected} == pytest.approx(expected, abs=1e-6)
    assert row.metrics["retrieval/image_neighbors_kept"] < 1
    plain = evaluate_row("x", NoReducer(8), embeddings, evaluation(), split="test")
    assert plain.metrics["retrieval/image_neighbors_kept"] == 1.0
    fewer = evaluate_row("x", NoReducer(8), embeddings, evaluation(num_within_queries=20), split="test")
    assert "inside a modality at most 20 random rows as queries, 3 neighbours" in fewer.protocols["retrieval"]
    assert "inside a modality every row as queries, 3 neighbours" in plain.protocols["retrieval"]


def test_variants_of_one_source_are_no_neighbours(embeddings):
    rows = torch.arange(25).repeat_interleave(2)
    doubled = EmbeddingSet.from_index(
        embeddings.image_features[rows],
        embeddings.image_features[rows] + 0.1,
        torch.arange(50),
        labels={"kind": embeddings.labels["kind"][rows]},
    )
    name = "retrieval/image_to_image_r1/kind"
    grouped = dataclasses.replace(doubled, groups=rows)
    of_copies = evaluate_row("x", NoReducer(8), doubled, evaluation(), split="test").metrics[name]
    single = evaluate_row("x", NoReducer(8), embeddings, evaluation(), split="test").metrics[name]
    assert of_copies == 1.0
    assert evaluate_row("x", NoReducer(8), grouped, evaluation(), split="test").metrics[name] == pytest.approx(single)


def test_single_captions_have_no_second_protocol(embeddings):
    single = EmbeddingSet.from_index(embeddings.image_features, embeddings.image_features, torch.arange(25))
    row = evaluate_row("x", NoReducer(8), single, evaluation(), split="test")
    assert set(row.protocols) == {"retrieval"}
    assert row.protocols["retrieval"].startswith("1 caption per image: 25 images x 25 texts")
    assert not any("text_to_text" in name for name in row.metrics)
