"""Tasks in processes: one that dies takes nobody along, and none outlives who started it."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from i0t.sweeps.processes import run_in_processes


def square(number, mark, *, die=False):
    """Notes that it ran, and whether it dies."""
    with (mark / f"{number}").open("a") as file:
        file.write("x")
    if die:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number, os.getpid()


def run(mark, numbers, num_processes, dying=()):
    tasks = {n: functools.partial(square, n, mark, die=n in dying) for n in numbers}
    return run_in_processes(tasks, num_processes, lambda number: (f"{number} died", 0))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_order_from_other_processes(tmp_path, num_processes):
    found = run(tmp_path, [3, 1, 2], num_processes)
    assert [(number, value) for number, (value, _) in found.items()] == [(3, 9), (1, 1), (2, 4)]
    assert os.getpid() not in {process for _, process in found.values()}
    assert [len((tmp_path / str(n)).read_text()) for n in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.slow
def test_a_process_that_dies_costs_its_own_task_alone(tmp_path):
    found = run(tmp_path, range(6), 2, dying={1, 4})
    assert [value for value, _ in found.values()] == [0, "1 died", 4, 9, "4 died", 25]
    assert len((tmp_path / "5").read_text()) <= 2


PARENT = """
import pathlib, sys, time
from i0t.sweeps.processes import run_in_processes

def wait(folder):
    import os, pathlib, time
    pathlib.Path(folder, "child").write_text(str(os.getpid()))
    time.sleep(120)

if __name__ == "__main__":
    import functools
    run_in_processes({0: functools.partial(wait, sys.argv[1])}, 2, lambda number: None)
"""


@pytest.mark.slow
def test_a_task_ends_with_the_process_that_started_it(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)])
    child = None
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (tmp_path / "child").exists():
            time.sleep(0.1)
        time.sleep(0.5)
        child = int((tmp_path / "child").read_text())
        parent.kill()
        parent.wait()
        while time.monotonic() < deadline and is_running(child):
            time.sleep(0.1)
        assert not is_running(child)
    finally:
        parent.kill()
        if child is not None and is_running(child):
            os.kill(child, signal.SIGKILL)


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
