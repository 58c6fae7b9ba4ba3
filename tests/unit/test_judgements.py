"""Judgements come back as they were from disk and from an encoded split, and what disagrees is said."""

import dataclasses
import json
import math

import pytest
import torch

from i0t.data.base import SplitInfo
from i0t.embedding_store import DamagedSetError, load_set, save_set
from i0t.embeddings import EmbeddingSet
from i0t.encode import assemble
from i0t.features import Features
from i0t.judgements import Judgements

DIM = 4


def judged(**changes):
    """Three judged captions of two images, among six texts of which two are references of the first."""
    parts = {
        "candidates": torch.tensor([[0, 1], [1, 2], [1, 3]]),
        "references": torch.tensor([[0, 4], [0, 5], [2, 5]]),
        "ratings": torch.tensor([[1.0, math.nan], [0.25, 4.0], [math.nan, math.nan]], dtype=torch.float64),
        "preferences": torch.tensor([[0, 1], [2, 1]]),
        "preference_category": torch.tensor([1, 0]),
        "category_names": ("HC", "MM"),
        "source": (3, 4, 9),
        "headline": "b",
        "description": "three people, 1 to 4",
    }
    return Judgements(**{**parts, **changes})


def features(rows, seed):
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


def judged_set(judgements):
    return EmbeddingSet.from_index(
        features(2, 0), features(6, 1), torch.tensor([0, 0, 1, 1, 0, 1]), judgements=judgements
    )


def assert_equal_judgements(actual, expected):
    assert isinstance(actual, Judgements)
    for field in dataclasses.fields(Judgements):
        one, other = getattr(actual, field.name), getattr(expected, field.name)
        if isinstance(one, torch.Tensor):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), field.name
            assert torch.equal(one.nan_to_num(-1.0), other.nan_to_num(-1.0)), field.name
        else:
            assert (type(one), one) == (type(other), other), field.name


BARE = Judgements.of(torch.tensor([[1, 0]]))
EVERY_KIND = [judged(), BARE, Judgements.of(torch.empty(0, 2, dtype=torch.int64))]


@pytest.mark.parametrize("judgements", EVERY_KIND, ids=["whole", "candidates alone", "nothing"])
def test_they_come_back_from_disk_as_they_were(tmp_path, judgements):
    save_set(judged_set(judgements), tmp_path)
    assert_equal_judgements(load_set(tmp_path, verify=True).judgements, judgements)


def test_a_set_without_them_comes_back_without(tmp_path):
    save_set(judged_set(judged()), tmp_path)
    save_set(judged_set(None), tmp_path)
    assert load_set(tmp_path).judgements is None


