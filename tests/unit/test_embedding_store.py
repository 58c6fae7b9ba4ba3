"""Sets on disk come back as they were, and what is not whole is told apart."""

import dataclasses
import json

import pytest
import torch

from i0t import embedding_store
from i0t.embedding_store import DamagedSetError, load_set, read_shard, save_set, shard_file
from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.judgements import Judgements


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(embedding_store, "SHARD_IMAGES", 4)


def whole_set(seed=0):
    generator = torch.Generator().manual_seed(seed)
    index = torch.tensor([3, 0, 9, 1, 2, 2, 4, 5, 6, 7, 8, 0])  # captions not in the order of their images
    prompts = PromptTable(
        features=torch.randn(2, 3, 6, generator=generator),
        mask=torch.tensor([[True, True, False], [True, True, True]]),
        class_names=("cat", "dog"),
        aggregate="mean",
        description="two words",
    )
    return EmbeddingSet.from_index(
        torch.randn(10, 6, generator=generator),
        torch.randn(12, 6, generator=generator),
        index,
        relevant_pairs=torch.tensor([[0, 1], [3, 0]]),
        logit_scale=12.5,
        logit_bias=-3.0,
        labels={"class": torch.arange(10) % 2},
        class_names={"class": ("cat", "dog")},
        groups=torch.arange(10) // 2,
        image_ids=tuple(f"{i}.jpg" for i in range(10)),
        captions=tuple(f"caption {i}" for i in range(12)),
        prompts={"class": prompts},
        judgements=Judgements.of(
            torch.tensor([[9, 2], [0, 11], [0, 1]]),
            references=torch.tensor([[0, 3], [2, 0]]),
            ratings=torch.tensor([[1.0, 2.0], [0.5, 4.0], [3.0, 3.0]], dtype=torch.float64),
            preferences=torch.tensor([[1, 2]]),
            category_names=("HC",),
            source=(2, 3, 7),
            headline="b",
            description="made up",
        ),
        provenance={"data": "made", "split": "test"},
    )


def assert_equal_sets(actual, expected):
    for field in dataclasses.fields(EmbeddingSet):
        one, other = getattr(actual, field.name), getattr(expected, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), field.name
        elif field.name == "labels":
            assert {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in other.items()}
        elif field.name == "judgements":
            assert one.about() == other.about()
            assert one.tensors().keys() == other.tensors().keys()
            for name, part in other.tensors().items():
                assert torch.equal(one.tensors()[name], part), name
        elif field.name == "prompts":
            assert one.keys() == other.keys()
            for name in one:
                assert torch.equal(one[name].features, other[name].features)
                assert torch.equal(one[name].mask, other[name].mask)
                assert one[name].class_names == other[name].class_names
                assert (one[name].aggregate, one[name].description) == (other[name].aggregate, other[name].description)
        else:
            assert one == other, field.name


def test_a_set_comes_back_as_it_was(tmp_path):
    save_set(whole_set(), tmp_path)
    assert len(list(tmp_path.glob("shard-*"))) == 3
    assert read_shard(tmp_path, 2).sample_id.tolist() == [8, 9]
    assert_equal_sets(load_set(tmp_path), whole_set())
    save_set(whole_set(seed=1), tmp_path)
    assert_equal_sets(load_set(tmp_path), whole_set(seed=1))


def test_texts_of_many_images_and_unpaired_ones(tmp_path):
    shared = dataclasses.replace(whole_set(), pairs=torch.tensor([[0, 0], [1, 0], [2, 5]]), relevant_pairs=None)
    for number, pairs in enumerate((shared.pairs, torch.empty(0, 2, dtype=torch.int64))):
        expected = dataclasses.replace(shared, pairs=pairs, groups=None, logit_bias=None, image_ids=None)
        save_set(expected, tmp_path / str(number))
        assert_equal_sets(load_set(tmp_path / str(number)), expected)


def test_one_shard_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_store, "SHARD_IMAGES", 100)
    save_set(whole_set(), tmp_path)
    read = []
    monkeypatch.setattr(embedding_store, "read_shard", lambda *a: read.append(read_shard(*a)) or read[-1])
    assert load_set(tmp_path).image_features.data_ptr() == read[0].image_features.data_ptr()


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 255
    path.write_bytes(content)


def other_format(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (shard_file(1), cut, "is not the file that index.json names"),
        (shard_file(2), lambda path: path.unlink(), "is not the file that index.json names"),
        ("rest.safetensors", cut, "is not the file that index.json names"),
        ("index.json", cut, "no readable index.json"),
        ("index.json", lambda path: path.unlink(), "no readable index.json"),
        ("index.json", other_format, "is not of format"),
        ("index.json", lambda path: path.write_text('{"format": 1}'), "is not of format"),
        (shard_file(1), flip, "is not the file that index.json names"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path, file, damage, message):
    save_set(whole_set(), tmp_path)
    damage(tmp_path / file)
    with pytest.raises(DamagedSetError, match=message):
        load_set(tmp_path, verify=True)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("shard-*")}
    embedding_store.drop_damaged(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert "index.json" not in left
    if file.startswith("shard"):
        assert left == {*before, "rest.safetensors"} - {file}, "the whole shards are kept"
    elif damage in (cut, other_format):
        assert left == (set() if file == "index.json" else set(before))


def test_a_row_that_no_shard_has_is_found(tmp_path):
    save_set(whole_set(), tmp_path)
    shard = read_shard(tmp_path, 1)
    twice = shard._replace(sample_id=torch.tensor([4, 4, 5, 6]))
    embedding_store.write_shard(tmp_path, 1, twice)  # of the same size: only its bytes differ
    with pytest.raises(DamagedSetError, match="1 of 10 rows are in no shard"):
        load_set(tmp_path)


def test_shards_of_a_set_are_disjoint_and_whole():
    captioned = whole_set()
    parts = [captioned.shard(rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat([p.image_features for p in parts]), captioned.image_features)
    assert sorted(c for p in parts for c in p.captions) == sorted(captioned.captions)
    for part in parts:
        for image, text in part.pairs.tolist():
            caption = int(part.captions[text].split()[1])
            assert part.image_ids[image] == f"{int(captioned.text_image_index[caption])}.jpg"
    labelled = dataclasses.replace(captioned, pairs=torch.tensor([[0, 0], [1, 0]]), relevant_pairs=None)
    parts = [labelled.shard(rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat([p.text_features for p in parts]), labelled.text_features)
    assert torch.equal(torch.cat([p.image_features for p in parts]), labelled.image_features)
