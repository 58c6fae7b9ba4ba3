"""One rank's end reaches the others: who is blamed, who speaks, who leaves, over real sockets in one process."""

import socket
import threading
import time

import pytest

from i0t.callbacks import rank_links
from i0t.callbacks.rank_links import RankHub, RankLink, keep_alive


class Ranks:
    """A hub and its links; `left` holds (rank, exit code) of those who were made to leave."""

    def __init__(self, number):
        self.said, self.left = [], []
        self.hub = RankHub(
            number, "word", how_it_ended=lambda rank: f"vanished ({rank})", say=self.said.append, local=True
        )
        self.hub.start()
        self.links = [self.link(rank) for rank in range(number)]
        for link in self.links:
            link.start()

    def link(self, rank, token="word"):
        return RankLink("127.0.0.1", self.hub.port, rank=rank, token=token, leave=lambda code: self.leave(rank, code))

    def leave(self, rank, code):
        self.left.append((rank, code))  # in earnest the process ends here

    def kill(self, rank):
        """What the kernel does with a process that ends."""
        self.links[rank]._connection.shutdown(socket.SHUT_RDWR)

    def fail(self, rank, *, echo=False):
        """`failed` in a thread of its own, with whether it returned."""
        returned = threading.Event()

        def failing():
            self.links[rank].failed(echo=echo)
            returned.set()

        threading.Thread(target=failing, daemon=True).start()
        return returned


@pytest.fixture
def ranks():
    return Ranks(3)


def soon(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def settled(condition):
    """Whether something holds, and still does after a moment."""
    held = soon(condition)
    time.sleep(0.3)
    return held and condition()


def test_a_rank_that_is_killed_is_named_once_and_the_others_leave(ranks):
    ranks.kill(2)
    assert settled(lambda: {rank for rank, _ in ranks.left} >= {0, 1})
    assert ranks.said == ["error: rank 2 of 3 vanished (2)"]
    assert {code for _, code in ranks.left} == {1}


def test_a_rank_that_fails_speaks_and_the_others_leave_when_it_has(ranks):
    spoke = ranks.fail(1)
    assert spoke.wait(5)
    time.sleep(0.3)
    assert ranks.left == [], "the others wait for its last word"
    ranks.kill(1)
    assert settled(lambda: sorted(ranks.left) == [(0, 1), (2, 1)])
    assert ranks.said == [], "it has said so itself"


def test_of_two_that_fail_one_speaks(ranks):
    first = ranks.fail(2)
    assert first.wait(5)
    second = ranks.fail(0)
    assert not second.wait(0.5)
    ranks.kill(2)
    assert settled(lambda: sorted(ranks.left) == [(0, 1), (1, 1)])
    assert not second.is_set()


def test_the_echo_of_a_death_does_not_speak(ranks):
    echo = ranks.fail(0, echo=True)
    time.sleep(0.3)
    ranks.kill(1)
    assert settled(lambda: {(0, 1), (2, 1)} <= set(ranks.left))
    assert ranks.said == ["error: rank 1 of 3 vanished (1)"]
    assert not echo.is_set()


def test_an_echo_of_nothing_speaks_after_a_while(monkeypatch):
    monkeypatch.setattr(rank_links, "ECHO_SECONDS", 0.5)
    ranks = Ranks(2)
    began = time.monotonic()
    first = ranks.fail(1, echo=True)
    assert first.wait(5)
    assert time.monotonic() - began > 0.5
    assert ranks.said == []


def test_a_speaker_who_does_not_end_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(rank_links, "SPEAK_SECONDS", 0.5)
    ranks = Ranks(3)
    assert ranks.fail(1).wait(5)
    assert settled(lambda: sorted(ranks.left) == [(0, 1), (2, 1)])


def test_when_rank_0_ends_the_others_leave(ranks):
    for peer in ranks.hub._peers:
        peer.connection.shutdown(socket.SHUT_RDWR)  # its hub goes with it
    assert settled(lambda: {(1, 1), (2, 1)} <= set(ranks.left))


def test_ranks_that_are_done_leave_nobody(ranks):
    ranks.links[2].done()
    ranks.kill(2)
    ranks.links[1].done()
    time.sleep(0.3)
    ranks.links[0].done()
    ranks.hub.join(timeout=5)
    assert not ranks.hub.is_alive()
    assert ranks.left == []
    assert ranks.said == []


def test_rank_0_waits_for_the_others_at_the_end(ranks):
    ended = threading.Event()
    ranks.links[1].done()
    threading.Thread(target=lambda: (ranks.links[0].done(), ended.set()), daemon=True).start()
    assert not ended.wait(0.5), "rank 2 is at work"
    ranks.links[2].done()
    assert ended.wait(5)


def test_a_rank_that_dies_while_rank_0_waits_ends_it(ranks):
    threading.Thread(target=ranks.links[0].done, daemon=True).start()
    ranks.links[1].done()
    time.sleep(0.2)
    ranks.kill(2)
    assert settled(lambda: (0, 1) in ranks.left and (1, 1) not in ranks.left)
    assert ranks.said == ["error: rank 2 of 3 vanished (2)"]


def test_one_that_leaves_takes_the_others_along_with_its_exit_code(ranks):
    threading.Thread(target=ranks.links[1].leaving, args=("stopped", 143), daemon=True).start()
    assert settled(lambda: sorted(ranks.left) == [(0, 143), (1, 143), (2, 143)])
    assert ranks.said == ["stopped"]


def test_a_stranger_is_no_rank():
    ranks = Ranks(2)
    stranger = ranks.link(1, token="other")
    rank_links._send(stranger._connection, {"is": "failed", "echo": False})
    stranger._connection.close()
    with socket.create_connection(("127.0.0.1", ranks.hub.port)) as silent:
        silent.sendall(b"")
    time.sleep(0.5)
    assert ranks.left == []
    assert ranks.said == []
    assert ranks.fail(1).wait(5), "the hub still listens"


def test_the_kernel_finds_machines_that_are_gone():
    with socket.socket() as connection:
        keep_alive(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        idle, interval, count = (
            connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        )
        assert idle + interval * count <= 45, "within a minute"
