"""Faults of whole runs in real processes: one rank's end is the end of all, named once, and what was saved resumes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from i0t import runs

ROOT = Path(__file__).resolve().parents[2]
LAUNCHED = [sys.executable, str(ROOT / "train.py")]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    str(ROOT / "train.py"),
]
# Small, two ranks, one validation and so one checkpoint at step 3.
OPTIONS = [
    *("debug=tiny", "report=false", "logger=csv", "compare=baseline", "evaluation=gap", "callbacks.step_progress=null"),
    *("data.batch_size=32", "loss=faulty"),
]
TIMEOUT = 400  # of a whole run: a hang is what this is about
FAULTY = '''
import os
import re
import signal
import subprocess
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import get_worker_info

from i0t.data.mad import MadDataModule
from i0t.losses.clip import ClipLoss


def rank():
    return int(os.environ.get("LOCAL_RANK", "0"))


def mark():
    with open(os.environ["MARK"], "a") as file:
        file.write(f"{time.time()}\\n")


class FaultyLoss(nn.Module):
    """CLIP's loss with a fault in one call on one rank."""

    def __init__(self, kind, at_call, on_rank):
        super().__init__()
        self.kind, self.at_call, self.on_rank, self.calls, self.loss = kind, at_call, on_rank, 0, ClipLoss()

    def forward(self, *arguments):
        self.calls += 1
        parts = self.loss(*arguments)
        if self.calls == self.at_call and rank() == self.on_rank:
            mark()
            return getattr(self, self.kind)(parts)
        return parts

    def nothing(self, parts):
        return parts

    def killed(self, parts):
        os.kill(os.getpid(), signal.SIGKILL)

    def value_error(self, parts):
        raise ValueError("a marked\\nvalue")

    def bug(self, parts):
        raise LookupError("a marked bug")

    def not_a_number(self, parts):
        return {name: value * float("nan") for name, value in parts.items()}

    def no_memory(self, parts):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    def huge(self, parts):
        return torch.empty(2**59)

    def sigterm(self, parts):
        os.kill(os.getpid(), signal.SIGTERM)
        return parts

    def sigterm_to_all(self, parts):
        # As SLURM and `kill -- -PGID` do: from outside, to each process, those that read data as well.
        subprocess.run(["sh", "-c", "trap '' TERM; kill -TERM 0"])
        return parts

    def sigusr1(self, parts):
        os.kill(os.getpid(), signal.SIGUSR1)
        return parts


class FaultyData(MadDataModule):
    """MAD whose data worker of rank 1 raises in its fifth batch, or whose fifth batch has a torn image."""

    def bind(self, *, transform, tokenizer, train_transform=None):
        calls = []

        def faulty(images):
            if rank() == 1:
                calls.append(1)
            if len(calls) == 5 and get_worker_info() is not None:
                mark()
                raise ValueError("a torn file")
            images = transform(images)
            if len(calls) == 5 and get_worker_info() is None:
                images[7] = float("nan")
            return images

        super().bind(transform=faulty, tokenizer=tokenizer)
