"""Who started a process, which folder its run has, and how many threads it takes."""

import os
import sys
from pathlib import Path

import pytest
import torch

from i0t import launch, preparation, runs
from i0t.config import Command, ConfigError, check_command

TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
    **{"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "1"},
}
SLURM = {
    **{"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"},
    **{"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "train"},
}


@pytest.fixture
def environ(monkeypatch):
    """Sets variables in an environment that no launcher has made."""

    def use(variables):
        known = ("SLURM_", "TORCHELASTIC_", "I0T_NUM", "OMP_")
        for name in list(os.environ):
            if name.startswith(known) or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "LOCAL_WORLD_SIZE"):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    use({})
    return use


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (None, 0, 0, None, None, 1, 0)),
        (TORCHRUN, ("torchrun", 5, 1, 8, 4, 2, 1)),
        (SLURM, ("srun", 5, 1, 8, 4, 2, 0)),
        ({**SLURM, "SLURM_RESTART_COUNT": "3"}, ("srun", 5, 1, 8, 4, 2, 3)),
        # torchrun inside a SLURM job, whose own rank is the node's
        ({**SLURM, "SLURM_RESTART_COUNT": "3", **TORCHRUN}, ("torchrun", 5, 1, 8, 4, 2, 3)),
        ({**SLURM, "SLURM_JOB_NAME": "bash", "SLURM_RESTART_COUNT": "3"}, (None, 0, 0, None, None, 1, 0)),
        # Lightning's child, and the second of two nodes that a user started by hand
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"}, (None, 1, 1, 2, 2, 1, 0)),
        ({"NODE_RANK": "1", "MASTER_ADDR": "there"}, (None, 1, 0, None, None, 1, 0)),
    ],
)
def test_who_this_process_is(variables, expected):
    found = launch.this_launch(variables)
    assert tuple(found) == expected
    assert found.is_first is (expected[1] == 0)


def folder(command="seed=1"):
    return launch.run_folder("outputs/mad", command)


def test_a_process_alone_takes_the_time(environ):
    assert len(folder()) == len("outputs/mad/2026-01-01_00-00-00")


