"""Cached features come in the batches in which the photos themselves would have come."""

# N images, M texts, D embedding width.
import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from i0t.data import cached_pairs
from i0t.data.cached_pairs import CachedPairs
from i0t.data.photo_split import PhotoSplit
from i0t.data.photos import PhotoDataModule
from i0t.embeddings import EmbeddingSet
from i0t.encode import assemble
from i0t.features import Features

DIM = 3
NUM_CAPTIONS = {"train": [3, 1, 4, 1, 5, 2, 6, 1, 3, 2, 2], "val": [2, 1, 3, 1, 2]}
OPTIONS = {
    "captions_per_image": None,
    "prompt_prefix": "",
    "lowercase_first": False,
    "max_caption_chars": None,
    "only_present": False,
    "limit": None,
    "eval_batch_size": 2,
    "num_workers": 0,
}


class Photos(PhotoDataModule):
    """Images of one pixel with several captions each."""

    name = "made"

    def read_split(self, split, finder):
        counts = NUM_CAPTIONS[split]
        files = [self.root / f"{split}{i}.png" for i in range(len(counts))]
        (self.root / "list.txt").touch()
        for i, file in enumerate(files):
            Image.new("RGB", (1, 1), (i, 0, 0)).save(file)
        return PhotoSplit(
            image_files=[finder.find([self.root], [file.name]) for file in files],
            captions=[[f"{i} {j}" for j in range(count)] for i, count in enumerate(counts)],
            image_ids=[file.name for file in files],
            annotation_files=[self.root / "list.txt"],
        )


def tokens_of(texts):
    """A caption's image and number."""
    return torch.tensor([[int(word) for word in text.split()] for text in texts])


def made_features(rows, seed):
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def photos(tmp_path):
    def build(batch_size=2, train_seed=0):
        module = Photos(root=str(tmp_path), batch_size=batch_size, train_seed=train_seed, **OPTIONS)
        module.bind(transform=transforms.ToTensor(), tokenizer=tokens_of)
        return module

    return build


@pytest.fixture
def encoded(photos):
    """The splits of the photos as an encoder leaves them."""

    def encode(split):
        info = photos().describe(split)
        num_texts = len(info.captions)
        features = Features(
            made_features(info.num_images, 1),
            made_features(num_texts, 2),
            torch.arange(info.num_images),
            torch.arange(num_texts),
        )
        return assemble(features, info, logits=(10.0, None))

    return {split: encode(split) for split in NUM_CAPTIONS}


def epochs(datamodule, number):
    loader = datamodule.train_dataloader()
    found = []
    for epoch in range(number):
        loader.sampler.set_epoch(epoch)
        found.append(list(loader))
    return found


def assert_same_batches(cached, plain, embeddings):
    assert len(cached) == len(plain) > 0
    for one, other in zip(cached, plain, strict=True):
        assert torch.equal(one.sample_id, other.sample_id)
        assert torch.equal(one.text_id, other.text_id)
        assert torch.equal(one.text_image_index, other.text_image_index)
        assert torch.equal(one.images, embeddings.image_features[other.sample_id])
        assert torch.equal(one.tokens, embeddings.text_features[other.text_id])
        assert one.short_tokens is None
        # The photos' own batches name image and caption in their tokens, without any index.
        own = [(int(image), int(number)) for image, number in other.tokens]
        captions = [tuple(map(int, embeddings.captions[text].split())) for text in one.text_id]
        assert own == captions
        assert [int(one.sample_id[i]) for i in one.text_image_index] == [image for image, _ in own]


