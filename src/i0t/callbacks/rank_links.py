"""Sockets between the ranks of a run, over which all learn at once that one of them ended.

A collective whose partner is gone returns late (gloo, at the process group's timeout) or never (NCCL), so the ends of
processes go another way. Every rank holds a TCP connection to a hub in rank 0 (:mod:`i0t.callbacks.rank_hub`). The
kernel closes it when the process ends, however that happens, and keepalive packets find a machine that is gone. Nobody
sends heartbeats, so that a rank that is merely slow is never taken for dead.

Messages are lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

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


def send_message(connection: socket.socket, message: dict[str, Any]) -> None:
    """Sends one line, or nothing where nobody is left to hear it."""
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def read_message(line: bytes) -> dict[str, Any]:
    """One line.

    Raises:
        ValueError: If it is none of ours.
    """
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"not a message: {message!r}")
    return message


class RankLink(threading.Thread):
    """One rank's connection to the hub.

    Args:
        address: Where the hub is.
        port: Its port.
        rank: This one.
        token: See :class:`i0t.callbacks.rank_hub.RankHub`.
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
        send_message(self._connection, {"token": token, "rank": rank})
        self._may_speak, self._over, self._done = threading.Event(), threading.Event(), False

    def run(self) -> None:
        """Listens until the hub says that all is over, or is gone."""
        with contextlib.suppress(OSError), self._connection.makefile("rb") as lines:
            for line in lines:
                self._hear(read_message(line))
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

    def close(self) -> None:
        """Gives the connection up; only before this thread was started."""
        self._connection.close()

    def failed(self, *, echo: bool, code: int = 1) -> None:
        """Says that this rank failed, and waits until it may say why; the process ends here if another one is to.

        Args:
            echo: Whether the error may be the consequence of another rank's.
            code: With which the others are to end as well.
        """
        send_message(self._connection, {"is": "failed", "echo": echo, "code": code})
        self._may_speak.wait(timeout=SPEAK_SECONDS)

    def leaving(self, line: str, code: int) -> None:
        """Ends all ranks with an exit code, after the hub has printed a line."""
        send_message(self._connection, {"is": "leaving", "line": line, "code": code})
        self._over.wait(timeout=SPEAK_SECONDS)

    def done(self) -> None:
        """Says that this rank needs the others no more; rank 0, which holds the hub, waits for theirs."""
        send_message(self._connection, {"is": "done"})
        self._done = self.rank != 0
        if self.rank == 0:
            self._over.wait(timeout=END_SECONDS)
            self._done = True

    def done_together(self) -> None:
        """As :meth:`done`, of ranks that all leave: each waits, so that none is taken for the first that failed."""
        self.done()
        self._over.wait(timeout=SPEAK_SECONDS)
