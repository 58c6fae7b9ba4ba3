"""One process of the gloo pool: answers calls to the functions of *workers.py until its connection closes.

Started as ``python pool_worker.py <socket> <rank> <world size> <rendezvous file>``.
"""

import datetime
import importlib.util
import pickle
import sys
import traceback
from multiprocessing.connection import Client
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist


def load_workers():
    """All functions of workers.py and of the files named *_workers.py, in one namespace."""
    found, here = SimpleNamespace(), Path(__file__).parent
    if str(here) not in sys.path:
        sys.path.append(str(here))  # for what they share
    for file in sorted(here.glob("*workers.py")):
        spec = importlib.util.spec_from_file_location(f"gloo_{file.stem}", file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        vars(found).update({name: value for name, value in vars(module).items() if not name.startswith("_")})
    return found


def main(socket, rank, world_size, rendezvous):
    torch.set_num_threads(1)
    connection = Client(socket)
    connection.send_bytes(pickle.dumps(int(rank)))
    workers = load_workers()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=int(rank),
        world_size=int(world_size),
        timeout=datetime.timedelta(seconds=30),
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
