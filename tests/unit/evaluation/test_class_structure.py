"""Dunn index and neighbourhoods of every label: texts of classes from prompts or pairs, intervals, what is left out."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.evaluation import class_structure
from i0t.evaluation.class_structure import ClassStructure
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.resampling import redraws_of
from i0t.gap_reducers.none import NoReducer

CLASSES = 5


def measured(embeddings):
    evaluation = ClassStructure(num_resamples=20)
    return evaluate_row("x", NoReducer(embeddings.dim), embeddings, {"class_structure": evaluation}, split="test")


def draw(**fields):
    """Images of five classes; rows 1, 3, 5, 7, 9 of the texts name them in the order 3, 0, 4, 1, 2."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(30) % CLASSES
    centres = torch.randn(CLASSES, 6, generator=generator)
    text = torch.randn(10, 6, generator=generator)
    row_of_class = torch.tensor([3, 7, 9, 1, 5])
    text[row_of_class] = centres + 0.7 * torch.randn(CLASSES, 6, generator=generator)
    options = {
        "image_features": 1.5 * centres[label] + torch.randn(30, 6, generator=generator),
        "text_features": text,
        "pairs": torch.stack([torch.arange(30), row_of_class[label]], dim=1),
        "labels": {"kind": label},
    }
    return EmbeddingSet(**{**options, **fields})


def unit(features):
    return F.normalize(features, dim=-1).double().numpy()


def dunn(features, labels):
    x, labels = unit(features), labels.tolist()
    distance = (1 - x @ x.T) / 2
    n = range(len(x))
    across = min(distance[i, j] for i in n for j in n if labels[i] != labels[j])
    return across / max(distance[i, j] for i in n for j in n if labels[i] == labels[j])


def neighborhood(x, y, labels):
    """Mean over the classes of SciPy's tau as a distance; x, y unit rows, y of the classes in ascending order."""
    means = np.stack([x[labels == c].mean(axis=0) for c in np.unique(labels)])
    taus = [kendalltau(a, b).statistic for a, b in zip(means @ means.T, y @ y.T, strict=True)]
    return np.mean([(1 - tau) / 2 for tau in taus])


def test_one_text_for_each_class_through_pairs():
    embeddings = draw()
    row = measured(embeddings)
    x, y = unit(embeddings.image_features), unit(embeddings.text_features[[3, 7, 9, 1, 5]])
    label = embeddings.labels["kind"].numpy()
    assert row.metrics == pytest.approx(
        {
            "class_structure/image_dunn/kind": dunn(embeddings.image_features, embeddings.labels["kind"]),
            "class_structure/neighborhood/kind": neighborhood(x, y, label),
        },
        abs=1e-6,
    )
    assert row.notes == ("no Dunn index of the texts by kind: every class has a single row",)
    # The bootstrap draws images, of which every class keeps some; prompts stay.
    assert set(row.intervals) == {"class_structure/neighborhood/kind"}
    counts = redraws_of(embeddings, 20).image_counts
    expected = []
    for r in range(20):
        rows = np.repeat(np.arange(30), counts[r].numpy())
        present = np.unique(label[rows])
        expected.append(neighborhood(x[rows], y[present], label[rows]))
    value = row.metrics["class_structure/neighborhood/kind"]
    replicates = row.replicates["class_structure/neighborhood/kind"].numpy()
    assert replicates == pytest.approx(np.array(expected) - np.mean(expected) + value, abs=1e-6)
    low, high = row.intervals["class_structure/neighborhood/kind"]
    assert low < value < high


