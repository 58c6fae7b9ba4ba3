"""Who started this process, and as which of how many: Lightning, ``torchrun``, or SLURM's ``srun``.

Known before anything heavy is imported, from the environment alone, in the order in which Lightning looks: a process
of ``torchrun`` inside a SLURM job is ``torchrun``'s.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from i0t.config_errors import ConfigError
from i0t.runs import CHECKPOINT, METRICS_FILE, holds_run

NUM_THREADS = "I0T_NUM_THREADS"
NUM_WORKERS = "I0T_NUM_WORKERS"
_STAMP = "%Y-%m-%d_%H-%M-%S"
# What srun calls the job of an interactive shell, in which commands are typed one after the other.
_INTERACTIVE = ("bash", "interactive")
_MAX_WORKERS = 8


class Launch(NamedTuple):
    """This process among those of its run.

    Attributes:
        launcher: What to call it in a message; ``None`` for a process that started by itself, or that Lightning did.
        rank: Over all nodes; of nodes started by hand before they know of each other, a number that is 0 for the first.
        local_rank: On this node.
        world_size: Processes of the run; ``None`` where Lightning decides.
        processes_per_node: Likewise; ``WORLD_SIZE`` of Lightning's children is that of all nodes.
        num_nodes: Nodes of the run.
        restarts: How often the launcher has started this very job again.
    """

    launcher: str | None
    rank: int
    local_rank: int
    world_size: int | None
    processes_per_node: int | None
    num_nodes: int
    restarts: int

    @property
    def is_first(self) -> bool:
        """Whether this process alone writes and prints."""
        return self.rank == 0


def this_launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Reads it from the environment.

    Example:
        >>> this_launch({}).is_first
        True
        >>> this_launch({"SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_NNODES": "2", "SLURM_LOCALID": "1"}).rank
        5
    """
    if "TORCHELASTIC_RUN_ID" in environ:
        return Launch(
            "torchrun",
            int(environ["RANK"]),
            int(environ["LOCAL_RANK"]),
            int(environ["WORLD_SIZE"]),
            int(environ["LOCAL_WORLD_SIZE"]),
            int(environ.get("GROUP_WORLD_SIZE", "1")),
            max(int(environ.get("TORCHELASTIC_RESTART_COUNT", "0")), _slurm_restarts(environ)),
        )
    if _in_slurm(environ):
        num_tasks = int(environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"]))
        num_nodes = int(environ.get("SLURM_STEP_NUM_NODES", environ.get("SLURM_NNODES", "1")))
        rank, local_rank = (int(environ.get(name, "0")) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
        per_node = max(1, num_tasks // num_nodes)  # SLURM_NTASKS_PER_NODE may be that of the whole job
        return Launch("srun", rank, local_rank, num_tasks, per_node, num_nodes, _slurm_restarts(environ))
    local_rank = int(environ.get("LOCAL_RANK", "0"))
    # Lightning tells its children how many they are; several nodes that a user starts by hand have NODE_RANK.
    world_size = int(environ["WORLD_SIZE"]) if "LOCAL_RANK" in environ and "WORLD_SIZE" in environ else None
    rank = int(environ.get("NODE_RANK", "0")) * (world_size or 1) + local_rank
    return Launch(None, rank, local_rank, world_size, None, 1, 0)


def _in_slurm(environ: Mapping[str, str]) -> bool:
    return "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in _INTERACTIVE


def _slurm_restarts(environ: Mapping[str, str]) -> int:
    return int(environ.get("SLURM_RESTART_COUNT", "0")) if _in_slurm(environ) else 0


def run_folder(parent: str, command: str) -> str:
    """The folder of a run, the same for every rank, and for a job that the launcher starts again.

    A process alone takes date and time. In SLURM it is the job's number with a word that stands for the command: a
    batch script may hold several. Under ``torchrun``, it is the time at which the first rank asked, kept by the agent,
    with a word by chance: two may start in the same second.

    Args:
        parent: Folder of the runs of this name.
        command: What tells commands of one job apart.

    Raises:
        ConfigError: If the ranks cannot agree.
    """
    if _in_slurm(os.environ) and "SLURM_JOB_ID" in os.environ:
        word = f"{zlib.crc32(command.encode()):08x}"
        found = _folder_in_job(Path(parent) / f"slurm_{os.environ['SLURM_JOB_ID']}_{word}")
        return _agreed("folder", found) if has_agent_store() else found
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if not has_agent_store():
            raise ConfigError("this torchrun keeps no store that its ranks share: name one folder with hydra.run.dir=…")
        return f"{parent}/{_agreed('started', f'{time.strftime(_STAMP)}_{secrets.token_hex(4)}')}"
    return f"{parent}/{time.strftime(_STAMP)}"


def _folder_in_job(folder: Path) -> str:
    """The first of ``folder``, ``folder_2``, … that is free: the same command may run twice in a job.

    Only files that no rank can have written before all have come here are asked for. A job that was started again
    goes on with what it left, and finds what it had finished.
    """
    restarted = this_launch().restarts > 0
    number, candidate, last_finished = 1, folder, None
    while (candidate / METRICS_FILE).exists() or (not restarted and (candidate / CHECKPOINT).exists()):
        last_finished, number = candidate, number + 1
        candidate = folder.with_name(f"{folder.name}_{number}")
    if restarted and last_finished is not None and not (candidate / CHECKPOINT).exists():
        return str(last_finished)
    return str(candidate)


def has_agent_store() -> bool:
    """Whether torchrun's agents keep a store that the ranks use too."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def _agreed(name: str, proposed: str) -> str:
    """What the first rank to ask proposed: kept by torchrun's agent, which outlives all restarts of its workers."""
    from torch.distributed import TCPStore  # only here, for it takes a second

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False)
    kept: bytes = store.compare_set(f"i0t/{os.environ['TORCHELASTIC_RUN_ID']}/{name}", "", proposed)
    return kept.decode()


def is_left_by_this_job(folder: Path, *, named: bool) -> bool | None:
    """Whether what a run folder holds comes from an earlier attempt of this very job; all ranks have to ask.

    How often torchrun's agents have restarted their workers says nothing: they do not count changes of the membership,
    and a node that joins later counts from 0. A folder that was free when the first rank of all attempts asked does.

    Args:
        folder: Of the run.
        named: Whether the user named it, so that anything may be there.

    Returns:
        ``None`` where only the config of what is there can tell.
    """
    if not named:
        return True
    if has_agent_store():
        return True if _agreed("named_folder", "held" if holds_run(folder) else "free") == "free" else None
    return None if this_launch().restarts > 0 else False


def goes_on(folder: Path) -> bool:
    """Whether this job was started again by its launcher, and the folder has an unfinished run with a checkpoint."""
    return this_launch().restarts > 0 and not (folder / METRICS_FILE).exists() and (folder / CHECKPOINT).is_file()


def check_ranks_of_job(trainer: Mapping[str, Any], launcher: Mapping[str, Any]) -> None:
    """Refuses a job of several ranks where each would start the whole multirun anew: where Lightning starts them.

    Args:
        trainer: Config node of the job.
        launcher: Hydra's.

    Raises:
        ConfigError: In one line.
    """
    devices, num_nodes = trainer.get("devices"), trainer.get("num_nodes")
    if not str(launcher.get("_target_")).endswith(".SlurmLauncher"):
        if (devices, num_nodes) == (1, 1):
            return
        raise ConfigError(
            "a multirun's jobs run on one device each (trainer.devices=1): start one train.py per job, or let SLURM "
            "start all ranks of each (hydra/launcher=slurm)"
        )
    if not isinstance(devices, int):
        raise ConfigError(f"trainer.devices={devices}: say how many devices of a node each SLURM job takes")
    tasks, nodes = launcher["tasks_per_node"], launcher["nodes"]
    if (tasks, nodes) != (devices, num_nodes):
        raise ConfigError(
            f"SLURM would start {tasks} x {nodes} processes for trainer.devices={devices} x "
            f"trainer.num_nodes={num_nodes}: make hydra.launcher.tasks_per_node and hydra.launcher.nodes agree"
        )


@contextlib.contextmanager
def waiting_for_all(told: Callable[[int, str], Any]) -> Iterator[None]:
    """Lets submitit's launcher wait for every job of a multirun; one that ends without a result else ends the wait.

    ``told`` gets such a job's number and why it ended, in one line, and returns what stands for its result.
    """
    from submitit import Job
    from submitit.core.utils import UncompletedJobError

    original, inside = Job.results, False

    def results(job: Any) -> list[Any]:
        nonlocal inside
        if inside:  # a rank of the job
            return original(job)
        inside = True
        try:
            return original(job)
        except UncompletedJobError:
            return [told(job.submission().args[2], _last_word(job))]
        finally:
            inside = False

    Job.results = results  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Job.results = original  # type: ignore[method-assign]


def _last_word(job: Any) -> str:
    """The last line that one of a job's ranks said about its end, or where to look."""
    printed = "\n".join(text for text in (job.stdout(), job.stderr()) if text)
    said = re.findall(rf"^{re.escape(Path(sys.argv[0]).name)}: (?:error: )?(.+)$", printed, re.MULTILINE)
    silent = "ended without a word: killed, out of memory, or its machine is gone"
    return f"{said[-1] if said else silent}; its log: {job.paths.stdout}"


def log_name(name: str, devices: int | str = 1) -> str:
    """Name of this rank's log file, by that of the first rank's and the devices of a node in the config.

    Example:
        >>> log_name("i0t")
        'i0t'
    """
    launch, node = this_launch(), int(os.environ.get("NODE_RANK", "0"))
    if launch.launcher is not None or node == 0:
        return name if launch.rank == 0 else f"{name}_rank{launch.rank}"
    if not isinstance(devices, int):  # only torch knows how many
        return f"{name}_node{node}_rank{launch.local_rank}"
    return f"{name}_rank{node * devices + launch.local_rank}"


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def limit_threads(processes_per_node: int) -> None:
    """Shares the cores of a node among its ranks: threads of each, and data workers of each where none are named.

    ``I0T_NUM_THREADS`` and ``I0T_NUM_WORKERS`` go before, and ``OMP_NUM_THREADS`` before what is computed here.

    Args:
        processes_per_node: Ranks of this run on this node.

    Raises:
        ConfigError: If one of the variables is no number.
    """
    cores = available_cores()
    # srun gives each task cores of its own, if it was told how many; else all tasks share those of the job.
    bound = this_launch().launcher == "srun" and "SLURM_CPUS_PER_TASK" in os.environ
    share = int(os.environ["SLURM_CPUS_PER_TASK"]) if bound else cores // max(1, processes_per_node)
    share = max(1, min(share, cores))
    _check_number(NUM_THREADS, least=1)
    _check_number(NUM_WORKERS, least=0)
    os.environ.setdefault(NUM_WORKERS, str(min(_MAX_WORKERS, share)))
    asked = os.environ.get(NUM_THREADS)
    if asked is None and ((processes_per_node == 1 and not bound) or "OMP_NUM_THREADS" in os.environ):
        return
    threads = int(asked or share)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for libraries that are not loaded yet, and for children
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _check_number(variable: str, *, least: int) -> None:
    value = os.environ.get(variable)
    if value is not None and (not re.fullmatch(r"\d+", value) or int(value) < least):
        raise ConfigError(f"{variable}={value} must be a whole number, at least {least}")