@pytest.mark.parametrize(("batch_size", "train_seed"), [(2, 0), (3, 5), (11, 1)])
def test_rows_and_drawn_captions_are_those_of_the_photos_epoch_by_epoch(photos, encoded, batch_size, train_seed):
    cached = CachedPairs(encoded, batch_size=batch_size, train_seed=train_seed)
    found, expected = epochs(cached, 4), epochs(photos(batch_size, train_seed), 4)
    assert [len(epoch) for epoch in found] == [11 // batch_size] * 4, "the last uneven batch is dropped"
    for one, other in zip(found, expected, strict=True):
        assert_same_batches(one, other, encoded["train"])
    orders = [[i for batch in epoch for i in batch.sample_id.tolist()] for epoch in found]
    assert len({tuple(order) for order in orders}) == 4
    drawn = [{i: t for b in e for i, t in zip(b.sample_id.tolist(), b.text_id.tolist(), strict=True)} for e in found]
    assert len({t for epoch in drawn for i, t in epoch.items() if i == 6}) > 1, "captions differ between epochs"


def test_an_epoch_that_comes_again_draws_the_same(encoded):
    cached = CachedPairs(encoded, batch_size=4, train_seed=3)
    first, _, again = (epochs(cached, 1)[0], epochs(cached, 3), epochs(cached, 1)[0])
    assert all(torch.equal(a.text_id, b.text_id) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("completed", [1, 5, 8])
def test_a_resumed_run_goes_on_where_the_photos_would(photos, encoded, completed):
    cached, plain = CachedPairs(encoded, batch_size=2, train_seed=0), photos()
    uninterrupted = [batch for epoch in epochs(photos(), 3) for batch in epoch]
    loaders = []
    for module in (cached, plain):
        module.first_batch = completed
        loaders.append(module.train_dataloader())
    found, expected = (list(loader) for loader in loaders)
    assert_same_batches(found, expected, encoded["train"])
    rest = uninterrupted[completed : (completed // 5 + 1) * 5]
    assert_same_batches(found, rest, encoded["train"])


def test_two_ranks_take_what_one_process_takes(photos, encoded, monkeypatch):
    whole = epochs(CachedPairs(encoded, batch_size=4, train_seed=2), 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("i0t.data.samplers._world", lambda rank=rank: (rank, 2))
        parts.append(epochs(CachedPairs(encoded, batch_size=2, train_seed=2), 2))
        for one, other in zip(parts[-1], epochs(photos(2, 2), 2), strict=True):
            assert_same_batches(one, other, encoded["train"])
    for epoch in range(2):
        assert len(whole[epoch]) == len(parts[0][epoch]) == len(parts[1][epoch]) == 2
        for together, left, right in zip(whole[epoch], parts[0][epoch], parts[1][epoch], strict=True):
            for field in ("images", "tokens", "sample_id", "text_id"):
                joined = torch.cat([getattr(left, field), getattr(right, field)])
                assert torch.equal(joined, getattr(together, field))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_covers_an_uneven_set_once_over_all_ranks(photos, encoded, monkeypatch, world):
    monkeypatch.setattr(cached_pairs, "_EVAL_BATCH", 2)
    images, texts = [], []
    for rank in range(world):
        monkeypatch.setattr("i0t.data.samplers._world", lambda rank=rank: (rank, world))
        cached = list(CachedPairs(encoded, batch_size=2, train_seed=0).val_dataloader())
        assert_same_batches(cached, list(photos().val_dataloader()), encoded["val"])
        images += [i for batch in cached for i in batch.sample_id.tolist()]
        texts += [i for batch in cached for i in batch.text_id.tolist()]
    assert (images, texts) == (list(range(5)), list(range(9)))


def test_batches_that_are_asked_for(photos, encoded):
    cached = CachedPairs(encoded, batch_size=2, train_seed=0)
    asked = [[4, 1], [0]]
    assert_same_batches(
        list(cached.eval_dataloader("train", asked)), list(photos().eval_dataloader("train", asked)), encoded["train"]
    )
    assert list(cached.eval_dataloader("train", [])) == []


def test_captions_that_do_not_lie_in_the_order_of_their_images():
    index = torch.tensor([1, 0, 2, 0, 1, 2, 2, 0])
    embeddings = EmbeddingSet.from_index(made_features(3, 0), made_features(8, 1), index)
    cached = CachedPairs({"train": embeddings, "val": embeddings}, batch_size=3, train_seed=0)
    seen = {row: set() for row in range(3)}
    for epoch in epochs(cached, 60):
        for batch in epoch:
            assert torch.equal(index[batch.text_id], batch.sample_id)
            assert torch.equal(batch.tokens, embeddings.text_features[batch.text_id])
            for row, text in zip(batch.sample_id.tolist(), batch.text_id.tolist(), strict=True):
                seen[row].add(text)
    assert seen == {0: {1, 3, 7}, 1: {0, 4}, 2: {2, 5, 6}}
    (batch,) = cached.val_dataloader()
    assert batch.text_id.tolist() == [1, 3, 7, 0, 4, 2, 5, 6]
    assert batch.text_image_index.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_a_text_of_several_images_and_images_without_any_in_validation(encoded):
    pairs = torch.tensor([[2, 1], [0, 1], [3, 0]])
    shared = EmbeddingSet(image_features=made_features(4, 0), text_features=made_features(3, 1), pairs=pairs)
    (batch,) = CachedPairs({**encoded, "val": shared}, batch_size=2, train_seed=0).val_dataloader()
    assert batch.sample_id.tolist() == [0, 1, 2, 3]
    assert (batch.text_id.tolist(), batch.text_image_index.tolist()) == ([1, 1, 0], [0, 2, 3])
    bare = dataclasses.replace(shared, pairs=torch.empty(0, 2, dtype=torch.int64))
    (batch,) = CachedPairs({**encoded, "val": bare}, batch_size=2, train_seed=0).val_dataloader()
    assert (batch.images.shape, batch.tokens.shape) == ((4, DIM), (0, DIM))


@pytest.mark.parametrize(("pairs", "bare"), [([[0, 0], [3, 1]], 2), ([], 4)])
def test_training_images_without_a_caption_are_refused(encoded, pairs, bare):
    embeddings = EmbeddingSet(
        image_features=made_features(4, 0),
        text_features=made_features(2, 1),
        pairs=torch.tensor(pairs, dtype=torch.int64).view(-1, 2),
    )
    with pytest.raises(ValueError, match=f"{bare} of 4 images have no caption to be trained with"):
        CachedPairs({**encoded, "train": embeddings}, batch_size=2, train_seed=0)


def test_a_split_smaller_than_a_batch_is_refused(encoded, monkeypatch):
    with pytest.raises(ValueError, match=r"data.batch_size=12 on 1 device.* an epoch of training has 11 images"):
        len(CachedPairs(encoded, batch_size=12, train_seed=0).train_dataloader())
    monkeypatch.setattr("i0t.data.samplers._world", lambda: (1, 2))
    with pytest.raises(ValueError, match=r"data.batch_size=6 on 2 device.* an epoch of training has 11 images"):
        list(CachedPairs(encoded, batch_size=6, train_seed=0).train_dataloader())


def test_it_says_what_a_split_holds(encoded):
    cached = CachedPairs(encoded, batch_size=2, train_seed=0)
    info = cached.describe("train")
    assert (info.num_images, len(info.captions)) == (11, sum(NUM_CAPTIONS["train"]))
    assert torch.equal(info.pairs, encoded["train"].pairs)
    assert info.image_ids == encoded["train"].image_ids
    nameless = dataclasses.replace(encoded["val"], captions=None)
    assert list(CachedPairs({**encoded, "val": nameless}, batch_size=2, train_seed=0).describe("val").captions) == (
        [""] * 9
    )
    assert cached.files("train") is None, "it is not cached a second time"


def test_every_caption_is_drawn_as_often_as_its_siblings(encoded):
    draws = [b.text_id for epoch in epochs(CachedPairs(encoded, batch_size=11, train_seed=0), 500) for b in epoch]
    counts = np.bincount(torch.cat(draws).numpy(), minlength=sum(NUM_CAPTIONS["train"]))
    expected = np.concatenate([[500 / n] * n for n in NUM_CAPTIONS["train"]])
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max())
    assert (counts[expected == 500] == 500).all()
