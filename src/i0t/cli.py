"""The commands: check the whole command line first, then let Hydra run it.

Nothing heavy is imported here, so that ``--help`` and errors in a config answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from i0t import launch, preparation, runs
from i0t.config import Command, check_command, conf_dir, register_schemas, to_yaml
from i0t.config_errors import ConfigError
from i0t.config_help import help_text
from i0t.sweeps.checks import jobs_at_once

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_HOLD_BACK_SECONDS = 3.0
# Flags with which Hydra prints and leaves: nothing of ours runs.
_INFORMATION_FLAGS = ("hydra_help", "version", "cfg", "info", "shell_completion")


def train() -> None:
    """``train.py`` and ``i0t-train``."""
    _main("train", "train", preparation.prepare_training)


def evaluate() -> None:
    """``eval.py`` and ``i0t-eval``."""
    _main("eval", "evaluate", preparation.prepare_evaluation)


def _main(config_name: str, task: str, prepare: Callable[[Command], Command]) -> None:
    arguments = get_args_parser().parse_args()
    register_schemas()
    command = Command(config_name, list(arguments.overrides), arguments.config_dir, bool(arguments.multirun))
    if arguments.help:
        _say(help_text(config_name, arguments.config_dir))
        return
    information = any(getattr(arguments, flag, None) for flag in _INFORMATION_FLAGS)
    made, jobs = None, []
    with _said_once(), one_line_errors():
        if not information:
            command = prepare(command)
            jobs = check_command(command)
            preparation.check_launch(command, jobs)
            if command.multirun:
                _check_models(jobs)
            else:
                found = _gone_on(command, jobs[0])
                if found is None:
                    _say(f"finished before: {jobs[0].hydra.run.dir}")
                    return
                command = found
            launch.limit_threads(jobs_at_once(jobs[0].hydra, len(jobs)) * _processes_per_node(jobs[0]))
            if not command.multirun:
                command, made = _in_folder(command, jobs[0])
    with _waiting_for_all(jobs):
        _run_hydra(command, task, arguments, made)


def _waiting_for_all(jobs: Sequence[DictConfig]) -> contextlib.AbstractContextManager[None]:
    """Notes why a job of a multirun ended that could not do so itself, and lets the others end."""
    if not jobs or "submitit" not in str(jobs[0].hydra.launcher.get("_target_")):
        return contextlib.nullcontext()

    def told(number: int, reason: str) -> JobReturn:
        node = jobs[number % len(jobs)].hydra  # of a search, any: its jobs' folders are their numbers
        with read_write(node.job), open_dict(node.job):
            node.job.num = number
        runs.write_error(FailedJobs.sweep_dir / str(node.sweep.subdir), reason)
        return JobReturn(_return_value=None, status=JobStatus.COMPLETED)

    return launch.waiting_for_all(told)


def _gone_on(command: Command, job: DictConfig) -> Command | None:
    """See :func:`i0t.preparation.gone_on`; a process alone has a new folder, Lightning's children their parent's."""
    this, named = launch.this_launch(), _is_named(job)
    if this.launcher is None and (this.local_rank > 0 or not named):
        return command
    folder = Path(job.hydra.run.dir)
    config = OmegaConf.masked_copy(job, [str(key) for key in job if key != "hydra"])
    config.paths.output_dir = str(folder.absolute())
    return preparation.gone_on(command, folder, to_yaml(config), named=named)


def _is_named(job: DictConfig) -> bool:
    """Whether the user named the folder of a run."""
    unresolved = OmegaConf.to_container(job.hydra.run, resolve=False)
    assert isinstance(unresolved, dict)
    return "i0t.run_folder:" not in str(unresolved["dir"])


def _in_folder(command: Command, job: DictConfig) -> tuple[Command, Path | None]:
    """The command in a folder of its own, also where two start in the same second; and the folder, if made here."""
    this = launch.this_launch()
    if not this.is_first or command.config_name not in ("train", "eval"):
        return command, None
    folder = Path(job.hydra.run.dir)
    if this.launcher is None and not _is_named(job):
        folder = runs.make_free_folder(folder)
        overrides = [*command.overrides, f"hydra.run.dir={runs.quoted(folder)}"]
        return Command(command.config_name, overrides, command.config_dir), folder.absolute()
    made = runs.make_folder(folder, shared=(this.world_size or 1) > 1)
    return command, folder.absolute() if made else None


def _processes_per_node(job: DictConfig) -> int:
    """Of a job's ranks; 1 where only Lightning will count the devices."""
    this, trainer = launch.this_launch(), job.get("trainer") or {}
    devices, num_nodes = trainer.get("devices"), trainer.get("num_nodes") or 1
    return this.processes_per_node or (devices if isinstance(devices, int) else (this.world_size or 1) // num_nodes)


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Lets the first rank alone say what all of them find wrong before anything runs."""
    if launch.this_launch().is_first:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def _say(text: str) -> None:
    """Prints, where this is the first rank."""
    if launch.this_launch().is_first:
        print(text)  # noqa: T201


def _check_models(jobs: Sequence[DictConfig]) -> None:
    """Asks for every model of a multirun whether there is such a one, before the first job runs."""
    if sum(job.model is not None for job in jobs) == 0:
        return
    from i0t import engine

    engine.check_models(jobs)


def _run_hydra(command: Command, task: str, arguments: argparse.Namespace, made: Path | None) -> None:
    """Runs the task under Hydra with the prepared overrides in place of the typed ones; ``made`` is the folder."""
    typed = sys.argv
    dropped = set(arguments.overrides) - set(command.overrides)
    kept = [a for a in typed[1:] if a not in dropped]
    added = [o for o in command.overrides if o not in arguments.overrides]

    def run(config: DictConfig) -> Any:
        sys.argv = typed  # Lightning starts the other ranks of a DDP run with the same command
        if not command.multirun:
            with runs.discarded_if_not_started(made):
                return _run_task(task, config)
        folder = Path(config.paths.output_dir)
        if launch.this_launch().is_first:
            runs.forget_error(folder)
        launch.limit_threads(_processes_per_node(config))  # a launcher may have started this job elsewhere
        try:
            return _run_job(task, config)
        except SystemExit as left:
            if left.code != EXIT_USER_ERROR:
                raise  # stopped by a signal: the whole multirun is
            reason = str(left.__context__)
        except Exception as error:  # a bug, or memory that ran out: the other jobs go on all the same
            if getattr(error, "signal_number", None) is not None:
                raise
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
        runs.write_error(folder, reason)
        return None

    sys.argv = [typed[0], *kept, *added]
    run.__module__ = "__main__"
    hydra.main(config_path=str(conf_dir()), config_name=command.config_name, version_base="1.3")(run)()
    if FailedJobs.folders:
        names = ", ".join(map(str, FailedJobs.folders))
        _leave(f"error: {len(FailedJobs.folders)} job(s) failed: {names}", EXIT_USER_ERROR)


class FailedJobs(Callback):
    """Finds the jobs of a multirun that left an error, whatever process or machine a launcher ran them on.

    Attributes:
        sweep_dir: Of this process's multirun.
        folders: Of its jobs that failed.
    """

    folders: ClassVar[list[Path]] = []
    sweep_dir: ClassVar[Path]

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remembers the errors that are there already."""
        FailedJobs.sweep_dir = Path(config.hydra.sweep.dir)
        self._before = {path: path.stat().st_mtime_ns for path in self._errors(config)}

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Keeps the folders of those that are new."""
        new = [path for path in self._errors(config) if self._before.get(path) != path.stat().st_mtime_ns]
        FailedJobs.folders = [path.parent for path in new]

    def _errors(self, config: DictConfig) -> list[Path]:
        return sorted(Path(config.hydra.sweep.dir).absolute().rglob(runs.ERROR_FILE))


def _run_job(task: str, config: DictConfig) -> Any:
    """Runs a job of a multirun, in whose folder an earlier one may have left numbers.

    With ``skip_finished``, or where the launcher has started this job again, those of this very config stand; all
    others, and the checkpoint that is no more to go on from, are dropped before it runs. A training that was started
    again goes on with what it left itself.
    """
    folder, asked = Path(config.paths.output_dir), to_yaml(config)
    restarted = launch.this_launch().restarts > 0
    found = runs.finished_numbers(folder, asked) if config.skip_finished or restarted else None
    if found is None and task == "train" and launch.goes_on(folder) and runs.is_run_of(folder, asked):
        config.resume = str(folder)
        return _run_task(task, config)
    if found is None:
        if launch.this_launch().is_first:
            runs.forget_run(folder)
        return _run_task(task, config)
    _say(f"finished before: {folder}")
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def _run_task(task: str, config: DictConfig) -> Any:
    with one_line_errors():
        from i0t import engine

        return getattr(engine, task)(config)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Says in one line what is wrong with the user's input and leaves with code 2; bugs keep their traceback."""
    if "HYDRA_FULL_ERROR" in os.environ:
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted outside training", EXIT_INTERRUPTED)
    except ConfigError as error:
        _hold_back(error)
        _leave(f"error: {_of_rank(error)}{error}", EXIT_USER_ERROR)
    except (ValueError, OSError) as error:
        # Every check of user input raises these; a bug that does is found with the variable that the line names.
        _hold_back(error)
        _leave(f"error: {_of_rank(error)}{_brief(error)} (HYDRA_FULL_ERROR=1 shows where)", EXIT_USER_ERROR)
    except Exception as error:
        # What ends a run by design says how; told by attributes, as importing the classes would import torch.
        exit_code = getattr(error, "exit_code", None)
        if exit_code is None:
            if _of_rank(error):
                sys.stderr.write(f"error: {_of_rank(error)}{type(error).__name__}: {_brief(error)}\n")
            raise
        if not getattr(error, "speaks", True):
            raise SystemExit(exit_code) from error
        by_design = hasattr(error, "signal_number")
        _leave(f"{error}" if by_design else f"error: {error}", exit_code)


def _hold_back(error: BaseException) -> None:
    """Waits where all ranks may have found the same, before they know of each other: torchrun ends those that wait."""
    if not hasattr(error, "rank") and launch.this_launch().rank > 0:
        time.sleep(_HOLD_BACK_SECONDS)


def _of_rank(error: BaseException) -> str:
    """Which of several ranks an error comes from."""
    rank = getattr(error, "rank", launch.this_launch().rank)
    return f"rank {rank}: " if rank or hasattr(error, "rank") else ""


def _brief(error: BaseException) -> str:
    """An error's text; of one that a data worker raised, without the worker's traceback."""
    found = re.match(r"Caught \w+ in DataLoader worker process (\d+)", str(error))
    if found is None:
        return " ".join(str(error).split())
    return f"data worker {found[1]}: {str(error).strip().splitlines()[-1]}"


def _leave(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}\n")
    raise SystemExit(code)
