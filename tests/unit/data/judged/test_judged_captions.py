"""What all data sets of judged captions share: wording, splits, batches, the way into an EmbeddingSet and the cache."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from i0t.data.captions import CaptionsDataModule
from i0t.data.judged_captions import JudgedCaptionsDataModule
from i0t.data.judged_rows import JudgedCaption, JudgedTable, Place, without_candidates
from i0t.embedding_cache import digest, files_digest
from i0t.encode import assemble, encode_texts
from i0t.features import Features


@pytest.fixture
def data(tmp_path, images, options, bind):
    """Five captions of three images, the second line's text standing a third time as a reference."""
    images(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    rows = [
        {"image": "b.jpg", "caption": "  two \t words here ", "references": ["a reference"], "rating": 1},
        {"image": "a.jpg", "caption": "same text", "rating": 2},
        {"image": "b.jpg", "caption": "same text", "references": ["a reference", "same  text"], "rating": 3},
        {"image": "c.jpg", "caption": "last", "rating": 4},
        {"image": "a.jpg", "caption": "again", "rating": 5},
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def build(**changed):
        return bind(CaptionsDataModule(path=str(tmp_path / "own.jsonl"), **options | changed))

    return build


def test_candidates_and_references_get_the_prefix_and_are_cut_before_it(data):
    captions = data(max_caption_chars=6).describe("test").captions
    assert captions == [f"A photo depicts {t}" for t in ("two wo", "a refe", "same t", "last", "again")]
    assert data(prompt_prefix="").describe("test").captions[0] == "two words here"


def test_references_that_are_one_text_once_they_are_cut_count_once(tmp_path, images, options):
    images(tmp_path, ["a.jpg"])
    row = {"image": "a.jpg", "caption": "x", "references": ["one dog", "one cat", "two"]}
    (tmp_path / "r.jsonl").write_text(json.dumps(row))
    judged = CaptionsDataModule(path=str(tmp_path / "r.jsonl"), **options | {"max_caption_chars": 4})
    assert judged.describe("test").judgements.references.tolist() == [[0, 1], [0, 2]]
    assert judged.describe("test").pairs.tolist() == [[0, 1], [0, 2]]


def test_the_limit_takes_the_judgements_of_the_first_images(data, rows_of):
    assert [row[:2] for row in rows_of(data(limit=1))] == [("b.jpg", "two words here"), ("b.jpg", "same text")]
    assert [row[1] for row in rows_of(data(limit=2))] == ["two words here", "same text", "same text", "again"]
    assert data(limit=2).describe("test").judgements.source == (1, 2, 3, 5)
    assert len(rows_of(data(limit=9))) == 5


@pytest.mark.parametrize("name", ["train", "val"])
def test_other_splits_are_not_there_and_the_error_says_where_to_fit(data, name):
    with pytest.raises(ValueError, match=rf"only a test split, no {name}: .*gap_reducer.fit_data=coco"):
        data().describe(name)
    with pytest.raises(ValueError, match="split 'tset' does not exist; choose one of train, val, test"):
        data().describe("tset")


def test_it_cannot_be_trained_on(data):
    for start in (lambda: data().setup("fit"), lambda: data().train_dataloader()):
        with pytest.raises(ValueError, match="captions cannot be trained on"):
            start()
    data().setup("predict")


@pytest.mark.parametrize("option", ["limit", "max_caption_chars"])
def test_an_option_out_of_range(data, option):
    with pytest.raises(ValueError, match=rf"data.{option}=0 must be null or at least 1"):
        data(**{option: 0})


def test_images_come_once_without_texts(data, tmp_path):
    module = data()
    batches = list(module.eval_dataloader("test"))
    assert [batch.sample_id.tolist() for batch in batches] == [[0, 1], [2]]
    for batch in batches:
        assert batch.tokens.shape == (0, 64)
        assert len(batch.text_id) == len(batch.text_image_index) == 0
        for place, row in enumerate(batch.sample_id.tolist()):
            plain = Image.open(tmp_path / ["b.jpg", "a.jpg", "c.jpg"][row]).convert("RGB")
            assert torch.equal(batch.images[place], module.transform(plain))
            assert np.array_equal(module.images("test", [row])[0], np.asarray(plain))
    assert [b.sample_id.tolist() for b in module.eval_dataloader("test", [[2, 0], [1]])] == [[2, 0], [1]]
    assert list(module.eval_dataloader("test", [])) == []


class LetterModel(torch.nn.Module):
    """Texts and images to counts of what they are made of."""

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def encode_text(self, tokens):
        return torch.nn.functional.one_hot(tokens.clamp(max=127), 128).sum(dim=1).double()


def test_the_embedding_set_pairs_every_judgement_with_its_own_features(data):
    module = data()
    info, model = module.describe("test"), LetterModel(data().tokenizer)
    order = torch.tensor([2, 0, 1])  # images may come in any order
    means = torch.stack([torch.tensor(module.images("test", [row])[0]).double().mean(dim=(0, 1)) for row in range(3)])
    wide = torch.nn.functional.pad(means, (0, 125))
    none = torch.empty(0, dtype=torch.int64)
    texts = encode_texts(model, info.captions, torch.device("cpu"))
    embeddings = assemble(
        Features(wide[order], wide[:0], order, none), info, logits=(1.0, None), texts=texts, with_relevant_pairs=True
    )
    assert embeddings.judgements is info.judgements
    expected = [
        ("b.jpg", "two words here"),
        ("a.jpg", "same text"),
        ("b.jpg", "same text"),
        ("c.jpg", "last"),
        ("a.jpg", "again"),
    ]
    for (image, text), (name, words) in zip(embeddings.judgements.candidates.tolist(), expected, strict=True):
        assert embeddings.image_ids[image] == name
        assert torch.equal(embeddings.image_features[image], wide[["b.jpg", "a.jpg", "c.jpg"].index(name)])
        alone = model.encode_text(model.tokenizer([f"A photo depicts {words}"]))[0]
        assert torch.equal(embeddings.text_features[text].double(), alone)


def test_equal_options_lead_to_equal_keys_of_the_cache_and_other_ones_to_others(data, tmp_path):
    def key(module):
        info = module.describe("test")
        texts = [list(info.captions), info.pairs.tolist(), info.image_ids]
        return digest([dict(info.provenance), texts, files_digest(module.files("test"))])

    assert key(data()) == key(data())
    assert len({key(data()), key(data(limit=2)), key(data(prompt_prefix="")), key(data(max_caption_chars=3))}) == 4
    before = key(data())
    path = tmp_path / "own.jsonl"
    path.write_text(path.read_text().replace('"rating": 1', '"rating": 10'))
    assert key(data()) != before


def test_preferences_follow_the_captions_that_are_left(tmp_path, images, options):
    images(tmp_path, ["b.jpg", "c.jpg"])

    class Pairs(JudgedCaptionsDataModule):
        name = "pairs"

        def read_table(self, finder):
            captions = [
                JudgedCaption(Place("x", i), tmp_path / f"{image}.jpg", image, f"text {i}", (), ())
                for i, image in enumerate("aabbcc", start=1)
            ]
            preferences = np.array([[0, 1, 0], [3, 2, 1], [4, 5, 0], [5, 1, 1]])
            return JudgedTable(
                captions=captions, problems={}, num_rows=6, judgement_files=[tmp_path / "x"], preferences=preferences
            )

    judged = Pairs(**options | {"only_present": True}).describe("test").judgements
    assert judged.candidates.tolist() == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert judged.preferences.tolist() == [[1, 0], [2, 3]]
    assert judged.preference_category.tolist() == [1, 0]
    limited = Pairs(**options | {"only_present": True, "limit": 1}).describe("test").judgements
    assert limited.preferences.tolist() == [[1, 0]]


def test_a_judged_caption_is_no_reference_of_its_image():
    references = ["A dog runs .", "The  dog, running", "a cat"]
    assert without_candidates(references, ["a dog RUNS", "a cat sat"]) == ("The  dog, running", "a cat")
    assert without_candidates(references, []) == tuple(references)
