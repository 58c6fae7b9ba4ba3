import csv
import io
import math

import numpy as np
import pytest

from i0t.report.sweep_seeds import Job, seeds_csv, seeds_text, summarize_seeds, summary_csv


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
    jobs = [
        job("0", {"rmg": 0.5, "bad": math.nan, "worse": math.inf}, seed=0),
        job("1", {}, seed=1),
        job("2", {"bad": 2.0}, seed=2),
    ]
    found = {s.metric: s for s in summarize_seeds(jobs)}
    assert (found["rmg"].num_seeds, found["rmg"].mean, found["rmg"].std) == (1, 0.5, None)
    assert (found["bad"].num_seeds, found["bad"].mean) == (1, 2.0)
    assert "worse" not in found


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


def test_the_summary_has_every_column_of_every_job():
    text = summary_csv([{"job": "0", "loss": "a,b"}, {"job": "1", "rmg": 0.1 + 0.2, "loss": "c"}])
    assert list(csv.DictReader(io.StringIO(text))) == [
        {"job": "0", "loss": "a,b", "rmg": ""},
        {"job": "1", "loss": "c", "rmg": repr(0.1 + 0.2)},
    ]
