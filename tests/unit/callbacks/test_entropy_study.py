"""The entropy study that a multirun ends with, over folders as jobs leave them."""

import json

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from i0t.callbacks.entropy_study import EntropyStudy
from i0t.config import conf_dir

FILES = {f"entropy_study.{ending}" for ending in ("json", "csv", "md", "png")}
EXPERIMENTS = sorted((conf_dir() / "experiment").glob("*_entropy.yaml"))


def write_job(folder, number, *, frozen, seed, ends=None):
    """A job's folder; without ends it is one that failed."""
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "overrides.yaml").write_text(f"- freeze_temperature={str(frozen).lower()}\n- seed={seed}\n")
    (job / "config.yaml").write_text(f"freeze_temperature: {str(frozen).lower()}\n")
    if ends is not None:
        names = ("logit_entropy", "temperature", "centroid_distance", "rmg")
        history = {f"val/{name}": [[0, 0.5], [100, end]] for name, end in zip(names, ends, strict=True)}
        (job / "history.json").write_text(json.dumps(history))
        (job / "metrics.json").write_text(json.dumps({"rows": {}}))


def end(folder):
    EntropyStudy().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


def names_in(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_a_multirun_ends_with_files_and_verdicts(tmp_path, capsys):
    for seed in (0, 1):
        write_job(tmp_path, 2 * seed, frozen=False, seed=seed, ends=(2.0 + seed / 100, 0.6, 0.6, 0.6))
        write_job(tmp_path, 2 * seed + 1, frozen=True, seed=seed, ends=(3.0 + seed / 100, 0.5, 0.9, 0.6))
    end(tmp_path)
    assert names_in(tmp_path) == FILES
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said[:4]] == ["holds", "does not hold", "holds", "does not hold"]
    assert {line.rpartition("/")[2] for line in said[4:]} == FILES
    assert all(line.startswith(f"over the jobs: {tmp_path}") for line in said[4:])


def test_a_study_without_its_other_half_is_one_line_and_no_file(tmp_path, capsys):
    write_job(tmp_path, 0, frozen=False, seed=0, ends=(2.0, 0.6, 0.6, 0.6))
    write_job(tmp_path, 1, frozen=True, seed=0)
    end(tmp_path)
    assert names_in(tmp_path) == set()
    said = capsys.readouterr().out
    assert said.startswith("no entropy study over the jobs: no two of 1 finished jobs")
    assert said.count("\n") == 1


def test_a_damaged_job_is_named(tmp_path, capsys):
    for number, frozen in enumerate((False, True)):
        write_job(tmp_path, number, frozen=frozen, seed=0, ends=(2.0, 0.6, 0.6, 0.6))
    (tmp_path / "1" / "history.json").write_text("{")
    end(tmp_path)
    assert names_in(tmp_path) == set()
    assert "1/history.json is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_the_experiments_name_the_callback_and_both_temperatures(file):
    node = OmegaConf.load(file).hydra
    assert isinstance(instantiate(node.callbacks.entropy_study), EntropyStudy)
    assert node.sweeper.params.freeze_temperature == "false,true"
