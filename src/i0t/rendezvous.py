"""Where the ranks of a torchrun job meet, after torchrun has started them again.

torchrun's agents keep one store for all attempts (since torch 2.3), and process groups write their addresses under the
same keys each time: ranks of a second attempt find those of the dead ones, and gloo and NCCL wait for them in vain. So
every attempt meets in a store of its own, which its first rank serves.

The agent's store is used once, to say where. Whatever stands there may be of an earlier attempt, and attempts have no
number that all nodes share: so each rank asks under a name that nobody had before, and the first rank answers.
"""

from __future__ import annotations

import datetime
import os
import secrets
import socket
import time
from typing import Protocol

from i0t.launch import has_agent_store

_WAIT_SECONDS = 1800.0  # as process groups wait
_POLL_SECONDS = 0.05
_ROOT = "i0t/rendezvous"


class Store(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str, /) -> None:
        """Writes."""

    def get(self, key: str, /) -> bytes:
        """Reads, once it is there."""

    def check(self, keys: list[str], /) -> bool:
        """Whether they are there."""


def meet_apart_from_earlier_attempts() -> None:
    """Points torch, by the environment, to a store of this attempt alone; nothing where torchrun keeps no store.

    Call it in every rank, before the process group is made.

    Raises:
        TimeoutError: If not all ranks come within half an hour.
    """
    if not has_agent_store():
        return
    from torch.distributed import TCPStore  # only here, for it takes a second

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=datetime.timedelta(seconds=_WAIT_SECONDS))
    found = agree(store, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), str(_free_port()))
    # MASTER_ADDR is the first rank's machine; at this port of it, no agent serves.
    os.environ |= {"MASTER_PORT": found, "TORCHELASTIC_USE_AGENT_STORE": str(False)}


def agree(store: Store, rank: int, world_size: int, proposed: str, *, seconds: float = _WAIT_SECONDS) -> str:
    """What the first rank of this attempt proposes.

    Args:
        store: Shared by all ranks, and by those of earlier attempts.
        rank: This rank.
        world_size: Of this attempt.
        proposed: The first rank's counts.
        seconds: How long the first rank waits for the others.

    Raises:
        TimeoutError: If they do not come.
    """
    if rank > 0:
        mine = secrets.token_hex(8)
        store.set(f"{_ROOT}/ask/{rank}", mine)
        answer = store.get(f"{_ROOT}/answer/{mine}").decode()
        store.set(f"{_ROOT}/heard/{mine}", "")
        return answer
    waiting, deadline = set(range(1, world_size)), time.monotonic() + seconds
    while waiting:
        waiting -= {other for other in waiting if _answered(store, other, proposed)}
        if time.monotonic() > deadline:
            raise TimeoutError(f"of {world_size} ranks, {sorted(waiting)[:8]} … did not come within {seconds:.0f} s")
        if waiting:
            time.sleep(_POLL_SECONDS)
    return proposed


def _answered(store: Store, other: int, proposed: str) -> bool:
    """Answers what a rank, or the one before it, asked last; whether that was heard, which the dead cannot undo."""
    key = f"{_ROOT}/ask/{other}"
    if not store.check([key]):
        return False
    asked = store.get(key).decode()
    if store.check([f"{_ROOT}/heard/{asked}"]):
        # Heard by this attempt's rank, or by one of an earlier attempt, whose answer was another then.
        return store.get(f"{_ROOT}/answer/{asked}").decode() == proposed
    store.set(f"{_ROOT}/answer/{asked}", proposed)
    return False


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port
