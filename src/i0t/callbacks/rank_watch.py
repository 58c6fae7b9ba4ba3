"""Ends the whole run when one rank ends, and lets that one rank say why."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from i0t import runs
from i0t.callbacks.agreed_stop import AgreedStop, LeavingNow
from i0t.callbacks.exit_codes import exit_code
from i0t.callbacks.rank_hub import RankHub, listen
from i0t.callbacks.rank_links import RankLink

# Loggers may write what they hold before a process that waits for nothing else ends.
_FLUSH_SECONDS = 5.0
# The words of backends that raise plain RuntimeErrors.
_OF_BACKENDS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe", "socket")

_links: list[RankLink] = []  # of this process, which has at most one


class RankWatch(pl.Callback):
    """Joins the ranks by sockets beside the process group, so that none waits for one that is gone.

    A rank that is killed is named by rank 0 on the terminal; one that raises says so itself, and the others are silent.
    Then all processes end, with an exit code other than 0, within seconds: also where the main thread is held by a
    collective that never returns. Takes the place of Lightning's observer, which kills without a word.

    Notes in every exception, as its attribute ``stage``, what the trainer was doing.

    Where one rank cannot be reached by sockets (a firewall), none is watched so: Lightning's observer and the process
    group's own timeout are then all that ends the others.

    Args:
        port: Of rank 0's machine, where there are several: one that a firewall lets through. ``0``: any that is free.

    DDP:
        A broadcast and a reduction at the start of the first loop; nothing during the steps.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._children: list[subprocess.Popen[bytes]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Connects the ranks, once in the life of their processes."""
        if trainer.world_size == 1 or _links:
            return
        self._trainer = trainer
        # Where there are several machines, rank 0's is the one that all know.
        local, address = trainer.num_nodes == 1, os.environ.get("MASTER_ADDR", "127.0.0.1")
        hub = self._start_hub(address, local=local) if trainer.is_global_zero else None
        port, token = trainer.strategy.broadcast((hub.port, hub.token) if hub is not None else (0, ""))
        if hub is not None:
            address = hub.address
        link = self._connect("127.0.0.1" if local else address, port, token)
        if trainer.strategy.reduce_boolean_decision(link is not None, all=True):
            assert link is not None, "all are connected"
            link.start()
            _links.append(link)
            launched: list[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
            launched.clear()  # its observer, which looks at this list, then has nothing left to do
            return
        if hub is not None:
            hub.give_up()
        trainer.strategy.barrier()  # none hangs up on a hub that would take it for dead
        if link is not None:
            link.close()

    def _connect(self, address: str, port: int, token: str) -> RankLink | None:
        rank = self._trainer.global_rank
        try:
            if port == 0:
                raise ConnectionRefusedError("it has no open port")
            return RankLink(address, port, rank=rank, token=token, leave=self._leave)
        except OSError as error:
            warnings.warn(
                f"rank {rank} cannot reach rank 0 at {address}:{port} ({error}): should a rank die, the others may end "
                "only at the timeout of their process group; callbacks.rank_watch.port names a port that is open",
                stacklevel=3,
            )
            return None

    def _start_hub(self, address: str, *, local: bool) -> RankHub | None:
        self._children = list(getattr(self._trainer.strategy.launcher, "procs", []))
        num_ranks = self._trainer.world_size
        try:
            server = listen(address, self.port, local=local, backlog=num_ranks)
        except OSError:  # all ranks hear of it
            return None
        hub = RankHub(num_ranks, secrets.token_hex(16), how_it_ended=self._how_it_ended, say=say, server=server)
        hub.start()
        return hub

    def _how_it_ended(self, rank: int) -> str:
        if 0 < rank <= len(self._children):
            try:
                code = self._children[rank - 1].wait(timeout=2)
            except subprocess.TimeoutExpired:
                return "closed its connection and does not end"
            if code < 0:
                hint = " (by hand, or because memory ran out)" if code == -9 else ""
                return f"was killed by signal {-code}{hint}; the others were stopped"
            return f"ended with exit code {code} and without a word; the others were stopped"
        return "was killed, or its machine is gone, without a word; the others were stopped"

    def _leave(self, code: int) -> None:
        """Ends this process from a thread, whatever its main thread waits for."""
        timer = threading.Timer(_FLUSH_SECONDS, os._exit, args=(code,))
        timer.daemon = True
        timer.start()
        for logger in self._trainer.loggers:
            logger.finalize("failed")
        runs.discard_not_started()  # the main thread will not come to it
        os._exit(code)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Tells the others before anything else is done about the exception, and notes where it came from."""
        stage = trainer.state.stage
        vars(exception)["stage"] = None if stage is None else stage.value
        announce(exception)


def announce(error: BaseException) -> None:
    """Tells the other ranks that this one leaves with an exception; returns where it is this one that says so.

    Sets the attribute ``rank`` of the exception, for whoever prints it.
    """
    if not _links:  # all ranks may have got the signal
        if isinstance(error, LeavingNow) and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            say(error.message)
        return
    link = _links.pop()
    if isinstance(error, AgreedStop):
        link.done_together()
    elif isinstance(error, LeavingNow):
        link.leaving(error.message, error.exit_code)
    else:
        vars(error)["rank"] = link.rank
        link.failed(echo=is_echo(error), code=exit_code(error))


def leave() -> None:
    """Tells the other ranks that this one has done its part."""
    if _links:
        _links.pop().done()


def is_echo(error: BaseException) -> bool:
    """Whether an error may come from a collective whose partner is gone.

    Example:
        >>> is_echo(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))
        True
        >>> is_echo(ValueError("3"))
        False
    """
    if isinstance(error, (dist.DistError, ConnectionError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _OF_BACKENDS)


def say(line: str) -> None:
    """One line on the terminal, also while the main thread holds Python's own stream."""
    os.write(2, f"{Path(sys.argv[0]).name}: {' '.join(line.split())}\n".encode())
