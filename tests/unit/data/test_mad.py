import functools

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from i0t.config import compose, instantiate
from i0t.data import mad_generator as mad


@functools.cache
def composed():
    """Config and model, once: composing takes longer than most tests here."""
    base = ["paths.output_dir=out", "data.limit=6", "data.batch_size=32", "data.generator_workers=0"]
    cfg = compose("train", base)
    return cfg, instantiate(cfg.model)


def datamodule(*overrides):
    cfg, model = composed()
    built = instantiate(OmegaConf.merge(cfg, OmegaConf.from_dotlist(list(overrides))).data)
    built.bind(transform=model.transform, tokenizer=model.tokenizer)
    return built


def test_a_split_describes_its_images():
    module = datamodule()
    info = module.describe("test")
    assert info.num_images == 6 * 24 == len(info.captions)
    assert list(info.labels) == list(mad.FACTORS)
    for row in (0, 30, 143):
        codes = np.array([info.labels[name][row] for name in mad.FACTORS])
        assert mad.caption_is_true(info.captions[row], codes)
        assert len(info.captions[row].split("-")) == 3
        assert info.labels["scale"][row] == row % 2, "the last morphological factor runs fastest"
    assert info.groups.unique().numel() == 6
    assert info.image_ids[25] == f"{info.groups[25]}/1"
    assert info.groups[0] == info.groups[23] != info.groups[24]
    pairs = {tuple(pair) for pair in info.relevant_pairs().tolist()}
    assert {(i, i) for i in range(info.num_images)} <= pairs


def test_no_source_digit_is_in_two_splits():
    module = datamodule("data.limit=null", "data.cache_dir=unused")
    indices = [set(mad.load_source("digits", split, seed=module.seed).indices.tolist()) for split in mad.SPLITS]
    assert [len(i) for i in indices] == [1259, 179, 359]
    assert len(set.union(*indices)) == 1797


def batches(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_evaluation_batches_are_the_described_rows_and_repeat():
    module = datamodule("data.eval_batch_size=50")
    info = module.describe("val")
    loader = module.eval_dataloader("val")
    first, second = list(loader), list(loader)
    assert [len(b.images) for b in first] == [50, 50, 44]
    assert torch.equal(torch.cat([b.sample_id for b in first]), torch.arange(144))
    assert torch.equal(torch.cat([b.tokens for b in first]), module.tokenizer(info.captions))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))
    row = 77
    shown = module.images("val", [row])[0]
    assert torch.equal(module.transform(torch.from_numpy(shown.transpose(2, 0, 1).copy())), first[1].images[row - 50])
    color = mad.FACTORS["color"][info.labels["color"][row]]
    ink = shown.reshape(-1, 3).max(0)
    assert {"red": ink[1] == 0, "gray": ink[0] == ink[1] == ink[2]}.get(color, True)


def test_training_draws_colours_and_captions_anew_each_epoch_and_the_same_for_the_same_seed():
    loader = datamodule().train_dataloader()
    one, two, one_again = batches(loader, 0), batches(loader, 1), batches(datamodule().train_dataloader(), 0)
    other_seed = batches(datamodule("seed=1").train_dataloader(), 0)

    def by_sample(found):
        ids = torch.cat([b.sample_id for b in found])
        order = ids.argsort()
        return ids[order], torch.cat([b.images for b in found])[order], torch.cat([b.tokens for b in found])[order]

    assert torch.equal(one[0].images, one_again[0].images)
    assert torch.equal(one[0].tokens, one_again[0].tokens)
    assert not torch.equal(one[0].sample_id, two[0].sample_id)
    assert not torch.equal(one[0].sample_id, other_seed[0].sample_id)
    common = np.intersect1d(by_sample(one)[0], by_sample(two)[0])
    first, second = (
        [tokens[torch.searchsorted(ids, i)] for i in common] for ids, _, tokens in (by_sample(one), by_sample(two))
    )
    differing = sum(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert differing > len(common) / 2, "captions are drawn anew"


def test_each_training_caption_is_true_of_its_image():
    module = datamodule()
    loader = module.train_dataloader()
    loader.sampler.set_epoch(3)
    batch = next(iter(loader))
    dataset = loader.dataset
    for row, tokens in zip(batch.sample_id.tolist(), batch.tokens, strict=True):
        caption = dataset.split.captions(np.array([row]))[0]
        assert torch.equal(module.tokenizer([caption])[0], tokens)
        assert mad.caption_is_true(caption, dataset.split.codes[row])


@pytest.mark.parametrize("captions", ["object_only", "object_attribute_1", "object_attribute_5"])
@pytest.mark.parametrize("main_object", ["digit", "color"])
def test_captions_name_the_main_object_and_k_others(captions, main_object):
    module = datamodule(f"data.captions={captions}", f"data.main_object={main_object}")
    info = module.describe("test")
    k = mad.num_attributes(captions)
    for row, caption in enumerate(info.captions):
        words = caption.split("-")
        assert len(words) == k + 1
        assert mad.FACTORS[main_object][info.labels[main_object][row]] in words
    assert info.provenance["main_object"] == module.main_object == main_object


def test_prompt_forms_are_named():
    best = datamodule().describe("test").prompts
    assert list(best["scale"].texts[1]) == [f"{digit}-small" for digit in range(10)]
    assert all("3" in text.split("-") and len(text.split("-")) == 3 for text in best["digit"].texts[3])
    assert best["digit"].aggregate == "mean"
    assert best["scale"].aggregate == "max"
    assert "maximum over every digit" in best["scale"].description
    mean = datamodule("data.prompts=caption_mean").describe("test").prompts
    assert all("small" in text.split("-") for text in mean["scale"].texts[1])
    assert mean["scale"].aggregate == "mean"
    # No training caption of k = 0 contains an attribute: the other form stands in, and says so.
    fallback = datamodule("data.prompts=caption_mean", "data.captions=object_only").describe("test").prompts
    assert fallback["scale"].aggregate == "max"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.captions=object_attribute_6", "object_attribute_6.*object_attribute_5"),
        ("data.main_object=shape", "shape.*is not a factor of MAD; choose one of digit, thickness"),
        ("data.prompts=best", "data.prompts='best' does not exist"),
        ("data.variants=two", "data.variants='two' does not exist; choose one of all, one"),
        ("data.limit=0", "data.limit=0 must be null or a whole number, at least 1"),
        ("data.val_digits=-1", "data.val_digits=-1 must be null or a whole number, at least 0"),
        ("data.val_digits=0.1", "data.val_digits=0.1 must be null or a whole number"),
        ("data.val_digits=true", "data.val_digits=True must be null or a whole number"),
        ("data.eval_digits=0", "data.eval_digits=0 must be null or a whole number, at least 1"),
    ],
)
def test_options_that_do_not_exist_are_refused(override, message):
    with pytest.raises(ValueError, match=message):
        datamodule(override)


