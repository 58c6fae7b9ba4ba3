"""What becomes of a command in a folder that holds a run: its own, or another."""

import pytest
import torch

from i0t import preparation, runs
from i0t.config import Command, ConfigError, check_command, compose, to_container, to_yaml


@pytest.fixture
def gone_on(tmp_path, monkeypatch):
    """Starts a command in the folder of an unfinished run of seven steps, by itself or again by SLURM."""
    folder = tmp_path / "any"
    (folder / runs.CHECKPOINT).parent.mkdir(parents=True)
    config = compose("train", [f"paths.output_dir={folder}", "trainer.max_steps=7"])
    torch.save({"state_dict": {}, "i0t": {"config": to_container(config)}}, folder / runs.CHECKPOINT)
    (folder / runs.CONFIG_FILE).write_text(to_yaml(config))

    def start(*overrides, restarts=1, named=True, config_name="train"):
        monkeypatch.setenv("SLURM_NTASKS", "1")
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        command = Command(config_name, list(overrides))
        asked = compose(config_name, [*overrides, f"paths.output_dir={folder}"])
        return command, preparation.gone_on(command, folder, to_yaml(asked), named=named)

    start.folder = folder
    return start


@pytest.mark.parametrize("named", [True, False])
def test_a_training_that_is_started_again_resumes_with_its_saved_config(gone_on, named):
    folder = gone_on.folder
    _, found = gone_on("trainer.max_steps=7", named=named)
    (cfg,) = check_command(found)
    assert (cfg.resume, cfg.trainer.max_steps, cfg.hydra.run.dir) == (str(folder), 7, str(folder))
    (folder / runs.METRICS_FILE).touch()
    assert gone_on("trainer.max_steps=7", named=named)[1] is None, "it is finished"
    for name in (runs.METRICS_FILE, runs.CHECKPOINT):
        (folder / name).unlink()
    command, found = gone_on("trainer.max_steps=7", named=named)
    assert found is command, "it had not got far"


def test_it_goes_on_with_as_many_processes_as_there_are_now(gone_on):
    _, found = gone_on("trainer.max_steps=7", "trainer.devices=3", "trainer.num_nodes=2", named=False)
    (cfg,) = check_command(found)
    assert (cfg.trainer.devices, cfg.trainer.num_nodes, cfg.trainer.max_steps) == (3, 2, 7)


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize(("kind", "which"), [(runs.CHECKPOINT, "an unfinished"), (runs.METRICS_FILE, "a finished")])
def test_a_run_of_another_config_in_a_named_folder_is_neither_taken_nor_lost(gone_on, restarts, kind, which):
    (gone_on.folder / kind).touch()
    message = rf"any holds {which} run \(seed is 0 there, 7 here\): name another folder, or take this one away"
    with pytest.raises(ConfigError, match=message) as error:
        gone_on("trainer.max_steps=7", "seed=7", restarts=restarts)
    assert ("or go on with resume=" in str(error.value)) is (kind == runs.CHECKPOINT)


def test_nor_is_one_of_the_same_config_that_nobody_started_again(gone_on):
    with pytest.raises(ConfigError, match=r"any holds an unfinished run: name another folder, .* resume=.*any$"):
        gone_on("trainer.max_steps=7", restarts=0)
    (gone_on.folder / runs.CONFIG_FILE).unlink()
    with pytest.raises(ConfigError, match=r"an unfinished run \(it has no config.yaml\)"):
        gone_on("trainer.max_steps=7")


def test_an_evaluation_is_repeated_in_its_folder_but_not_in_that_of_a_training(gone_on):
    def evaluated(*overrides, **how):
        return gone_on("data=mad", "model=mad_tiny", *overrides, config_name="eval", **how)

    with pytest.raises(ConfigError, match="an unfinished run"):
        evaluated(restarts=0)
    folder = gone_on.folder
    (folder / runs.CHECKPOINT).unlink()
    (folder / runs.METRICS_FILE).touch()
    config = compose("eval", ["data=mad", "model=mad_tiny", f"paths.output_dir={folder}"])
    (folder / runs.CONFIG_FILE).write_text(to_yaml(config))
    command, found = evaluated(restarts=0)
    assert found is command
    assert evaluated(restarts=1)[1] is None
    with pytest.raises(ConfigError, match=r"a finished run \(seed is 0 there, 3 here\)"):
        evaluated("seed=3", restarts=0)
