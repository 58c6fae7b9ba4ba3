"""Asks SLURM to run a job again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

_SECONDS = 60


def in_slurm() -> bool:
    """Whether this process belongs to a job of SLURM."""
    return "SLURM_JOB_ID" in os.environ


def requeue() -> str | None:
    """Puts the job, or the task of an array of jobs, back into SLURM's queue.

    Returns:
        ``None`` where SLURM took it; else what is wrong, in one line.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    command = ["scontrol", "requeue", job]
    try:
        with _signals_ignored():
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: {error}"
    if done.returncode == 0:
        return None
    said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
    return f"{' '.join(command)}: {said}"


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """Also by what starts meanwhile: once the job is requeued, SLURM ends all of its processes, and so the answer."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