'''

pytestmark = [pytest.mark.slow, pytest.mark.ddp]


@pytest.fixture
def run(tmp_path):
    """Runs train.py with a fault; returns exit code, error lines, run folder and seconds from fault to end."""
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "data").mkdir()
    (tmp_path / "faulty.py").write_text(FAULTY)
    loss = {"_target_": "faulty.FaultyLoss", "kind": "nothing", "at_call": 5, "on_rank": 1}
    (tmp_path / "conf" / "loss" / "faulty.yaml").write_text(yaml.safe_dump(loss))
    data = "defaults:\n  - mad\n  - _self_\n_target_: faulty.FaultyData\n"
    (tmp_path / "conf" / "data" / "faulty.yaml").write_text(data)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MARK": str(tmp_path / "mark"), "OMP_NUM_THREADS": "1"}

    def start(*overrides, launch=LAUNCHED, folder="run", env=None):
        command = [*launch, "--config-dir", str(tmp_path / "conf"), *OPTIONS, *overrides]
        if folder is not None:
            command.append(f"hydra.run.dir={tmp_path / folder}")
        return finished(command, env)

    def finished(command, env=None):
        done = subprocess.run(
            command, cwd=tmp_path, env={**environment, **(env or {})}, capture_output=True, text=True, timeout=TIMEOUT,
            check=False, start_new_session=True,
        )  # fmt: skip
        ended, mark = time.time(), tmp_path / "mark"
        done.seconds = ended - float(mark.read_text().split()[0]) if mark.exists() else None
        done.said = [line for line in done.stderr.splitlines() if line.startswith(("train.py: ", "error: "))]
        return done

    start.finished = finished
    start.folder = tmp_path / "run"
    return start


def step_of(folder):
    return runs.read_checkpoint(folder / runs.CHECKPOINT)["global_step"]


A_VALUE = "a marked value (HYDRA_FULL_ERROR=1 shows where)"


# Either launcher has a rank that is killed, one with an error, and one of the rest.
@pytest.mark.parametrize(
    ("launch", "kind", "on_rank", "line"),
    [
        (LAUNCHED, "killed", 1, "train.py: error: rank 1 of 2 was killed"),
        (TORCHRUN, "killed", 1, "train.py: error: rank 1 of 2 was killed"),
        (LAUNCHED, "value_error", 1, f"train.py: error: rank 1: {A_VALUE}"),
        (TORCHRUN, "value_error", 0, f"train.py: error: rank 0: {A_VALUE}"),
        (LAUNCHED, "bug", 1, "error: rank 1: LookupError: a marked bug"),
        (TORCHRUN, "no_memory", 1, "train.py: error: rank 1: out of memory with 32 pairs per device: DefaultCPUAlloc"),
    ],
    ids=["killed", "killed-torchrun", "error", "error_of_rank_0-torchrun", "bug", "no_memory-torchrun"],
)
def test_a_rank_that_ends_is_named_once_and_ends_the_run(run, launch, kind, on_rank, line):
    done = run("trainer=ddp_cpu", f"loss.kind={kind}", f"loss.on_rank={on_rank}", launch=launch)
    assert done.returncode not in (0, -signal.SIGKILL), done.stderr
    assert done.seconds < 60, "within a minute"
    (said,) = done.said
    assert said.startswith(line)
    # torchrun closes with a traceback of its own; of the ranks, one at most has one to show.
    of_ranks = done.stderr.count("Traceback (most recent") - (launch is TORCHRUN)
    assert of_ranks == (kind == "bug"), "the other rank is silent"
    assert step_of(run.folder) == 3
    assert not (run.folder / runs.METRICS_FILE).exists()


def test_rank_0_killed_ends_the_others(run, tmp_path):
    """Nobody is left to say so but the shell: the other rank must not stay behind."""
    done = run("trainer=ddp_cpu", "loss.kind=killed", "loss.on_rank=0")
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while left := [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in read(p)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def read(path):
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""


def test_an_exception_in_a_data_worker_of_one_rank(run):
    done = run("trainer=ddp_cpu", "data=faulty", "data.num_workers=1")
    assert done.returncode not in (0, -signal.SIGKILL)
    assert done.seconds < 60
    (said,) = done.said
    expected = "train.py: error: rank 1: data worker 0: ValueError: a torn file (HYDRA_FULL_ERROR=1 shows where)"
    assert said == expected


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_and_the_run_resumes(run):
    done = run("trainer=ddp_cpu", "loss.kind=not_a_number")
    assert done.returncode != 0
    assert done.seconds < 60
    (said,) = done.said
    assert said == (
        "train.py: error: the loss of step 5 is not finite: rank 1: images, weights and features are finite, the loss "
        f"alone is not. the last checkpoint, {run.folder / runs.CHECKPOINT}, is from before"
    )
    assert step_of(run.folder) == 3
    again = run.finished([*LAUNCHED, f"resume={run.folder}"])  # three more steps: the fault was in the fifth call
    assert again.returncode == 0, again.stderr
    assert step_of(run.folder) == 6
    assert (run.folder / runs.METRICS_FILE).exists()


def test_torn_images_of_one_rank_are_named(run):
    done = run("trainer=ddp_cpu", "data=faulty")
    (said,) = done.said
    assert done.returncode == 2
    # By file and variant, and with its caption; rank 0, whose features batch norm spoiled, has nothing to say.
    assert re.search(
        r'the loss of step [45] is not finite: rank 1: images are not finite: \d+/\d+ "[\w -]+"\. the', said
    )


@pytest.mark.parametrize("launch", [LAUNCHED, TORCHRUN], ids=["lightning", "torchrun"])
def test_sigterm_to_one_rank_checkpoints_all_and_resumes(run, launch):
    done = run("trainer=ddp_cpu", "loss.kind=sigterm", "loss.at_call=4", launch=launch)
    (said,) = done.said
    assert said == f"train.py: stopped by SIGTERM after step 4; go on with resume={run.folder}"
    if launch is LAUNCHED:
        assert done.returncode == 128 + signal.SIGTERM
    assert step_of(run.folder) == 4
    again = run.finished([*LAUNCHED, f"resume={run.folder}"])
    assert again.returncode == 0, again.stderr
    assert step_of(run.folder) == 6


@pytest.mark.parametrize("trainer", [(), ("trainer=ddp_cpu",)], ids=["one", "two"])
def test_sigterm_to_all_processes_leaves_the_data_workers_their_step(run, trainer):
    done = run(*trainer, "loss.kind=sigterm_to_all", "loss.on_rank=0", "loss.at_call=4", "data.num_workers=2")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert done.said == [f"train.py: stopped by SIGTERM after step 4; go on with resume={run.folder}"]
    assert "DataLoader worker" not in done.stderr
    assert step_of(run.folder) == 4


def test_the_other_ranks_error_is_the_exit_code_and_leaves_no_empty_folder(run):
    done = run("trainer=ddp_cpu", "loss.kind=value_error", "loss.at_call=2")
    assert done.returncode == 2, done.stderr
    assert not run.folder.exists()


def test_slurms_signal_requeues_once_and_is_not_a_failure(run, tmp_path):
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    script.chmod(0o755)
    slurm = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711"}
    done = run("trainer=ddp_cpu", "loss.kind=sigusr1", "loss.at_call=4", env=slurm)
    assert done.returncode == 0, done.stderr
    assert done.said == ["train.py: stopped by SIGUSR1 after step 4; the job is requeued and goes on by itself"]
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert step_of(run.folder) == 4
    assert not list(run.folder.rglob("hpc_ckpt*")), "Lightning's own requeueing keeps out"


def test_memory_that_really_runs_out(run):
    done = run("loss.kind=huge", "loss.on_rank=0")
    assert done.returncode == 2
    (said,) = done.said
    assert said.startswith("train.py: error: out of memory with 32 pairs per device: ")
    assert "try trainer.grad_cache_chunk=16 (the same gradient, in less memory)" in said


def test_a_job_of_a_multirun_that_runs_out_of_memory_leaves_its_reason(run, tmp_path):
    command = [*LAUNCHED, "-m", "--config-dir", str(tmp_path / "conf"), *OPTIONS, "loss.on_rank=0"]
    done = run.finished([*command, "loss.kind=no_memory,nothing", f"hydra.sweep.dir={tmp_path / 'sweep'}"])
    assert done.returncode == 2
    assert "1 job(s) failed" in done.said[-1]
    reason = (tmp_path / "sweep" / "0" / runs.ERROR_FILE).read_text()
    assert "trainer.grad_cache_chunk=16" in reason
    assert (tmp_path / "sweep" / "1" / runs.METRICS_FILE).exists()
    assert not (tmp_path / "sweep" / "1" / runs.ERROR_FILE).exists()
