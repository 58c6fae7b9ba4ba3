"""What the commands without Hydra have in common: flags, and one line for what is wrong. Imports nothing heavy."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, and keeps the examples of its epilog as they are.

    Takes what ``argparse.ArgumentParser`` takes, and makes subcommands of its own kind.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        fixed = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(*arguments, **{**fixed, **options})

    def error(self, message: str) -> NoReturn:
        """Leaves with code 2."""
        leave(self.prog, f"error: {message} (--help shows how)", EXIT_USER_ERROR)


@contextlib.contextmanager
def one_line_errors(prog: str, *, interrupted: str = "interrupted; nothing was written") -> Iterator[None]:
    """Says in one line what is wrong with the user's input and leaves with code 2; bugs keep their traceback.

    Args:
        prog: Name of the command.
        interrupted: What Ctrl-C says.
    """
    if "HYDRA_FULL_ERROR" in os.environ:
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        leave(prog, interrupted, EXIT_INTERRUPTED)
    except BrokenPipeError:  # `i0t-tables | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        # Every check of user input raises these; a bug that does is found with the variable that the line names.
        leave(prog, f"error: {error} (HYDRA_FULL_ERROR=1 shows where)", EXIT_USER_ERROR)


def say(text: str) -> None:
    """A line to the standard output."""
    sys.stdout.write(f"{text}\n")


def leave(prog: str, message: str, code: int) -> NoReturn:
    """One line to the standard error, and out."""
    sys.stdout.flush()
    sys.stderr.write(f"{prog.split()[0]}: {' '.join(message.split())}\n")
    raise SystemExit(code)
