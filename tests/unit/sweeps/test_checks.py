"""What is wrong with a multirun's engine is one line before the first job."""

import importlib.util

import pytest
from omegaconf import OmegaConf

from i0t.config import Command, ConfigError, check_command, conf_dir
from i0t.config_resolvers import job_folder
from i0t.launch import available_cores
from i0t.sweeps.checks import jobs_at_once

SEARCH = "hparams_search=mad_optuna"


def check(*overrides, script="train", multirun=True):
    return check_command(Command(script, list(overrides), multirun=multirun))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((SEARCH, "optimizer.lrr=interval(0,1)"), r"unknown key 'optimizer\.lrr'; did you mean 'optimizer\.lr'"),
        pytest.param((SEARCH, "loss=clip,cyclip"), "unknown key 'loss.cross_weight'", marks=pytest.mark.slow),
        pytest.param(
            ("hparams_search=mad_gap_vs_retrieval", "loss=clip,cyclipp"),
            "loss=cyclipp: there is no such choice",
            marks=pytest.mark.slow,
        ),
        ((SEARCH, "data.batch_size=interval(16,64)"), "data.batch_size must be a whole number, got 16.0"),
        pytest.param(
            (SEARCH, "data.batch_size=8,16,x"),
            "data.batch_size must be a whole number, got 'x'",
            marks=pytest.mark.slow,
        ),
        ((SEARCH, "hydra.sweeper.maximize=[test/none/gap/rmg]"), "measure the split val"),
        pytest.param(
            (SEARCH, "hydra.sweeper.maximize=[val/non/gap/rmg]"),
            "no row 'non'; did you mean 'none'",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (SEARCH, "hydra.sweeper.maximize=[val/none/zeroshot/digit]"),
            "no evaluation 'zeroshot'",
            marks=pytest.mark.slow,
        ),
        pytest.param((SEARCH, "hydra.sweeper.maximize=[]"), "the search has no objective", marks=pytest.mark.slow),
        pytest.param(
            (SEARCH, "hydra.sweeper.n_trials=0"),
            "hydra.sweeper.n_trials=0 must be a whole number, at least 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (SEARCH, "hydra.sweeper.trials_at_once=two"),
            "hydra.sweeper.trials_at_once=two must be a whole number",
            marks=pytest.mark.slow,
        ),
        ((SEARCH, "hydra.sweep.subdir=x"), "a search numbers the folders of its jobs"),
        pytest.param((SEARCH, "hydra/sweeper/algorithm=tpee"), "did you mean 'tpe'", marks=pytest.mark.slow),
        pytest.param((SEARCH, "optimizer.lr=tag(log,interval(0,1))"), "must begin above 0", marks=pytest.mark.slow),
        pytest.param(("hydra/sweeper=study", "seed=0,1"), "the search has no objective", marks=pytest.mark.slow),
        (("hydra/sweeper=study", "hydra.sweeper.minimize=[val/rmg]"), "the search varies nothing"),
        pytest.param(("optimizer.lr=interval(0,1)",), "does not support sweep type", marks=pytest.mark.slow),
    ],
)
def test_a_search_that_cannot_be_is_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        check(*overrides)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_search_is_checked_at_the_corners_of_its_space():
    jobs = check(SEARCH)
    assert len(jobs) == 1 + 4
    assert [job.optimizer.lr for job in jobs] == [1e-4, 1e-2, 1e-4, 1e-4, 1e-4]
    jobs = check("hparams_search=mad_gap_vs_retrieval")
    assert {job.loss._target_.rpartition(".")[2] for job in jobs} == {
        "ClipLoss",
        "CyClipLoss",
        "UniformityAlignmentLoss",
    }


def test_a_search_without_the_flag_is_not_a_single_run():
    with pytest.raises(ConfigError, match="hparams_search=mad_optuna is many jobs: add -m"):
        check(SEARCH, multirun=False)


def test_a_package_that_is_missing_is_named(monkeypatch):
    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "optuna" else plain(name, *a))
    with pytest.raises(ConfigError, match=r"pip install 'i0t\[sweeps\]'"):
        check(SEARCH)


def test_a_launcher_that_is_missing_is_named():
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    with pytest.raises(ConfigError, match=r"hydra/launcher=ray needs a package: pip install 'hydra-ray-launcher'"):
        check("hydra/launcher=ray_jobs", "seed=0,1")


def test_the_search_of_hydras_plugin_is_refused_with_a_hint():
    target = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
    with pytest.raises(ConfigError, match="hydra/sweeper=study"):
        check(f"hydra.sweeper._target_={target}", "seed=0,1")


def test_files_of_a_search_name_what_a_search_has():
    for file in (conf_dir() / "hparams_search").glob("*.yaml"):
        content = OmegaConf.load(file)
        assert content.split == "val", "nothing is chosen by the test split"
        assert content.skip_finished is True
        assert content.name == file.stem


def hydra_of(launcher, **sweeper):
    return OmegaConf.create({"launcher": launcher, "sweeper": {"_target_": "x", **sweeper}})


def test_jobs_at_once():
    processes = {"_target_": "hydra_plugins.i0t_sweeps.process_launcher.ProcessLauncher", "n_jobs": 4}
    basic = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    local = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}
    plugin = {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "n_jobs": -1}
    ray = {"_target_": "x.RayLauncher", "ray": {"remote": {"num_cpus": available_cores()}}}
    assert jobs_at_once(hydra_of(processes), 9) == 4
    assert jobs_at_once(hydra_of(processes), 3) == 3
    assert jobs_at_once(hydra_of(processes, trials_at_once=2), 9) == 2
    assert jobs_at_once(hydra_of(basic), 9) == 1
    assert jobs_at_once(hydra_of(local), 9) == 9
    assert jobs_at_once(hydra_of(plugin), 999) == available_cores()
    assert jobs_at_once(hydra_of(ray), 9) == 1
    for n_jobs in (0, "two", True, -2):
        with pytest.raises(ConfigError, match="n_jobs"):
            jobs_at_once(hydra_of({**processes, "n_jobs": n_jobs}), 9)


def test_a_folders_name_is_one_short_word():
    assert job_folder("data.limit=3,loss=clip,seed=0") == "data.limit=3,loss=clip,seed=0"
    assert job_folder("") == "job"
    slash, space, word = (job_folder(f"ckpt_path=../a{c}b.ckpt") for c in "/ _")
    assert slash.startswith("ckpt_path=.._a_b.ckpt_"), "one folder, not one in another"
    assert len({slash, space, word}) == 3, "no job writes over another"
    long = [job_folder(f"data.path={'x' * 300}{end}") for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(name) < 255 for name in long)
