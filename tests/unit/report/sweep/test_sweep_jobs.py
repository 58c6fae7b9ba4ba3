import json
from pathlib import Path

import pytest

from i0t.report.jobs import rows_of
from i0t.report.sweep_jobs import DAMAGED, FAILED, FINISHED, UNFINISHED, find_runs, is_run, read_run, read_runs

from ....run_folders import write_run

NUMBERS = {"none": {"gap/rmg": 0.5}, "posthoc": {"gap/rmg": 0.25}}


def names(folder):
    return [run.relative_to(folder).as_posix() for run in find_runs(folder)]


def test_runs_are_found_at_any_depth_in_the_order_of_their_numbers(tmp_path):
    for name in ("mad/multirun/10", "mad/multirun/9", "mad/multirun/1", "mad/2025_run", "other"):
        write_run(tmp_path / name, [], NUMBERS)
    (tmp_path / "mad" / "multirun" / "multirun.yaml").write_text("{}")
    (tmp_path / "mad" / "multirun" / ".submitit" / "0").mkdir(parents=True)
    (tmp_path / "mad" / "multirun" / ".submitit" / "0" / "config.yaml").write_text("{}")
    (tmp_path / "other" / "inside").mkdir()
    (tmp_path / "other" / "inside" / "metrics.json").write_text("{}")
    (tmp_path / "nothing").mkdir()
    ordered = ["mad/2025_run", "mad/multirun/1", "mad/multirun/9", "mad/multirun/10", "other"]
    assert names(tmp_path) == ordered
    assert names(tmp_path / "mad" / "multirun") == ["1", "9", "10"]
    assert find_runs(tmp_path / "other") == [tmp_path / "other"]
    assert find_runs(tmp_path / "nothing") == []


def test_what_is_a_run(tmp_path):
    for i, name in enumerate(("metrics.json", "config.yaml", ".hydra")):
        (tmp_path / str(i) / name).mkdir(parents=True)
        assert is_run(tmp_path / str(i))
    assert not is_run(tmp_path)
    (tmp_path / "1" / "multirun.yaml").touch()  # a multirun is none, whatever else it holds
    assert not is_run(tmp_path / "1")


def test_a_finished_run(tmp_path):
    overrides = ["+x.y=1", "data=coco", "z='a=b'"]
    folder = write_run(tmp_path / "a", overrides, NUMBERS, data="coco", task="eval")
    (folder / "config.yaml").write_text("data: {k: 3}")
    job = read_run(folder, "a")
    assert (job.status, job.reason, job.task) == (FINISHED, "", "eval")
    assert job.overrides == {"x.y": "1", "data": "coco", "z": "'a=b'"}
    assert job.command == """python eval.py +x.y=1 data=coco 'z='"'"'a=b'"'"''"""
    assert job.config == {"data": {"k": 3}}
    assert job.choices == {"data": "coco"}
    assert job.numbers == {"test/none/gap/rmg": 0.5, "test/posthoc/gap/rmg": 0.25}


def test_runs_without_a_result_say_why(tmp_path):
    write_run(tmp_path / "failed", ["seed=1"], error="ValueError: too\n  few rows")
    write_run(tmp_path / "silent", [], error="")
    write_run(tmp_path / "killed", ["seed=2"])
    (write_run(tmp_path / "stopped", []) / "checkpoints").mkdir()
    (tmp_path / "stopped" / "checkpoints" / "last.ckpt").touch()
    found = {job.name: (job.status, job.reason) for job in read_runs(find_runs(tmp_path))}
    assert found == {
        "failed": (FAILED, "ValueError: too few rows"),
        "silent": (FAILED, "left an empty error.txt"),
        "killed": (UNFINISHED, "no numbers: interrupted, or still running"),
        "stopped": (UNFINISHED, "no numbers, but a checkpoint to go on from"),
    }


