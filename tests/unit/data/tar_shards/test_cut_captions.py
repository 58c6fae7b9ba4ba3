"""Training on captions cut to a part of their words, and evaluation on whole ones."""

import collections

import pytest
import torch

WORDS = "a cat sits upon the old red mat"
HALVES = {"a cat sits upon", "the old red mat"}
QUARTERS = {"a cat", "sits upon", "the old", "red mat"}
TEXTS = ("a cat sits upon", "the old", "mat")  # of 4, 2 and 1 words


def wide_tokens(texts):
    """A caption's bytes, padded to 40."""
    return torch.tensor([list(text.encode().ljust(40, b"\0")) for text in texts], dtype=torch.int64)


def caption_of(number, sample):
    sample["txt"] = WORDS if number < 100 else TEXTS[number % 3]


def captions_seen(loader, count, captions_of):
    batches = iter(loader)
    return [caption for _ in range(count) for caption in captions_of(next(batches))]


@pytest.mark.parametrize(("part", "expected"), [("full", {WORDS}), ("half", HALVES), ("quarter", QUARTERS)])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_keeps_a_random_part_of_every_caption_each_equally_often(
    cc12m, write_shard, captions_of, part, expected, num_workers
):
    write_shard("train/0.tar", 0, 6, caption_of)
    datamodule = cc12m(caption_part=part, num_workers=num_workers)
    datamodule.bind(transform=lambda image: torch.zeros(1), tokenizer=wide_tokens)
    seen = collections.Counter(captions_seen(datamodule.train_dataloader(), 200, captions_of))
    assert set(seen) == expected
    for count in seen.values():
        share, sigma = 1 / len(expected), (1 / len(expected) * (1 - 1 / len(expected)) / 800) ** 0.5
        assert abs(count / 800 - share) <= 4 * sigma


def test_short_captions_lose_words_but_never_all_of_them(cc12m, write_shard, captions_of):
    write_shard("train/0.tar", 100, 6, caption_of)
    seen = captions_seen(cc12m(caption_part="quarter").train_dataloader(), 50, captions_of)
    assert set(seen) == {"a", "cat", "sits", "upon", "the", "old", "mat"}


def test_the_cuts_follow_from_the_seed_and_the_place_in_the_stream(cc12m, write_shard, captions_of, position):
    for i in range(4):
        write_shard(f"train/{i}.tar", 0, 4, caption_of)  # one caption: whatever differs is how it is cut

    def cuts(rank=0, seed=0):
        position(rank, 2)
        datamodule = cc12m(caption_part="quarter", num_workers=2, train_seed=seed, shuffle_buffer=1)
        datamodule.bind(transform=lambda image: torch.zeros(1), tokenizer=wide_tokens)
        return captions_seen(datamodule.train_dataloader(), 16, captions_of)

    first = cuts()
    assert cuts() == first
    workers = [[caption for at in range(start, 64, 8) for caption in first[at : at + 4]] for start in (0, 4)]
    orders = [*workers, cuts(rank=1)[0:32], cuts(seed=1)[0:32]]
    assert len({tuple(order) for order in orders}) == 4
    epochs = [workers[0][at : at + 4] for at in range(0, 32, 4)]
    assert len({tuple(epoch) for epoch in epochs}) > 5, "drawn afresh each time"


def test_cutting_captions_does_not_change_which_samples_come(cc12m, write_shard, captions_of):
    for i in range(2):
        write_shard(f"train/{i}.tar", 100 * i, 6)
    whole = captions_seen(cc12m().train_dataloader(), 10, captions_of)
    halves = captions_seen(cc12m(caption_part="half").train_dataloader(), 10, captions_of)
    assert set(halves) >= {"photo"}
    assert all(half in caption.split() for half, caption in zip(halves, whole, strict=True))


def test_evaluation_reads_whole_captions_and_says_so(cc12m, write_shard, captions_of):
    write_shard("train/0.tar", 0, 6, caption_of)
    write_shard("val/0.tar", 0, 6, caption_of)
    datamodule = cc12m(caption_part="quarter")
    datamodule.bind(transform=datamodule.transform, tokenizer=wide_tokens)
    for split in ("train", "val", "test"):
        info = datamodule.describe(split)
        assert list(info.captions) == [WORDS] * 6
        assert (info.provenance["caption_part"], info.provenance["training_caption_part"]) == ("full", "quarter")
        for batch in datamodule.eval_dataloader(split):
            assert set(captions_of(batch)) == {WORDS}
