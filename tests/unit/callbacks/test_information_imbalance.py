"""The report that a sweep over captions ends with, over folders as jobs leave them."""

import json
import math

import pytest
from omegaconf import OmegaConf

from i0t.callbacks.information_imbalance import InformationImbalance


def write_job(folder, number, k, seed, *, finished=True):
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    captions = f"object_attribute_{k}"
    (job / ".hydra" / "overrides.yaml").write_text(f"- seed={seed}\n- data.captions={captions}\n")
    (job / "config.yaml").write_text(f"seed: {seed}\ndata:\n  captions: {captions}\n  main_object: digit\n")
    if not finished:
        return
    numbers = {"gap/rmg": 0.3 - 0.04 * k, "gap/centroid_distance": 0.2 - 0.02 * k, "zeroshot/digit": 0.9}
    numbers |= {"zeroshot/color": 0.5 + k / 20, "object_bias/image": 0.5 - k / 20, "object_bias/text": 0.4 - k / 20}
    metrics = {f"test/none/{name}": value + seed / 1000 for name, value in numbers.items()}
    about = {"rows": {"none": {"protocol": "none"}}, "data": {"caption_bits": 3 + k, "image_bits": math.log2(1680)}}
    (job / "metrics.json").write_text(json.dumps({**metrics, **about}))
    history = {"val/centroid_distance": [[0, 1.2], [9, 0.1]], "val/rmg": [[0, 0.9], [9, 0.1]]}
    (job / "history.json").write_text(json.dumps(history))


def end(folder):
    InformationImbalance().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


@pytest.fixture
def sweep(tmp_path):
    """Three values of k with two seeds; the jobs 5 and 10 have failed."""
    grid = [(k, seed) for seed in (0, 1) for k in (1, 3)]
    for number, (k, seed) in enumerate(grid):
        write_job(tmp_path, number, k, seed)
    write_job(tmp_path, 10, 5, 1, finished=False)
    (tmp_path / "10" / "error.txt").write_text("there is no such file\n")
    write_job(tmp_path, 5, 5, 0, finished=False)
    return tmp_path


def test_the_report_of_the_jobs_that_finished_names_the_others(sweep, capsys):
    end(sweep)
    said = capsys.readouterr().out.splitlines()
    assert all(line.startswith(f"over the jobs: {sweep}") for line in said)
    assert said[-1] == f"over the jobs: {sweep / 'report.html'}"
    content = json.loads((sweep / "information_imbalance.json").read_text())
    assert [job["name"] for job in content["jobs"]] == ["0", "2", "1", "3"]
    assert content["left_out"] == [
        "job 5 (seed=0 data.captions=object_attribute_5) left no numbers",
        "job 10 (seed=1 data.captions=object_attribute_5) left no numbers: there is no such file",
    ]
    assert (
        "job 10 (seed=1 data.captions=object_attribute_5) left no numbers: there is"
        in (sweep / "report.html").read_text()
    )
    assert content["points"][1]["values"]["gap/rmg"]["mean"] == pytest.approx(0.3 - 0.12 + 0.0005)
    assert (sweep / "figures" / "gap_by_step.png").exists(), "history.json is read"


def test_where_all_jobs_failed_there_is_a_line_and_no_file(tmp_path, capsys):
    write_job(tmp_path, 0, 1, 0, finished=False)
    end(tmp_path)
    end(tmp_path / "not there")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert all(line.startswith("no figure over the jobs: none of 0 jobs") for line in said)
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_a_damaged_job_is_named(sweep, capsys):
    (sweep / "1" / "metrics.json").write_text('{"rows": ')
    end(sweep)
    assert "1/metrics.json is damaged" in capsys.readouterr().out
    assert not (sweep / "report.html").exists()