@pytest.mark.parametrize(("override", "message"), [("data.source=mnist", "root"), ("data.source=usps", "usps")])
def test_a_source_without_files_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        datamodule(override).describe("test")


def test_more_true_pairs_than_memory_holds_are_refused_with_a_way_out(monkeypatch):
    from i0t.data import mad as module

    info = datamodule("data.captions=object_only").describe("test")
    exact = len(info.relevant_pairs())
    monkeypatch.setattr(module, "_MAX_TRUE_PAIRS", exact * 1.01)
    assert len(info.relevant_pairs()) == exact
    monkeypatch.setattr(module, "_MAX_TRUE_PAIRS", exact * 0.99)
    with pytest.raises(ValueError, match=r"too many pairs to hold; evaluate fewer source digits with data.eval_digits"):
        info.relevant_pairs()


@pytest.mark.parametrize(
    ("captions", "main_object", "bits"),
    # By hand: log2 10 = 3.3219, log2 1680 = 10.7142, log2 7 = 2.8074.
    [("object_only", "digit", 3.3219), ("object_attribute_5", "color", 10.7142), ("object_only", "color", 2.8074),
     ("object_attribute_1", "digit", 3.3219 + (10.7142 - 3.3219) / 5)],
)  # fmt: skip
def test_provenance_says_how_much_captions_tell(captions, main_object, bits):
    known = datamodule(f"data.captions={captions}", f"data.main_object={main_object}").describe("test").provenance
    assert known["caption_bits"] == pytest.approx(bits, abs=2e-4)
    assert known["image_bits"] == pytest.approx(10.7142, abs=1e-4)
    assert (known["num_digits"], known["same_images_as"], known["warnings"]) == (6, None, [])


def test_without_held_out_digits_validation_says_that_it_measures_training_digits():
    module = datamodule("data.val_digits=0", "data.limit=40", "data.eval_digits=9")
    train, val, test = (module.describe(split) for split in mad.SPLITS)
    assert (train.num_images, val.num_images, test.num_images) == (40 * 24, 9 * 24, 9 * 24)
    assert set(val.image_ids) < set(train.image_ids)
    assert set(test.image_ids).isdisjoint(train.image_ids)
    assert val.provenance["same_images_as"] == "train"
    assert "also trained on" in val.provenance["warnings"][0]
    for info in (train, test):
        assert (info.provenance["same_images_as"], info.provenance["warnings"]) == (None, [])


def test_a_part_of_the_test_digits_is_drawn_at_random_and_training_keeps_all():
    whole, part = datamodule("data.limit=40"), datamodule("data.limit=40", "data.eval_digits=10")
    assert part.describe("train").num_images == whole.describe("train").num_images == 40 * 24
    digits = part.split("test").images
    of_whole = whole.split("test").images
    found = np.flatnonzero(np.isin(of_whole.source_indices, digits.source_indices))
    assert len(found) == 10
    assert found.tolist() != list(range(10)), "not the first ones"
    assert np.array_equal(digits.images, of_whole.images[found])
    assert np.array_equal(digits.labels, of_whole.labels[found])
    other = datamodule("data.limit=40", "data.eval_digits=10", "data.seed=1").split("test").images.source_indices
    assert not np.array_equal(other, digits.source_indices)
