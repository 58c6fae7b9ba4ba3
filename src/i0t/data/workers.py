"""What every process that reads data for a loader does first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from lightning_fabric.utilities.seed import pl_worker_init_function

# How often a worker looks whether its parent is still there.
_SECONDS = 1.0


def init_worker(worker_id: int) -> None:
    """Lets a worker outlive the signals that go to all processes of a run; give it to every loader.

    A terminal, ``kill -- -PGID`` and SLURM (``scancel``, preemption, ``--signal``) signal the workers together with the
    process they read for, which needs their batches to finish its step. torch's workers die of SIGTERM whatever
    handlers they were forked with, since torch puts its own in their place. Here SIGTERM is blocked, and a thread takes
    it: a worker ends when its parent says so or has ended itself.

    Seeds the worker as Lightning does for loaders without such a function.

    Args:
        worker_id: From 0.
    """
    if int(os.environ.get("PL_SEED_WORKERS", "0")):  # seed_everything(..., workers=True)
        pl_worker_init_function(worker_id)
    if not hasattr(signal, "sigtimedwait"):  # macOS, Windows: nobody could tell whose signal it was
        return
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before any thread, which all inherit it
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True, name="worker-signals").start()


def _end_with_parent(parent: int) -> None:
    trainer = multiprocessing.parent_process()  # the same, but where a fork server is in between
    ending = {parent} if trainer is None else {parent, trainer.pid}
    while True:
        received = signal.sigtimedwait({signal.SIGTERM}, _SECONDS)
        if (received is not None and received.si_pid in ending) or os.getppid() != parent:
            os._exit(0)  # torch takes any other code for an error
