"""A pool of processes that talk through gloo, started once per session."""

import contextlib
import importlib.util
import pickle
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Listener
from pathlib import Path

import pytest

HERE = Path(__file__).parent


class WorkerError(AssertionError):
    """A case raised in a worker, or a worker died or did not answer."""


class GlooPool:
    """Persistent processes in one gloo group; ``run`` calls a function of *workers.py in all of them.

    Messages are plain pickles, so tensors travel by value. When a process dies, does not answer or loses the others in
    a collective, all are killed, and the next call starts new ones. Where all answered, if only with an exception, none
    waits for another, and they go on.
    """

    def __init__(self, world_size, folder):
        self.world_size = world_size
        self.folder = folder
        self.processes = []
        self.connections = []
        self.lost = False

    def run(self, name, *args, timeout=90.0):
        """Results of ``workers.<name>(*args)``, in rank order.

        Raises:
            WorkerError: With the tracebacks, if a rank raised, died, or did not answer in ``timeout`` seconds.
        """
        if not self.processes:
            self._start()
        deadline = time.monotonic() + timeout
        answers = {}
        with contextlib.suppress(BrokenPipeError):  # a dead worker shows when its answer is read
            for connection in self.connections:
                connection.send_bytes(pickle.dumps((name, args)))
        for rank, connection in enumerate(self.connections):
            answers[rank] = self._receive(connection, name, max(0.1, deadline - time.monotonic()))
        failures = [f"rank {rank}: {text}" for rank, (good, text) in answers.items() if not good]
        if self.lost or any("third_party/gloo" in text for text in failures):
            self.close()
        if failures:
            raise WorkerError("\n".join(failures))
        return [answers[rank][1] for rank in range(self.world_size)]

    def _receive(self, connection, name, seconds):
        try:
            if not connection.poll(seconds):
                self.lost = True
                return False, f"no answer to {name} in {seconds:.0f} s"
            return pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):
            self.lost = True
            return False, f"died in {name}\n{self._log_tail()}"

    def _log_tail(self):
        return "\n".join(log.read_text()[-2000:] for log in sorted(self.folder.glob("*.log")))

    def _start(self):
        # Unix sockets have short path limits that pytest's folders exceed.
        run_folder = Path(tempfile.mkdtemp(prefix="gloo"))
        listener = Listener(str(run_folder / "socket"), backlog=self.world_size)
        listener._listener._socket.settimeout(180)
        for rank in range(self.world_size):
            command = [sys.executable, str(HERE / "pool_worker.py"), str(run_folder / "socket"), str(rank)]
            command += [str(self.world_size), str(run_folder / "rendezvous")]
            with (self.folder / f"rank{rank}.log").open("w") as log:
                self.processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT))
        by_rank = {}
        try:
            for _ in range(self.world_size):
                connection = listener.accept()
                by_rank[pickle.loads(connection.recv_bytes())] = connection
        except TimeoutError as error:
            self.close()
            raise WorkerError(f"workers did not start\n{self._log_tail()}") from error
        finally:
            listener.close()
        self.connections = [by_rank[rank] for rank in range(self.world_size)]

    def close(self):
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.kill()
            process.wait(timeout=30)
        self.processes, self.connections, self.lost = [], [], False


@pytest.fixture(scope="session")
def gloo_pool(tmp_path_factory):
    """Two processes."""
    pool = GlooPool(2, tmp_path_factory.mktemp("gloo2"))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def gloo_pool_of_four(tmp_path_factory):
    """Four processes, for slow tests."""
    pool = GlooPool(4, tmp_path_factory.mktemp("gloo4"))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def workers():
    """The functions that the pools call, for the single-process side of a comparison."""
    spec = importlib.util.spec_from_file_location("pool_worker", HERE / "pool_worker.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load_workers()
