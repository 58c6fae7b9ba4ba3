"""The order of a stream, entered anywhere, against lists that are made by hand."""

import collections
import itertools
import logging
import tarfile

import pytest

from i0t.data.shard_positions import ShardSequence, StreamProgress
from i0t.data.shard_stream import ShardStream, place
from i0t.data.shards import UnreadableShard
from i0t.data.skipped import SkippedSamples


def stream(paths, *, seed=0, buffer=1, skipped=None, resampled=False):
    return ShardStream(
        [str(path) for path in paths],
        suffixes={"jpg", "txt"},
        shuffle_buffer=buffer,
        seed=seed,
        resampled=resampled,
        skipped=skipped or SkippedSamples(0),
    )


def begun(source, *, num_workers=0, positions=None):
    progress = StreamProgress(num_workers=num_workers, shuffle_buffer=source.shuffle_buffer)
    source.begin(progress)
    if positions is not None:
        source._positions = positions
    return source


def take(source, count):
    return [int(sample["__key__"]) for sample, _ in itertools.islice(source, count)]


@pytest.fixture
def four_shards(write_shard):
    return [write_shard(f"{i}.tar", 10 * i, 3) for i in range(4)]


@pytest.fixture
def uneven_shards(write_shard):
    """Shards of 1 to 7 samples; sample n of shard i is 10 i + n."""
    return [write_shard(f"{i}.tar", 10 * i, i + 1) for i in range(7)]


def expected_order(num_shards, seed, slot, num_slots, num_visits):
    """What a worker reads without a buffer: its visits, the samples of each in their order."""
    sequence = ShardSequence(num_shards, seed=seed, resampled=False)
    shards = [sequence[slot + num_slots * at] for at in range(num_visits)]
    return [10 * shard + number for shard in shards for number in range(shard + 1)]


@pytest.mark.parametrize(("rank", "num_ranks", "worker", "num_workers"), [(0, 1, 0, 1), (1, 2, 0, 1), (1, 2, 2, 3)])
def test_a_worker_reads_its_own_shards_one_after_the_other(
    uneven_shards, position, rank, num_ranks, worker, num_workers
):
    position(rank, num_ranks, worker)
    source = begun(stream(uneven_shards, seed=5), num_workers=num_workers)
    expected = expected_order(7, 5, worker * num_ranks + rank, num_ranks * num_workers, 12)
    assert take(source, len(expected)) == expected


@pytest.mark.parametrize("buffer", [1, 4, 100])
def test_an_epoch_has_every_sample_once_over_all_ranks_and_workers(uneven_shards, position, buffer):
    seen = collections.Counter()
    for rank, worker in itertools.product(range(2), range(3)):
        position(rank, 2, worker)
        source = begun(stream(uneven_shards, buffer=buffer), num_workers=3)
        for sample, _ in source:
            epoch = place(sample)[0] // 7
            if epoch == 4:
                break
            seen[epoch, int(sample["__key__"])] += 1
    samples = [10 * shard + number for shard in range(7) for number in range(shard + 1)]
    assert seen == {(epoch, sample): 1 for epoch in range(4) for sample in samples}


