"""Object bias of images and texts: labels through pairs, what cannot be measured, the reference's pairs."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.object_bias import ObjectBias
from i0t.evaluation.resampling import redraws_of
from i0t.gap_reducers.none import NoReducer

OBJECTS, ATTRIBUTES = 3, 4


def measured(embeddings, *, object_label="object", cross="all_pairs", num_resamples=30):
    evaluation = ObjectBias(object_label=object_label, cross=cross, num_resamples=num_resamples)
    return evaluate_row("x", NoReducer(6), embeddings, {"object_bias": evaluation}, split="test")


def states(num_images=40, seed=0):
    """Many images for each prompt "an image of a {attribute} {object}", as in MIT-States."""
    generator = torch.Generator().manual_seed(seed)
    prompt_object = torch.arange(OBJECTS).repeat_interleave(ATTRIBUTES)
    prompt_attribute = torch.arange(ATTRIBUTES).repeat(OBJECTS)
    text = torch.randn(OBJECTS * ATTRIBUTES, 6, generator=generator)
    text += 2 * torch.randn(OBJECTS, 6, generator=generator)[prompt_object]
    prompt = torch.randint(0, OBJECTS * ATTRIBUTES, (num_images,), generator=generator)
    return EmbeddingSet(
        image_features=text[prompt] + torch.randn(num_images, 6, generator=generator),
        text_features=text,
        pairs=torch.stack([torch.arange(num_images), prompt], dim=1)[torch.randperm(num_images, generator=generator)],
        labels={"attribute": prompt_attribute[prompt], "object": prompt_object[prompt]},
        provenance={"main_object": "object"},
    )


def contrast(features, labels, rows=None):
    x, labels = F.normalize(features, dim=1).double().numpy(), labels.tolist()
    entries = range(len(x)) if rows is None else rows
    same = [x[i] @ x[j] for i in entries for j in entries if i != j and labels[i] == labels[j]]
    different = [x[i] @ x[j] for i in entries for j in entries if labels[i] != labels[j]]
    return np.mean(same) - np.mean(different)


def prompts_with_images(embeddings):
    prompts = sorted(embeddings.pairs[:, 1].unique().tolist())
    return (
        embeddings.text_features[prompts],
        torch.tensor([prompt // ATTRIBUTES for prompt in prompts]),
        torch.tensor([prompt % ATTRIBUTES for prompt in prompts]),
    )


def test_class_prompts_take_the_labels_of_their_class():
    embeddings = states(20)  # some prompts have no image, and so no label
    assert not embeddings.has_one_image_per_text
    text, objects, attributes = prompts_with_images(embeddings)
    assert len(text) < embeddings.num_texts
    row = measured(embeddings, object_label=None)
    image = embeddings.image_features
    expected = {
        "image_contrast/object": contrast(image, embeddings.labels["object"]),
        "image_contrast/attribute": contrast(image, embeddings.labels["attribute"]),
        "text_contrast/object": contrast(text, objects),
        "text_contrast/attribute": contrast(text, attributes),
    }
    for side in ("image", "text"):
        expected[side] = expected[f"{side}_contrast/object"] - expected[f"{side}_contrast/attribute"]
    assert row.metrics == pytest.approx({f"object_bias/{name}": value for name, value in expected.items()}, abs=1e-6)
    assert row.notes == ()
    # Prompts are the task, not a sample.
    assert set(row.intervals) == {name for name in row.metrics if name.startswith("object_bias/image")}
    assert row.protocols["object_bias"] == (
        "object: object; all pairs of rows; 95 % bootstrap intervals over 20 images"
    )


def test_captions_take_the_label_of_their_image_and_are_drawn_with_it():
    generator = torch.Generator().manual_seed(1)
    index = torch.arange(15).repeat_interleave(2)[torch.randperm(30, generator=generator)]
    labels = {name: torch.randint(0, 3, (15,), generator=generator) for name in ("object", "one", "two")}
    image, text = torch.randn(15, 6, generator=generator), torch.randn(30, 6, generator=generator)
    embeddings = EmbeddingSet.from_index(image, text, index, labels=labels)
    row = measured(embeddings)
    of_text = {name: label[index] for name, label in labels.items()}
    terms = {name: contrast(text, label) for name, label in of_text.items()}
    bias = terms["object"] - (terms["one"] + terms["two"]) / 2
    assert row.metrics["object_bias/text"] == pytest.approx(bias, abs=1e-6)
    counts = redraws_of(embeddings, 30).image_counts
    for r in (0, 7):
        rows = [k for k in range(30) for _ in range(int(counts[r, index[k]]))]
        expected = contrast(text, of_text["two"], rows)
        assert float(row.replicates["object_bias/text_contrast/two"][r]) == pytest.approx(expected, abs=1e-6)
    replicates = [row.replicates[f"object_bias/text_contrast/{name}"] for name in ("object", "one", "two")]
    torch.testing.assert_close(
        row.replicates["object_bias/text"], replicates[0] - (replicates[1] + replicates[2]) / 2, atol=1e-6, rtol=0
    )


def test_the_reference_s_pairs_with_a_text_for_every_image():
    embeddings = states()
    row = measured(embeddings, cross="upper_triangle")
    order = embeddings.pairs[:, 0].argsort()
    sides = {"image": embeddings.image_features, "text": embeddings.text_features[embeddings.pairs[order, 1]]}
    for side, features in sides.items():
        x = F.normalize(features, dim=1).double().numpy()
        terms = {name: published(x, labels.numpy()) for name, labels in embeddings.labels.items()}
        assert row.metrics[f"object_bias/{side}"] == pytest.approx(terms["object"] - terms["attribute"], abs=1e-6)
        assert row.metrics[f"object_bias/{side}_contrast/object"] == pytest.approx(terms["object"], abs=1e-6)
    assert row.intervals == {}
    assert "a text once for each of its images; no intervals" in row.protocols["object_bias"]


def published(x, labels):
    """Blocks of every ordered pair of classes, the upper triangle of each."""
    intra, across = [], []
    for a in np.unique(labels):
        for b in np.unique(labels):
            block = x[labels == a] @ x[labels == b].T
            kept = block[np.triu_indices(block.shape[0], k=1, m=block.shape[1])]
            (intra if a == b else across).extend(kept)
    return np.mean(intra) - np.mean(across)


def test_one_prompt_for_each_class_has_no_contrast_of_texts():
    embeddings = states()
    embeddings = dataclasses.replace(
        embeddings,
        labels={
            **embeddings.labels,
            "prompt": embeddings.labels["object"] * ATTRIBUTES + embeddings.labels["attribute"],
        },
    )
    row = measured(embeddings)
    assert {name for name in row.metrics if "text" in name} == {
        "object_bias/text_contrast/object",
        "object_bias/text_contrast/attribute",
    }
    assert "object_bias/image" in row.metrics
    assert row.notes == (
        "no object bias of the texts: label prompt has a single row in every class; object bias needs two rows of one "
        "class at least",
    )


def test_images_of_one_text_that_disagree_are_named():
    embeddings = states()
    text = int(embeddings.pairs[0, 1])
    mine = embeddings.pairs[embeddings.pairs[:, 1] == text, 0]
    assert len(mine) > 1
    attribute = embeddings.labels["attribute"].clone()
    attribute[mine[0]] = (attribute[mine[0]] + 1) % ATTRIBUTES
    row = measured(dataclasses.replace(embeddings, labels={**embeddings.labels, "attribute": attribute}))
    assert "object_bias/text" not in row.metrics
    assert "object_bias/text_contrast/object" in row.metrics
    assert row.notes == (
        f"no object bias of the texts: label attribute is not the same for all images of a text (first: text {text})",
    )


def test_a_single_class_is_a_note_and_a_class_of_one_image_counts():
    embeddings = states()
    alone = embeddings.labels["object"].clone()
    alone[5] = 77
    labels = {"object": alone, "attribute": embeddings.labels["attribute"]}
    unpaired = dataclasses.replace(embeddings, pairs=torch.empty(0, 2, dtype=torch.int64), labels=labels)
    row = measured(unpaired)
    assert row.metrics["object_bias/image_contrast/object"] == pytest.approx(
        contrast(embeddings.image_features, alone), abs=1e-6
    )
    assert not [name for name in row.metrics if "text" in name]
    row = measured(dataclasses.replace(unpaired, labels={**labels, "attribute": torch.zeros(40, dtype=torch.int64)}))
    assert set(row.metrics) == {"object_bias/image_contrast/object"}
    assert row.notes == (
        "no object bias of the images: label attribute has a single class; object bias needs rows of two classes at "
        "least",
    )


def test_what_is_asked_for_must_exist():
    with pytest.raises(ValueError, match="cross must be one of 'all_pairs', 'upper_triangle', got 'triu'"):
        ObjectBias(object_label=None, cross="triu", num_resamples=5)
    with pytest.raises(ValueError, match=r"object_label=shape is not a label of this set; it has attribute, object"):
        measured(states(), object_label="shape")
    one_label = dataclasses.replace(states(), labels={"object": states().labels["object"]})
    assert measured(one_label).metrics == {}
