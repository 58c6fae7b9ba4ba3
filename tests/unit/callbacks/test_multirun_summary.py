"""Tables over the jobs of a multirun."""

import csv
import io
import json
import math

import numpy as np
import pytest
from omegaconf import OmegaConf

from i0t.callbacks.multirun_summary import Job, MultirunSummary, seeds_csv, seeds_text, summarize_seeds


def job(name, numbers, **overrides):
    return Job(name, {key: str(value) for key, value in overrides.items()}, numbers)


def test_groups_are_the_jobs_that_differ_in_their_seed_alone():
    jobs = [
        job("0", {"rmg": 0.1, "r1": 0.5}, seed=0, loss="clip"),
        job("1", {"rmg": 0.4, "r1": 0.7}, seed=1, loss="clip"),
        job("2", {"rmg": 0.7}, seed=2, loss="clip"),
        job("3", {"rmg": 5.0}, seed=0, loss="cyclip"),
        job("4", {"rmg": 6.0}, seed=1, loss="cyclip"),
        job("5", {"rmg": 9.0}, seed=0, loss="other"),
    ]
    found = {(s.overrides["loss"], s.metric): s for s in summarize_seeds(jobs)}
    assert set(found) == {("clip", "rmg"), ("clip", "r1"), ("cyclip", "rmg")}
    clip = found["clip", "rmg"]
    assert (clip.num_seeds, clip.mean, clip.std) == (
        3,
        pytest.approx(0.4),
        pytest.approx(np.std([0.1, 0.4, 0.7], ddof=1)),
    )
    assert found["clip", "r1"].num_seeds == 2
    assert found["cyclip", "rmg"].std == pytest.approx(math.sqrt(0.5))


def test_a_failed_job_and_nan_lower_the_count():
    jobs = [job("0", {"rmg": 0.5, "bad": math.nan}, seed=0), job("1", {}, seed=1), job("2", {"bad": 2.0}, seed=2)]
    found = {s.metric: s for s in summarize_seeds(jobs)}
    assert (found["rmg"].num_seeds, found["rmg"].mean, found["rmg"].std) == (1, 0.5, None)
    assert (found["bad"].num_seeds, found["bad"].mean) == (1, 2.0)


def test_without_a_second_seed_there_is_nothing_to_say():
    assert summarize_seeds([job("0", {"rmg": 0.5}, loss="a"), job("1", {"rmg": 0.6}, loss="b")]) == []
    assert summarize_seeds([job("0", {"rmg": 0.5}, seed=1, loss="a"), job("1", {"rmg": 0.6}, seed=1, loss="a")]) == []


def test_text_and_csv():
    jobs = [
        job(
            str(i),
            {"test/none/gap/rmg": 0.1 * i, "test/none/zeroshot/balanced/x": 1.0, "test/none/zeroshot/x": 0.5},
            seed=i,
        )
        for i in (1, 2)
    ]
    found = summarize_seeds(jobs)
    assert seeds_text(found).splitlines() == [
        "over seeds, all jobs:",
        f"  {'test/none/gap/rmg':<44} 0.1500 ± 0.0707 (2 seeds)",
        f"  {'test/none/zeroshot/x':<44} 0.5000 ± 0.0000 (2 seeds)",
    ]
    rows = list(csv.DictReader(io.StringIO(seeds_csv(found))))
    assert [row["metric"] for row in rows] == [
        "test/none/gap/rmg",
        "test/none/zeroshot/balanced/x",
        "test/none/zeroshot/x",
    ]
    assert float(rows[0]["mean"]) == pytest.approx(0.15)
    assert float(rows[0]["std"]) == pytest.approx(np.std([0.1, 0.2], ddof=1))


def test_the_files_of_a_multirun_folder(tmp_path, capsys):
    for number in (0, 1, 2, 10):
        hydra = tmp_path / str(number) / ".hydra"
        hydra.mkdir(parents=True)
        (hydra / "overrides.yaml").write_text(f"- seed={number}\n- +loss=clip\n")
        if number != 2:
            numbers = {"test/none/gap/rmg": number / 10, "rows": {"none": {}}}
            (tmp_path / str(number) / "metrics.json").write_text(json.dumps(numbers))
    MultirunSummary().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    summary = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [row["job"] for row in summary] == ["0", "1", "2", "10"]
    assert [row["test/none/gap/rmg"] for row in summary] == ["0.0", "0.1", "", "1.0"]
    (row,) = csv.DictReader((tmp_path / "seeds.csv").open())
    assert (row["loss"], row["metric"], row["num_seeds"]) == ("clip", "test/none/gap/rmg", "3")
    assert float(row["std"]) == pytest.approx(np.std([0.0, 0.1, 1.0], ddof=1))
    printed = capsys.readouterr().out
    assert "summary of 4 jobs" in printed
    assert "over seeds, loss=clip:" in printed
    assert "(3 seeds)" in printed


def test_a_sweep_without_seeds_leaves_no_such_file(tmp_path, capsys):
    hydra = tmp_path / "0" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text("- loss=clip\n")
    MultirunSummary().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    assert (tmp_path / "summary.csv").exists()
    assert not (tmp_path / "seeds.csv").exists()
    assert "over seeds" not in capsys.readouterr().out
