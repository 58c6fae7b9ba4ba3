"""What is wrong with a multirun's engine, found before the first job: packages, objectives, a forgotten flag."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from i0t.config_errors import ConfigError
from i0t.launch import available_cores
from i0t.sweeps.objectives import check_objectives, read_directions


def check_sweeper(hydra: Any) -> None:
    """Refuses a sweeper whose package is not installed, or that cannot search for numbers of ours.

    Args:
        hydra: Hydra's node of a composed config.

    Raises:
        ConfigError: With what to install.
    """
    if is_search(hydra) and importlib.util.find_spec("optuna") is None:
        raise ConfigError("a search needs Optuna: pip install 'i0t[sweeps]'")
    if str(hydra.sweeper.get("_target_")).endswith(".OptunaSweeper"):
        raise ConfigError("hydra/sweeper=optuna takes one number of a job, ours have many: choose hydra/sweeper=study")


def is_search(hydra: Any) -> bool:
    """Whether a multirun's jobs are trials of a search, known one after the other."""
    return str(hydra.sweeper.get("_target_")).endswith(".StudySweeper")


def check_is_multirun(overrides: Sequence[str]) -> None:
    """Refuses a search that would be a single run.

    Raises:
        ConfigError: If ``hparams_search`` is chosen.
    """
    chosen = [o for o in overrides if o.startswith("hparams_search=") and o.partition("=")[2] not in ("null", "")]
    if chosen:
        raise ConfigError(f"{chosen[-1]} is many jobs: add -m")


def jobs_at_once(hydra: Any, num_jobs: int) -> int:
    """How many jobs of a multirun run side by side on this machine, by its launcher.

    Args:
        hydra: Hydra's node of one of them.
        num_jobs: Of the multirun; a search has ``trials_at_once``.
    """
    launcher, target = hydra.launcher, str(hydra.launcher.get("_target_"))
    num_jobs = int(hydra.sweeper.get("trials_at_once") or num_jobs)
    if target.endswith((".ProcessLauncher", ".JoblibLauncher")):
        n_jobs = launcher.get("n_jobs")
        if isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or not (n_jobs >= 1 or n_jobs == -1):
            raise ConfigError(f"hydra.launcher.n_jobs={n_jobs} must be a whole number, at least 1")
        return min(available_cores() if n_jobs == -1 else n_jobs, num_jobs)
    if target.endswith(".RayLauncher"):
        return max(1, min(available_cores() // int(launcher.ray.remote.get("num_cpus") or 1), num_jobs))
    return num_jobs if target.endswith(".LocalLauncher") else 1  # submitit's own processes all start at once


def check_search(job: Any) -> None:
    """Checks the settings of a search with one of its jobs.

    Args:
        job: Composed, with its ``hydra`` node.

    Raises:
        ConfigError: For the first that cannot be.
    """
    sweeper = job.hydra.sweeper
    for key, least in (("n_trials", 1), ("trials_at_once", 1), ("seed", 0)):
        value = sweeper.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"hydra.sweeper.{key}={value} must be a whole number, at least {least}")
    subdir = job.hydra.sweep._get_node("subdir")._value()
    if subdir != "${hydra.job.num}":
        raise ConfigError(f"a search numbers the folders of its jobs: take away hydra.sweep.subdir={subdir}")
    rows = [str(name) for name, node in (job.compare or {}).items() if node is not None]
    own = job.hydra.runtime.choices.get("gap_reducer")
    if own not in (None, "none"):
        rows.append(f"{own}_of_run" if own in rows else str(own))
    check_objectives(
        list(read_directions(sweeper.maximize, sweeper.minimize)),
        split=str(job.split),
        rows=rows,
        evaluations=[str(name) for name in job.evaluation],
    )