def test_a_prompt_table_is_the_text_of_a_class_before_pairs_are():
    generator = torch.Generator().manual_seed(3)
    prompts = 3 * torch.randn(CLASSES, 4, 6, generator=generator)
    mask = torch.ones(CLASSES, 4, dtype=torch.bool)
    mask[2, 1:] = False
    table = PromptTable(
        features=prompts, mask=mask, class_names=tuple("abcde"), aggregate="max", description="four prompts"
    )
    embeddings = draw(prompts={"kind": table})
    row = measured(embeddings)
    pooled = [F.normalize(prompts[c, mask[c]], dim=1).mean(0) for c in range(CLASSES)]
    expected = neighborhood(
        unit(embeddings.image_features), unit(torch.stack(pooled)), embeddings.labels["kind"].numpy()
    )
    assert row.metrics["class_structure/neighborhood/kind"] == pytest.approx(expected, abs=1e-6)
    # A class without images is left out.
    kept = embeddings.select_images((embeddings.labels["kind"] != 1).nonzero().squeeze(1))
    expected = neighborhood(
        unit(kept.image_features), unit(torch.stack(pooled)[[0, 2, 3, 4]]), kept.labels["kind"].numpy()
    )
    assert measured(kept).metrics["class_structure/neighborhood/kind"] == pytest.approx(expected, abs=1e-6)


def test_captions_have_a_dunn_index_and_are_no_text_of_a_class():
    single = draw()
    index = torch.arange(30).repeat_interleave(2)
    text = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    two = {"kind": single.labels["kind"], "half": torch.arange(30) % 2}
    row = measured(EmbeddingSet.from_index(single.image_features, text, index, labels=two))
    assert row.metrics == pytest.approx(
        {
            f"class_structure/{modality}_dunn/{name}": dunn(features, label)
            for name in two
            for modality, features, label in (
                ("image", single.image_features, two[name]),
                ("text", text, two[name][index]),
            )
        },
        abs=1e-6,
    )
    assert row.notes == ()


def test_what_cannot_be_measured_is_said():
    embeddings = draw()
    disagreeing = embeddings.labels["kind"].clone()
    disagreeing[5] = 4  # image 5 belongs to text 3, the prompt of class 0
    labels = {"kind": disagreeing, "constant": torch.zeros(30, dtype=torch.int64), "own": torch.arange(30)}
    row = measured(dataclasses.replace(embeddings, labels=labels))
    assert set(row.metrics) == {"class_structure/image_dunn/kind"}
    assert row.notes == (
        "no Dunn index of the texts by kind: not the same for all images of a text (first: text 3)",
        "no Dunn index of the images by constant: there is a single class",
        "no Dunn index of the texts by constant: there is a single class",
        "no Dunn index of the images by own: every class has a single row",
        "no Dunn index of the texts by own: not the same for all images of a text (first: text 1)",
    )
    points = embeddings.image_features[:CLASSES].repeat(6, 1)
    row = measured(dataclasses.replace(embeddings, image_features=points))
    assert "no Dunn index of the images by kind: every class is one point" in row.notes
    assert measured(dataclasses.replace(embeddings, labels={})).metrics == {}


def test_many_classes_have_no_interval(monkeypatch):
    monkeypatch.setattr(class_structure, "MAX_RESAMPLED_CLASSES", CLASSES - 1)
    row = measured(draw())
    assert "class_structure/neighborhood/kind" in row.metrics
    assert row.intervals == {}
    assert "no interval of the neighbourhood distance by kind: more than 4 classes" in row.notes


def test_the_interval_lies_around_the_number_where_classes_are_many():
    """Redrawing images adds noise to class means, which of itself disorders the neighbours."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(40, 16, generator=generator)
    label = torch.arange(40).repeat_interleave(10)
    image = centers[label] + 2 * torch.randn(400, 16, generator=generator)
    text = centers + 0.5 * torch.randn(40, 16, generator=generator)
    pairs = torch.stack([torch.arange(400), label], dim=1)
    row = measured(EmbeddingSet(image_features=image, text_features=text, pairs=pairs, labels={"kind": label}))
    low, high = row.intervals["class_structure/neighborhood/kind"]
    assert low < row.metrics["class_structure/neighborhood/kind"] < high
