"""The ranks join by sockets, all or none, and rank 0's machine is found."""

import os
import threading
from types import SimpleNamespace

import pytest

from i0t import runs
from i0t.callbacks import rank_hub, rank_watch
from i0t.callbacks.rank_links import RankLink
from i0t.callbacks.rank_watch import RankWatch


class Strategy:
    """One of two ranks of a group in one process: threads that meet at a barrier."""

    def __init__(self, group, rank):
        self.group, self.rank = group, rank
        self.launcher = SimpleNamespace(procs=["child"] if rank == 0 else [])

    def broadcast(self, thing):
        self.group.sent[self.rank] = thing
        self.barrier()
        return self.group.sent[0]

    def reduce_boolean_decision(self, decision, all):
        self.group.decisions[self.rank] = decision
        self.barrier()
        return self.group.decisions == {0: True, 1: True}

    def barrier(self):
        self.group.barrier.wait(timeout=20)


class Group:
    """Two ranks."""

    def __init__(self, num_nodes):
        self.sent, self.decisions, self.barrier = {}, {}, threading.Barrier(2)
        self.trainers = [
            SimpleNamespace(
                world_size=2, num_nodes=num_nodes, global_rank=rank, is_global_zero=rank == 0, loggers=[],
                strategy=Strategy(self, rank),
            )
            for rank in range(2)
        ]  # fmt: skip

    def setup(self, port=0):
        watches = [RankWatch(port) for _ in self.trainers]
        threads = [
            threading.Thread(target=watch.setup, args=(trainer, None, "fit"), daemon=True)
            for watch, trainer in zip(watches, self.trainers, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
            assert not thread.is_alive()


class Links(list):
    """Each thread of a rank sees a process of its own: none is connected when it begins."""

    def __bool__(self):
        return False


@pytest.fixture
def links(monkeypatch):
    found = Links()
    monkeypatch.setattr(rank_watch, "_links", found)
    monkeypatch.setenv("MASTER_ADDR", "an.address.of.elsewhere")
    return found


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(rank_watch, "say", lines.append)
    return lines


def hubs():
    return {thread for thread in threading.enumerate() if isinstance(thread, rank_hub.RankHub)}


def test_on_one_machine_whatever_it_is_called_the_ranks_meet_at_the_loopback(links, said):
    before = hubs()
    group = Group(num_nodes=1)
    group.setup()
    assert sorted(link.rank for link in links) == [0, 1]
    assert {link._connection.getpeername()[0] for link in links} == {"127.0.0.1"}
    assert group.trainers[0].strategy.launcher.procs == [], "Lightning's observer has nothing left to do"
    for link in sorted(links, key=lambda link: -link.rank):
        link.done()
    for hub in hubs() - before:
        hub.join(timeout=5)
    assert hubs() <= before
    assert said == []


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_rank_cannot_connect_none_is_watched_and_the_launcher_goes_on_looking(links, said, monkeypatch, rank):
    def connect(*arguments, **options):
        if options["rank"] == rank:
            raise TimeoutError("filtered")
        return RankLink(*arguments, **options)

    monkeypatch.setattr(rank_watch, "RankLink", connect)
    before = hubs()
    group = Group(num_nodes=1)
    with pytest.warns(UserWarning, match=rf"rank {rank} cannot reach rank 0 at 127.0.0.1:\d+ \(filtered\)"):
        group.setup()
    assert links == []
    assert hubs() <= before, "rank 0 waits for nobody at the end"
    assert group.trainers[0].strategy.launcher.procs == ["child"]
    assert said == [], "nobody is taken for dead"


def test_a_port_that_is_taken_is_no_end_of_the_run(links, said):
    with (
        rank_hub.listen("", 0, local=True, backlog=1) as server,
        pytest.warns(UserWarning, match="it has no open port"),
    ):
        Group(num_nodes=1).setup(port=server.getsockname()[1])
    assert links == []


def test_over_machines_it_is_the_masters_address_and_the_port_that_is_asked_for(links, monkeypatch):
    asked = []

    def listen(address, port, *, local, backlog):
        asked.append((address, port, local))
        raise OSError("not here")

    monkeypatch.setattr(rank_watch, "listen", listen)
    with pytest.warns(UserWarning, match="at an.address.of.elsewhere:0"):
        Group(num_nodes=2).setup(port=4711)
    assert asked == [("an.address.of.elsewhere", 4711, False)]


def test_rank_0_that_another_one_ends_leaves_no_empty_folder(monkeypatch, tmp_path):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    watch = RankWatch()
    watch._trainer = SimpleNamespace(loggers=[])
    empty, begun = tmp_path / "empty", tmp_path / "begun"
    (begun / runs.CHECKPOINT).parent.mkdir(parents=True)
    (begun / runs.CHECKPOINT).touch()
    empty.mkdir()
    for folder in (empty, begun):
        with runs.discarded_if_not_started(folder):
            watch._leave(2)
    assert left == [2, 2]
    assert not empty.exists()
    assert begun.exists()
