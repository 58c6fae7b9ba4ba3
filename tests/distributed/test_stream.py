"""Streamed shards in real trainings: what is seen, once, by whom, and after a stop."""

import io
import itertools
import logging
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from i0t.data.shard_positions import ShardSequence

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
SIZES = [5, 3, 8, 1, 6, 9, 4, 7, 5, 6, 2]  # of the training shards, 56 samples
BROKEN = {(0, 1), (2, 7), (5, 0), (5, 4)}  # shard and number of images that are none
BARE = {(4, 5), (10, 0)}  # without caption


def photo(number):
    file = io.BytesIO()
    colours = np.random.default_rng(number).integers(0, 256, 3, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(colours, (8, 8, 3))).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Shards of uneven sizes with samples that cannot be used, and one to validate on."""
    folder = tmp_path_factory.mktemp("shards")
    for split, sizes in (("train", SIZES), ("val", [6])):
        (folder / split).mkdir()
        for shard, size in enumerate(sizes):
            with wds.TarWriter(str(folder / split / f"{shard:02d}.tar")) as tar:
                for number in range(size):
                    sample = {
                        "__key__": f"{number:03d}",
                        "png": photo(100 * shard + number),
                        "txt": f"{shard} {number}",
                    }
                    if split == "train" and (shard, number) in BROKEN:
                        sample["png"] = b"nothing"
                    if split == "train" and (shard, number) in BARE:
                        del sample["txt"]
                    tar.write(sample)
    return str(folder)


def samples(batches):
    """Visit, and number in the shard, of every sample."""
    return [divmod(identifier, 1 << 32) for identifier in itertools.chain(*batches)]


def usable(visit):
    """The samples of a visit's shard that training can use."""
    shard = ShardSequence(len(SIZES), seed=0, resampled=False)[visit]
    return {(visit, n) for n in range(SIZES[shard]) if (shard, n) not in BROKEN | BARE}


def assert_goes_on(first, second, whole):
    """A run and what went on from it together are one that was never stopped."""
    assert first["seen"] + second["seen"] == whole["seen"]
    assert first["counted"] + second["counted"] == whole["counted"]
    for name, value in whole["parameters"].items():
        assert torch.equal(second["parameters"][name], value), name
    assert any(not torch.equal(first["parameters"][name], value) for name, value in whole["parameters"].items())


def test_an_epoch_in_one_process_has_every_usable_sample_once(workers, root):
    run = workers.train_on_stream(root, 60)
    seen = samples(run["seen"])
    assert len(set(seen)) == len(seen) == 120
    for epoch in range(2):
        visits = range(epoch * 11, epoch * 11 + 11)
        assert {s for s in seen if s[0] in visits} == set.union(*map(usable, visits))
    assert run["counted"] == [2.0 * (step + 1) for step in range(60)]
    assert run["skipped"] >= 12, "six in each epoch"


@pytest.mark.parametrize(
    ("num_workers", "accumulate"),
    [(0, 3), pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(3, 2, marks=pytest.mark.slow)],
)
def test_a_resumed_run_sees_what_an_uninterrupted_one_would_have_seen(workers, root, tmp_path, num_workers, accumulate):
    options = {"num_workers": num_workers, "accumulate": accumulate}
    whole = workers.train_on_stream(root, 19, **options)
    assert len(whole["seen"]) == 19 * accumulate
    parts = {"seen": [], "counted": []}
    for at, (start, stop) in enumerate([(0, 4), (4, 5), (5, 12)]):
        resume = str(tmp_path / f"{start}.ckpt") if at else None
        part = workers.train_on_stream(root, stop, resume=resume, save=tmp_path / f"{stop}.ckpt", **options)
        parts = {"seen": parts["seen"] + part["seen"], "counted": parts["counted"] + part["counted"]}
        parts["parameters"] = part["parameters"]
    last = workers.train_on_stream(root, 19, resume=str(tmp_path / "12.ckpt"), **options)
    assert_goes_on(parts, last, whole)


def test_a_resumed_run_of_shards_with_replacement_goes_on_too(workers, root, tmp_path):
    options = {"num_workers": 2, "resampled": True}
    whole = workers.train_on_stream(root, 12, **options)
    first = workers.train_on_stream(root, 7, save=tmp_path / "7.ckpt", **options)
    second = workers.train_on_stream(root, 12, resume=str(tmp_path / "7.ckpt"), **options)
    assert_goes_on(first, second, whole)
    drawn = Counter(visit for visit, _ in samples(whole["seen"]))
    shards = ShardSequence(len(SIZES), seed=0, resampled=True)
    assert len({shards[visit] for visit in drawn}) < len(drawn), "some shard was drawn twice within an epoch's length"


