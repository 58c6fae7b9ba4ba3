"""Root keys of a training run: the temperature may stay, validation may come first, finished jobs are not run again."""

import json

import numpy as np
import pytest
import torch

from i0t import engine, runs
from i0t.config import ConfigError, compose

TINY = ("debug=tiny", "logger=[csv]", "report=false", "compare=baseline", "evaluation=[gap]")


def train_in(folder, *overrides):
    engine.train(compose("train", [*TINY, f"paths.output_dir={folder}", *overrides]))
    return json.loads((folder / runs.HISTORY_FILE).read_text())


def test_a_frozen_temperature_stays_and_a_free_one_moves(tmp_path):
    frozen = train_in(tmp_path / "frozen", "freeze_temperature=true", "validate_first=true")
    free = train_in(tmp_path / "free", "validate_first=true")
    start = dict(free["val/temperature"])[0]
    assert {value for _, value in frozen["val/temperature"]} == {start}
    assert free["val/temperature"][-1][1] != start
    weights = torch.load(tmp_path / "frozen" / runs.CHECKPOINT, weights_only=True)["state_dict"]
    assert 1 / weights["model.clip.logit_scale"].exp() == pytest.approx(start)


def test_a_frozen_temperature_is_refused_where_the_loss_does_not_learn_one(tmp_path):
    with pytest.raises(ConfigError, match="CloobLoss has a fixed temperature of its own"):
        train_in(tmp_path, "freeze_temperature=true", "loss=cloob")


def test_an_experiment_that_goes_on_from_a_checkpoint_asks_for_one():
    for experiment in ("mad_entropy", "mad_large_initial_gap"):
        with pytest.raises(ConfigError, match=r"ckpt_path must be given: ckpt_path=…"):
            compose("train", [f"experiment={experiment}"])


def test_recall_counts_every_true_caption_whether_there_is_a_report_or_not(tmp_path):
    few = ("evaluation=[dimensions]", "evaluation.dimensions.max_dims=1", "evaluation.dimensions.num_coarse=0")
    numbers = []
    for report in ("true", "false"):
        cfg = compose("train", [*TINY, *few, f"paths.output_dir={tmp_path / report}", f"report={report}"])
        numbers.append(engine.train(cfg))
    assert numbers[0]["test/none/dimensions/without_0/i2t_r1"] > 0
    assert numbers[0] == pytest.approx(numbers[1])


def test_history_begins_where_validation_does(tmp_path):
    first = train_in(tmp_path / "first", "validate_first=true")
    later = train_in(tmp_path / "later")
    for name in ("val/centroid_distance", "val/rmg", "val/logit_entropy", "val/temperature"):
        assert [step for step, _ in first[name]] == [0, 3, 6]
        assert first[name][1:] == later[name], "looking first changes nothing"


def test_a_multirun_runs_again_only_what_is_missing_or_of_another_config(run_script, tmp_path):
    sweep = ("-m", *TINY, "skip_finished=true", f"hydra.sweep.dir={tmp_path}/sweep", "seed=0,1")

    def finished(done):
        assert done.returncode == 0, done.stderr
        return [line.rpartition("/")[2] for line in done.stdout.splitlines() if line.startswith("finished before")]

    assert finished(run_script("train.py", *sweep)) == []
    times = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "sweep").glob("*/metrics.json")}
    (tmp_path / "sweep" / "1" / "metrics.json").unlink()
    assert finished(run_script("train.py", *sweep)) == ["0"]
    assert (tmp_path / "sweep" / "0" / "metrics.json").stat().st_mtime_ns == times["0"]
    again = run_script("train.py", *sweep, "data.batch_size=32")
    assert finished(again) == [], "numbers of another config are not these"
    summary = (tmp_path / "sweep" / "summary.csv").read_text().splitlines()
    assert len(summary) == 3


def test_an_evaluation_that_was_run_again_anyway_leaves_no_config_of_the_numbers_before(run_script, tmp_path):
    features = np.random.default_rng(0).normal(size=(2, 20, 8))
    np.savez(tmp_path / "pairs.npz", image=features[0], text=features[1], text_image_index=np.arange(20))
    sweep = ("-m", "data=embeddings", f"data.path={tmp_path}/pairs.npz", "evaluation=[gap]", "report=false", "seed=0,1",
             f"hydra.sweep.dir={tmp_path}/sweep")  # fmt: skip

    def run(separability_seed, skip_finished):
        options = (f"evaluation.gap.separability_seed={separability_seed}", f"skip_finished={skip_finished}")
        done = run_script("eval.py", *sweep, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.count("finished before")

    assert run(1, "true") == 0
    assert run(2, "false") == 0, "over the numbers of the first"
    assert run(1, "true") == 0, "the folders hold other numbers than these"
    assert run(1, "true") == 2


BROKEN_LOSS = """
import torch


class Broken(torch.nn.Module):
    def __init__(self, fails):
        super().__init__()
        self.fails = fails

    def forward(self, image_features, text_features, logit_scale, logit_bias=None):
        if self.fails:
            raise RuntimeError("out of\\nmemory")
        return {"loss": -(image_features * text_features).sum(1).mean() * logit_scale}
"""


def test_a_job_that_crashes_leaves_its_reason_and_the_other_jobs(run_script, tmp_path):
    (tmp_path / "mine.py").write_text(BROKEN_LOSS)
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "broken.yaml").write_text("_target_: mine.Broken\nfails: false\n")
    sweep = ("-m", "--config-dir", str(tmp_path / "conf"), *TINY, "loss=broken", f"hydra.sweep.dir={tmp_path}/sweep")
    environment = {"PYTHONPATH": str(tmp_path)}
    done = run_script("train.py", *sweep, "loss.fails=true,false", env=environment)
    assert done.returncode == 2
    assert "error: 1 job(s) failed" in done.stderr
    assert "Traceback" in done.stderr, "a bug is shown as one"
    failed, finished = tmp_path / "sweep" / "0", tmp_path / "sweep" / "1"
    assert (failed / runs.ERROR_FILE).read_text() == "RuntimeError: out of memory\n"
    assert not (failed / runs.METRICS_FILE).exists()
    assert (finished / runs.METRICS_FILE).exists()
    assert len((tmp_path / "sweep" / "summary.csv").read_text().splitlines()) == 3
    again = run_script("train.py", *sweep, "loss.fails=false", env=environment)
    assert again.returncode == 0, again.stderr
    assert not (failed / runs.ERROR_FILE).exists(), "the note of the earlier attempt is gone"
