"""One rank's end reaches the others: who is blamed, who speaks, who leaves, over real sockets in one process."""

import contextlib
import socket
import threading
import time

import pytest

from i0t.callbacks import rank_hub, rank_links
from i0t.callbacks.rank_hub import RankHub, listen
from i0t.callbacks.rank_links import RankLink, keep_alive


class Ranks:
    """A hub and its links; `left` holds (rank, exit code) of those who were made to leave."""

    def __init__(self, number):
        self.said, self.left = [], []
        self.hub = RankHub(
            number,
            "word",
            how_it_ended=lambda rank: f"vanished ({rank})",
            say=self.said.append,
            server=listen("127.0.0.1", 0, local=True, backlog=number),
        )
        self.hub.start()
        self.links = [self.link(rank) for rank in range(number)]
        for link in self.links:
            link.start()
        assert soon(lambda: len(self.hub._peers) == number, 60), "the hub knows all ranks"

    def link(self, rank, token="word"):
        return RankLink("127.0.0.1", self.hub.port, rank=rank, token=token, leave=lambda code: self.leave(rank, code))

    def leave(self, rank, code):
        self.left.append((rank, code))  # in earnest the process ends here

    def kill(self, rank):
        """What the kernel does with a process that ends."""
        with contextlib.suppress(OSError):  # the hub was faster
            self.links[rank]._connection.shutdown(socket.SHUT_RDWR)

    def fail(self, rank, *, echo=False, code=1):
        """`failed` in a thread of its own, with whether it returned."""
        returned = threading.Event()

        def failing():
            self.links[rank].failed(echo=echo, code=code)
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
    monkeypatch.setattr(rank_hub, "ECHO_SECONDS", 0.5)
    ranks = Ranks(2)
    began = time.monotonic()
    first = ranks.fail(1, echo=True)
    assert first.wait(5)
    assert time.monotonic() - began > 0.5
    assert ranks.said == []


def test_a_speaker_who_does_not_end_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(rank_hub, "SPEAK_SECONDS", 0.5)
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
    rank_links.send_message(stranger._connection, {"is": "failed", "echo": False})
    stranger._connection.close()
    with socket.create_connection(("127.0.0.1", ranks.hub.port)) as silent:
        silent.sendall(b"")
    time.sleep(0.5)
    assert ranks.left == []
    assert ranks.said == []
    assert ranks.fail(1).wait(5), "the hub still listens"


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"[1]\n",
        b'"word"\n',
        b"{}\n",
        b'{"token": "w\\u00f6rd", "rank": 1}\n',
        b'{"token": "word"}\n',
        b"\xff\xfe\n",
        b"x" * 300,
    ],
)
def test_whoever_says_something_else_is_shown_out_and_the_hub_lives(ranks, words):
    with socket.create_connection(("127.0.0.1", ranks.hub.port), timeout=5) as stranger:
        stranger.sendall(words)
        with contextlib.suppress(ConnectionResetError):  # it closed with words unread
            assert stranger.recv(100) == b""
    assert ranks.hub.is_alive()
    ranks.kill(2)
    assert settled(lambda: {rank for rank, _ in ranks.left} >= {0, 1})
    assert ranks.said == ["error: rank 2 of 3 vanished (2)"]


def test_whoever_says_nothing_is_shown_out_after_a_while(monkeypatch):
    monkeypatch.setattr(rank_hub, "GREETING_SECONDS", 0.3)
    ranks = Ranks(2)
    with socket.create_connection(("127.0.0.1", ranks.hub.port), timeout=5) as silent:
        assert silent.recv(100) == b""
    assert soon(lambda: len(ranks.hub._peers) == 2), "of a stranger nothing is kept"


def test_a_connection_that_cannot_be_accepted_ends_nothing(ranks, monkeypatch):
    class Refusing:
        """A server of a process that has too many open files."""

        def accept(self):
            raise OSError(24, "Too many open files")

        def close(self):
            pass

    monkeypatch.setattr(ranks.hub, "_server", Refusing())
    port = ranks.hub.port
    with socket.create_connection(("127.0.0.1", port)):
        time.sleep(0.5)
    assert ranks.hub.is_alive()


def test_all_end_with_the_code_of_the_rank_that_failed(ranks):
    assert ranks.fail(1, code=2).wait(5)
    ranks.kill(1)
    assert settled(lambda: sorted(ranks.left) == [(0, 2), (2, 2)])


def test_a_hub_that_gives_up_blames_nobody(ranks):
    ranks.hub.give_up()
    assert not ranks.hub.is_alive()
    ranks.kill(1)
    time.sleep(0.3)
    assert ranks.said == []
    with pytest.raises(ConnectionRefusedError):
        ranks.link(1)


def test_on_one_machine_nobody_else_can_connect():
    with listen("an.address.of.elsewhere", 0, local=True, backlog=2) as server:
        assert server.getsockname()[0] == "127.0.0.1"


def resolved(monkeypatch, *places):
    def getaddrinfo(host, port, *_, **__):
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in places]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_over_machines_it_is_the_interface_of_the_masters_address_and_the_port_asked_for(monkeypatch):
    bound = []
    monkeypatch.setattr(
        socket, "create_server", lambda place, **options: bound.append((place, options.get("family"))) or "server"
    )
    resolved(monkeypatch, (socket.AF_INET, "127.0.1.1"), (socket.AF_INET, "10.1.2.3"))
    assert listen("node1", 4711, local=False, backlog=2) == "server"
    resolved(monkeypatch, (socket.AF_INET6, "fd00::7"))
    listen("node1", 0, local=False, backlog=2)
    assert bound == [(("10.1.2.3", 4711), socket.AF_INET), (("fd00::7", 0), socket.AF_INET6)]


def test_a_machine_that_is_known_by_a_foreign_address_listens_on_all_its_own(monkeypatch):
    resolved(monkeypatch, (socket.AF_INET, "192.0.2.1"))  # of nobody (RFC 5737)
    with listen("node1", 0, local=False, backlog=2) as server:
        monkeypatch.undo()
        assert server.getsockname()[0] in ("::", "0.0.0.0")
        with socket.create_connection(("127.0.0.1", server.getsockname()[1]), timeout=5):
            pass


def test_the_kernel_finds_machines_that_are_gone():
    with socket.socket() as connection:
        keep_alive(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        idle, interval, count = (
            connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        )
        assert idle + interval * count <= 45, "within a minute"
