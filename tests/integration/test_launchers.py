"""Runs whose ranks torchrun, srun or submitit starts: one folder, one set of numbers, the same weights."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from i0t import runs

ROOT = Path(__file__).resolve().parents[2]
TINY = (
    *("debug=tiny", "logger=[csv]", "report=false", "trainer.enable_progress_bar=false", "optimizer.lr=0.001"),
    *("compare=baseline", "evaluation=[gap]", "evaluation.gap.num_resamples=10"),
)
CRASH = '''
import os
import pytorch_lightning as pl

class CrashOnce(pl.Callback):
    """Fails in the fourth step, until the launcher has started the job again."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", os.environ.get("SLURM_RESTART_COUNT", "0"))
        if trainer.global_step == 4 and restarts == "0":
            raise RuntimeError("a marked crash")
'''
KILLED = '''
import os
import signal
import pytorch_lightning as pl

class Killed(pl.Callback):
    """Ends the first job as if memory had run out."""

    def __init__(self, seed):
        self.seed = seed

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if self.seed == 0:
            os.kill(os.getpid(), signal.SIGKILL)
'''
pytestmark = [pytest.mark.slow, pytest.mark.ddp, pytest.mark.timeout(900)]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(command, cwd, env=None):
    """A process whose output goes to one pipe."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes, code=0):
    """What they printed; all must leave with this code."""
    try:
        texts = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(texts)
    return texts


def torchrun(*arguments):
    return ["-m", "torch.distributed.run", *arguments, ROOT / "train.py"]


def the_folder(cwd):
    """Of the only run."""
    (folder,) = (cwd / "outputs" / "mad").iterdir()
    names = sorted(path.name for path in folder.iterdir())
    assert names.count(runs.METRICS_FILE) == names.count(runs.CONFIG_FILE) == 1
    assert len(list((folder / "csv").iterdir())) <= 2, "one logger wrote here, in at most two attempts"
    return folder


def assert_same_run(folder, reference, tolerance):
    one, other = (runs.read_checkpoint(f / runs.CHECKPOINT)["state_dict"] for f in (folder, reference))
    assert one.keys() == other.keys()
    for name, value in other.items():
        torch.testing.assert_close(one[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    numbers, expected = (json.loads((f / runs.METRICS_FILE).read_text()) for f in (folder, reference))
    assert numbers["test/none/gap/rmg"] == pytest.approx(expected["test/none/gap/rmg"], abs=1e-4)
    assert runs.read_checkpoint(folder / runs.CHECKPOINT)["global_step"] == 6


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder of a run of two processes that Lightning started."""
    cwd = tmp_path_factory.mktemp("reference")
    (text,) = finish([start([ROOT / "train.py", *TINY, "trainer=ddp_cpu"], cwd)])
    assert text.count("numbers:") == 1
    return the_folder(cwd)


@pytest.fixture
def crash(tmp_path):
    """Arguments and environment of a run that crashes in its first attempt."""
    (tmp_path / "own" / "callbacks").mkdir(parents=True)
    (tmp_path / "own" / "callbacks" / "crash.yaml").write_text("crash:\n  _target_: crash_once.CrashOnce\n")
    (tmp_path / "crash_once.py").write_text(CRASH)
    arguments = ["--config-dir", tmp_path / "own", *TINY, "trainer=ddp_cpu", "callbacks=[default,crash]"]
    return arguments, {"PYTHONPATH": str(tmp_path)}


def test_fully_sharded_processes_of_lightning(reference, tmp_path):
    finish([start([ROOT / "train.py", *TINY, "trainer=fsdp_cpu"], tmp_path)])
    assert_same_run(the_folder(tmp_path), reference, 1e-4)  # AdamW amplifies rounding


def test_torchrun_alone(reference, tmp_path):
    command = [*torchrun("--standalone", "--nproc-per-node", 2), *TINY, "trainer=ddp_cpu"]
    (text,) = finish([start(command, tmp_path)])
    assert text.count("numbers:") == 1
    folder = the_folder(tmp_path)
    assert {path.name for path in folder.glob("*.log")} == {"i0t.log", "i0t_rank1.log"}
    assert_same_run(folder, reference, 1e-6)


def test_torchrun_on_two_nodes(reference, tmp_path):
    rendezvous = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", "127.0.0.1", "--master-port", free_port()]
    commands = [[*torchrun(*rendezvous, "--node-rank", node), *TINY, "trainer=ddp_cpu"] for node in range(2)]
    texts = finish([start(command, tmp_path) for command in commands])
    assert [text.count("numbers:") for text in texts] == [1, 0]
    assert_same_run(the_folder(tmp_path), reference, 1e-6)


@pytest.mark.parametrize("rendezvous", ["standalone", "static"])
def test_torchrun_starts_a_crashed_run_again_where_it_stopped(reference, tmp_path, crash, rendezvous):
    arguments, env = crash
    kinds = {"standalone": ["--standalone"], "static": ["--master-addr", "127.0.0.1", "--master-port", free_port()]}
    command = torchrun("--nproc-per-node", 2, "--max-restarts", 1, *kinds[rendezvous])
    (text,) = finish([start([*command, *arguments], tmp_path, env)])
    assert "a marked crash" in text
    assert_same_run(the_folder(tmp_path), reference, 1e-6)


def test_a_requeued_slurm_job_goes_on_and_a_finished_one_stays(reference, tmp_path, crash):
    arguments, env = crash
    port = free_port()

    def srun(restarts, code=0):
        common = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
        common |= {"SLURM_JOB_NAME": "train", "SLURM_NODEID": "0", "SLURM_RESTART_COUNT": str(restarts)}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port + restarts)}
        tasks = [{**env, **common, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
        return finish([start([ROOT / "train.py", *arguments], tmp_path, task) for task in tasks], code)

    with pytest.raises(AssertionError, match="a marked crash"):
        srun(0)
    (folder,) = (tmp_path / "outputs" / "mad").iterdir()
    assert folder.name.startswith("slurm_4711_")
    assert not (folder / runs.METRICS_FILE).exists()
    texts = srun(1)
    assert [text.count("numbers:") for text in texts] == [1, 0]
    assert_same_run(the_folder(tmp_path), reference, 1e-6)
    first, second = srun(2)
    assert "finished before: outputs/mad/slurm_4711_" in first
    assert "finished" not in second


def test_more_processes_than_the_config_wants_are_one_line(tmp_path):
    command = [*torchrun("--standalone", "--nproc-per-node", 2), *TINY, "trainer=cpu"]
    (text,) = finish([start(command, tmp_path)], code=1)
    assert text.count("train.py: error: torchrun started 2 process(es), but trainer.devices=1") == 1
    assert not (tmp_path / "outputs").exists()


def test_submitit_runs_the_jobs_of_a_multirun(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    jobs = ["seed=0,1", "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    (text,) = finish([start([ROOT / "train.py", "-m", *TINY, *jobs], tmp_path)])
    found = [json.loads((tmp_path / "sweep" / job / runs.METRICS_FILE).read_text()) for job in "01"]
    assert [numbers["model"]["seed"] for numbers in found] == [0, 1]
    assert found[0]["test/none/gap/rmg"] != found[1]["test/none/gap/rmg"]
    assert (tmp_path / "sweep" / "summary.csv").read_text().count("\n") == 3
    assert "summary of 2 jobs" in text


def test_a_job_that_fails_under_submitit_is_told(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    jobs = ["trainer.precision=32-true,nonsense", "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    (text,) = finish([start([ROOT / "train.py", "-m", *TINY, *jobs], tmp_path)], code=2)
    assert (tmp_path / "sweep" / "0" / runs.METRICS_FILE).exists()
    assert "nonsense" in (tmp_path / "sweep" / "1" / runs.ERROR_FILE).read_text()
    assert "1 job(s) failed" in text


def test_a_job_that_is_killed_under_submitit_leaves_the_others_and_the_summary(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "own" / "callbacks").mkdir(parents=True)
    (tmp_path / "own" / "callbacks" / "killed.yaml").write_text("killed:\n  _target_: killed.Killed\n  seed: ${seed}\n")
    (tmp_path / "killed.py").write_text(KILLED)
    jobs = ["seed=0,1", "callbacks=[default,killed]", "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    command = [ROOT / "train.py", "-m", "--config-dir", tmp_path / "own", *TINY, *jobs]
    (text,) = finish([start(command, tmp_path, {"PYTHONPATH": str(tmp_path)})], code=2)
    assert "ended without a word: killed" in (tmp_path / "sweep" / "0" / runs.ERROR_FILE).read_text()
    assert (tmp_path / "sweep" / "1" / runs.METRICS_FILE).exists()
    assert (tmp_path / "sweep" / "summary.csv").read_text().count("\n") == 3
    assert "1 job(s) failed: " in text


def test_a_restarted_job_leaves_another_run_in_its_named_folder_alone(tmp_path):
    named = [ROOT / "train.py", *TINY, "hydra.run.dir=b"]
    finish([start(named, tmp_path)])
    before = (tmp_path / "b" / runs.METRICS_FILE).read_bytes()
    again = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_RESTART_COUNT": "1"}
    foreign, own = start([*named, "seed=7"], tmp_path, again), start(named, tmp_path, again)
    (text,) = finish([foreign], code=2)
    assert "error: b holds a finished run (seed is 0 there, 7 here): name another folder" in text
    assert "finished before: b" in finish([own])[0]
    assert (tmp_path / "b" / runs.METRICS_FILE).read_bytes() == before


def test_runs_of_the_same_second_share_no_folder_and_no_failure(tmp_path):
    failing = [[ROOT / "train.py", *TINY, "trainer.precision=nonsense"]] * 2
    processes = [start(command, tmp_path) for command in [[ROOT / "train.py", *TINY], *failing]]
    assert sorted(process.wait(timeout=600) for process in processes) == [0, 2, 2]
    folder = the_folder(tmp_path)
    assert (folder / ".hydra").is_dir()
    assert (folder / "i0t.log").exists()


def test_two_and_four_processes_train_alike(tmp_path):
    """In float64: in float32, rounding grows where a maximum or a ReLU changes its side."""
    sgd = ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "~optimizer.eps", "optimizer.fused=false"]
    common = [ROOT / "train.py", *TINY, *sgd, "optimizer.lr=0.05", "trainer=ddp_cpu", "trainer.precision=64-true"]
    sizes = {2: 64, 4: 32}
    for processes, batch_size in sizes.items():
        shape = [f"trainer.devices={processes}", f"data.batch_size={batch_size}", f"hydra.run.dir={processes}"]
        finish([start([*common, *shape], tmp_path)])
    two, four = (runs.read_checkpoint(tmp_path / str(p) / runs.CHECKPOINT)["state_dict"] for p in sizes)
    for name, value in two.items():
        torch.testing.assert_close(four[name], value, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
