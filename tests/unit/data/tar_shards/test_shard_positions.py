"""The order of shards and the bookkeeping of positions, against plain lists."""

import collections
import itertools
import logging

import pytest

from i0t.data.shard_positions import Position, ShardSequence, StreamProgress, digest_names


def visits_of(progress):
    return [position.visit for position in progress.positions]


# --- which shard when ---


@pytest.mark.parametrize("num_shards", [1, 2, 7, 50])
def test_every_shard_comes_up_once_in_every_epoch(num_shards):
    sequence = ShardSequence(num_shards, seed=3, resampled=False)
    epochs = [[sequence[epoch * num_shards + place] for place in range(num_shards)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(num_shards)) for epoch in epochs)
    if num_shards == 50:
        assert len({tuple(epoch) for epoch in epochs}) == 4, "shuffled anew"
        other = ShardSequence(num_shards, seed=4, resampled=False)
        assert [other[place] for place in range(50)] != epochs[0]


@pytest.mark.parametrize("resampled", [False, True])
def test_any_visit_can_be_asked_for_at_any_time(resampled):
    sequence = ShardSequence(5, seed=1, resampled=resampled)
    forwards = [sequence[visit] for visit in range(40)]
    assert [sequence[visit] for visit in reversed(range(40))] == forwards[::-1]
    assert [ShardSequence(5, seed=1, resampled=resampled)[visit] for visit in range(40)] == forwards


def test_the_order_is_the_same_in_every_process_and_release():
    # Written down once: a run that is resumed with a later release goes on in the same order.
    shuffled, drawn = (ShardSequence(4, seed=0, resampled=resampled) for resampled in (False, True))
    assert [shuffled[visit] for visit in range(12)] == [0, 1, 2, 3, 2, 0, 1, 3, 1, 3, 2, 0]
    assert [drawn[visit] for visit in range(12)] == [3, 1, 3, 0, 1, 3, 0, 1, 3, 2, 1, 2]


def test_draws_with_replacement_are_even_and_independent_of_each_other():
    sequence = ShardSequence(4, seed=0, resampled=True)
    drawn = [sequence[visit] for visit in range(4000)]
    # 1,000 expected, standard deviation 27
    assert all(890 < count < 1110 for count in collections.Counter(drawn).values())
    repeats = sum(a == b for a, b in itertools.pairwise(drawn))
    assert 890 < repeats < 1110, "a shard follows itself as often as any other"


# --- dealing out ---


@pytest.mark.parametrize(("num_ranks", "num_workers"), [(1, 0), (1, 3), (2, 1), (3, 4)])
def test_the_visits_are_dealt_out_once_to_ranks_first_and_then_to_workers(position, num_ranks, num_workers):
    dealt = {}
    for rank in range(num_ranks):
        position(rank, num_ranks)
        progress = StreamProgress(num_workers=num_workers, shuffle_buffer=4)
        assert progress.begin(ShardSequence(99, seed=0, resampled=False)) == (rank, num_ranks)
        for worker, visit in enumerate(visits_of(progress)):
            dealt[visit] = (worker, rank)
    workers = max(1, num_workers)
    assert [dealt[visit] for visit in range(num_ranks * workers)] == [
        (worker, rank) for worker in range(workers) for rank in range(num_ranks)
    ]


def test_only_batches_that_were_used_count():
    progress, sequence = StreamProgress(num_workers=2, shuffle_buffer=4), ShardSequence(9, seed=0, resampled=False)
    progress.begin(sequence)
    places = [Position(0, 0, 2, 0), Position(1, 0, 3, 1), Position(0, 0, 4, 0)]
    for worker, place in zip((0, 1, 0), places, strict=True):
        progress.hand_out(worker, place)
    progress.use()
    progress.use()
    assert progress.positions == places[:2]
    assert progress.batches == 2
    progress.begin(sequence)  # what was read ahead is read again
    assert progress.positions == places[:2]
    with pytest.raises(IndexError):
        progress.use()


NAMES = digest_names([f"{shard}.tar" for shard in range(9)])


def sequence_of_nine(**differences):
    return ShardSequence(
        differences.pop("num_shards", 9), **{"seed": 0, "resampled": False, "names_digest": NAMES} | differences
    )


def saved(**differences):
    """A state of two ranks with two workers each on nine shards, in the middle of visits 4 to 9."""
    positions = [[[4, 7, 2, 4], [6, 0, 0, 3]], [[5, 1, 3, 9], [7, 2, 2, 7]]]
    state = {"num_ranks": 2, "num_workers": 2, "shuffle_buffer": 4, "train_shards": 9, "train_seed": 0}
    state |= {"resampled": False, "shard_names": NAMES, "batches": 5, "positions": positions}
    return state | differences


@pytest.mark.parametrize("rank", [0, 1])
def test_the_same_world_goes_on_where_every_worker_stood(position, rank):
    position(rank, 2)
    progress = StreamProgress(num_workers=2, shuffle_buffer=4)
    progress.load_state_dict(saved())
    assert progress.state_dict() == saved(), "saved again before it is begun"
    progress.begin(sequence_of_nine())
    assert progress.batches == 5
    assert [list(place) for place in progress.positions] == saved()["positions"][rank]


@pytest.mark.parametrize(
    ("num_ranks", "num_workers", "buffer", "said"),
    [(3, 2, 4, "num_ranks 2, now 3"), (2, 1, 4, "num_workers 2, now 1"), (2, 2, 5, "shuffle_buffer 4, now 5")],
)
def test_another_layout_goes_on_with_shards_that_nobody_has_begun(
    position, caplog, num_ranks, num_workers, buffer, said
):
    dealt = []
    with caplog.at_level(logging.WARNING, logger="i0t"):
        for rank in range(num_ranks):
            position(rank, num_ranks)
            progress = StreamProgress(num_workers=num_workers, shuffle_buffer=buffer)
            progress.load_state_dict(saved())
            progress.begin(sequence_of_nine())
            dealt += visits_of(progress)
            assert progress.batches == 0
    assert sorted(dealt) == list(range(10, 10 + num_ranks * num_workers)), "visit 9 was the last that was begun"
    assert [record.message for record in caplog.records] == [
        f"the training stream goes on with the next whole shards, as it has another layout than before ({said})"
    ]


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (sequence_of_nine(num_shards=10), r"data\.train_shards: the run to go on with had 9, now it is 10"),
        (sequence_of_nine(seed=1), r"data\.train_seed: the run to go on with had 0, now it is 1"),
        (sequence_of_nine(resampled=True), r"data\.resampled: the run to go on with had False, now it is True"),
        (
            sequence_of_nine(names_digest=digest_names([f"{shard}.tar" for shard in reversed(range(9))])),
            r"data\.train_shards: these 9 shards have other names, or another order",
        ),
    ],
)
def test_another_stream_cannot_be_gone_on_with(position, sequence, message):
    position(0, 2)
    progress = StreamProgress(num_workers=2, shuffle_buffer=4)
    progress.load_state_dict(saved())
    with pytest.raises(ValueError, match=message):
        progress.begin(sequence)


def test_a_checkpoint_without_the_shards_names_is_gone_on_with(position):
    position(0, 2)
    state = saved()
    del state["shard_names"]
    progress = StreamProgress(num_workers=2, shuffle_buffer=4)
    progress.load_state_dict(state)
    progress.begin(sequence_of_nine())
    assert progress.batches == 5


def test_names_that_run_together_differ():
    assert digest_names(["a", "bc"]) != digest_names(["ab", "c"])
