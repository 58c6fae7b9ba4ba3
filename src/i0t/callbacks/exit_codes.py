"""With which code a process ends for which error: that of the rank it happened in is that of the whole run."""

from __future__ import annotations

import signal

import torch

# For what the user can mend: input, and sizes that take too much memory.
USER_ERROR = 2


def exit_code(error: BaseException) -> int:
    """What the command line makes of an error.

    Example:
        >>> exit_code(KeyboardInterrupt()), exit_code(ValueError("no such split")), exit_code(LookupError("a bug"))
        (130, 2, 1)
    """
    by_design = getattr(error, "exit_code", None)
    if by_design is not None:
        return int(by_design)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return USER_ERROR if isinstance(error, (ValueError, OSError)) or is_out_of_memory(error) else 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU, in torch on the processor, or in Python.

    Example:
        >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes differ"))
        (True, False)
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
