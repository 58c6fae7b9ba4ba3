"""One process of the gloo pool: answers calls to the functions of *workers.py until its connection closes.

Started as ``python pool_worker.py <socket> <rank> <world size> <rendezvous file>``.
"""

import datetime
import importlib
import pickle
import sys
import traceback
from multiprocessing.connection import Client
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import torch.distributed as dist


def load_workers():
    """All functions of workers.py and of the files named *_workers.py, in one namespace."""
    found, here = SimpleNamespace(), Path(__file__).parent
    package = sys.modules["gloo_pool"] = ModuleType("gloo_pool")
    package.__path__ = [str(here)]  # the files name what they share relatively, as the tests do
    for file in sorted(here.glob("*workers.py")):
        module = importlib.import_module(f"gloo_pool.{file.stem}")
        vars(found).update({name: value for name, value in vars(module).items() if not name.startswith("_")})
    return found


def main(socket, rank, world_size, rendezvous):
    torch.set_num_threads(1)
    workers = load_workers()  # seconds of imports, before the clocks of the pool and of the group start
    connection = Client(socket)
    connection.send_bytes(pickle.dumps(int(rank)))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=int(rank),
        world_size=int(world_size),
        timeout=datetime.timedelta(seconds=60),
    )
    while True:
        try:
            name, args = pickle.loads(connection.recv_bytes())
        except EOFError:
            break
        try:
            answer = (True, getattr(workers, name)(*args))
        except Exception:  # whatever a case raises goes to the test, with its traceback
            answer = (False, traceback.format_exc())
        connection.send_bytes(pickle.dumps(answer))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
