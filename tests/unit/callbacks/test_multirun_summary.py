"""What is left in a multirun's folder when it ends."""

import csv
import json

import numpy as np
import pytest
from hydra._internal.callbacks import Callbacks
from omegaconf import OmegaConf

from i0t.callbacks.multirun_summary import MultirunSummary


def config_of(folder, **callbacks):
    nodes = {name: {"_target_": target} for name, target in callbacks.items()}
    return OmegaConf.create({"name": "mad", "hydra": {"sweep": {"dir": str(folder)}, "callbacks": nodes}})


def test_the_files_of_a_multirun_folder(tmp_path, capsys):
    for number in (0, 1, 2, 10):
        hydra = tmp_path / str(number) / ".hydra"
        hydra.mkdir(parents=True)
        (hydra / "overrides.yaml").write_text(f"- seed={number}\n- +loss=clip\n")
        if number != 2:
            numbers = {"test/none/gap/rmg": number / 10, "rows": {"none": {}}}
            (tmp_path / str(number) / "metrics.json").write_text(json.dumps(numbers))
    MultirunSummary().on_multirun_end(config_of(tmp_path))
    summary = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [row["job"] for row in summary] == ["0", "1", "2", "10"]
    assert [row["test/none/gap/rmg"] for row in summary] == ["0.0", "0.1", "", "1.0"]
    (row,) = csv.DictReader((tmp_path / "seeds.csv").open())
    assert (row["loss"], row["metric"], row["num_seeds"]) == ("clip", "test/none/gap/rmg", "3")
    assert float(row["std"]) == pytest.approx(np.std([0.0, 0.1, 1.0], ddof=1))
    assert [row["status"] for row in summary] == ["finished", "finished", "unfinished", "finished"]
    page = (tmp_path / "report.html").read_text()
    assert "<h1>mad</h1>" in page
    assert "4 jobs: 3 finished, 1 unfinished." in page
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"report over the jobs: {tmp_path / 'report.html'}"
    assert "summary of 4 jobs" in printed
    assert "over seeds, loss=clip:" in printed
    assert "(3 seeds)" in printed


def test_a_sweep_without_seeds_leaves_no_such_file(tmp_path, capsys):
    hydra = tmp_path / "0" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text("- loss=clip\n")
    MultirunSummary().on_multirun_end(config_of(tmp_path))
    assert (tmp_path / "summary.csv").exists()
    assert not (tmp_path / "seeds.csv").exists()
    assert "over seeds" not in capsys.readouterr().out


def test_a_multirun_whose_jobs_all_failed_has_its_page(tmp_path, capsys):
    for number in range(2):
        hydra = tmp_path / str(number) / ".hydra"
        hydra.mkdir(parents=True)
        (hydra / "overrides.yaml").write_text(f"- seed={number}\n")
        (tmp_path / str(number) / "error.txt").write_text(f"reason {number}\n")
    MultirunSummary().on_multirun_end(config_of(tmp_path))
    assert [row["reason"] for row in csv.DictReader((tmp_path / "summary.csv").open())] == ["reason 0", "reason 1"]
    assert "2 jobs: 2 failed." in (tmp_path / "report.html").read_text()
    assert capsys.readouterr().out.splitlines()[-1] == f"report over the jobs: {tmp_path / 'report.html'}"


def test_a_multirun_without_any_job_leaves_nothing(tmp_path, capsys):
    MultirunSummary().on_multirun_end(config_of(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


class Study(MultirunSummary):
    """A sweep's own study, which ends with a page."""

    def on_multirun_end(self, config, **kwargs):
        """Writes it."""
        from pathlib import Path

        (Path(config.hydra.sweep.dir) / "report.html").write_text("<html>the study</html>")


def test_hydra_lets_the_study_of_a_sweep_write_its_page_first(tmp_path, monkeypatch):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("- seed=0\n")
    monkeypatch.setattr("i0t.callbacks.sweep_figures.Study", Study, raising=False)
    # As composed: the project's callbacks stand first, a sweep adds its own behind them.
    summary, study = "i0t.callbacks.multirun_summary.MultirunSummary", "i0t.callbacks.sweep_figures.Study"
    config = config_of(tmp_path, summary=summary, study=study)
    Callbacks(config).on_multirun_end(config=config)
    assert (tmp_path / "report.html").read_text() == "<html>the study</html>"
    assert "1 job: 1 unfinished." in (tmp_path / "jobs.html").read_text()
