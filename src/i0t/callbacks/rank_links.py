"""Sockets between the ranks of a run, over which all learn at once that one of them ended.

A collective whose partner is gone returns late (gloo, at the process group's timeout) or never (NCCL), so the ends of
processes go another way. Every rank holds a TCP connection to a hub in rank 0. The kernel closes it when the process
ends, however that happens, and keepalive packets find a machine that is gone. Nobody sends heartbeats, so that a rank
that is merely slow is never taken for dead.

Messages are lines of JSON; W ranks.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# A rank whose collective failed may be the echo of one that died: its word counts if nothing else is heard so long.
ECHO_SECONDS = 5.0
# How long a rank may take to say what went wrong, before it is stopped with the others.
SPEAK_SECONDS = 20.0
# How long rank 0 waits at the end for ranks that are still at work.
END_SECONDS = 60.0


def keep_alive(connection: socket.socket) -> None:
    """Lets the kernel ask every 5 s, after 10 s of silence, and give up after 30 s."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # whoever is gone needs no word
        connection.sendall(json.dumps(message).encode() + b"\n")


@dataclass
class _Peer:
    connection: socket.socket
    rank: int | None = None
    received: bytes = b""
    done: bool = False


class RankHub(threading.Thread):
    """Decides in rank 0 which rank is to blame, lets that one speak, and then stops the others.

    Args:
        num_ranks: W.
        token: Word by which ranks of this run know each other.
        how_it_ended: Says of a rank that ended without a word how that came, in a few words.
        say: Prints a line.
        local: Whether all ranks are on this machine.
    """

    def __init__(
        self,
        num_ranks: int,
        token: str,
        *,
        how_it_ended: Callable[[int], str],
        say: Callable[[str], None],
        local: bool,
    ) -> None:
        super().__init__(daemon=True, name="rank-hub")
        self.num_ranks = num_ranks
        self.token = token
        self.how_it_ended, self.say = how_it_ended, say
        self._server = socket.create_server(("127.0.0.1" if local else "", 0), backlog=num_ranks)
        self.port: int = self._server.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._peers: list[_Peer] = []
        self._blamed: int | None = None
        self._echo: tuple[float, int] | None = None
        self._stop_at: float | None = None

    def run(self) -> None:
        """Listens until all ranks are done, or one made it stop the others."""
        while not self._finished():
            for key, _ in self._selector.select(timeout=0.2):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            now = time.monotonic()
            if self._blamed is None and self._echo is not None and now - self._echo[0] > ECHO_SECONDS:
                self._blame(self._echo[1])
            if self._stop_at is not None and now > self._stop_at:
                self._end_ranks(1)

    def _finished(self) -> bool:
        known = [peer for peer in self._peers if peer.rank is not None]
        if len(known) < self.num_ranks or not all(peer.done for peer in known):
            return False
        for peer in known:
            _send(peer.connection, {"is": "over"})
        self._server.close()
        return True

    def _accept(self) -> None:
        connection, _ = self._server.accept()
        keep_alive(connection)
        peer = _Peer(connection)
        self._peers.append(peer)
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.connection.recv(65536)
        except OSError:  # reset, or keepalive gave up
            data = b""
        if not data:
            self._selector.unregister(peer.connection)
            peer.connection.close()
            self._lost(peer)
            return
        *lines, peer.received = (peer.received + data).split(b"\n")
        for line in lines:
            self._hear(peer, json.loads(line))

    def _hear(self, peer: _Peer, message: dict[str, Any]) -> None:
        if peer.rank is None:
            peer.rank = message["rank"] if message.get("token") == self.token else None
        elif message["is"] == "done":
            peer.done = True
        elif message["is"] == "failed" and self._blamed is None:
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
        for peer in self._peers:
            _send(peer.connection, {"is": "speak" if peer.rank == rank else "failing"})

    def _lost(self, peer: _Peer) -> None:
        if peer.rank is None or peer.done:
            return
        if self._blamed is None:
            self._blamed = peer.rank
            self.say(f"error: rank {peer.rank} of {self.num_ranks} {self.how_it_ended(peer.rank)}")
            self._end_ranks(1)
        elif self._blamed == peer.rank:
            self._end_ranks(1)

    def _end_ranks(self, code: int) -> None:
        self._stop_at = None
        for peer in self._peers:
            _send(peer.connection, {"is": "stop", "code": code})


class RankLink(threading.Thread):
    """One rank's connection to the hub.

    Args:
        address: Where the hub is.
        port: Its port.
        rank: This one.
        token: See :class:`RankHub`.
        leave: Ends this process with an exit code, whatever its main thread waits for.

    Raises:
        OSError: If the hub cannot be reached.
    """

    def __init__(self, address: str, port: int, *, rank: int, token: str, leave: Callable[[int], None]) -> None:
        super().__init__(daemon=True, name="rank-link")
        self.rank = rank
        self.leave = leave
        self._connection = socket.create_connection((address, port), timeout=30)
        self._connection.settimeout(None)
        keep_alive(self._connection)
        _send(self._connection, {"token": token, "rank": rank})
        self._may_speak, self._over, self._done = threading.Event(), threading.Event(), False

    def run(self) -> None:
        """Listens until the hub says that all is over, or is gone."""
        with contextlib.suppress(OSError), self._connection.makefile("rb") as lines:
            for line in lines:
                self._hear(json.loads(line))
                if self._over.is_set():
                    return
        if not (self._done or self._may_speak.is_set()):  # rank 0 ended, and has said what it had to say
            self.leave(1)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["is"] == "speak":
            self._may_speak.set()
        elif message["is"] == "failing":  # should the hub not come to stop this rank
            timer = threading.Timer(2 * SPEAK_SECONDS, self.leave, args=(1,))
            timer.daemon = True
            timer.start()
        elif message["is"] == "stop" and not (self._done or self._may_speak.is_set()):
            self.leave(message["code"])
        elif message["is"] == "over":
            self._over.set()

    def failed(self, *, echo: bool) -> None:
        """Says that this rank failed, and waits until it may say why; the process ends here if another one is to.

        Args:
            echo: Whether the error may be the consequence of another rank's.
        """
        _send(self._connection, {"is": "failed", "echo": echo})
        self._may_speak.wait(timeout=SPEAK_SECONDS)

    def leaving(self, line: str, code: int) -> None:
        """Ends all ranks with an exit code, after the hub has printed a line."""
        _send(self._connection, {"is": "leaving", "line": line, "code": code})
        self._over.wait(timeout=SPEAK_SECONDS)

    def done(self) -> None:
        """Says that this rank needs the others no more; rank 0, which holds the hub, waits for theirs."""
        _send(self._connection, {"is": "done"})
        self._done = self.rank != 0
        if self.rank == 0:
            self._over.wait(timeout=END_SECONDS)
            self._done = True

    def done_together(self) -> None:
        """As :meth:`done`, of ranks that all leave: each waits, so that none is taken for the first that failed."""
        self.done()
        self._over.wait(timeout=SPEAK_SECONDS)