def test_a_slurm_job_has_one_folder_for_each_command(environ, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = set()
    for rank in ("0", "5"):
        environ({**SLURM, "SLURM_PROCID": rank})
        names |= {folder(), folder("seed=2")}
        Path(folder()).mkdir(parents=True, exist_ok=True)  # as the first rank does, before the others look
        (Path(folder()) / runs.CONFIG_FILE).touch()
    assert len(names) == 2
    assert all(name.startswith("outputs/mad/slurm_4711_") for name in names)
    environ({**SLURM, "SLURM_JOB_ID": "4712"})
    assert folder() not in names


@pytest.mark.parametrize("left", [runs.CHECKPOINT, runs.METRICS_FILE])
def test_the_same_command_twice_in_a_job_has_two_folders_and_started_again_one(environ, tmp_path, monkeypatch, left):
    monkeypatch.chdir(tmp_path)
    environ(SLURM)
    first = folder()
    (Path(first) / left).parent.mkdir(parents=True)
    (Path(first) / left).touch()
    assert folder() == f"{first}_2"
    assert not launch.goes_on(Path(first))
    environ({**SLURM, "SLURM_RESTART_COUNT": "1"})
    assert folder() == first, "it goes on there, or finds that it was finished"
    assert launch.goes_on(Path(first)) is (left == runs.CHECKPOINT)
    assert launch.is_finished(Path(first)) is (left == runs.METRICS_FILE)


def test_of_two_equal_commands_the_one_that_was_interrupted_goes_on(environ, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ({**SLURM, "SLURM_RESTART_COUNT": "1"})
    first = folder()
    for path in (Path(first) / runs.METRICS_FILE, Path(f"{first}_2") / runs.CHECKPOINT):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert folder() == f"{first}_2"


def test_ranks_of_torchrun_agree_through_the_store_of_their_agent(environ, monkeypatch):
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(store.port)
    stamps = iter(["first", "second", "third", "fourth"])
    monkeypatch.setattr(launch.time, "strftime", lambda form: next(stamps))
    found = []
    for run_id, restarts in (("a", "0"), ("a", "1"), ("b", "0")):
        environ({**shared, "TORCHELASTIC_RUN_ID": run_id, "TORCHELASTIC_RESTART_COUNT": restarts})
        found.append(folder())
    assert found == ["outputs/mad/first", "outputs/mad/first", "outputs/mad/third"]


def test_without_such_a_store_the_folder_must_be_named(environ):
    environ({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "False"})
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir=…"):
        folder()


def test_a_composed_run_follows_its_launcher(environ, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ(SLURM)
    (job,) = check_command(Command("train", ["trainer=ddp_cpu", "seed=3"]))
    assert (job.trainer.devices, job.trainer.num_nodes) == (4, 2)
    assert job.hydra.run.dir.startswith("outputs/mad/slurm_4711_")
    assert (job.hydra.output_subdir, job.hydra.job.name) == (None, "i0t_rank5")
    environ({})
    (job,) = check_command(Command("train", ["trainer=ddp_cpu", "seed=3"]))
    assert (job.trainer.devices, job.trainer.num_nodes) == (2, 1)
    assert (job.hydra.output_subdir, job.hydra.job.name) == (".hydra", "i0t")
    assert job.hydra.run.dir == job.hydra.run.dir, "asked twice, one folder"


@pytest.mark.parametrize(
    ("overrides", "multirun", "message"),
    [
        (["trainer=cpu"], False, r"srun started 8 process\(es\), but trainer.devices=1 x trainer.num_nodes=1"),
        (["trainer=ddp_cpu", "trainer.devices=2"], False, r"trainer.devices=2 x trainer.num_nodes=2"),
        (["seed=1,2"], True, r"srun started 8 processes, each of which would run the whole multirun"),
    ],
)
def test_a_world_that_the_config_does_not_want_is_refused(environ, overrides, multirun, message):
    environ(SLURM)
    command = Command("train", overrides, None, multirun)
    with pytest.raises(ConfigError, match=message):
        preparation.check_launch(command, check_command(command))
    fitting = Command("train", ["trainer=ddp_cpu"])
    preparation.check_launch(fitting, check_command(fitting))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer=ddp_cpu"], r"one device each .*hydra/launcher=slurm"),
        (["trainer=ddp", "hydra/launcher=slurm"], r"trainer.devices=auto: say how many"),
        (["trainer=ddp", "trainer.devices=8", "hydra/launcher=slurm", "hydra.launcher.nodes=2"], r"start 8 x 2 proc"),
        (["hydra/launcher=slurm", "hydra.launcher.timeout=3"], r"unknown key 'hydra.launcher.timeout'; did you mean"),
    ],
)
def test_jobs_of_several_ranks_need_slurm(environ, overrides, message):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with pytest.raises(ConfigError, match=message):
        check_command(Command("train", [*overrides, "seed=0,1"], None, multirun=True))


def test_the_slurm_launcher_starts_a_process_for_each_device(environ):
    plugin = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    chosen = ["hydra/launcher=slurm", "trainer=ddp", "trainer.devices=8", "trainer.num_nodes=2", "seed=0,1"]
    jobs = check_command(Command("train", chosen, None, multirun=True))
    assert len(jobs) == 2
    launcher = jobs[0].hydra.launcher
    assert (launcher.tasks_per_node, launcher.gpus_per_node, launcher.nodes) == (8, 8, 2)
    assert launcher.name == "mad"
    assert set(launcher) == set(vars(plugin.SlurmQueueConf())), "all keys are the plugin's"


@pytest.fixture
def threads(environ, monkeypatch):
    """Threads and data workers of a rank on eight cores."""
    before = torch.get_num_threads()
    monkeypatch.setattr(launch, "available_cores", lambda: 8)

    def limit(variables, processes):
        environ(variables)
        for name in ("OMP_NUM_THREADS", launch.NUM_WORKERS):  # so that they are put back
            monkeypatch.setenv(name, os.environ.get(name, ""))
            if not variables.get(name):
                monkeypatch.delenv(name)
        torch.set_num_threads(7)
        launch.limit_threads(processes)
        assert "torch" in sys.modules
        return torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"), os.environ[launch.NUM_WORKERS]

    yield limit
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("variables", "processes", "expected"),
    [
        ({}, 1, (7, None, "8")),  # as the libraries choose
        ({}, 4, (2, "2", "2")),
        ({}, 16, (1, "1", "1")),
        ({"OMP_NUM_THREADS": "3"}, 4, (7, "3", "2")),  # torch has read it by itself
        ({"I0T_NUM_THREADS": "5", "OMP_NUM_THREADS": "3"}, 4, (5, "5", "2")),
        ({"I0T_NUM_THREADS": "5", "I0T_NUM_WORKERS": "0"}, 1, (5, "5", "0")),
        ({**SLURM, "SLURM_CPUS_PER_TASK": "6"}, 4, (6, "6", "6")),
        (SLURM, 4, (2, "2", "2")),
    ],
)
def test_ranks_share_the_cores_of_their_node(threads, variables, processes, expected):
    assert threads(variables, processes) == expected


@pytest.mark.parametrize("variables", [{"I0T_NUM_THREADS": "0"}, {"I0T_NUM_THREADS": "x"}, {"I0T_NUM_WORKERS": "-1"}])
def test_a_limit_that_is_no_number_is_refused(threads, variables):
    (name,) = variables
    with pytest.raises(ConfigError, match=rf"{name}=.* must be a whole number"):
        threads(variables, 1)
