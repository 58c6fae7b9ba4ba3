"""Bars over the parts of a run that are no training step and may take more than two seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def working(what: str, *, shown: bool = True) -> Iterator[None]:
    """A moving bar, with the time, over work whose length is not known; it goes away when the work is done.

    Args:
        what: The work, in a few words.
        shown: ``False`` shows nothing, as does a standard error that is no terminal.
    """
    with _bar(shown, counting=False) as progress:
        progress.add_task(what, total=None)
        yield


def counted(items: Sequence[T], what: str, *, shown: bool = True) -> Iterator[T]:
    """The items, with a bar that counts them and goes away after the last.

    Args:
        items: What is worked on, one after the other.
        what: The work, in a few words.
        shown: See :func:`working`.

    Example:
        >>> list(counted([1, 2], "reading"))
        [1, 2]
    """
    with _bar(shown, counting=True) as progress:
        yield from progress.track(items, description=what)


def _bar(shown: bool, *, counting: bool) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    counts = (MofNCompleteColumn(),) if counting else ()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counts, TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
