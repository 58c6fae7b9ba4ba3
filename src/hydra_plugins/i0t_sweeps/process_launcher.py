"""``hydra/launcher=processes``: jobs of a multirun in several processes of this machine."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

_log = logging.getLogger(__name__)


class ProcessLauncher(Launcher):
    """Runs jobs in processes of their own, so many at once. A job whose process dies fails, and the others go on.

    Args:
        n_jobs: At once; each gets its share of the cores.
    """

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what a job needs."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs the jobs and waits for all."""
        from i0t.sweeps.processes import run_in_processes

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        _log.info("Launching %d jobs, %d at once", len(job_overrides), self.n_jobs)
        state = Singleton.get_state()
        tasks = {}
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            _log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
            tasks[number] = functools.partial(
                _run, self.hydra_context, self.config, self.task_function, list(overrides), number, state
            )
        found = run_in_processes(
            tasks, self.n_jobs, lambda number: self._died(job_overrides[number - initial_job_idx], number)
        )
        return list(found.values())

    def _died(self, overrides: Sequence[str], number: int) -> JobReturn:
        """Notes in a job's folder that its process died."""
        from i0t import runs

        config = _config_of(self.hydra_context, self.config, overrides, number)
        folder = Path(str(config.hydra.sweep.dir)) / str(config.hydra.sweep.subdir)
        runs.write_error(folder, "its process ended without a word: killed, or out of memory")
        return JobReturn(overrides=list(overrides), _return_value=None, status=JobStatus.COMPLETED)


def _config_of(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    found = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(found):
        found.hydra.job.id = f"{found.hydra.job.name}_{number}"
        found.hydra.job.num = number
    return found


def _run(
    context: HydraContext,
    config: DictConfig,
    task_function: TaskFunction,
    overrides: list[str],
    number: int,
    state: dict[Any, Any],
) -> JobReturn:
    """A job, in a process that knows nothing yet."""
    from i0t.config_resolvers import register_resolvers

    Singleton.set_state(state)
    setup_globals()
    register_resolvers()
    return run_job(
        hydra_context=context,
        task_function=task_function,
        config=_config_of(context, config, overrides, number),
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