def test_the_checkpoint_holds_plain_containers(workers, root, tmp_path):
    workers.train_on_stream(root, 3, save=tmp_path / "3.ckpt", num_workers=2)
    state = torch.load(tmp_path / "3.ckpt", weights_only=True)
    stream = state["Cc12mDataModule"]
    assert stream["batches"] == 3, "what was read ahead is not counted"
    assert [len(position) for position in stream["positions"][0]] == [4, 4]
    assert state["i0t"]["samples_seen"] == 6


def test_a_checkpoint_of_other_data_is_refused(workers, root, tmp_path):
    workers.train_on_stream(root, 3, save=tmp_path / "3.ckpt")
    state = torch.load(tmp_path / "3.ckpt", weights_only=True)
    del state["Cc12mDataModule"]
    torch.save(state, tmp_path / "bare.ckpt")
    with pytest.raises(ValueError, match="this checkpoint does not say where its stream of shards stood"):
        workers.train_on_stream(root, 5, resume=str(tmp_path / "bare.ckpt"))


def test_other_shards_of_the_same_number_are_refused_and_moved_ones_are_not(workers, root, tmp_path):
    first = workers.train_on_stream(root, 3, save=tmp_path / "3.ckpt")
    moved, renamed = tmp_path / "moved", tmp_path / "renamed"
    shutil.copytree(root, moved)
    shutil.copytree(root, renamed)
    for shard in (renamed / "train").glob("*.tar"):
        shard.rename(shard.with_stem(f"b{shard.stem}"))
    resume = str(tmp_path / "3.ckpt")
    with pytest.raises(ValueError, match="these 11 shards have other names"):
        workers.train_on_stream(str(renamed), 5, resume=resume)
    with pytest.raises(ValueError, match=r"data\.train_seed: the run to go on with had 0, now it is 1"):
        workers.train_on_stream(root, 5, resume=resume, train_seed=1)
    whole = workers.train_on_stream(root, 5)
    assert_goes_on(first, workers.train_on_stream(str(moved), 5, resume=resume), whole)


def test_validations_between_the_batches_of_a_step_are_refused(workers, root):
    with pytest.raises(ValueError, match=r"val_check_interval=4 .* trainer\.val_check_interval=3 or 6$"):
        workers.train_on_stream(root, 3, accumulate=3, val_every=4)


# --- two processes ---


@pytest.mark.ddp
@pytest.mark.parametrize(("num_workers", "accumulate"), [pytest.param(0, 2, marks=pytest.mark.slow), (2, 1)])
def test_two_ranks_go_on_where_each_stood(gloo_pool, root, tmp_path, num_workers, accumulate):
    def run(*args, **options):
        return gloo_pool.run(
            "call_train_on_stream", args, {"num_workers": num_workers, "accumulate": accumulate, **options}
        )

    whole = run(root, 16)
    first = run(root, 7, save=str(tmp_path / "7.ckpt"))
    second = run(root, 16, resume=str(tmp_path / "7.ckpt"))
    for rank in range(2):
        assert_goes_on(first[rank], second[rank], whole[rank])
    assert whole[0]["seen"] != whole[1]["seen"]
    batches = 16 * accumulate
    assert whole[0]["counted"] == [4.0 * (batch + 1) for batch in range(batches)]
    seen = samples(whole[0]["seen"] + whole[1]["seen"])
    assert len(set(seen)) == len(seen) == 4 * batches, "no sample of an epoch comes up twice, on any rank"
    begun = {visit for visit, _ in seen}
    ends = [max(v for v in begun if v % slots == slot) for slots in [2 * max(1, num_workers)] for slot in range(slots)]
    for slot, end in enumerate(ends):
        behind = [usable(v) for v in range(slot, end - 3 * len(ends), len(ends))]
        assert set.union(set(), *behind) <= set(seen), "what lies more than a buffer behind has come up"


@pytest.mark.ddp
def test_another_number_of_workers_goes_on_with_whole_shards(gloo_pool, workers, root, tmp_path, caplog):
    first = gloo_pool.run("call_train_on_stream", (root, 7), {"num_workers": 2, "save": str(tmp_path / "7.ckpt")})
    before = samples(first[0]["seen"] + first[1]["seen"])
    with caplog.at_level(logging.WARNING, logger="i0t"):
        after = workers.train_on_stream(root, 40, resume=str(tmp_path / "7.ckpt"), num_workers=1)
    assert "num_ranks 2, now 1, num_workers 2, now 1" in caplog.text
    later = samples(after["seen"])
    assert not set(before) & set(later), "nothing comes up twice"
    begins = later[0][0]
    assert begins == min(visit for visit, _ in later)
    assert set.union(*(usable(visit) for visit in range(begins, begins + 8))) <= set(later), "and then all do"
    left_out = set.union(*map(usable, range(begins))) - set(before)
    # Of each of the four workers at most the shard and the block that it had begun, and the shard it was behind others.
    assert 0 < len(left_out) <= 4 * (2 * max(SIZES) + 6)
    assert after["counted"][0] == 28 + 2, "the count goes on over worlds of any size"
