"""Encoded splits say which captions were cut, and features are those of the data that were asked for."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from i0t import engine
from i0t.callbacks.shard_writer import ShardWriter
from i0t.config import compose, instantiate
from i0t.data.base import ImageTextDataModule, SplitInfo
from i0t.embedding_cache import EmbeddingCache
from i0t.engine.encoder import Encoder, truncation_warning
from i0t.engine.trainer import build_trainer
from i0t.engine.training import _say_truncated
from i0t.features import Features
from i0t.gap_reducers.none import NoReducer
from i0t.losses.clip import ClipLoss
from i0t.module import ClipModule

WARNING = "3 of {} captions are longer than the model's context and are cut"


def test_the_sentence_has_both_numbers():
    assert truncation_warning(3, 1234567) == ("3 of 1,234,567 captions are longer than the model's context and are cut")


@pytest.fixture
def encoder(build, training_config):
    cfg = training_config()
    module = ClipModule(build(), NoReducer(16), ClipLoss(), config={}).eval()
    writer = ShardWriter()
    return Encoder(build_trainer(cfg.trainer, logger=False, callbacks=[writer]), module, writer)


@pytest.fixture
def flickr8k_data(training_config, encoder):
    def data(**changed):
        more = [f"data.{key}={value}" for key, value in changed.items()]
        return encoder.bind(instantiate(training_config(*more).data))

    return data


def test_cut_captions_are_counted_beside_what_the_data_warn_of(encoder, flickr8k_data):
    datamodule = flickr8k_data()
    plain, described = datamodule.describe("test"), encoder.describe(datamodule, "test")
    assert described.provenance["truncated_captions"] == 3
    of_data = "flickr8k test: 5 images, where the published split has 1,000"
    assert described.provenance["warnings"] == [of_data, WARNING.format(10)]
    assert plain.provenance["warnings"] == [of_data], "the data set's own stay as they are"
    assert "truncated_captions" not in plain.provenance
    rest = {name: value for name, value in described.provenance.items() if name not in plain.provenance}
    assert rest == {"truncated_captions": 3}
    for field in dataclasses.fields(SplitInfo):
        one, other = getattr(described, field.name), getattr(plain, field.name)
        if field.name == "text_image_index":
            assert torch.equal(one, other)
        elif field.name not in ("provenance", "image_ids", "captions"):
            assert one == other, field.name


@pytest.mark.parametrize("changed", [{"max_caption_chars": 20}, {"captions_per_image": 2, "max_caption_chars": 30}])
def test_captions_that_fit_are_not_remarked_on(encoder, flickr8k_data, changed):
    described = encoder.describe(flickr8k_data(**changed), "test")
    assert "truncated_captions" not in described.provenance
    assert not any("context" in warning for warning in described.provenance["warnings"])


def test_a_tokenizer_that_cannot_count_says_nothing(encoder, flickr8k_data):
    datamodule = flickr8k_data()
    encoder.module.model.tokenizer = lambda texts: torch.ones(len(texts), 16, dtype=torch.int64)
    assert "truncated_captions" not in encoder.describe(datamodule, "test").provenance


@pytest.mark.parametrize(("split", "num_captions"), [("train", 16), ("val", 8), ("test", 10)])
def test_a_set_has_the_count_whether_it_comes_from_the_cache_or_not(
    encoder, flickr8k_data, tmp_path, split, num_captions
):
    datamodule, cache = flickr8k_data(), EmbeddingCache(tmp_path / "cache")
    request = {"model": None, "data": None, "split": split}
    sets = {
        "share": encoder.share(datamodule, split),
        "whole": encoder.whole(datamodule, split, with_relevant_pairs=False),
        "encoded": encoder.into_cache(cache, datamodule, split, request),
        "cached": encoder.into_cache(cache, datamodule, split, request),
        "recalled": cache.recall(request),
    }
    for name, found in sets.items():
        assert found.provenance["truncated_captions"] == 3, name
        assert found.provenance["warnings"][-1] == WARNING.format(num_captions), name
        assert torch.allclose(found.text_features, sets["whole"].text_features, atol=1e-6), name


def test_what_is_cut_is_what_the_model_does_not_see(encoder, flickr8k_data):
    """The count is of captions whose features do not depend on their end."""
    datamodule = flickr8k_data()
    captions = list(datamodule.describe("test").captions)
    ended = [f"{text} seen from afar" for text in captions]
    with torch.no_grad():
        plain, other = (encoder.module.model.encode_text(encoder.module.model.tokenizer(c)) for c in (captions, ended))
    blind = [i for i in range(len(captions)) if torch.allclose(plain[i], other[i], atol=1e-5)]
    assert blind == [0, 2, 4]


class Numbered(ImageTextDataModule):
    """Data whose features are its number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def eval_dataloader(self, split, batches=None):
        return self.number


