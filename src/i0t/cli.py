"""The commands: check the whole command line first, then let Hydra run it.

Nothing heavy is imported here, so that ``--help`` and errors in a config answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from i0t import preparation, runs
from i0t.config import Command, check_command, conf_dir, register_schemas, to_yaml
from i0t.config_errors import ConfigError
from i0t.config_help import help_text

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
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
        print(help_text(config_name, arguments.config_dir))  # noqa: T201
        return
    information = any(getattr(arguments, flag, None) for flag in _INFORMATION_FLAGS)
    with _one_line_errors():
        if not information:
            command = prepare(command)
            jobs = check_command(command)
            if command.multirun:
                _check_models(jobs)
    _run_hydra(command, task, arguments)


def _check_models(jobs: Sequence[DictConfig]) -> None:
    """Asks for every model of a multirun whether there is such a one, before the first job runs."""
    if sum(job.model is not None for job in jobs) == 0:
        return
    from i0t import engine

    engine.check_models(jobs)


def _run_hydra(command: Command, task: str, arguments: argparse.Namespace) -> None:
    """Runs the task under Hydra with the prepared overrides in place of the typed ones."""
    typed = sys.argv
    dropped = set(arguments.overrides) - set(command.overrides)
    kept = [a for a in typed[1:] if a not in dropped]
    added = [o for o in command.overrides if o not in arguments.overrides]
    failures: list[str] = []

    def run(config: DictConfig) -> Any:
        sys.argv = typed  # Lightning starts the other ranks of a DDP run with the same command
        if not command.multirun:
            with runs.discarded_if_not_started(Path(config.paths.output_dir)):
                return _run_task(task, config)
        folder = Path(config.paths.output_dir)
        runs.forget_error(folder)
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
        failures.append(str(folder))
        return None

    sys.argv = [typed[0], *kept, *added]
    run.__module__ = "__main__"
    hydra.main(config_path=str(conf_dir()), config_name=command.config_name, version_base="1.3")(run)()
    if failures:
        _leave(f"error: {len(failures)} job(s) failed: {', '.join(failures)}", EXIT_USER_ERROR)


def _run_job(task: str, config: DictConfig) -> Any:
    """Runs a job of a multirun, in whose folder an earlier one may have left numbers.

    With ``skip_finished``, those of this very config stand; all others are dropped before it runs.
    """
    folder = Path(config.paths.output_dir)
    found = runs.finished_numbers(folder, to_yaml(config)) if config.skip_finished else None
    if found is None:
        runs.forget_numbers(folder)
        return _run_task(task, config)
    print(f"finished before: {folder}")  # noqa: T201
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def _run_task(task: str, config: DictConfig) -> Any:
    with _one_line_errors():
        from i0t import engine

        return getattr(engine, task)(config)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Says in one line what is wrong with the user's input and leaves with code 2; bugs keep their traceback."""
    if "HYDRA_FULL_ERROR" in os.environ:
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted outside training", EXIT_INTERRUPTED)
    except ConfigError as error:
        _leave(f"error: {error}", EXIT_USER_ERROR)
    except (ValueError, OSError) as error:
        # Every check of user input raises these; a bug that does is found with the variable that the line names.
        _leave(f"error: {error} (HYDRA_FULL_ERROR=1 shows where)", EXIT_USER_ERROR)
    except Exception as error:
        # Told by its attribute: importing the class would import torch.
        signal_number = getattr(error, "signal_number", None)
        if signal_number is None:
            raise
        _leave(str(error), 128 + signal_number)


def _leave(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.write(f"{Path(sys.argv[0]).name}: {' '.join(message.split())}\n")
    raise SystemExit(code)
