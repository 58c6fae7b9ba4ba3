import itertools
import logging

import pytest

from i0t.data import samplers
from i0t.data.samplers import GlobalBatchSampler, ShardedBatchSampler


@pytest.fixture
def world(monkeypatch):
    def set_world(rank, size):
        monkeypatch.setattr(samplers, "_world", lambda: (rank, size))

    return set_world


def test_the_ranks_batches_of_a_step_are_one_batch_of_a_single_process(world):
    world(0, 1)
    alone = list(GlobalBatchSampler(50, batch_size=8, seed=3))
    shards = []
    for rank in range(2):
        world(rank, 2)
        shards.append(list(GlobalBatchSampler(50, batch_size=4, seed=3)))
    assert [a + b for a, b in zip(*shards, strict=True)] == alone
    assert len(alone) == 6, "the last uneven batch is dropped"
    seen = list(itertools.chain(*alone))
    assert len(set(seen)) == len(seen) == 48


def test_epochs_and_seeds_shuffle_differently_and_repeatably(world):
    world(0, 1)

    def order(seed, epoch):
        sampler = GlobalBatchSampler(40, batch_size=40, seed=seed)
        sampler.set_epoch(epoch)
        return next(iter(sampler))

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4


def test_a_resumed_epoch_goes_on_where_it_stopped_and_the_next_is_whole(world):
    world(0, 1)
    whole = GlobalBatchSampler(40, batch_size=8, seed=0)
    resumed = GlobalBatchSampler(40, batch_size=8, seed=0)
    resumed.resume_at(3)
    assert list(resumed) == list(whole)[3:]
    assert list(resumed) == list(whole)


def test_resuming_also_finds_the_epoch(world):
    world(0, 1)
    whole = GlobalBatchSampler(40, batch_size=8, seed=0)
    whole.set_epoch(2)
    resumed = GlobalBatchSampler(40, batch_size=8, seed=0)
    resumed.resume_at(13)
    assert list(resumed) == list(whole)[3:]


@pytest.mark.parametrize(("size", "batch_size"), [(1, 41), (2, 21), (4, 11)])
def test_a_split_smaller_than_a_global_batch_is_refused(world, size, batch_size):
    world(0, size)
    with pytest.raises(ValueError, match=rf"data.batch_size={batch_size} on {size} device.*has 40 images"):
        len(GlobalBatchSampler(40, batch_size=batch_size, seed=0))


def test_batches_too_small_to_contrast_or_to_exist_are_refused():
    with pytest.raises(ValueError, match="at least 2 pairs"):
        GlobalBatchSampler(40, batch_size=1, seed=0)
    with pytest.raises(ValueError, match="eval_batch_size=0"):
        ShardedBatchSampler(40, batch_size=0)


@pytest.mark.parametrize(
    ("num_samples", "size"), [(1, 1), (6, 1), (6, 2), (7, 2), (6, 3), (20, 3), (7, 7), (20, 7), (8, 7)]
)
def test_evaluation_shards_cover_every_sample_once(world, size, num_samples):
    seen = []
    for rank in range(size):
        world(rank, size)
        sampler = ShardedBatchSampler(num_samples, batch_size=3)
        batches = list(sampler)
        assert len(sampler) == len(batches)
        seen += list(itertools.chain(*batches))
    assert seen == list(range(num_samples))


def test_fewer_samples_than_ranks_are_refused_on_every_rank(world):
    for rank in range(8):
        world(rank, 8)
        with pytest.raises(ValueError, match=r"4 image\(s\) to evaluate on 8 devices.*larger data\.limit"):
            len(ShardedBatchSampler(4, batch_size=3))


# --- resumed with batches of another width: 100 samples an epoch ---


def rows_from(sampler, batch):
    sampler.resume_at(batch)
    return list(itertools.chain(*sampler))


@pytest.mark.parametrize(
    ("batch_size", "num_ranks", "accumulate", "batch", "left_out"),
    [
        (4, 1, 1, 10, 0),  # as it was: ten batches of four
        (8, 1, 1, 5, 0),
        (2, 1, 1, 20, 0),
        (4, 2, 1, 5, 0),
        (2, 5, 2, 4, 0),
        (16, 1, 1, 3, 8),
        (3, 1, 1, 14, 2),
        (4, 1, 3, 10, 0),  # of the same width: goes on where it stood
        (8, 1, 2, 6, 8),
        (60, 1, 1, 1, 20),
        (40, 1, 4, 2, 40),  # the epoch's two batches are one step
    ],
)
def test_another_width_goes_on_behind_the_samples_that_were_seen(
    world, caplog, batch_size, num_ranks, accumulate, batch, left_out
):
    world(0, 1)
    before = GlobalBatchSampler(100, batch_size=4, seed=0)
    before.set_epoch(3)
    seen = list(itertools.chain(*before))[:40]
    position = before.position(3 * 25 + 10)
    ranks = []
    with caplog.at_level(logging.WARNING, logger="i0t"):
        for rank in range(num_ranks):
            world(rank, num_ranks)
            sampler = GlobalBatchSampler(100, batch_size=batch_size, seed=0)
            at = sampler.batch_at(position, accumulate=accumulate)
            assert at == 3 * len(sampler) + batch
            ranks.append(rows_from(sampler, at))
    later = list(itertools.chain(*ranks))
    width = batch_size * num_ranks
    if batch < 100 // width:  # else the next epoch begins
        assert not set(later) & set(seen), "nothing comes up twice"
        assert len(later) == 100 - 100 % width - 40 - left_out
    assert [f"so {left_out} of the 100 samples" in record.message for record in caplog.records] == [True] * bool(
        left_out
    )


def test_an_epoch_of_which_only_dropped_samples_are_left_is_over(world, caplog):
    world(0, 1)
    position = GlobalBatchSampler(100, batch_size=4, seed=0).position(24)  # of 25
    sampler = GlobalBatchSampler(100, batch_size=32, seed=0)
    assert sampler.batch_at(position, accumulate=1) == 3, "the first of the second epoch"
    assert not caplog.records


@pytest.mark.parametrize(("num_samples", "seed", "said"), [(101, 0, "num_samples=100"), (100, 1, "train_seed=0")])
def test_a_position_in_other_data_is_refused(world, num_samples, seed, said):
    world(0, 1)
    position = GlobalBatchSampler(100, batch_size=4, seed=0).position(7)
    with pytest.raises(ValueError, match=f"had {said} in its training data"):
        GlobalBatchSampler(num_samples, batch_size=4, seed=seed).batch_at(position, accumulate=1)
