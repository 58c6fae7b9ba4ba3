"""What stage 2 fits: through the encoders, or on what they made once."""

from types import SimpleNamespace

import pytest
import torch

from i0t.config import ConfigError, to_container
from i0t.data.cached_pairs import CachedPairs
from i0t.embedding_cache import EmbeddingCache
from i0t.embeddings import EmbeddingSet
from i0t.engine.stage_two import check_encoders, check_something_is_trained, prepare
from i0t.engine.training import _build, _check_short_captions
from i0t.gap_reducers.async_bn import AsyncBatchNorm
from i0t.gap_reducers.none import NoReducer
from i0t.losses.clip import ClipLoss
from i0t.losses.long_clip import LongClipLoss
from i0t.models.precomputed import Precomputed
from i0t.module import ClipModule

SPLITS = {
    split: EmbeddingSet.from_index(torch.rand(n, 16) + 0.1, torch.rand(n, 16) + 0.1, torch.arange(n))
    for split, n in (("train", 6), ("val", 3))
}


class Encodes:
    """An encoder that keeps what it was asked for."""

    def __init__(self, module):
        self.module = module
        self.trainer = SimpleNamespace(is_global_zero=True)
        self.asked = []
        self.kept = {}

    def keep(self, datamodule, split, embeddings):
        self.kept[datamodule, split] = embeddings

    def whole(self, datamodule, split, *, with_relevant_pairs):
        self.asked.append(("whole", split, with_relevant_pairs))
        return SPLITS[split]

    def into_cache(self, cache, datamodule, split, request):
        self.asked.append((cache, split, request))
        return SPLITS[split]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["encoders=frosen"], "encoders=frosen is unknown; choose trained, frozen .* or cached"),
        (["views=0"], "views=0 must be at least 1"),
        (["encoders=frozen", "views=2"], "views=2 needs encoders=trained"),
        (["encoders=cached", "views=3"], "views=3 needs encoders=trained"),
        (["views=2", "model.dropout=0.0"], "views=2 without dropout are all equal: set model.dropout"),
        (["encoders=frozen", "trainer.precision=bf16-true"], "trainer.precision=bf16-true converts the weights"),
        (["encoders=cached", "trainer.precision=16-true"], "which encoders=cached keeps: choose one of 32-true"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(training_config, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        check_encoders(training_config(*changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        ["views=1"],
        ["views=2", "model.dropout=0.1"],
        ["encoders=frozen"],
        ["encoders=cached"],
        ["encoders=cached", "trainer.precision=16-mixed"],
        ["trainer.precision=bf16-true"],
    ],
)
def test_options_that_do_are_taken(training_config, changes):
    check_encoders(training_config(*changes))


def test_data_without_training_batches_have_nothing_to_cache(training_config):
    cfg = training_config("encoders=cached")
    del cfg.data.batch_size
    with pytest.raises(ConfigError, match=r"no image-caption pairs to train on, so encoders=cached has nothing"):
        check_encoders(cfg)


def frozen_module(build, reducer):
    model = build()
    model.freeze_all()
    return ClipModule(model, reducer, ClipLoss(), optimizer=torch.optim.AdamW, config={})


def test_something_must_have_gradients(build):
    cfg = SimpleNamespace(encoders="frozen")
    with pytest.raises(ConfigError, match="encoders=frozen and NoReducer has nothing to train: choose gap_reducer="):
        check_something_is_trained(cfg, frozen_module(build, NoReducer(16)))
    check_something_is_trained(cfg, frozen_module(build, AsyncBatchNorm(16, loss=None)))


@pytest.mark.parametrize("encoders", ["trained", "frozen"])
def test_through_the_encoders_the_run_s_own_parts_are_fitted(training_config, encoders):
    cfg = training_config(f"encoders={encoders}", gap_reducer="async_bn")
    datamodule, module = _build(cfg, {})
    encoder = Encodes(module)
    training = prepare(cfg, encoder, datamodule)
    assert training.module is module
    assert training.datamodule is datamodule
    assert (encoder.kept, encoder.asked) == ({}, [])
    towers = [p.requires_grad for p in module.model.parameters()]
    assert any(towers) is (encoders == "trained")
    assert module.encoder_weights == (None if encoders == "trained" else module.model.identity()["weights"])


@pytest.mark.parametrize("decay_all", [True, False])
def test_from_the_cache_the_same_reducer_and_loss_see_features(training_config, decay_all, tmp_path, capsys):
    cfg = training_config("encoders=cached", f"decay_all={decay_all}", "data.train_seed=3", gap_reducer="async_bn")
    datamodule, module = _build(cfg, {"name": "mine"})
    encoder = Encodes(module)
    training = prepare(cfg, encoder, datamodule)
    assert [(type(cache), cache.root) for cache, _, _ in encoder.asked] == [(EmbeddingCache, tmp_path / "cache")] * 2
    assert [split for _, split, _ in encoder.asked] == ["train", "val"]
    for _, split, request in encoder.asked:
        assert (request["split"], request["data"]) == (split, to_container(cfg.data))
        assert request["model"] == to_container(cfg.model)
    assert encoder.kept == {(datamodule, split): embeddings for split, embeddings in SPLITS.items()}
    assert "training on 6 images with 6 captions from the cache" in capsys.readouterr().out
    assert isinstance(training.datamodule, CachedPairs)
    assert (training.datamodule.batch_size, training.datamodule.train_seed) == (4, 3)
    own = training.module
    assert isinstance(own.model, Precomputed)
    for name in ("gap_reducer", "loss", "make_optimizer", "make_scheduler", "encoder_weights", "decay_all"):
        assert getattr(own, name) is getattr(module, name), name
    assert (own.config, own.num_views) == ({"name": "mine"}, 1)
    state, of_run = own.state_dict(), module.state_dict()
    assert state.keys() == of_run.keys(), "its checkpoint is one of the run"
    assert all(torch.equal(state[name], of_run[name]) for name in of_run)


def test_data_without_files_are_encoded_in_memory(training_config):
    cfg = training_config("encoders=cached", gap_reducer="async_bn")
    datamodule, module = _build(cfg, {})
    datamodule.files = lambda split: None
    encoder = Encodes(module)
    prepare(cfg, encoder, datamodule)
    assert encoder.asked == [("whole", "train", False), ("whole", "val", False)]
    assert encoder.kept == {(datamodule, split): embeddings for split, embeddings in SPLITS.items()}


@pytest.mark.parametrize(
    ("encoders", "short_captions", "loss", "message"),
    [
        ("trained", False, LongClipLoss(), r"LongClipLoss compares short captions too: data.short_captions=true"),
        ("frozen", True, ClipLoss(), r"data.short_captions=true, but ClipLoss has no use for them"),
        ("cached", True, LongClipLoss(), r"encoders=cached keeps whole captions alone.*choose encoders=frozen"),
    ],
)
def test_short_captions_need_a_loss_for_them_and_photos(encoders, short_captions, loss, message):
    with pytest.raises(ConfigError, match=message):
        _check_short_captions(encoders, SimpleNamespace(short_captions=short_captions), SimpleNamespace(loss=loss))


def test_short_captions_that_are_used_pass():
    for encoders in ("trained", "frozen"):
        _check_short_captions(encoders, SimpleNamespace(short_captions=True), SimpleNamespace(loss=LongClipLoss()))
        _check_short_captions(encoders, SimpleNamespace(), SimpleNamespace(loss=ClipLoss()))
