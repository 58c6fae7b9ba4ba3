"""Tasks in several processes, of which one may die without taking the others' results along."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from joblib import Parallel, delayed

Result = TypeVar("Result")
_POLL_SECONDS = 1.0
_watching = False


def run_in_processes(
    tasks: Mapping[int, Callable[[], Result]], num_processes: int, died: Callable[[int], Result]
) -> dict[int, Result]:
    """Runs tasks in processes of their own, so many at once.

    A process that dies (killed, out of memory) breaks the whole pool, and nobody says which task it had. As tasks are
    begun in order, it is one of the first that have no result: these are run again, each alone.

    Args:
        tasks: By their numbers; what they hold and return is pickled.
        num_processes: At once.
        died: Gets the number of a task whose process died, and returns what stands for its result.
    """
    pending, found = dict(tasks), dict[int, Result]()
    while pending:
        try:
            for number, result in _results(pending, num_processes):
                found[number] = result
        except BrokenProcessPool:
            suspects = [number for number in pending if number not in found][:num_processes]
            for number in suspects:
                found[number] = _alone(number, pending[number], died)
        pending = {number: task for number, task in pending.items() if number not in found}
    return {number: found[number] for number in tasks}


def _alone(number: int, task: Callable[[], Result], died: Callable[[int], Result]) -> Result:
    try:
        ((_, result),) = _results({number: task}, 1)
    except BrokenProcessPool:
        return died(number)
    return result


def _results(tasks: Mapping[int, Callable[[], Result]], num_processes: int) -> Iterator[tuple[int, Result]]:
    """Numbers and results, as they come; joblib would run a single process's tasks in this one."""
    if num_processes == 1 and len(tasks) > 1:
        for number, task in tasks.items():
            yield from _results({number: task}, 1)
        return
    at_once = max(2, num_processes)
    pool = Parallel(at_once, backend="loky", batch_size=1, pre_dispatch=at_once, return_as="generator_unordered")
    yield from pool(delayed(_numbered)(number, task) for number, task in tasks.items())


def _numbered(number: int, task: Callable[[], Result]) -> tuple[int, Result]:
    end_with_parent()
    return number, task()


def end_with_parent() -> None:
    """Ends this process when the one that started it has been killed: nobody would take its results."""
    global _watching
    if _watching:
        return
    _watching = True
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end_with_parent").start()
