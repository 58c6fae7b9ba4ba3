import threading

import pytest
from torch.distributed import HashStore, TCPStore

from i0t import rendezvous
from i0t.rendezvous import agree


def attempt(store, world_size, proposals, *, order=None):
    """All ranks of an attempt at once; what each came to know."""
    found = {}

    def rank_of(rank):
        found[rank] = agree(store, rank, world_size, proposals[rank], seconds=20)

    threads = [threading.Thread(target=rank_of, args=(rank,)) for rank in order or range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return [found[rank] for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_all_learn_what_the_first_rank_proposes_in_every_attempt(world_size):
    store = HashStore()
    for number in range(3):
        proposals = [f"{number}-{rank}" for rank in range(world_size)]
        order = reversed(range(world_size)) if number % 2 else None
        assert attempt(store, world_size, proposals, order=order) == [f"{number}-0"] * world_size


def test_an_attempt_that_died_while_it_met_misleads_nobody():
    store = HashStore()
    for rank in (1, 2):
        store.set(f"i0t/rendezvous/ask/{rank}", f"dead-{rank}")  # rank 0 was not there yet
    store.set("i0t/rendezvous/answer/dead-1", "old")
    store.set("i0t/rendezvous/heard/dead-1", "")
    assert attempt(store, 3, ["new", "x", "y"], order=[0, 2, 1]) == ["new"] * 3


def test_another_number_of_ranks():
    store = HashStore()
    assert attempt(store, 4, list("abcd")) == ["a"] * 4
    assert attempt(store, 2, list("ef")) == ["e"] * 2
    assert attempt(store, 6, list("ghijkl")) == ["g"] * 6


def test_ranks_that_do_not_come_are_named():
    with pytest.raises(TimeoutError, match=r"of 3 ranks, \[1, 2\] … did not come within 0 s"):
        agree(HashStore(), 0, 3, "a", seconds=0.2)


def test_without_an_agents_store_nothing_changes(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    rendezvous.meet_apart_from_earlier_attempts()
    assert rendezvous.os.environ["MASTER_PORT"] == "1"


def test_the_environment_points_to_a_port_of_this_attempt(monkeypatch):
    agent = TCPStore("127.0.0.1", 0, is_master=True)
    for name, value in {"RUN_ID": "a", "USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": agent.port, "RANK": 0, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    heard = []
    client = TCPStore("127.0.0.1", agent.port, is_master=False)
    other = threading.Thread(target=lambda: heard.append(agree(client, 1, 2, "")))
    other.start()
    rendezvous.meet_apart_from_earlier_attempts()
    other.join(timeout=30)
    port = rendezvous.os.environ["MASTER_PORT"]
    assert heard == [port]
    assert int(port) not in (0, agent.port)
    assert rendezvous.os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "False"
