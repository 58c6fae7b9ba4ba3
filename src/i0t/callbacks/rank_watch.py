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

from i0t.callbacks.agreed_stop import AgreedStop, LeavingNow
from i0t.callbacks.rank_links import RankHub, RankLink

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

    Where the sockets cannot be opened (a firewall), the process group's own timeout is all that ends the others.

    DDP:
        One broadcast at the start of the first loop; nothing during the steps.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Connects the ranks, once in the life of their processes."""
        if trainer.world_size == 1 or _links:
            return
        self._trainer = trainer
        address = os.environ["MASTER_ADDR"]
        hub = self._start_hub(local=address in ("localhost", "127.0.0.1")) if trainer.is_global_zero else None
        port, token = trainer.strategy.broadcast((hub.port, hub.token) if hub is not None else (0, ""))
        if hub is not None:
            address = "127.0.0.1"
        try:
            link = RankLink(address, port, rank=trainer.global_rank, token=token, leave=self._leave)
        except OSError as error:
            warnings.warn(
                f"rank {trainer.global_rank} cannot reach rank 0 at {address}:{port} ({error}): should a rank die, the "
                "others end at the timeout of their process group",
                stacklevel=2,
            )
            return
        link.start()
        _links.append(link)

    def _start_hub(self, *, local: bool) -> RankHub:
        launched: list[subprocess.Popen[bytes]] = getattr(self._trainer.strategy.launcher, "procs", [])
        self._children = list(launched)
        launched.clear()  # its observer, which looks at this list, then has nothing left to do
        hub = RankHub(
            self._trainer.world_size,
            secrets.token_hex(16),
            how_it_ended=self._how_it_ended,
            say=say,
            local=local,
        )
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
    if not _links:
        if isinstance(error, LeavingNow):
            say(error.message)
        return
    link = _links.pop()
    if isinstance(error, AgreedStop):
        link.done_together()
    elif isinstance(error, LeavingNow):
        link.leaving(error.message, error.exit_code)
    else:
        vars(error)["rank"] = link.rank
        link.failed(echo=is_echo(error))


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
