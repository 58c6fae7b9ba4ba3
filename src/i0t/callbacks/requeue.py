"""Asks SLURM to run a job again."""

from __future__ import annotations

import os
import subprocess

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
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: {error}"
    if done.returncode == 0:
        return None
    said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
    return f"{' '.join(command)}: {said}"