def test_a_buffer_mixes_blocks_that_do_not_cross_an_epoch(write_shard):
    paths = [write_shard(f"{i}.tar", 100 * i, 40) for i in range(2)]
    plain, mixed = (take(begun(stream(paths, buffer=buffer)), 240) for buffer in (1, 30))
    assert plain != mixed
    bounds = [0, 30, 60, 80, 110, 140, 160, 190, 220, 240]  # 30, 30 and the 20 that are left of each epoch
    blocks = [mixed[low:high] for low, high in itertools.pairwise(bounds)]
    assert [sorted(block) for block in blocks] == [sorted(plain[low:high]) for low, high in itertools.pairwise(bounds)]
    steps = [b - a for a, b in itertools.pairwise(mixed)]
    assert steps.count(1) < 24, "neighbours of the shard do not stay neighbours"
    assert any({key // 100 for key in block} == {0, 1} for block in blocks), "mixed across shards too"
    assert blocks[0] != [key - 100 for key in blocks[3]]


def test_seeds_ranks_and_workers_have_orders_of_their_own_that_repeat(four_shards, position):
    def order(seed=0, rank=0, worker=0):
        position(rank, 2, worker)
        return tuple(take(begun(stream(four_shards, seed=seed, buffer=4), num_workers=2), 60))

    places = [{}, {"seed": 1}, {"rank": 1}, {"worker": 1}, {"rank": 1, "worker": 1}]
    orders = [order(**where) for where in places]
    assert len(set(orders)) == len(places)
    assert orders == [order(**where) for where in places]


@pytest.mark.parametrize("buffer", [1, 3, 8, 50])
@pytest.mark.parametrize("resampled", [False, True])
def test_a_stream_entered_at_the_position_behind_any_sample_goes_on_with_the_next(uneven_shards, buffer, resampled):
    whole = list(itertools.islice(begun(stream(uneven_shards, buffer=buffer, resampled=resampled)), 90))
    keys = [sample["__key__"] for sample, _ in whole]
    for at in range(0, 70, 3):
        source = begun(stream(uneven_shards, buffer=buffer, resampled=resampled), positions=[whole[at][1]])
        later = list(itertools.islice(source, 15))
        assert [sample["__key__"] for sample, _ in later] == keys[at + 1 : at + 16], at
        assert [where for _, where in later] == [where for _, where in whole[at + 1 : at + 16]]


def test_the_worker_whose_turn_it_was_goes_to_the_first_process(four_shards, position):
    for process, worker in ((0, 2), (1, 3), (2, 0), (3, 1)):
        position(worker=process)
        source = begun(stream(four_shards), num_workers=4)
        source._batches = 6
        assert source.worker() == worker


def test_no_more_is_held_than_the_buffer(write_shard, position):
    path = write_shard("0.tar", 0, 60)
    source = begun(stream([path], buffer=10))
    read = []
    samples = source._samples
    source._samples = lambda *start: (read.append(sample) or sample for sample in samples(*start))
    for number, _ in enumerate(itertools.islice(iter(source), 45), start=1):
        assert len(read) - (number - 1) <= 10


def test_fewer_shards_than_workers_are_refused_in_one_line(four_shards, position):
    position(0, 2)
    message = (
        r"data.train_shards: 4 shards for 2 device\(s\) with 3 worker\(s\) each.*data.num_workers=2 or fewer.*resampled"
    )
    with pytest.raises(ValueError, match=message):
        begun(stream(four_shards), num_workers=3)
    begun(stream(four_shards), num_workers=2)
    begun(stream(four_shards, resampled=True), num_workers=3)


def test_identifiers_name_the_sample_and_are_never_given_twice(four_shards):
    source = begun(stream(four_shards, buffer=4))
    seen = [(source.identifier(sample), sample) for sample, _ in itertools.islice(source, 40)]
    assert len({identifier for identifier, _ in seen}) == 40
    for identifier, sample in seen:
        shard, number = divmod(int(sample["__key__"]), 10)
        assert source.name_of(identifier) == f"{four_shards[shard]}: sample number {number}, counting from 0"


# --- what is broken ---


def cut_short(path, cut):
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    return cut(path, last.offset_data + 1, "short.tar")


def test_a_shard_cut_short_is_counted_and_named_once_and_the_others_go_on(four_shards, cut, caplog):
    short = cut_short(four_shards[0], cut)
    skipped = SkippedSamples(0)
    source = begun(stream([short, *four_shards[1:]], skipped=skipped))
    with caplog.at_level(logging.WARNING, logger="i0t"):
        drawn = take(source, 11 * 20)
    assert drawn.count(0) == 20
    assert 2 not in drawn, "the last sample of the short shard never comes"
    taken = skipped.take()
    assert taken.number in (19, 20), "once in every epoch; the last may not have ended"
    assert len(taken.reasons) == 1
    assert f"cannot read shard {short}: " in taken.reasons[0]
    assert len(caplog.records) == 1
    assert f"{short}" in caplog.records[0].message


def test_one_short_shard_alone_is_enough_to_go_on(four_shards, cut):
    assert take(begun(stream([cut_short(four_shards[0], cut)])), 50) == [0, 1] * 25


def test_no_readable_shard_is_an_error_and_not_a_hang(tmp_path):
    paths = [tmp_path / f"{i}.tar" for i in range(3)]
    for path in paths:
        path.write_bytes(b"nothing")
    with pytest.raises(UnreadableShard, match=r"no sample in 3 shards in a row; the last: cannot read shard .*\.tar"):
        take(begun(stream(paths)), 1)
    source = begun(stream([f"pipe:cat {tmp_path}/absent{i} 2>/dev/null" for i in range(3)]))
    with pytest.raises(UnreadableShard, match=r"no sample in 3 shards in a row; the last: cannot read shard pipe:"):
        take(source, 1)


def test_shards_with_other_members_are_an_error_that_names_the_suffixes(write_shard):
    def rename(number, sample):
        sample["tiff"] = sample.pop("jpg")
        sample["caption"] = sample.pop("txt")

    with pytest.raises(UnreadableShard, match=r"0\.tar has no member named \*\.jpg, \*\.txt"):
        take(begun(stream([write_shard("0.tar", 0, 3, rename)])), 1)


def test_one_unreadable_shard_among_two_never_stops_the_stream(four_shards, tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"nothing")
    assert set(take(begun(stream([tmp_path / "bad.tar", four_shards[1]])), 900)) == {10, 11, 12}
