"""Ideal words as an evaluation, against plain loops over the published study's steps."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.ideal_words import IdealWordsStudy
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc

NA, NO, D = 3, 4, 8  # attributes, objects, width
KINDS = ("ideal", "ideal_minus_u0", "ideal_plus_gap", "ideal_minus_u0_plus_gap")


def study(**options):
    defaults = {"attribute_label": None, "object_label": None, "reference_split": "train", "num_resamples": 20}
    return IdealWordsStudy(**defaults | options)


def draw(num_images, seed, *, grid=True, prompts=True):
    """Images and texts around sums of words, with an offset between the modalities and features of any length."""
    world, generator = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    words = torch.randn(NA, D, generator=world), torch.randn(NO, D, generator=world)
    offset, lengths = torch.randn(D, generator=world), 1 + torch.rand(NA * NO, 1, generator=world)
    noise = 0.4 * torch.randn(NA * NO, D, generator=world)
    cells = torch.tensor(list(itertools.product(range(NA), range(NO))))
    texts = lengths * (words[0][cells[:, 0]] + words[1][cells[:, 1]] + offset + noise)
    attribute = torch.randint(NA, (num_images,), generator=generator)
    object_ = torch.randint(NO, (num_images,), generator=generator)
    image = words[0][attribute] + words[1][object_] - offset + torch.randn(num_images, D, generator=generator)
    labels = {"object": object_, "attribute": attribute}
    pairs = torch.stack([torch.arange(num_images), attribute * NO + object_], dim=1)
    if not grid:  # only the texts of compositions that have images
        present, pairs[:, 1] = torch.unique(pairs[:, 1], return_inverse=True)
        texts = texts[present]
    tables = {}
    for name, size, vectors in (("attribute", NA, words[0]), ("object", NO, words[1])):
        tables[name] = PromptTable(
            features=vectors[:, None] + offset + torch.randn(size, 2, D, generator=world),
            mask=torch.ones(size, 2, dtype=torch.bool),
            class_names=tuple(map(str, range(size))),
            aggregate="mean",
            description="made up",
        )
    return EmbeddingSet(
        image_features=image,
        text_features=texts,
        pairs=pairs,
        labels=labels,
        class_names={"object": tuple("abcd"), "attribute": tuple("xyz")},
        prompts=tables if prompts else {},
        provenance={"main_object": "object"},
    )


def measured(embeddings, reference=None, reducer=None, **options):
    reducer = reducer or NoReducer(D)
    reducer.fit(embeddings)
    references = {} if reference is None else {"train": reference}
    evaluations = {"ideal_words": study(**options)}
    return evaluate_row("row", reducer, embeddings, evaluations, split="test", references=references)


def unit(features):
    features = features.double().numpy()
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def naive(embeddings, reference):
    """Every number of the study on the whole grid, one image and one class at a time."""
    image, text, train = (
        unit(x) for x in (embeddings.image_features, embeddings.text_features, reference.image_features)
    )
    truth = {name: label.tolist() for name, label in embeddings.labels.items()}
    cell = {(a, o): text[a * NO + o] for a in range(NA) for o in range(NO)}
    u_a = [sum(cell[a, o] for o in range(NO)) / NO for a in range(NA)]
    u_o = [sum(cell[a, o] for a in range(NA)) / NA for o in range(NO)]
    u_0 = sum(cell.values()) / (NA * NO)
    train_mean = train.mean(0)
    images = {}
    for name, size in (("attribute", NA), ("object", NO)):
        of = reference.labels[name].tolist()
        images[name] = [
            np.mean([x for x, label in zip(train, of, strict=True) if label == i], axis=0) for i in range(size)
        ]
    real = {}
    for name, table in embeddings.prompts.items():
        means = [unit(prompts).mean(0) for prompts in table.features]
        real[name] = [mean / np.linalg.norm(mean) for mean in means]
    gap = train_mean - np.mean(real["attribute"] + real["object"], axis=0)

    def accuracy(vectors, right, cosine):
        hits = []
        for x, answer in zip(image, right, strict=True):
            scores = {k: x @ v / (np.linalg.norm(v) if cosine else 1) for k, v in vectors.items()}
            hits.append(max(scores, key=scores.get) == answer)
        return float(np.mean(hits))

    pairs = list(zip(truth["attribute"], truth["object"], strict=True))
    shifts = {"ideal": 0 * u_0, "ideal_minus_u0": -u_0, "ideal_plus_gap": gap, "ideal_minus_u0_plus_gap": gap - u_0}
    found, cosines = {}, {}
    for kind, shift in shifts.items():
        moved = {
            "attribute": {i: u + shift for i, u in enumerate(u_a)},
            "object": {i: u + shift for i, u in enumerate(u_o)},
            "pair": {(a, o): u_a[a] + u_o[o] - u_0 + shift for a in range(NA) for o in range(NO)},
        }
        for name, right in (("attribute", truth["attribute"]), ("object", truth["object"]), ("pair", pairs)):
            found[f"{kind}/{name}"] = accuracy(moved[name], right, cosine=False)
            cosines[f"{kind}/{name}"] = accuracy(moved[name], right, cosine=True)
        back = train_mean if "minus_u0" in kind else 0
        of_images = [x - back for x in images["attribute"] + images["object"]]
        of_words = [*moved["attribute"].values(), *moved["object"].values()]
        found[f"{kind}/cosine"] = np.mean(
            [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(of_images, of_words, strict=True)]
        )
        found[f"{kind}/distance"] = np.linalg.norm(np.mean(of_images, axis=0) - np.mean(of_words, axis=0))
    for name in ("attribute", "object"):
        found[f"real/{name}"] = cosines[f"real/{name}"] = accuracy(
            dict(enumerate(real[name])), truth[name], cosine=False
        )
    found["real/pair"] = cosines["real/pair"] = accuracy(cell, pairs, cosine=True)
    own = [(x @ real["attribute"][a] + x @ real["object"][o]) / 2 for x, (a, o) in zip(image, pairs, strict=True)]
    found["real/cosine"] = np.mean(own)
    classes = images["attribute"] + images["object"], real["attribute"] + real["object"]
    found["real/distance"] = np.linalg.norm(np.mean(classes[0], axis=0) - np.mean(classes[1], axis=0))
    return found, cosines


def test_every_number_equals_a_plain_computation():
    embeddings, reference = draw(120, 1), draw(200, 2)
    row = measured(embeddings, reference)
    expected, by_cosine = naive(embeddings, reference)
    wanted = {f"ideal_words/{name}": value for name, value in expected.items()}
    wanted |= {f"ideal_words_by_cosine/{name}": value for name, value in by_cosine.items()}
    assert dict(row.metrics) == pytest.approx(wanted, abs=1e-6)
    for prefix in ("ideal_words", "ideal_words_by_cosine"):
        for name in ("attribute", "object", "pair"):
            low, high = row.intervals[f"{prefix}/ideal/{name}"]
            assert low < row.metrics[f"{prefix}/ideal/{name}"] < high
    assert "ideal_words/ideal/cosine" not in row.intervals
    assert row.notes == ()
    assert "attribute: attribute (3), object: object (4), 12 compositions" in row.protocols["ideal_words"]


def test_by_dot_product_moving_all_words_changes_nothing_and_by_cosine_it_does():
    row = measured(draw(300, 1), draw(200, 2))
    for name in ("attribute", "object", "pair"):
        assert len({row.metrics[f"ideal_words/{kind}/{name}"] for kind in KINDS}) == 1
        assert len({row.metrics[f"ideal_words_by_cosine/{kind}/{name}"] for kind in KINDS}) > 1
    distances = {kind: row.metrics[f"ideal_words/{kind}/distance"] for kind in KINDS}
    assert distances["ideal_plus_gap"] < distances["ideal"], "moved onto the images"
    assert distances["ideal_minus_u0"] < 0.2 < distances["ideal"]


def test_the_reducer_is_applied_to_words_images_and_reference():
    embeddings, reference = draw(120, 1), draw(200, 2)
    reducer = Posthoc(D, fit_split="test")
    row = measured(embeddings, reference, reducer)

    def reduced(one):
        text = {
            name: dataclasses.replace(t, features=reducer.reduce_text(t.features.flatten(0, 1)).view(t.features.shape))
            for name, t in one.prompts.items()
        }
        image, texts = reducer(one.image_features, one.text_features)
        return dataclasses.replace(one, image_features=image, text_features=texts, prompts=text)

    expected, _ = naive(reduced(embeddings), reduced(reference))
    found = {name.removeprefix("ideal_words/"): value for name, value in row.metrics.items() if "by_cosine" not in name}
    assert found == pytest.approx(expected, abs=1e-5)


def test_without_a_reference_accuracies_are_left_and_it_is_said():
    row = measured(draw(60, 1))
    assert {name.partition("/")[2] for name in row.metrics} == {
        *(f"{kind}/{name}" for kind in ("real", "ideal", "ideal_minus_u0") for name in ("attribute", "object", "pair")),
        "real/cosine",
    }
    assert "these data have no split 'train' for ideal images" in row.notes[0]
    assert row.details["ideal_words"].as_json()["norms"]["images"] == {}


def test_without_prompts_there_are_real_words_of_compositions_alone_and_the_gap_is_that_to_the_texts():
    embeddings, reference = draw(100, 1, prompts=False), draw(150, 2, prompts=False)
    row = measured(embeddings, reference)
    assert {name for name in row.metrics if "/real/" in name} == {
        "ideal_words/real/pair",
        "ideal_words_by_cosine/real/pair",
    }
    text, train = unit(embeddings.text_features), unit(reference.image_features)
    u_a = text.reshape(NA, NO, D).mean(1)
    u_o = text.reshape(NA, NO, D).mean(0)
    gap = train.mean(0) - text.mean(0)
    images = [train[reference.labels["attribute"].numpy() == i].mean(0) for i in range(NA)]
    images += [train[reference.labels["object"].numpy() == i].mean(0) for i in range(NO)]
    words = np.concatenate([u_a, u_o]) + gap
    expected = np.linalg.norm(np.mean(images, axis=0) - words.mean(0))
    assert row.metrics["ideal_words/ideal_plus_gap/distance"] == pytest.approx(expected, abs=1e-6)


def test_a_grid_with_holes_is_a_note_and_means_over_what_is_there():
    embeddings = draw(6, 4, grid=False)
    present = {
        (int(a), int(o)) for a, o in zip(embeddings.labels["attribute"], embeddings.labels["object"], strict=True)
    }
    row = measured(embeddings)
    assert f"means over the {len(present) / (NA * NO):.0%} of all compositions" in row.notes[0]
    text = unit(embeddings.text_features)
    cells = dict(zip(sorted(present), text, strict=True))
    u_a = {a: np.mean([v for (x, _), v in cells.items() if x == a], axis=0) for a, _ in present}
    norms = row.details["ideal_words"].as_json()["norms"]["words"]["attribute"]
    assert [norms[a] for a in sorted(u_a)] == pytest.approx([np.linalg.norm(u_a[a]) for a in sorted(u_a)], abs=1e-6)


def test_captions_of_single_images_are_texts_of_their_compositions():
    """As on MAD: many texts of one composition count as their mean."""
    embeddings = draw(150, 3)
    image_text = F.normalize(embeddings.text_features, dim=1)[embeddings.pairs[:, 1]]
    captions = image_text + 0.1 * torch.randn(150, D, generator=torch.Generator().manual_seed(5))
    single = dataclasses.replace(
        embeddings,
        text_features=captions,
        pairs=torch.arange(150)[:, None].expand(-1, 2).contiguous(),
        labels={**embeddings.labels, "scale": torch.arange(150) % 2},
    )
    with pytest.raises(ValueError, match="could be the attribute of 'object': choose one of attribute, scale"):
        measured(single)
    row = measured(single, attribute_label="attribute")
    text, cell = unit(captions), embeddings.pairs[:, 1].numpy()
    cells = {int(c): text[cell == c].mean(0) for c in np.unique(cell)}
    u_a = np.array([np.mean([v for c, v in cells.items() if c // NO == a], axis=0) for a in range(NA)])
    expected = np.mean((unit(single.image_features) @ u_a.T).argmax(1) == single.labels["attribute"].numpy())
    assert row.metrics["ideal_words/ideal/attribute"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attribute_label": "colour"}, "attribute_label=colour is not a label of this set; it has object, attribute"),
        ({"object_label": "thing"}, "object_label=thing is not a label of this set"),
        ({"attribute_label": "object"}, "'object' cannot be attribute and object both"),
    ],
)
def test_labels_that_do_not_exist_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        measured(draw(20, 1), **options)


def test_a_set_without_labels_or_pairs_has_no_number():
    embeddings = draw(20, 1)
    assert measured(dataclasses.replace(embeddings, labels={}, prompts={})).metrics == {}
    unpaired = dataclasses.replace(embeddings, pairs=torch.empty(0, 2, dtype=torch.int64))
    assert measured(unpaired).metrics == {}


def test_a_reference_split_whose_labels_do_not_fit_is_refused_in_one_line():
    embeddings, reference = draw(120, 1), draw(200, 2)
    without = dataclasses.replace(reference, labels={"object": reference.labels["object"]})
    with pytest.raises(ValueError, match="the reference split has no label 'attribute'"):
        measured(embeddings, without)
    more = {**reference.labels, "attribute": reference.labels["attribute"] + 1}
    with pytest.raises(ValueError, match=f"'attribute' has {NA + 1} values in the reference split and {NA} in the"):
        measured(embeddings, dataclasses.replace(reference, labels=more, class_names={}, prompts={}))


def test_no_reference_split_asked_for_is_nothing_to_remark():
    assert not [note for note in measured(draw(120, 1), reference_split=None).notes if "split" in note]