@pytest.mark.parametrize("damage", [lambda i: i.pop("judgements"), lambda i: i["judgements"].pop("headline")])
def test_an_index_that_lost_them_is_no_whole_set(tmp_path, damage):
    save_set(judged_set(judged()), tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    damage(index)
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(DamagedSetError, match="does not hold a whole set"):
        load_set(tmp_path)


def test_what_is_left_out_is_empty():
    assert (BARE.references.shape, BARE.preferences.shape) == ((0, 2), (0, 2))
    assert (BARE.ratings.shape, BARE.ratings.dtype) == ((1, 0), torch.float64)
    assert BARE.preference_category.shape == (0,)
    assert (BARE.category_names, BARE.source, BARE.headline, BARE.description) == ((), (), "c", "")
    preferred = Judgements.of(torch.tensor([[0, 0], [0, 1]]), preferences=torch.tensor([[1, 0]]))
    assert preferred.preference_category.tolist() == [0]


def split_info(judgements):
    return SplitInfo(
        num_images=2,
        captions=list("abcdef"),
        text_image_index=torch.tensor([0, 0, 1, 1, 0, 1]),
        judgements=judgements,
    )


def test_an_encoded_split_brings_them_with_rows_in_its_order():
    image, text = features(2, 0), features(6, 1)
    image_order, text_order = torch.tensor([1, 0]), torch.tensor([2, 5, 3, 1, 0, 4])
    shuffled = Features(image[image_order], text[text_order], image_order, text_order)
    found = assemble(shuffled, split_info(judged()), logits=(10.0, None))
    assert_equal_judgements(found.judgements, judged())
    assert torch.equal(found.image_features[found.judgements.candidates[:, 0]], image[[0, 1, 1]])
    assert torch.equal(found.text_features[found.judgements.candidates[:, 1]], text[[1, 2, 3]])
    assert torch.equal(found.text_features[found.judgements.references[:, 1]], text[[4, 5, 5]])


def test_a_share_of_a_split_has_none():
    share = Features(features(1, 0), features(3, 1), torch.tensor([1]), torch.tensor([2, 3, 5]))
    assert assemble(share, split_info(judged()), logits=(10.0, None)).judgements is None


def test_texts_encoded_apart_keep_them():
    info = dataclasses.replace(split_info(judged()), text_image_index=None, pairs=torch.tensor([[0, 0], [1, 0]]))
    nothing = torch.empty(0, dtype=torch.int64)
    encoded = Features(features(2, 0), features(2, 0)[:0], torch.arange(2), nothing)
    found = assemble(encoded, info, logits=(10.0, None), texts=features(6, 1))
    assert_equal_judgements(found.judgements, judged())


def test_chosen_images_and_parts_of_a_set_lose_them():
    whole = judged_set(judged())
    assert whole.select_images(torch.tensor([1, 0])).judgements is None, "their rows would be others"
    assert [whole.shard(rank, 2).judgements for rank in range(2)] == [None, None]
    assert_equal_judgements(whole.shard(0, 1).judgements, judged())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"candidates": torch.tensor([0, 1])},
            r"judgements.candidates must be \(rows, 2\) int64, got \(2,\) torch.int64",
        ),
        ({"candidates": torch.zeros(3, 2)}, r"candidates must be \(rows, 2\) int64, got \(3, 2\) torch.float32"),
        ({"references": torch.zeros(1, 3, dtype=torch.int64)}, r"references must be \(rows, 2\) int64, got \(1, 3\)"),
        ({"preferences": torch.zeros(2, 2, dtype=torch.int32)}, r"preferences must be .* torch.int32"),
        ({"ratings": torch.zeros(3)}, r"ratings must be \(3, R\) float, got \(3,\)"),
        ({"ratings": torch.zeros(2, 1)}, r"ratings must be \(3, R\) float, got \(2, 1\)"),
        ({"ratings": torch.zeros(3, 1, dtype=torch.int64)}, r"ratings must be \(3, R\) float"),
        ({"preference_category": torch.tensor([0])}, r"preference_category must be \(2,\), .* got \(1,\)"),
        ({"preference_category": torch.tensor([[0], [1]])}, r"preference_category must be \(2,\), .* got \(2, 1\)"),
        ({"source": (1, 2)}, "source names 2 lines for 3 judgements"),
        ({"headline": "a"}, "headline must be 'b' or 'c', got 'a'"),
        ({"references": torch.tensor([[3, 0]])}, "references points at judgements 3 to 3 of 3"),
        ({"references": torch.tensor([[0, 0], [-1, 0]])}, "references points at judgements -1 to 0 of 3"),
        ({"preferences": torch.tensor([[0, 1], [1, 4]])}, "preferences points at judgements 0 to 4 of 3"),
    ],
)
def test_what_disagrees_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        judged(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"candidates": torch.tensor([[0, 1], [2, 2], [1, 3]])},
            "judgements.candidates points at image 2 and text 3, but there are 2 images and 6 texts",
        ),
        ({"candidates": torch.tensor([[0, 1], [1, -2], [1, 3]])}, "judgements.candidates points at"),
        (
            {"references": torch.tensor([[0, 4], [0, 6]])},
            "judgements.references points at texts 4 to 6, but there are 6",
        ),
        ({"references": torch.tensor([[0, -1]])}, "judgements.references points at texts -1 to -1"),
    ],
)
def test_rows_that_the_set_does_not_have_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        judged_set(judged(**changes))
