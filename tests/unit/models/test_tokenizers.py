"""Tokenizers from open_clip, from a folder, and from a hub that is not there."""

import pytest
import torch

from i0t.models.base import describe_tokenizer
from i0t.models.mad_tiny import WordTokenizer
from i0t.models.tokenizers import ArchitectureTokenizer


def test_a_folder_serves_an_architecture_whose_tokenizer_lies_on_the_hub(tokenizer_folder, build):
    model = build("tiny-hub-tokenizer", tokenizer=str(tokenizer_folder))
    expected = [2, 4, 9, 7, 0, 3] + [1] * 6
    assert model.tokenizer(["A red  cat jumps"]).tolist() == [expected]
    assert model.tokenizer(["cat " * 50]).shape == (1, 12)
    assert model.tokenizer(["cat"]).dtype == torch.int64


def test_without_a_network_the_line_names_the_ways_out(build, monkeypatch):
    pytest.importorskip("transformers")
    model = build("tiny-hub-tokenizer", load_weights=False)  # reads nothing until a text comes
    with pytest.raises(ConnectionError) as error:
        model.tokenizer(["a"])
    text = str(error.value)
    assert "\n" not in text
    assert "the tokenizer of tiny-hub-tokenizer is not in the cache" in text
    assert "hf download nobody/nothing" in text
    assert "model.tokenizer=<folder>" in text


def test_a_tokenizer_that_is_missing_is_missed_before_the_weights_are_read(build, plain, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    torch.save(plain("tiny-vit").state_dict(), tmp_path / "w.pt")
    monkeypatch.setattr("i0t.models.open_clip.read_weights", lambda file: pytest.fail("read the weights"))
    with pytest.raises(ValueError, match=r"model\.tokenizer=.*absent is not a folder"):
        build("tiny-hub-tokenizer", str(tmp_path / "w.pt"), tokenizer=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="holds no tokenizer for tiny-hub-tokenizer"):
        build("tiny-hub-tokenizer", str(tmp_path / "w.pt"), tokenizer=str(tmp_path))


def test_the_identity_of_a_tokenizer_is_what_it_does(tokenizer_folder):
    def describe(architecture, **given):
        return describe_tokenizer(ArchitectureTokenizer(architecture, **given))

    clip = describe("tiny-vit", context_length=77)
    assert clip == describe("tiny-resnet", context_length=77)
    assert clip != describe("tiny-vit", context_length=76)
    assert clip != describe("tiny-vit", context_length=77, folder=str(tokenizer_folder))


def test_the_identity_of_a_closed_vocabulary_is_its_table():
    def describe(words):
        return describe_tokenizer(WordTokenizer(words, separator="-", context_length=5))

    assert describe(["a", "b"]) == describe(["a", "b"])
    assert describe(["a", "b"]) != describe(["b", "a"])
