"""Ideal words against plain loops and cases whose answer is known."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.analysis.ideal_words import (
    Words,
    agreement,
    class_means,
    compositions_of_texts,
    ideal_words,
    nearest_compositions,
    nearest_words,
)
from i0t.analysis.ideal_words_result import IdealWordsResult, WordsResult
from i0t.embeddings import EmbeddingSet
from i0t.report.detail_figures import draw_details


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def naive_words(texts, attributes, objects, num_attributes, num_objects):
    """Means over the grid, cell by cell."""
    cells = {}
    for text, a, o in zip(texts.double().numpy(), attributes.tolist(), objects.tolist(), strict=True):
        cells.setdefault((a, o), []).append(text)
    cells = {key: sum(several) / len(several) for key, several in cells.items()}
    nothing = np.full(texts.shape[1], np.nan)

    def mean(rows):
        return sum(rows) / len(rows) if rows else nothing

    attribute = [mean([v for (a, _), v in sorted(cells.items()) if a == i]) for i in range(num_attributes)]
    object_ = [mean([v for (_, o), v in sorted(cells.items()) if o == i]) for i in range(num_objects)]
    return cells, np.array(attribute), np.array(object_), mean(list(cells.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize(
    "attributes",
    [
        [0, 0, 0, 1, 1, 1],  # the whole grid of 2 x 3
        [0, 0, 0, 1, 1, 3],  # with holes, and an attribute without a text
        [0, 0, 0, 0, 0, 0],
    ],
)
def test_means_over_the_grid_with_holes_and_several_texts(dtype, attributes):
    objects = torch.tensor([0, 1, 2, 0, 1, 2])
    attributes = torch.tensor(attributes)
    texts = unit(6, 5).to(dtype)
    found = ideal_words(texts, attributes, objects, num_attributes=4, num_objects=3)
    cells, attribute, object_, origin = naive_words(texts, attributes, objects, 4, 3)
    assert [tuple(pair) for pair in found.compositions.tolist()] == sorted(cells)
    assert found.words.attribute.numpy() == pytest.approx(attribute, nan_ok=True)
    assert found.words.object.numpy() == pytest.approx(object_, nan_ok=True)
    assert found.words.origin.numpy() == pytest.approx(origin)
    for row, (a, o) in enumerate(sorted(cells)):
        assert found.texts[row].numpy() == pytest.approx(cells[a, o])


def test_texts_that_are_sums_of_words_are_their_ideal_words_exactly():
    a, o = torch.randn(3, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    texts = a[grid[:, 0]] + o[grid[:, 1]]
    found = ideal_words(texts, grid[:, 0], grid[:, 1], num_attributes=3, num_objects=4)
    assert torch.allclose(
        found.words.attribute[grid[:, 0]] + found.words.object[grid[:, 1]] - found.words.origin, texts
    )
    assert torch.allclose(found.words.attribute, a + o.mean(0))
    assert torch.allclose(found.words.object, o + a.mean(0))


def test_class_means_and_a_class_without_a_row():
    rows = unit(5, 3)
    found = class_means(rows, torch.tensor([2, 0, 2, 2, 0]), 4)
    assert found[0].tolist() == pytest.approx(((rows[1] + rows[4]) / 2).tolist(), abs=1e-6)
    assert found[2].tolist() == pytest.approx(rows[[0, 2, 3]].mean(0).tolist(), abs=1e-6)
    assert found[[1, 3]].isnan().all()


@pytest.mark.parametrize("normalized", [False, True])
def test_nearest_words_one_by_one(normalized):
    image, words = unit(30, 4, seed=1), 3 * torch.rand(9, 1).double() * unit(9, 4, seed=2).double()
    words[4] = math.nan
    found = nearest_words(image, words, normalized=normalized).tolist()
    for row, chosen in enumerate(found):
        scores = [
            -math.inf
            if bool(word.isnan().any())
            else float(image[row].double() @ word) / (float(word.norm()) if normalized else 1)
            for word in words
        ]
        assert chosen == int(np.argmax(scores))
    assert 4 not in found


def test_of_equal_words_the_first_is_chosen_and_a_shift_of_all_words_changes_nothing_by_dot_product():
    words = torch.tensor([[math.nan, math.nan], [0.5, 0.0], [0.5, 0.0], [0.0, 0.4]], dtype=torch.float64)
    image = torch.eye(2)
    assert nearest_words(image, words, normalized=False).tolist() == [1, 3]
    many, shift = unit(200, 8, seed=3), 5 * unit(8, seed=4).double()
    several = 0.3 * unit(12, 8, seed=5).double()
    assert torch.equal(
        nearest_words(many.double(), several, normalized=False),
        nearest_words(many.double(), several + shift, normalized=False),
    )
    changed = nearest_words(many, several, normalized=True) != nearest_words(many, several + shift, normalized=True)
    assert int(changed.sum()) > 20, "under cosines the shift matters"


@pytest.mark.parametrize("normalized", [False, True])
def test_nearest_compositions_one_by_one(normalized):
    image = unit(60, 6, seed=1)
    words = Words(*(torch.randn(*shape, dtype=torch.float64) for shape in ((4, 6), (5, 6), (6,))))
    words.attribute[2] = math.nan  # of no composition
    compositions = torch.tensor([[0, 1], [3, 2], [0, 4], [1, 0], [1, 1], [3, 3]])
    vectors = [words.attribute[a] + words.object[o] - words.origin for a, o in compositions.tolist()]
    found = nearest_compositions(image, words, compositions, normalized=normalized).tolist()
    for row, chosen in enumerate(found):
        scores = [float(image[row].double() @ v) / (float(v.norm()) if normalized else 1) for v in vectors]
        assert chosen == int(np.argmax(scores))
    assert len(set(found)) > 3
    moved = words.moved(5 * unit(6, seed=4).double())
    assert nearest_compositions(image, moved, compositions, normalized=False).tolist() == (
        nearest_compositions(image, words, compositions, normalized=False).tolist()
    )
    by_hand = [vector + 5 * unit(6, seed=4).double() for vector in vectors]
    cosines = F.normalize(torch.stack(by_hand), dim=1) @ image.double().T
    assert torch.equal(nearest_compositions(image, moved, compositions, normalized=True), cosines.argmax(0))


def test_a_composition_without_a_direction_is_never_nearest():
    words = Words(torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double(), torch.zeros(1, 2).double(), torch.zeros(2).double())
    assert nearest_compositions(torch.eye(2)[:1], words, torch.tensor([[1, 0], [0, 0]]), normalized=True).tolist() == [
        1
    ]


def test_agreement_is_over_the_classes_that_both_have():
    nan = [math.nan, math.nan]
    images = Words(torch.tensor([[1.0, 0.0], nan]), torch.tensor([[0.0, 2.0]]), torch.zeros(2))
    words = Words(torch.tensor([[3.0, 0.0], [9.0, 9.0]]), torch.tensor([[2.0, 0.0]]), torch.zeros(2))
    cosine, distance = agreement(images, words)
    assert cosine == pytest.approx((1 + 0) / 2)
    assert distance == pytest.approx(math.hypot(0.5 - 2.5, 1.0 - 0.0))
    moved = agreement(images.moved(torch.tensor([2.0, 0.0])), words.moved(torch.tensor([0.0, 1.0])))
    assert moved[1] == pytest.approx(math.hypot(2.5 - 2.5, 1.0 - 1.0), abs=1e-7)


def labelled(pairs, num_texts, attribute=(0, 0, 1, 1), object_=(0, 1, 0, 1), names=True):
    return EmbeddingSet(
        image_features=unit(len(attribute), 3),
        text_features=unit(num_texts, 3, seed=1),
        pairs=torch.tensor(pairs),
        labels={"state": torch.tensor(attribute), "thing": torch.tensor(object_)},
        class_names={"state": ("a", "b"), "thing": ("x", "y", "z")} if names else {},
    )


@pytest.mark.parametrize(
    ("pairs", "num_texts", "expected"),
    [
        ([[0, 1], [1, 0], [2, 1], [3, 3]], 4, "mixed"),
        ([[0, 1], [1, 0], [2, 2], [3, 2]], 4, "mixed"),
        ([[0, 1], [1, 0], [3, 3]], 4, [1, 0, -1, 4]),
        ([[0, 0], [1, 1], [3, 4]], 6, [0, 1, 2, 3, 4, 5]),  # the grid, in its order
        ([[0, 0], [1, 1]], 3, [0, 1, -1]),  # in its order, but fewer
        ([[0, 1], [1, 0], [3, 4]], 6, [1, 0, -1, -1, 4, -1]),  # as many texts, in another order
    ],
)
def test_texts_have_the_composition_of_their_images(pairs, num_texts, expected):
    embeddings = labelled(pairs, num_texts)
    if expected == "mixed":
        with pytest.raises(ValueError, match=r"1 texts are paired with images of several compositions .* first text"):
            compositions_of_texts(embeddings, "state", "thing", 3)
    else:
        assert compositions_of_texts(embeddings, "state", "thing", 3).tolist() == expected


def test_table_and_json_have_every_number_and_the_figure_a_line_per_kind():
    rows = {
        "real": WordsResult(
            title="real words",
            accuracies={"pair": 0.25},
            cosine_accuracies={"pair": 0.5},
            cosine=None,
            distance=None,
        ),
        "ideal": WordsResult(
            title="ideal words",
            accuracies={"attribute": 0.1, "object": 0.2, "pair": 0.3},
            cosine_accuracies={"attribute": 0.4, "object": 0.5, "pair": 0.6},
            cosine=0.7,
            distance=0.8,
        ),
    }
    result = IdealWordsResult(rows=rows, word_norms={"attribute": [1.0], "object": [2.0, 3.0]}, image_norms={})
    assert result.header() == (
        "words", "attribute", "object", "pair", "attribute by cosine", "object by cosine", "pair by cosine",
        "cosine with images", "distance from images",
    )  # fmt: skip
    assert result.lines() == [
        ("real words", None, None, 0.25, None, None, 0.5, None, None),
        ("ideal words", 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    ]
    found = json.loads(json.dumps(result.as_json()))
    assert found["words"]["ideal"]["accuracy_by_cosine"] == {"attribute": 0.4, "object": 0.5, "pair": 0.6}
    assert found["words"]["real"]["cosine_with_images"] is None
    assert found["norms"] == {"words": {"attribute": [1.0], "object": [2.0, 3.0]}, "images": {}}
    (axes,) = draw_details({"none": result}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["real words", "ideal words"]
    drawn = sorted((float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axes.lines[1:])
    assert drawn == [(x, 1) for x in (0.1, 0.2)] + [
        (0.25, 0),
        (0.3, 1),
        (0.4, 1),
        (0.5, 0),
        (0.5, 1),
        (0.6, 1),
        (0.7, 1),
    ]
