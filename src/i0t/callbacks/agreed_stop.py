"""The end of a run on which its ranks have agreed."""

from __future__ import annotations


class AgreedStop(Exception):  # noqa: N818 - a signal is not an error of the run
    """All ranks leave at the same step; the command line says why in one line, on rank 0 alone.

    Args:
        message: In one line.
        exit_code: Of the process.
        speaks: Whether this rank is the one that says it.
    """

    def __init__(self, message: str, *, exit_code: int, speaks: bool = True) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.speaks = speaks


class LeavingNow(SystemExit):
    """One rank leaves outside a training and takes the others along; no ``except Exception`` swallows it.

    Args:
        message: In one line.
        exit_code: Of all processes.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(exit_code)
        self.message = message
        self.exit_code = exit_code
