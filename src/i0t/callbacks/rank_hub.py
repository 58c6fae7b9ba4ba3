"""The server in rank 0 that decides which rank is to blame when one ends: see :mod:`i0t.callbacks.rank_links`.

W ranks.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from i0t.callbacks.rank_links import SPEAK_SECONDS, keep_alive, read_message, send_message

# A rank whose collective failed may be the echo of one that died: its word counts if nothing else is heard so long.
ECHO_SECONDS = 5.0
# How long whoever connects may take to say which rank it is, and the bytes it may take for that.
GREETING_SECONDS = 10.0
_GREETING_BYTES = 256


def listen(address: str, port: int, *, local: bool, backlog: int) -> socket.socket:
    """A server where all ranks find it, and as few others as can be.

    Args:
        address: Of rank 0's machine, as the others know it.
        port: ``0``: any that is free.
        local: Whether all ranks are on this machine: then nobody else can connect.
        backlog: How many may connect at once.

    Raises:
        OSError: If the port is taken.
    """
    if local:
        return socket.create_server(("127.0.0.1", port), backlog=backlog)
    for family, _, _, _, place in socket.getaddrinfo(address, port, type=socket.SOCK_STREAM):
        if ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback:  # what some machines call themselves
            continue
        with contextlib.suppress(OSError):  # an address of a router in front of this machine
            return socket.create_server(place[:2], family=family, backlog=backlog)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
    return socket.create_server(("", port), backlog=backlog)


@dataclass
class _Peer:
    connection: socket.socket
    since: float
    rank: int | None = None
    received: bytes = b""
    done: bool = False
    exit_code: int = 1


class RankHub(threading.Thread):
    """Decides in rank 0 which rank is to blame, lets that one speak, and then stops the others.

    Args:
        num_ranks: W.
        token: Word by which ranks of this run know each other.
        how_it_ended: Says of a rank that ended without a word how that came, in a few words.
        say: Prints a line.
        server: See :func:`listen`.
    """

    def __init__(
        self,
        num_ranks: int,
        token: str,
        *,
        how_it_ended: Callable[[int], str],
        say: Callable[[str], None],
        server: socket.socket,
    ) -> None:
        super().__init__(daemon=True, name="rank-hub")
        self.num_ranks = num_ranks
        self.token = token
        self.how_it_ended, self.say = how_it_ended, say
        self._server = server
        self.port: int = server.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._peers: list[_Peer] = []
        self._blamed: int | None = None
        self._echo: tuple[float, int] | None = None
        self._stop_at: float | None = None
        self._given_up = threading.Event()

    @property
    def address(self) -> str:
        """Where rank 0 itself reaches it."""
        host = str(self._server.getsockname()[0])
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)

    def give_up(self) -> None:
        """Stops listening before anything has gone wrong; the ranks must not have started to."""
        self._given_up.set()
        self.join()
        self._server.close()

    def run(self) -> None:
        """Listens until all ranks are done, or one made it stop the others."""
        try:
            self._listen()
        except BaseException:
            self.say("warning: the watch over the ranks ended by an error: the process group's timeout is what is left")
            raise

    def _listen(self) -> None:
        while not (self._given_up.is_set() or self._finished()):
            for key, _ in self._selector.select(timeout=0.2):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            now = time.monotonic()
            for peer in [p for p in self._peers if p.rank is None and now - p.since > GREETING_SECONDS]:
                self._drop(peer)
            if self._blamed is None and self._echo is not None and now - self._echo[0] > ECHO_SECONDS:
                self._blame(self._echo[1])
            if self._stop_at is not None and now > self._stop_at:
                self._end_ranks(self._exit_code(self._blamed))

    def _finished(self) -> bool:
        known = self._ranks()
        if len(known) < self.num_ranks or not all(peer.done for peer in known):
            return False
        for peer in known:
            send_message(peer.connection, {"is": "over"})
        self._server.close()
        return True

    def _ranks(self) -> list[_Peer]:
        return [peer for peer in self._peers if peer.rank is not None]

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError:  # gone again, or this process has too many files open: the next may fare better
            time.sleep(0.1)
            return
        try:
            keep_alive(connection)
        except OSError:
            connection.close()
            return
        connection.settimeout(SPEAK_SECONDS)  # of a word to one who does not listen
        peer = _Peer(connection, since=time.monotonic())
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _drop(self, peer: _Peer) -> None:
        self._selector.unregister(peer.connection)
        peer.connection.close()
        if peer.rank is None:
            self._peers.remove(peer)
        else:
            self._lost(peer)

    def _read(self, peer: _Peer) -> None:
        """Takes what a rank says; whoever else connects to the port is shown out."""
        try:
            data = peer.connection.recv(65536)
            if not data:
                raise ConnectionResetError
            *lines, peer.received = (peer.received + data).split(b"\n")
            if peer.rank is None and len(lines[0] if lines else peer.received) > _GREETING_BYTES:
                raise ValueError("not a greeting")
            for line in lines:
                message = read_message(line)
                if peer.rank is None:
                    self._greet(peer, message)
                else:
                    self._hear(peer, message)
        except (OSError, ValueError, KeyError):  # its end, keepalive gave up, or no word of ours
            self._drop(peer)

    def _greet(self, peer: _Peer, message: dict[str, Any]) -> None:
        if not hmac.compare_digest(str(message["token"]).encode(), self.token.encode()):
            raise ValueError("not of this run")
        peer.rank = int(message["rank"])

    def _exit_code(self, rank: int | None) -> int:
        return next((peer.exit_code for peer in self._peers if peer.rank == rank), 1)

    def _hear(self, peer: _Peer, message: dict[str, Any]) -> None:
        assert peer.rank is not None, "a greeting comes first"
        if message["is"] == "done":
            peer.done = True
        elif message["is"] == "failed" and self._blamed is None:
            peer.exit_code = message["code"]
            if not message["echo"]:
                self._blame(peer.rank)
            elif self._echo is None:
                self._echo = (time.monotonic(), peer.rank)
        elif message["is"] == "leaving" and self._blamed is None:
            self._blamed = peer.rank
            self.say(message["line"])
            self._end_ranks(message["code"])

    def _blame(self, rank: int) -> None:
        """Lets a rank say what went wrong; the others wait for that."""
        self._blamed, self._stop_at = rank, time.monotonic() + SPEAK_SECONDS
        for peer in self._ranks():
            send_message(peer.connection, {"is": "speak" if peer.rank == rank else "failing"})

    def _lost(self, peer: _Peer) -> None:
        if peer.rank is None or peer.done:
            return
        if self._blamed is None:
            self._blamed = peer.rank
            self.say(f"error: rank {peer.rank} of {self.num_ranks} {self.how_it_ended(peer.rank)}")
            self._end_ranks(1)
        elif self._blamed == peer.rank:
            self._end_ranks(peer.exit_code)

    def _end_ranks(self, code: int) -> None:
        self._stop_at = None
        for peer in self._ranks():
            send_message(peer.connection, {"is": "stop", "code": code})
