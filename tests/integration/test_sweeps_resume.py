"""Sweeps that are killed and started again, in several processes, and steered from outside: as if nothing had been."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from i0t import runs
from i0t.config import conf_dir

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *("data.limit=30", "data.batch_size=64", "data.generator_workers=0", "scheduler.warmup_steps=1"),
    *("trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"),
    "trainer.enable_progress_bar=false",
)
LOSSES = ("clip", "cyclip", "uniformity_alignment")
SELF = '''
import json
import os
import signal
from pathlib import Path

import pytorch_lightning as pl
import torch


class Killed(pl.Callback):
    """Notes what share of the machine the job has; one job ends as if memory had run out."""

    def __init__(self, seed, folder):
        self.seed = seed
        self.folder = Path(folder)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        share = {"threads": torch.get_num_threads(), "workers": os.environ["I0T_NUM_WORKERS"], "process": os.getpid()}
        (self.folder / "share.json").write_text(json.dumps(share))
        if self.seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
'''
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def train(cwd, *arguments, code=0, script="train.py", **more):
    """Runs a script of ours to its end; returns what it printed. A variable that is ``None`` is taken away."""
    cwd.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd,
        env={key: value for key, value in (os.environ | {"OMP_NUM_THREADS": "1"} | more).items() if value is not None},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def kill_after(number, cwd, folder, *arguments):
    """Kills ``train.py`` when so many jobs have their numbers and another one has begun."""
    cwd.mkdir(exist_ok=True)
    with (cwd / "killed.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 900
            while len(finished(folder)) < number or len(started(folder)) <= number:
                assert process.poll() is None, (cwd / "killed.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return finished(folder)


def finished(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/metrics.json")}


def started(folder):
    return [path.parent.parent.name for path in folder.glob("*/.hydra/overrides.yaml")]


def table(folder):
    """``summary.csv`` with numbers as numbers."""
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_grid_that_was_killed_ends_with_the_same_table(tmp_path):
    arguments = ("-m", "sweep=mad_grid", *SMALL, f"loss={','.join(LOSSES)}", "seed=0")
    whole, killed = (tmp_path / name / "outputs" / "mad_grid" for name in ("whole", "killed"))
    said = train(tmp_path / "whole", *arguments)
    assert "no figure over the jobs" not in said
    assert (whole / "tradeoff.png").exists()
    expected = table(whole)
    names = [row["job"] for row in expected]
    assert [[f"loss={loss}," in name and ",seed=0," in name for name in names] for loss in LOSSES] == np.eye(3).tolist()
    assert len({row["test/none/gap/rmg"] for row in expected}) == 3

    before = kill_after(1, tmp_path / "killed", killed, *arguments)
    assert 1 <= len(before) < 3
    assert not (killed / "summary.csv").exists()
    again = train(tmp_path / "killed", *arguments)
    assert again.count("finished before") == len(before)
    assert {name: finished(killed)[name] for name in before} == before, "finished jobs were not run again"
    assert table(killed) == expected

    (killed / names[2] / runs.METRICS_FILE).unlink()
    once_more = train(tmp_path / "killed", *arguments)
    assert once_more.count("finished before") == 2
    assert table(killed) == expected


def study_of(folder, name):
    optuna = pytest.importorskip("optuna")
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/study.db").trials


def test_a_search_that_was_killed_ends_with_the_same_trials(tmp_path):
    arguments = ("-m", "hparams_search=mad_optuna", *SMALL, "hydra.sweeper.n_trials=3")
    whole, killed = (tmp_path / name / "outputs" / "mad_optuna" for name in ("whole", "killed"))
    said = train(tmp_path / "whole", *arguments)
    assert "search: 3 of 3 trials, 0 of them failed" in said
    assert "best: val/none/retrieval/i2t_r1" in said
    best = yaml.safe_load((whole / "best.yaml").read_text())
    recalls = [float(row["val/none/retrieval/i2t_r1"]) for row in table(whole)]
    assert best[0]["values"] == {"val/none/retrieval/i2t_r1": pytest.approx(max(recalls))}

    before = kill_after(1, tmp_path / "killed", killed, *arguments)
    assert 1 <= len(before) < 3
    assert "RUNNING" in [trial.state.name for trial in study_of(killed, "mad_optuna")]
    train(tmp_path / "killed", *arguments)
    assert {name: finished(killed)[name] for name in before} == before, "finished jobs were not run again"
    trials = study_of(killed, "mad_optuna")
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    assert {trial.state.name for trial in trials} == {"COMPLETE", "FAIL"}
    assert [trial.user_attrs["job"] for trial in complete] == [0, 1, 2]
    assert [trial.params for trial in complete] == [trial.params for trial in study_of(whole, "mad_optuna")]
    assert len({json.dumps(trial.params) for trial in complete}) == 3
    assert table(killed) == table(whole)

    other = train(tmp_path / "killed", *arguments, "loss.cross_weight=interval(0,2)", code=2)
    (line,) = [line for line in other.splitlines() if "error:" in line]
    assert "holds the study of another search (loss.cross_weight is interval(0.,1.) there" in line
    missing = ("hydra.sweeper.maximize=[val/none/retrieval/i2t]", "name=missing")
    said = train(tmp_path / "killed", *arguments, *missing, code=2)
    assert "train.py: error: objective val/none/retrieval/i2t: outputs/missing/0 has no such number; did you" in said
    assert len(started(tmp_path / "killed" / "outputs" / "missing")) == 1


def test_a_search_of_two_objectives_with_a_failing_trial_and_two_at_once(tmp_path):
    arguments = ("-m", "hparams_search=mad_gap_vs_retrieval", *SMALL, "hydra.sweeper.n_trials=4")
    more = ("hydra/launcher=processes", "trainer.precision=32-true,nonsense")
    said = train(tmp_path, *arguments, *more, code=2)
    folder = tmp_path / "outputs" / "mad_gap_vs_retrieval"
    trials = study_of(folder, "mad_gap_vs_retrieval")
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    assert 0 < len(failed) < 4
    assert all("nonsense" in trial.user_attrs["error"] for trial in failed)
    assert f"search: 4 of 4 trials, {len(failed)} of them failed" in said
    assert f"{len(failed)} job(s) failed" in said
    rows = table(folder)
    assert [row["job"] for row in rows] == ["0", "1", "2", "3"]
    points = [
        (float(row["val/posthoc/retrieval/i2t_r1"]), float(row["val/posthoc/gap/centroid_distance"]))
        for row in rows
        if row["val/posthoc/retrieval/i2t_r1"]
    ]
    front = [(r, d) for r, d in points if not any(a >= r and b <= d and (a, b) != (r, d) for a, b in points)]
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert sorted(tuple(one["values"].values()) for one in best) == sorted(front)


def test_processes_share_the_cores_and_one_that_is_killed_is_one_failed_job(tmp_path):
    (tmp_path / "own" / "callbacks").mkdir(parents=True)
    (tmp_path / "own" / "callbacks" / "killed.yaml").write_text(
        "killed:\n  _target_: killed.Killed\n  seed: ${seed}\n  folder: ${paths.output_dir}\n"
    )
    (tmp_path / "killed.py").write_text(SELF)
    arguments = ("-m", "--config-dir", "own", "sweep=mad_grid", *SMALL, "callbacks=[default,killed]", "loss=clip",
                 "hydra/launcher=processes", "hydra.launcher.n_jobs=2")  # fmt: skip
    plain = {"OMP_NUM_THREADS": None, "I0T_NUM_WORKERS": None, "I0T_NUM_THREADS": None}
    said = train(tmp_path, *arguments, code=2, PYTHONPATH=str(tmp_path), **plain)
    folder = tmp_path / "outputs" / "mad_grid"
    rows = table(folder)
    assert [bool(row["test/none/gap/rmg"]) for row in rows] == [True, False, True]
    assert "1 job(s) failed: " in said
    failed = folder / rows[1]["job"]
    assert (failed / runs.ERROR_FILE).read_text().startswith("its process ended without a word")
    shares = [json.loads((folder / row["job"] / "share.json").read_text()) for row in rows]
    cores = len(os.sched_getaffinity(0))
    assert [share["threads"] for share in shares] == [max(1, cores // 2)] * 3
    assert [share["workers"] for share in shares] == [str(min(8, max(1, cores // 2)))] * 3
    assert len({share["process"] for share in shares}) > 1

    in_one = train(tmp_path / "one", "-m", "sweep=mad_grid", *SMALL, "loss=clip", "seed=0")
    assert "finished before" not in in_one
    (alone,) = table(tmp_path / "one" / "outputs" / "mad_grid")
    assert float(alone["test/none/gap/rmg"]) == pytest.approx(float(rows[0]["test/none/gap/rmg"]), abs=1e-4)


def test_hydras_own_launcher_of_processes_shares_the_cores_too(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs `pip install 'i0t[sweeps]'`")
    (tmp_path / "own" / "callbacks").mkdir(parents=True)
    (tmp_path / "own" / "callbacks" / "killed.yaml").write_text(
        "killed:\n  _target_: killed.Killed\n  seed: 0\n  folder: ${paths.output_dir}\n"
    )
    (tmp_path / "killed.py").write_text(SELF)
    arguments = ("-m", "--config-dir", "own", "sweep=mad_grid", *SMALL, "callbacks=[default,killed]", "loss=clip",
                 "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")  # fmt: skip
    plain = {"OMP_NUM_THREADS": None, "I0T_NUM_WORKERS": None, "I0T_NUM_THREADS": None}
    train(tmp_path, *arguments, PYTHONPATH=str(tmp_path), **plain)
    rows = table(tmp_path / "outputs" / "mad_grid")
    assert [row["status"] for row in rows] == ["finished"] * 2
    shares = [json.loads((tmp_path / "outputs" / "mad_grid" / row["job"] / "share.json").read_text()) for row in rows]
    assert [share["threads"] for share in shares] == [max(1, len(os.sched_getaffinity(0)) // 2)] * 2


def test_an_evaluation_searches_too(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 8))
    np.savez(tmp_path / "pairs.npz", image=rows + 1, text=rows - 1, text_image_index=np.arange(60))
    said = train(
        *(tmp_path, "-m", "hydra/sweeper=study", "data=embeddings", f"data.path={tmp_path / 'pairs.npz'}"),
        *("gap_reducer=posthoc", "gap_reducer.fit_split=test", "gap_reducer.strength=interval(0,1.5)"),
        *("evaluation=gap", "evaluation.gap.num_resamples=10", "compare=baseline", "report=false"),
        *("hydra.sweeper.minimize=[test/posthoc/gap/centroid_distance]", "hydra.sweeper.n_trials=4"),
        "hydra.sweep.dir=outputs/strength",
        script="eval.py",
    )
    assert "search: 4 of 4 trials, 0 of them failed" in said
    (best,) = yaml.safe_load((tmp_path / "outputs" / "strength" / "best.yaml").read_text())
    distances = {
        float(row["gap_reducer.strength"]): float(row["test/posthoc/gap/centroid_distance"])
        for row in table(tmp_path / "outputs" / "strength")
    }
    assert len(distances) == 4
    assert best["overrides"]["gap_reducer.strength"] == min(distances, key=distances.get)
    # The distance falls towards strength 1, where the means are subtracted whole.
    assert min(distances, key=distances.get) == min(distances, key=lambda strength: abs(strength - 1))


def test_the_command_of_wandbs_agent_runs(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.sdk.launch.sweeps import utils

    for file in sorted((conf_dir() / "sweep" / "wandb").glob("*.yaml")):
        config = yaml.safe_load(file.read_text())
        values = {name: {"value": one["min"] if "min" in one else one["values"][0]} for name, one in
                  config["parameters"].items()}  # fmt: skip
        known = utils.create_sweep_command_args({"args": values})
        known |= {"env": [], "interpreter": [], "program": []}
        command = []
        for word in utils.create_sweep_command(config["command"]):
            command += known[word[2:-1]] if word.startswith("${") else [word]
        cwd = tmp_path / file.stem
        said = train(cwd, *command, *SMALL, WANDB_MODE="offline", WANDB_DIR=str(tmp_path))
        assert "numbers:" in said
        (metrics,) = cwd.glob("outputs/*/*/metrics.json")
        assert config["metric"]["name"] in json.loads(metrics.read_text())


def test_every_search_has_been_run_here():
    names = {file.stem for file in (conf_dir() / "hparams_search").glob("*.yaml")}
    assert names == {"mad_optuna", "mad_gap_vs_retrieval"}