def test_data_modules_that_come_and_go_are_not_taken_for_each_other(encoder):
    def predict(module, dataloaders):
        row = torch.tensor([0])
        return [Features(torch.full((1, 2), float(dataloaders)), torch.ones(1, 2), row, row)]

    encoder.trainer = SimpleNamespace(predict=predict)
    for number in range(1, 20):  # each is gone when the next is made, often at the same address
        assert encoder.features(Numbered(number), "train").image_features.tolist() == [[number, number]]


def test_features_are_made_once_until_they_are_forgotten(encoder):
    made = []

    def predict(module, dataloaders):
        made.append(dataloaders)
        row = torch.tensor([0])
        return [Features(torch.ones(1, 2), torch.ones(1, 2), row, row)]

    encoder.trainer = SimpleNamespace(predict=predict)
    data = Numbered(1)
    for split in ("train", "test", "train"):
        encoder.features(data, split)
    assert made == [1, 1]
    encoder.forget()
    encoder.features(data, "train")
    assert made == [1, 1, 1]


def test_training_says_how_many_captions_are_cut(encoder, flickr8k_data, capsys):
    _say_truncated(encoder.module, flickr8k_data(captions_per_image=1))  # training draws one of all
    assert capsys.readouterr().out == f"note: train: {WARNING.format(16)}\n"
    _say_truncated(encoder.module, flickr8k_data(max_caption_chars=20))
    assert capsys.readouterr().out == ""
    silent = flickr8k_data()
    silent.training_captions = lambda: None
    _say_truncated(encoder.module, silent)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("encoders", ["trained", "cached"])
def test_a_run_says_it_before_and_after_the_training(training_config, tmp_path, capsys, encoders):
    reducer = "async_bn" if encoders == "cached" else "none"
    engine.train(training_config(f"encoders={encoders}", gap_reducer=reducer))
    said = capsys.readouterr().out.splitlines()
    assert said.count(f"note: train: {WARNING.format(16)}") == 1
    assert said.count(f"note: {WARNING.format(10)}") == 1, "of the test split, below the table"
    about = json.loads((tmp_path / "run" / "metrics.json").read_text())["data"]
    assert about["truncated_captions"] == 3
    assert about["warnings"][-1] == WARNING.format(10)


def test_an_evaluation_says_it_from_encoders_and_from_the_cache(flickr8k, architecture, tmp_path, capsys):
    overrides = [
        "data=flickr8k", f"data.root={flickr8k}", "data.num_workers=0", "model=open_clip",
        f"model.architecture={architecture}", "model.pretrained=null", "evaluation=gap",
        "evaluation.gap.num_resamples=5", "trainer.enable_progress_bar=false", "report=false",
        f"paths.cache_dir={tmp_path / 'cache'}",
    ]  # fmt: skip
    for number in range(2):
        engine.evaluate(compose("eval", [*overrides, f"paths.output_dir={tmp_path / str(number)}"]))
        assert f"note: {WARNING.format(10)}" in capsys.readouterr().out.splitlines()
        about = json.loads((tmp_path / str(number) / "metrics.json").read_text())["data"]
        assert about["truncated_captions"] == 3
