import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from i0t.report.jobs import Spread, number_or_text, read_jobs, rows_of, spread_of, unfinished_jobs


def write_job(folder: Path, metrics: dict[str, Any], *, overrides: list[str], config: dict[str, Any]) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text(json.dumps(metrics))


METRICS = {
    "test/none/gap/rmg": 0.5,
    "test/a/gap/rmg": 0.25,
    "test/a/zeroshot/balanced/digit": 1,
    "intervals": {"test/a/gap/rmg": [0.2, 0.3]},
    "rows": {"none": {"protocol": "none"}, "a": {"protocol": "inductive", "settings": {"strength": 0.5}}},
    "model": {"trained_as": "i0t_lcco"},
    "data": {"split": "test"},
}


def test_jobs_are_read_in_the_order_of_their_numbers_and_unfinished_ones_left_out(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        write_job(tmp_path / str(number), METRICS, overrides=[f"+x.y={number}", "z='a=b'"], config={"data": {"k": 3}})
    (tmp_path / "3").mkdir()
    jobs = read_jobs(tmp_path)
    assert [job["name"] for job in jobs] == ["2", "9", "10"]
    assert jobs[2] == {
        "name": "10",
        "overrides": {"x.y": "10", "z": "'a=b'"},
        "config": {"data": {"k": 3}},
        "metrics": METRICS,
        "history": {},
    }
    assert read_jobs(tmp_path / "nowhere") == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_job(tmp_path / "0", METRICS, overrides=[], config={})
    (tmp_path / "0" / "metrics.json").write_text(json.dumps(METRICS)[:50])
    with pytest.raises(ValueError, match=r"0/metrics.json is damaged \(JSONDecodeError\): run this job again"):
        read_jobs(tmp_path)


def test_rows_have_their_numbers_intervals_and_what_the_job_was_given() -> None:
    overrides = {"strength": "9", "data.batch_size": "128", "ckpt_path": "runs/1", "seed": "3", "a.seed": "4"}
    none, row = rows_of([{"overrides": overrides, "config": {"data": {"k": [1]}}, "metrics": METRICS}])
    assert (none.name, none.numbers, none.intervals) == ("none", {"gap/rmg": 0.5}, {})
    assert row.numbers == {"gap/rmg": 0.25, "zeroshot/balanced/digit": 1.0}
    assert row.intervals == {"gap/rmg": (0.2, 0.3)}
    keys = ("strength", "data.batch_size", "ckpt_path", "data.k", "model.trained_as", "data.split.x", "nothing")
    assert [row.value_of(key) for key in keys] == [0.5, 128, "runs/1", [1], "i0t_lcco", None, None]
    assert none.value_of("strength") == 9
    assert row.identity(without=("seed",)) == (
        ("row", "a"),
        ("ckpt_path", "runs/1"),
        ("data.batch_size", "128"),
        ("strength", "9"),
    )
    assert row.identity(without=("seed", "strength", "ckpt_path", "batch_size")) == (("row", "a"),)


def test_spread_over_seeds_or_the_interval_of_one() -> None:
    rows = rows_of({"metrics": {**METRICS, "test/a/gap/rmg": value}} for value in (0.2, 0.3, 0.7))
    several = [row for row in rows if row.name == "a"]
    found = spread_of(several, lambda row: row.numbers.get("gap/rmg"), "gap/rmg")
    std = statistics.stdev([0.2, 0.3, 0.7])
    assert found == pytest.approx((0.4, std, 0.4 - std, 0.4 + std))
    assert spread_of(several[:1], lambda row: row.numbers["gap/rmg"], "gap/rmg") == Spread(0.2, None, 0.2, 0.3)
    assert spread_of(several[:1], lambda row: row.numbers["gap/rmg"]) == Spread(0.2, None, None, None)
    assert spread_of(several, lambda row: None) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("-3", -3), ("1e-3", 1e-3), ("vit_b_32", "vit_b_32"), ("007", "007"), ("", ""), (4, 4)],
)
def test_texts_that_read_as_numbers_are_numbers(text: Any, value: Any) -> None:
    assert number_or_text(text) == value


def test_numbers_that_are_none_are_left_out(tmp_path):
    numbers = {**METRICS, "test/a/gap/rmg": float("nan"), "test/a/gap/alignment": float("inf")}
    write_job(tmp_path / "0", numbers, overrides=[], config={})
    (row,) = [row for row in rows_of(read_jobs(tmp_path)) if row.name == "a"]
    assert dict(row.numbers) == {"zeroshot/balanced/digit": 1.0}


def test_jobs_without_numbers_are_named_with_the_reason_they_left(tmp_path):
    assert unfinished_jobs(tmp_path / "not there") == []
    for name, overrides in (("10", "- seed=1\n"), ("9", "[]\n"), ("0", "- seed=0\n")):
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "overrides.yaml").write_text(overrides)
    (tmp_path / "0" / "metrics.json").write_text("{}")
    (tmp_path / "10" / "error.txt").write_text("the disk is full\n")
    assert unfinished_jobs(tmp_path) == [
        "job 9 () left no numbers",
        "job 10 (seed=1) left no numbers: the disk is full",
    ]
