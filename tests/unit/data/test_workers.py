"""A worker that reads data outlives the signals to all processes of a run, and ends when its parent does or says so."""

import ast
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from lightning_fabric.utilities.seed import pl_worker_init_function
from torch.utils.data import DataLoader

import i0t.data
from i0t.data.workers import init_worker

# Reads twelve batches with two workers; after some, a signal goes to its whole process group.
READS = """
import signal, subprocess, time
from torch.utils.data import DataLoader
from i0t.data.workers import init_worker

class Slow:
    def __len__(self):
        return 12
    def __getitem__(self, index):
        time.sleep(0.05)
        return index

numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
for number in numbers:
    signal.signal(number, lambda *_: None)  # as GracefulStop: it finishes its step
read = []
for batch in DataLoader(Slow(), batch_size=None, num_workers=2, worker_init_fn=init_worker):
    read.append(batch)
    if len(read) in (3, 5, 7):
        number = int(numbers.pop())
        subprocess.run(["sh", "-c", f"trap '' {number}; kill -{number} 0"])  # another process, to the whole group
print(read)
"""


def test_signals_to_the_process_group_leave_the_data_to_the_step():
    done = subprocess.run(
        [sys.executable, "-c", READS], capture_output=True, text=True, timeout=60,
        start_new_session=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(list(range(12)))


class Stuck:
    """Never has its second batch; notes its process."""

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 2

    def __getitem__(self, index):
        (self.folder / str(os.getpid())).touch()
        if index == 1:
            time.sleep(60)
        return index


def started(folder):
    loader = iter(DataLoader(Stuck(folder), batch_size=None, num_workers=1, worker_init_fn=init_worker))
    assert next(loader) == 0
    return loader, loader._workers[0]


def test_a_worker_ends_when_its_parent_says_so(tmp_path):
    loader, worker = started(tmp_path)
    assert worker.is_alive()
    worker.terminate()
    worker.join(timeout=5)
    assert worker.exitcode == 0, loader


# In a process of its own, as in a run.
SURVIVES = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_workers import started
loader, worker = started(Path({folder!r}))
assert worker.is_alive()
subprocess.run(["sh", "-c", f"kill -TERM {{worker.pid}}"], check=True)
worker.join(timeout=1.5)
assert worker.exitcode is None, worker.exitcode
worker.terminate()
worker.join(timeout=20)
assert worker.exitcode == 0, worker.exitcode
"""


def test_a_worker_survives_the_sigterm_of_another(tmp_path):
    script = SURVIVES.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


DIES = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_workers import started
kept = started(Path({folder!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_is_stuck_ends_with_its_parent(tmp_path):
    script = DIES.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as parent:
        assert parent.wait(timeout=60) == -signal.SIGKILL
    (worker,) = (int(path.name) for path in tmp_path.iterdir())
    deadline = time.monotonic() + 10
    while alive(worker):
        assert time.monotonic() < deadline, "it is left behind"
        time.sleep(0.1)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Draws:
    """Random numbers of the workers."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.rand(3)


def drawn(init):
    torch.manual_seed(3)
    return torch.stack(list(DataLoader(Draws(), batch_size=None, num_workers=2, worker_init_fn=init)))


def test_workers_are_seeded_as_lightning_seeds_them(monkeypatch):
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    torch.testing.assert_close(drawn(init_worker), drawn(partial(pl_worker_init_function, rank=0)), rtol=0, atol=0)
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    torch.testing.assert_close(drawn(init_worker), drawn(None), rtol=0, atol=0)


def test_every_loader_with_workers_has_it():
    found = []
    for path in sorted(Path(i0t.data.__file__).parent.glob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            of_torch = ast.unparse(call.func) == "DataLoader" or given.get("batch_size") == "None"
            if of_torch and "num_workers" in given:
                found.append((path.name, given.get("worker_init_fn")))
    assert {init for _, init in found} == {"init_worker"}, found
    assert len(found) == 6
