"""``i0t-report`` over folders as users have them, and the page that a multirun leaves by itself."""

import csv
import html
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from i0t.report.command import main

from ..run_folders import write_run

NUMBERS = {"none": {"gap/rmg": 0.5, "retrieval/t2i_r1": 0.4}}


def report(*arguments):
    """The exit code."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as left:
        return left.code
    return 0


def jobs_in(folder):
    with (folder / "summary.csv").open(newline="") as file:
        return {line["job"]: line["status"] for line in csv.DictReader(file)}


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "outputs" / "mad" / "multirun"
    write_run(folder / "0", ["seed=0"], NUMBERS)
    write_run(folder / "1", ["seed=1"], error="too bad")
    (folder / "multirun.yaml").touch()
    return folder


def test_into_the_folder_of_the_multirun(sweep, capsys):
    assert report(sweep) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == f"summary of 2 jobs: {sweep / 'summary.csv'}"
    assert said.out.splitlines()[-1] == f"report over the jobs: {sweep / 'report.html'}"
    assert said.err == ""
    assert jobs_in(sweep) == {"0": "finished", "1": "failed"}
    assert "<h1>multirun</h1>" in (sweep / "report.html").read_text()


def test_bad_folders_are_named_and_the_others_are_read(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (write_run(tmp_path / "outputs" / "single", ["x=<b>"], NUMBERS) / "report.html").write_text("its own page")
    (write_run(tmp_path / "torn", []) / "metrics.json").write_text('{"test/none/gap')
    (tmp_path / "empty").mkdir()
    assert report("outputs", "nowhere", "torn", "empty", "outputs/mad", "--output", "out", "--title", "all <mine>") == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "i0t-report: nowhere: there is no such folder",
        "i0t-report: empty: no run in this folder",
        "i0t-report: torn: metrics.json is torn: Unterminated string starting at: line 1 column 2 (char 1)",
    ]
    assert jobs_in(tmp_path / "out") == {
        "outputs/mad/multirun/0": "finished",
        "outputs/mad/multirun/1": "failed",
        "outputs/single": "finished",
        "torn": "damaged",
    }
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>all &lt;mine&gt;</h1>" in page
    assert 'href="../outputs/single/report.html"' in page
    assert said.out.splitlines()[-1] == "report over the jobs: out/report.html"


def test_where_it_goes_by_itself(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report("outputs") == 0
    assert (tmp_path / "outputs" / "report.html").exists()
    assert report("outputs/mad/multirun/0") == 0, "a single run keeps its folder to itself"
    assert jobs_in(tmp_path / "i0t_report") == {"0": "finished"}
    assert report("outputs/mad", "outputs/mad/multirun/1") == 0
    assert jobs_in(tmp_path / "i0t_report") == {"0": "finished", "1": "failed"}, "1 once"
    assert sorted(path.name for path in (sweep / "0").iterdir()) == [".hydra", "metrics.json"]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["empty"], "error: no run was found: a run is a folder with metrics.json, config.yaml or .hydra"),
        (["empty", "nowhere"], "error: no run was found: a run is a folder with metrics.json, config.yaml or .hydra"),
        ([], "error: the following arguments are required: FOLDER (--help shows how)"),
        (["run", "--output", "file"], "error: --output file is a file; name a folder"),
    ],
)
def test_nothing_to_read_and_nowhere_to_write(tmp_path, monkeypatch, capsys, arguments, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    write_run(tmp_path / "run", [], NUMBERS)
    assert report(*arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"i0t-report: {line}")
    assert sorted(path.name for path in tmp_path.rglob("*.html")) == []


def test_a_run_that_is_torn_is_a_run(tmp_path, capsys):
    (write_run(tmp_path / "sweep" / "0", ["seed=0"]) / "metrics.json").write_text("{")
    assert report(tmp_path / "sweep") == 0
    assert "0: metrics.json is torn: " in capsys.readouterr().err
    assert jobs_in(tmp_path / "sweep") == {"0": "damaged"}


def test_it_starts_without_torch():
    code = (
        "import sys; import i0t.report.command; quick = set(sys.modules);"
        "import i0t.report.sweep_files; print([m for m in ('bokeh', 'jinja2') if m in quick],"
        " [m for m in ('torch', 'matplotlib', 'pytorch_lightning', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


@pytest.mark.slow
def test_a_multirun_leaves_its_page_and_the_command_in_it_gives_the_same_numbers(run_script, tmp_path):
    draw = np.random.default_rng(0)
    shared, noise = draw.normal(size=(200, 16)), draw.normal(size=(2, 200, 16))
    offset = 2 * np.eye(16)[3]
    image, text = shared + noise[0] + offset, shared + noise[1] - offset
    np.savez(tmp_path / "my pairs.npz", image=image, text=text, text_image_index=np.arange(200))
    fixed = ["data=embeddings", "data.path='my pairs.npz'", "gap_reducer=posthoc", "gap_reducer.fit_split=test"]
    few = ["evaluation=[gap,retrieval]", "evaluation.gap.num_resamples=10", "evaluation.retrieval.num_resamples=10"]
    varied = ["gap_reducer.fit_samples=16,64,1000", "seed=0,1"]
    done = run_script("eval.py", "-m", *fixed, *few, "report=false", *varied)
    assert done.returncode == 2, done.stderr
    (folder,) = (tmp_path / "outputs" / "eval").iterdir()
    said = f"report over the jobs: {folder.relative_to(tmp_path) / 'report.html'}"
    assert done.stdout.splitlines()[-1] == said
    assert list(jobs_in(folder).values()) == ["finished"] * 4 + ["failed"] * 2
    page = (folder / "report.html").read_text()
    assert "They differ in gap_reducer.fit_samples, seed." in page
    assert page.count("fit_samples is 1000, but the fit split has only 200 images") == 2
    command = html.unescape(re.search(r'<pre id="best-command">(.*?)</pre>', page, re.DOTALL)[1])
    best = max(
        (json.loads((folder / job / "metrics.json").read_text()) for job in "0123"),
        key=lambda numbers: numbers["test/posthoc/retrieval/i2t_r1"],
    )
    program, script, *arguments = shlex.split(command)
    assert (program, script) == ("python", "eval.py")
    assert run_script(script, *arguments, "hydra.run.dir=again").returncode == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    names = [name for name in best if name.startswith("test/")]
    assert {name: again[name] for name in names} == {name: best[name] for name in names}
