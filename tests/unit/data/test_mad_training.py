"""What an epoch of MAD is made of, whatever the workers, the ranks and the step at which it begins."""

import functools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from i0t.config import compose, instantiate
from i0t.data import mad_generator as mad
from i0t.data import samplers
from i0t.data.mad_split import MadSplit
from i0t.encode import encode_batch, encode_loader


@functools.cache
def composed():
    """Config and model, once: composing takes longer than most tests here."""
    cfg = compose("train", ["paths.output_dir=out", "data.limit=30", "data.batch_size=10", "data.generator_workers=0"])
    return cfg, instantiate(cfg.model).eval()


def datamodule(*overrides):
    cfg, model = composed()
    built = instantiate(OmegaConf.merge(cfg, OmegaConf.from_dotlist(list(overrides))).data)
    built.bind(transform=model.transform, tokenizer=model.tokenizer)
    return built


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        for name in ("images", "tokens", "text_image_index", "sample_id", "text_id"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert a.short_tokens is b.short_tokens is None
        assert list(a.labels) == list(b.labels) == list(mad.FACTORS)
        assert all(torch.equal(a.labels[name], b.labels[name]) for name in a.labels)


def test_an_epoch_of_one_variant_has_every_digit_once():
    module = datamodule("data.variants=one")
    loader = module.train_dataloader()
    epochs = [torch.cat([batch.sample_id for batch in epoch_of(loader, epoch)]) for epoch in range(3)]
    for rows in epochs:
        assert sorted((rows // 24).tolist()) == list(range(30))
    variants = torch.stack([rows[rows.argsort()] % 24 for rows in epochs])
    assert (variants.unique(dim=0).shape, len(variants.unique()) > 15) == ((3, 30), True)
    assert len(datamodule().train_dataloader()) == 24 * len(loader) == 72
    assert module.describe("train").num_images == 720, "what is measured is all of them"


def test_a_batch_of_one_variant_shows_says_and_labels_the_image_of_its_row():
    module = datamodule("data.variants=one", "data.captions=object_attribute_5")
    images = module.split("train").images
    for batch in epoch_of(module.train_dataloader(), 2):
        for at, row in enumerate(batch.sample_id.tolist()):
            codes = [int(batch.labels[name][at]) for name in mad.FACTORS]
            assert codes[0] == images.labels[row // 24]
            assert codes[1:5] == mad.VARIANT_CODES[row % 24].tolist()
            said = {words[code] for words, code in zip(mad.FACTORS.values(), codes, strict=True)}
            read = {int(token) for token in batch.tokens[at, 1:7]}
            assert read == {module.tokenizer.token_of[word] for word in said}
            gray = images.images[row // 24, row % 24][None]
            shown = module.transform(torch.from_numpy(mad.colorize(gray, np.array(codes[5:]))))
            assert torch.equal(batch.images[at], shown[0])


def test_variants_are_uniform_and_belong_to_seed_epoch_and_digit():
    drawn = mad.draw_variants(48_000, seed=3, epoch=1)
    counts = np.bincount(drawn, minlength=24)
    # 23 degrees of freedom: mean 23, standard deviation 6.8.
    assert ((counts - 2000) ** 2 / 2000).sum() < 23 + 5 * 6.8
    assert np.array_equal(drawn[:50], mad.draw_variants(50, seed=3, epoch=1))
    for seed, epoch in ((3, 2), (4, 1)):
        assert (drawn == mad.draw_variants(48_000, seed=seed, epoch=epoch)).mean() < 0.05
    colors = mad.draw_colors(48_000, seed=3, epoch=1)
    together = np.bincount(drawn.astype(int) * 7 + colors, minlength=168)
    expected = 48_000 / 168
    assert ((together - expected) ** 2 / expected).sum() < 167 + 5 * 18.3, "independent of the colours"


@pytest.mark.parametrize("variants", ["all", "one"])
def test_worker_processes_give_the_batches_of_none(variants):
    alone = datamodule(f"data.variants={variants}", "data.limit=12").train_dataloader()
    helped = datamodule(f"data.variants={variants}", "data.limit=12", "data.num_workers=2").train_dataloader()
    for epoch in (0, 1):
        assert_same(epoch_of(helped, epoch), epoch_of(alone, epoch))


@pytest.mark.parametrize("variants", ["all", "one"])
def test_a_resumed_training_goes_on_with_the_batches_of_an_uninterrupted_one(variants):
    options = (f"data.variants={variants}", "data.limit=12", "data.batch_size=5")
    whole = datamodule(*options).train_dataloader()
    steps = [batch for epoch in range(2) for batch in epoch_of(whole, epoch)]
    resumed = datamodule(*options)
    resumed.first_batch = len(steps) // 2 + 1
    assert_same(list(resumed.train_dataloader()), steps[resumed.first_batch :])


@pytest.mark.parametrize("variants", ["all", "one"])
def test_two_ranks_together_see_the_batches_of_one_process(variants, monkeypatch):
    options = (f"data.variants={variants}", "data.limit=12")
    alone = epoch_of(datamodule(*options, "data.batch_size=4").train_dataloader(), 1)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(samplers, "_world", lambda rank=rank: (rank, 2))
        shares.append(epoch_of(datamodule(*options, "data.batch_size=2").train_dataloader(), 1))
    for batch, *parts in zip(alone, *shares, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.tokens for part in parts]), batch.tokens)
        for name in mad.FACTORS:
            assert torch.equal(torch.cat([part.labels[name] for part in parts]), batch.labels[name])


def test_labels_of_evaluation_batches_are_the_described_ones():
    module = datamodule("data.limit=4", "data.eval_batch_size=50")
    info = module.describe("test")
    batches = list(module.eval_dataloader("test"))
    for name in mad.FACTORS:
        found = torch.cat([batch.labels[name] for batch in batches])
        assert found.dtype == torch.int64
        assert torch.equal(found, info.labels[name])


def test_labels_move_with_their_batch():
    batch = next(iter(datamodule("data.limit=1").eval_dataloader("test")))
    moved = pl.LightningModule().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {label.device.type for label in moved.labels.values()} == {"meta"} == {moved.images.device.type}
    assert list(moved.labels) == list(mad.FACTORS)


def test_encoding_has_no_use_for_labels():
    _, model = composed()
    batch = next(iter(datamodule("data.limit=1").eval_dataloader("test")))
    with_labels, without = (
        encode_loader(model, DataLoader([b], batch_size=None), torch.device("cpu"))
        for b in (batch, batch._replace(labels=None))
    )
    assert torch.equal(with_labels.image_features, without.image_features)
    assert torch.equal(with_labels.text_features, without.text_features)
    with torch.no_grad():
        assert torch.equal(encode_batch(model, batch).image_features, without.image_features)


def test_drawing_an_epoch_takes_little_memory_a_sample():
    digits = 20_000  # a third of MNIST: 480,000 images
    gray = np.broadcast_to(np.zeros((1, 24, 28, 28), dtype=np.uint8), (digits, 24, 28, 28))
    images = mad.MadImages(gray, np.arange(digits) % 10, np.arange(digits), Path())
    split = MadSplit(images, num_attributes=5, main_object="digit")
    tracemalloc.start()
    split.draw(0, 0)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 21 * len(split), "8 bytes of row, 6 of codes, 6 of captioned factors"
    assert peak < 200e6 / 3