def test_a_failure_after_the_numbers_keeps_them(tmp_path):
    job = read_run(write_run(tmp_path / "a", [], NUMBERS, error="disk full"), "a")
    assert (job.status, job.reason, job.numbers["test/none/gap/rmg"]) == (FAILED, "disk full", 0.5)


WHOLE = json.dumps({"test/none/gap/rmg": 0.5, "rows": {"none": {}}})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (WHOLE[:30], "metrics.json is torn: "),
        ("", "metrics.json is torn: "),
        ("[1, 2]", "metrics.json is no table of numbers"),
        ('{"rows": ["none"]}', "metrics.json does not say what its rows are"),
        ('{"rows": {"none": 3}}', "metrics.json does not say what its rows are"),
        ('{"intervals": {"test/none/gap/rmg": [0.1]}}', "metrics.json has intervals that are no pairs"),
        ('{"intervals": {"rmg": [0.1, 0.2]}}', "metrics.json has intervals that are no pairs"),
    ],
)
def test_a_damaged_file_costs_its_own_run_alone(tmp_path, content, reason):
    (write_run(tmp_path / "torn", ["seed=1"]) / "metrics.json").write_text(content)
    write_run(tmp_path / "whole", ["seed=2"], NUMBERS)
    torn, whole = read_runs(find_runs(tmp_path))
    assert torn.status == DAMAGED
    assert torn.reason.startswith(reason)
    assert (torn.numbers, torn.overrides) == ({}, {"seed": "1"})
    assert whole.status == FINISHED


def test_bytes_that_are_no_text_are_a_damage_too(tmp_path):
    (write_run(tmp_path / "torn", []) / "metrics.json").write_bytes(b'{"a": "\xff\xfe')
    (job,) = read_runs(find_runs(tmp_path))
    assert job.status == DAMAGED
    assert job.reason.startswith("metrics.json is torn: ")


@pytest.mark.parametrize("name", [".hydra/overrides.yaml", ".hydra/hydra.yaml", "config.yaml"])
@pytest.mark.parametrize("content", [b"- [torn", b"\xff", b"42", b"", None])
def test_torn_or_missing_configs_leave_the_numbers(tmp_path, name, content):
    folder = write_run(tmp_path / "a", ["seed=1"], NUMBERS)
    path = folder / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
    job = read_run(folder, "a")
    assert (job.status, job.numbers["test/none/gap/rmg"]) == (FINISHED, 0.5)
    assert job.overrides == ({} if "overrides" in name else {"seed": "1"})
    assert job.command == ("python train.py seed=1" if name == "config.yaml" else "")


def test_rows_that_the_file_does_not_describe_are_there_all_the_same(tmp_path):
    (tmp_path / "metrics.json").write_text('{"test/mine/gap/rmg": 0.5, "test/mine/n": 3, "note": "x", "a/b": 1}')
    job = read_run(tmp_path, "a")
    (row,) = rows_of([{"metrics": job.metrics}])
    assert (row.name, row.about, row.numbers) == ("mine", {}, {"gap/rmg": 0.5, "n": 3})


def test_runs_of_several_folders_are_named_from_what_they_share(tmp_path, monkeypatch):
    for name in ("a/multirun/0", "b/0", "b/1"):
        write_run(tmp_path / name, [], NUMBERS)
    found = [*find_runs(tmp_path / "a"), *find_runs(tmp_path / "b"), *find_runs(tmp_path / "b" / "1")]
    assert [job.name for job in read_runs(found)] == ["a/multirun/0", "b/0", "b/1"], "once, though named twice"
    assert [job.name for job in read_runs([tmp_path / "b" / "1"])] == ["1"]
    monkeypatch.chdir(tmp_path)
    jobs = read_runs(find_runs(Path("b")))
    assert [(job.name, job.folder) for job in jobs] == [("0", Path("b/0")), ("1", Path("b/1"))]
    assert read_runs([]) == []
