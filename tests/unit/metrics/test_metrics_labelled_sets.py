"""Labelled sets: every metric that pairs rows takes ``pairs``, where one text belongs to many images."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from i0t.metrics import functional as F

NUM_CLASSES = 4


@pytest.fixture
def labelled():
    """30 images, a prompt for each of four classes, and the class of every image, pairs in any order."""
    generator = torch.Generator().manual_seed(0)
    prompts = normalize(torch.randn(NUM_CLASSES, 8, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(0, NUM_CLASSES, (30,), generator=generator)
    image = normalize(prompts[labels] + 0.6 * torch.randn(30, 8, generator=generator).double() + 0.3, dim=1)
    pairs = torch.stack([torch.arange(30), labels], dim=1)[torch.randperm(30, generator=generator)]
    return image, prompts, labels, pairs


def test_measures_of_pairs_equal_those_of_the_prompt_repeated_for_each_image(labelled):
    image, prompts, labels, pairs = labelled
    repeated = prompts[labels]
    for metric in (F.instance_distance, F.alignment):
        torch.testing.assert_close(metric(image, prompts, pairs=pairs), metric(image, repeated))
    options = {"num_fit": 7, "num_test": 5}
    torch.testing.assert_close(
        F.expected_residual_distance(image, prompts, pairs=pairs, **options),
        F.expected_residual_distance(image, repeated, **options),
    )


def test_spread_of_texts_is_that_of_the_distinct_prompts(labelled):
    image, prompts, labels, pairs = labelled
    x, y = image.numpy(), prompts.numpy()
    matched = np.mean([x[i] @ y[c] for i, c in enumerate(labels.tolist())])

    def distance(rows, diagonal):
        n = range(len(rows))
        return (1 - np.mean([rows[i] @ rows[j] for i in n for j in n if diagonal or i != j])) / 2

    for diagonal in (False, True):
        between, within = (1 - matched) / 2, (distance(x, diagonal) + distance(y, diagonal)) / 2
        value = F.relative_modality_gap(image, prompts, pairs=pairs, include_diagonal=diagonal)
        assert float(value) == pytest.approx(between / (between + within), abs=1e-12)


def test_unbiased_distance_pairs_only_what_belongs_to_different_classes(labelled):
    image, prompts, labels, pairs = labelled
    x, y = image.numpy(), prompts.numpy()
    within_image = np.mean([x[i] @ x[j] for i in range(30) for j in range(30) if i != j])
    within_text = np.mean([y[a] @ y[b] for a in range(NUM_CLASSES) for b in range(NUM_CLASSES) if a != b])
    across = np.mean([x[i] @ y[c] for i in range(30) for c in range(NUM_CLASSES) if c != labels[i]])
    expected = within_image + within_text - 2 * across
    assert float(F.unbiased_centroid_distance(image, prompts, pairs=pairs)) == pytest.approx(expected, abs=1e-12)


def test_retrieval_asks_for_any_image_of_the_class(labelled):
    image, prompts, labels, pairs = labelled
    cosines = (image @ prompts.T).numpy()
    scores = F.retrieval_recall(image, prompts, pairs=pairs, k=(1,))
    assert float(scores["i2t_r1"]) == pytest.approx(np.mean(cosines.argmax(1) == labels.numpy()))
    assert float(scores["t2i_r1"]) == pytest.approx(np.mean(labels.numpy()[cosines.argmax(0)] == np.arange(4)))


def test_separability_takes_each_prompt_once(labelled):
    image, prompts, _, pairs = labelled
    rows, scores = F.separability_scores(image, prompts, pairs=pairs)
    assert len(rows) == len(scores) == round(0.2 * NUM_CLASSES)
    kept_image, kept_text = F.one_to_one(F.make_pairing(image, prompts, pairs=pairs), 30, NUM_CLASSES)
    assert kept_text.tolist() == list(range(NUM_CLASSES))
    first = [min(i for i, c in pairs.tolist() if c == number) for number in range(NUM_CLASSES)]
    assert kept_image.tolist() == first


def test_texts_take_the_label_their_images_agree_on():
    labels = torch.tensor([7, 7, -2, 9, 9])
    pairs = torch.tensor([[4, 3], [0, 1], [2, 4], [1, 1], [3, 3], [3, 4], [0, 1]])
    found = F.labels_of_texts(labels, pairs, 5)
    assert found.known.tolist() == [False, True, False, True, True]
    assert found.disagree.tolist() == [False, False, False, False, True]
    assert found.labels[found.known & ~found.disagree].tolist() == [7, 9]
    with pytest.raises(ValueError, match=r"pairs\[:, 0\]\[0\] is 5, outside the rows 0 … 4"):
        F.labels_of_texts(labels, torch.tensor([[5, 0]]), 5)
    with pytest.raises(ValueError, match=r"pairs\[:, 1\]\[0\] is 5, outside the rows 0 … 4"):
        F.labels_of_texts(labels, torch.tensor([[0, 5]]), 5)
    with pytest.raises(ValueError, match=r"labels must be a vector, one label per image, got shape \(5, 1\)"):
        F.labels_of_texts(labels[:, None], pairs, 5)
    with pytest.raises(ValueError, match=r"labels must hold integers, got torch\.float32"):
        F.labels_of_texts(labels.float(), pairs, 5)


def test_what_needs_no_pairs_takes_any_number_of_texts(labelled):
    image, prompts, _, _ = labelled
    assert float(F.centroid_distance(image, prompts)) == pytest.approx(float((image.mean(0) - prompts.mean(0)).norm()))
    assert 0 <= float(F.logit_entropy(image, prompts, 10.0)) <= math.log(NUM_CLASSES)
    assert 0 <= float(F.logit_entropies(prompts, image, 10.0).max()) <= math.log(30)
