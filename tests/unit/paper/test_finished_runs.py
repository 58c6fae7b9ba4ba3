"""What is read from run folders, and what is left out."""

import json

import pytest

from i0t.paper.finished_runs import collect


def test_a_run_says_what_it_measured(write_run, row_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run("outputs/a/1", {"test/none/gap/centroid_distance": 0.5, "test/none/x": float("nan")})
    runs, left_out = collect([tmp_path / "outputs"])
    assert left_out == []
    (run,) = runs
    assert str(run.folder) == "outputs/a/1"
    assert run.numbers["test/none/gap/centroid_distance"] == 0.5
    assert run.numbers["test/none/x"] != run.numbers["test/none/x"]
    assert set(run.numbers) == {"test/none/gap/centroid_distance", "test/none/x"}
    assert run.rows == {"none": row_of()}
    assert run.model["pretrained"] == "openai"
    assert run.data["data"] == "flickr30k"


def test_a_run_below_two_of_the_folders_counts_once(write_run, tmp_path):
    write_run("outputs/a/1", {})
    write_run("outputs/a/sweep/0", {})
    write_run("outputs/a/sweep/1", {})
    runs, _ = collect([tmp_path / "outputs", tmp_path / "outputs" / "a", tmp_path / "outputs" / "a" / "1"])
    assert sorted(run.folder.name for run in runs) == ["0", "1", "1"]


def test_what_lies_inside_a_run_is_no_run(write_run, tmp_path):
    run = write_run("outputs/a", {})
    write_run("outputs/a/copy", {})
    runs, left_out = collect([tmp_path])
    assert [found.folder for found in runs] == [run]
    assert left_out == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"rows": {}, "data": {', "metrics.json is torn: "),
        ("", "metrics.json is torn: "),
        ("[1, 2]", "metrics.json is no table of numbers"),
        (json.dumps({"rows": {}, "data": {}}), "does not say which model was measured"),
        (json.dumps({"rows": [], "data": {}, "model": {}}), "does not say what its rows are"),
        (json.dumps({"rows": {"a": 1}, "data": {}, "model": {}}), "does not say what its rows are"),
        (json.dumps({"rows": {}, "data": None, "model": {}}), "does not say which data were measured"),
    ],
)
def test_a_torn_file_is_named_and_the_rest_is_read(write_run, tmp_path, text, reason):
    good = write_run("outputs/good", {})
    torn = tmp_path / "outputs" / "torn"
    torn.mkdir()
    (torn / "metrics.json").write_text(text)
    runs, left_out = collect([tmp_path / "outputs"])
    assert [run.folder for run in runs] == [good]
    assert [one.folder for one in left_out] == [torn]
    assert reason in left_out[0].reason


def test_bytes_that_are_no_text_are_torn_too(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_bytes(b"\xff\xfe{}")
    runs, (one,) = collect([tmp_path])
    assert runs == []
    assert "metrics.json is torn" in one.reason


@pytest.mark.parametrize("started", [".hydra", "config.yaml"])
def test_an_unfinished_run_is_named(tmp_path, started):
    run = tmp_path / "outputs" / "run"
    run.mkdir(parents=True)
    (run / started).mkdir()
    runs, (one,) = collect([tmp_path / "outputs"])
    assert runs == []
    assert (one.folder, one.reason) == (run, "not finished: no metrics.json")


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        collect([tmp_path / "nowhere"])
