import itertools

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


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_samples", [1, 6, 7, 20])
def test_evaluation_shards_cover_every_sample_once(world, size, num_samples):
    seen = []
    for rank in range(size):
        world(rank, size)
        sampler = ShardedBatchSampler(num_samples, batch_size=3)
        batches = list(sampler)
        assert len(sampler) == len(batches)
        seen += list(itertools.chain(*batches))
    assert seen == list(range(num_samples))
