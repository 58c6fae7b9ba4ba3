"""Who started a process, which folder its run has, and how many threads it takes."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from i0t import cli, launch, preparation, runs
from i0t.config import Command, ConfigError, check_command

TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
    **{"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "1"},
}
SLURM = {
    **{"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"},
    **{"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "train"},
}
ONE_TASK = {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (None, 0, 0, None, None, 1, 0)),
        (TORCHRUN, ("torchrun", 5, 1, 8, 4, 2, 1)),
        (SLURM, ("srun", 5, 1, 8, 4, 2, 0)),
        # a step that is smaller than its job, whose variables it inherits
        ({**SLURM, **ONE_TASK}, ("srun", 0, 0, 1, 1, 1, 0)),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}, ("srun", 5, 1, 2, 2, 1, 0)),
        ({**SLURM, "SLURM_RESTART_COUNT": "3"}, ("srun", 5, 1, 8, 4, 2, 3)),
        # torchrun inside a SLURM job, whose own rank is the node's
        ({**SLURM, "SLURM_RESTART_COUNT": "3", **TORCHRUN}, ("torchrun", 5, 1, 8, 4, 2, 3)),
        ({**SLURM, "SLURM_JOB_NAME": "bash", "SLURM_RESTART_COUNT": "3"}, (None, 0, 0, None, None, 1, 0)),
        # Lightning's child, and the second of two nodes that a user started by hand
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0"}, (None, 1, 1, 2, None, 1, 0)),
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


def test_of_two_equal_commands_the_one_that_was_interrupted_goes_on(environ, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ({**SLURM, "SLURM_RESTART_COUNT": "1"})
    first = folder()
    for path in (Path(first) / runs.METRICS_FILE, Path(f"{first}_2") / runs.CHECKPOINT):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert folder() == f"{first}_2"


@pytest.fixture
def agent(environ):
    """Sets the environment of a rank of a torchrun, whose agent keeps a store; by its id, which tells stores apart."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1"}

    def use(run_id="a", **variables):
        environ({**shared, "MASTER_PORT": str(store.port), "TORCHELASTIC_RUN_ID": run_id, **variables})

    return use


def test_ranks_of_torchrun_agree_through_the_store_of_their_agent(agent, monkeypatch):
    monkeypatch.setattr(launch.time, "strftime", lambda form: "now")
    found = []
    for run_id, restarts in (("a", "0"), ("a", "1"), ("b", "0")):
        agent(run_id, TORCHELASTIC_RESTART_COUNT=restarts)
        found.append(folder())
    assert found[0] == found[1] != found[2], "two of the same second are apart"
    assert all(name.startswith("outputs/mad/now_") for name in found)


def leave(path, kind):
    (path / kind).parent.mkdir(parents=True, exist_ok=True)
    (path / kind).touch()


def test_the_membership_of_a_torchrun_in_a_slurm_job_changes(agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uncounted = {**SLURM, "TORCHELASTIC_RESTART_COUNT": "0"}
    agent(**uncounted)
    first = folder()
    leave(Path(first), runs.CHECKPOINT)
    assert folder() == first, "no second folder: the agent knows"
    agent("b", **uncounted)
    assert folder() == f"{first}_2", "the same command again"


@pytest.mark.parametrize("kind", [runs.CHECKPOINT, runs.METRICS_FILE])
@pytest.mark.parametrize("restarts", ["0", "1"])
def test_what_is_left_in_a_folder_that_was_free_is_of_this_torchrun(agent, tmp_path, kind, restarts):
    agent()
    assert launch.is_left_by_this_job(tmp_path, named=True) is True
    leave(tmp_path, kind)
    agent(TORCHELASTIC_RESTART_COUNT=restarts, RANK="0")  # restarted, and a node that joined and counts from 0
    assert launch.is_left_by_this_job(tmp_path, named=True) is True
    agent("b", TORCHELASTIC_RESTART_COUNT=restarts)
    assert launch.is_left_by_this_job(tmp_path, named=True) is None, "another torchrun must compare"


def test_what_is_left_in_a_folder_without_a_store(environ, tmp_path):
    for variables, expected in (({}, False), (SLURM, False), ({**SLURM, "SLURM_RESTART_COUNT": "1"}, None)):
        environ(variables)
        assert launch.is_left_by_this_job(tmp_path, named=True) is expected
        assert launch.is_left_by_this_job(tmp_path, named=False) is True


@pytest.mark.parametrize(
    ("variables", "devices", "name"),
    [
        ({}, 2, "i0t"),
        (SLURM, 4, "i0t_rank5"),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "4", "NODE_RANK": "0"}, 2, "i0t_rank1"),
        ({"NODE_RANK": "1"}, 2, "i0t_rank2"),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "4", "NODE_RANK": "1"}, 2, "i0t_rank3"),
        ({"NODE_RANK": "1"}, "auto", "i0t_node1_rank0"),
    ],
)
def test_every_rank_has_a_log_of_its_own(environ, variables, devices, name):
    environ(variables)
    assert launch.log_name("i0t", devices) == name
    overrides = ["trainer=ddp_cpu", f"trainer.devices={devices}", "trainer.num_nodes=2", "hydra.run.dir=named"]
    (job,) = check_command(Command("train", overrides))
    assert OmegaConf.to_container(job.hydra.job_logging.handlers.file, resolve=False)["filename"].endswith(".log")
    assert job.hydra.job.name == name


@pytest.mark.parametrize(
    ("variables", "devices", "expected"),
    [
        ({}, 2, 2),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "4", "NODE_RANK": "1"}, 2, 2),
        ({"LOCAL_RANK": "1", "WORLD_SIZE": "4", "NODE_RANK": "1"}, "auto", 2),
        ({**SLURM, **ONE_TASK}, 1, 1),
    ],
)
def test_the_cores_of_a_node_are_shared_by_its_own_processes(environ, variables, devices, expected):
    environ(variables)
    overrides = ["trainer=ddp_cpu", f"trainer.devices={devices}", "trainer.num_nodes=2", "hydra.run.dir=named"]
    (job,) = check_command(Command("train", overrides))
    assert cli._processes_per_node(job) == expected


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
