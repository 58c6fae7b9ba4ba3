"""The figures that a multirun ends with, over folders as jobs leave them."""

import csv
import json

import pytest
from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from i0t.callbacks.sweep_figures import CalibrationCurve, Tradeoff
from i0t.config import conf_dir

NUMBERS = ["gap/centroid_distance", "retrieval/i2t_r1"]
SWEEPS = sorted((conf_dir() / "sweep").glob("*.yaml"))


def write_job(folder, number, overrides, *, gap=None, recall=0.5, size=32, strength=1.0):
    """A job's folder; without a gap it is one that failed."""
    job = folder / str(number)
    (job / ".hydra").mkdir(parents=True)
    lines = [f"- {key}={value}" for key, value in overrides.items()]
    (job / ".hydra" / "overrides.yaml").write_text("\n".join(lines) + "\n")
    (job / "config.yaml").write_text("name: sweep\ndata:\n  batch_size: 64\n")
    if gap is None:
        return
    metrics = {
        "test/none/gap/centroid_distance": 0.9,
        "test/posthoc/gap/centroid_distance": gap,
        "test/posthoc/gap/centroid_distance_unbiased": gap / 2,
        "test/posthoc/gap/matched_cosine": 0.5,
        "test/posthoc/retrieval/i2t_r1": recall,
        "intervals": {"test/posthoc/gap/centroid_distance": [0.9 * gap, 1.1 * gap]},
        "rows": {
            "none": {"protocol": "none", "fit_samples": 0, "fit_data": None, "settings": {}},
            "posthoc": {
                "protocol": "inductive",
                "fit_samples": size,
                "fit_data": None,
                "settings": {"strength": strength},
            },
        },
        "data": {"num_images": 400},
        "model": {"trained_as": None},
    }
    (job / "metrics.json").write_text(json.dumps(metrics))


def end(callback, folder):
    callback.on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))


def rows_of(file):
    return list(csv.DictReader(file.read_text().splitlines()))


def names_in(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def calibration_sweep(tmp_path):
    """Two sizes with two seeds each; one more job has failed."""
    jobs = [(size, seed) for size in (32, 128) for seed in (0, 1)]
    for number, (size, seed) in enumerate(jobs):
        overrides = {"gap_reducer.fit_samples": size, "seed": seed}
        write_job(tmp_path, number, overrides, gap=(3 + seed) / size, size=size)
    write_job(tmp_path, len(jobs), {"gap_reducer.fit_samples": 512, "seed": 0})
    return tmp_path


def test_the_calibration_curve_over_the_jobs_that_finished(calibration_sweep, capsys):
    end(CalibrationCurve(), calibration_sweep)
    files = {f"calibration_curve.{ending}" for ending in ("png", "csv", "md")}
    assert names_in(calibration_sweep) == files
    lines = rows_of(calibration_sweep / "calibration_curve.csv")
    assert [(line["n"], line["jobs"]) for line in lines] == [("32", "2"), ("128", "2")]
    assert [float(line["CD"]) for line in lines] == pytest.approx([3.5 / 32, 3.5 / 128])
    assert [float(line["CD_u"]) for line in lines] == pytest.approx([1.75 / 32, 1.75 / 128])
    picture = Image.open(calibration_sweep / "calibration_curve.png")
    picture.load()
    assert len(picture.convert("RGB").getcolors(2**24)) > 20, "something is drawn"
    said = capsys.readouterr().out.splitlines()
    assert {line.rpartition("/")[2] for line in said} == files
    assert all(line.startswith(f"over the jobs: {calibration_sweep}") for line in said)


@pytest.fixture
def strength_sweep(tmp_path):
    jobs = [(strength, path) for path in ("a.ckpt", "b.ckpt") for strength in (1.0, 0.0, 0.5)]
    for number, (strength, path) in enumerate(jobs):
        overrides = {"gap_reducer.strength": strength, "ckpt_path": path}
        gap, recall = 0.8 - 0.6 * strength, 0.4 + strength / 10 + (path == "b.ckpt") / 5
        write_job(tmp_path, number, overrides, gap=gap, recall=recall, strength=strength)
    return tmp_path


def test_the_tradeoff_as_a_sweep_s_file_asks_for_it(strength_sweep, capsys):
    node = {
        "_target_": "i0t.callbacks.sweep_figures.Tradeoff",
        "x": NUMBERS[0],
        "y": NUMBERS[1:],
        "colour": "ckpt_path",
        "order": "strength",
    }
    end(instantiate(OmegaConf.create(node)), strength_sweep)
    assert names_in(strength_sweep) == {f"tradeoff.{ending}" for ending in ("png", "csv", "md")}
    lines = rows_of(strength_sweep / "tradeoff.csv")
    assert [(line["ckpt_path"], float(line["strength"])) for line in lines] == [
        (path, strength) for path in ("a.ckpt", "b.ckpt") for strength in (0.0, 0.5, 1.0)
    ]
    assert [float(line[NUMBERS[0]]) for line in lines] == pytest.approx([0.8, 0.5, 0.2] * 2)
    assert [float(line[NUMBERS[1]]) for line in lines] == pytest.approx([0.4, 0.45, 0.5, 0.6, 0.65, 0.7])
    assert Image.open(strength_sweep / "tradeoff.png").size[0] > 500
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_without_an_order_points_go_along_the_gap(strength_sweep):
    end(Tradeoff(x=NUMBERS[0], y=NUMBERS[1:], colour="ckpt_path"), strength_sweep)
    lines = rows_of(strength_sweep / "tradeoff.csv")
    assert [float(line[NUMBERS[0]]) for line in lines] == pytest.approx([0.2, 0.5, 0.8] * 2)


CALLBACKS = {
    "curve": CalibrationCurve(),
    "tradeoff": Tradeoff(x=NUMBERS[0], y=NUMBERS[1:], colour="row", order="strength"),
}


@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_where_all_jobs_failed_there_is_a_line_and_no_file(tmp_path, capsys, callback):
    for number in range(2):
        write_job(tmp_path, number, {"seed": number})
    end(callback, tmp_path)
    assert names_in(tmp_path) == set()
    said = capsys.readouterr().out
    assert said.startswith("no figure over the jobs: no")
    assert said.count("\n") == 1


@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_a_folder_without_jobs_is_no_error(tmp_path, capsys, callback):
    end(callback, tmp_path / "not there")
    assert "no figure over the jobs: no" in capsys.readouterr().out


@pytest.mark.parametrize("callback", CALLBACKS.values(), ids=CALLBACKS)
def test_a_damaged_job_is_named(strength_sweep, capsys, callback):
    (strength_sweep / "3" / "metrics.json").write_text('{"rows": ')
    end(callback, strength_sweep)
    assert names_in(strength_sweep) == set()
    said = capsys.readouterr().out
    assert "3/metrics.json is damaged" in said
    assert said.count("\n") == 1


def test_a_key_that_the_jobs_do_not_have_is_said(strength_sweep, capsys):
    end(Tradeoff(x=NUMBERS[0], y=NUMBERS[1:], colour="lambda"), strength_sweep)
    assert "no figure over the jobs: the jobs do not say 'lambda'" in capsys.readouterr().out
    end(Tradeoff(x="gap/nothing", y=NUMBERS[1:], colour="row"), strength_sweep)
    assert "has gap/nothing and one of retrieval/i2t_r1" in capsys.readouterr().out
    assert names_in(strength_sweep) == set()


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_the_callbacks_that_sweeps_name_can_be_built(file):
    nodes = (OmegaConf.load(file).get("hydra") or {}).get("callbacks") or {}
    for node in nodes.values():
        callback = instantiate(node)
        assert isinstance(callback, Callback)
        if isinstance(callback, Tradeoff):
            assert type(callback.y) is list
            assert all(isinstance(name, str) for name in [callback.x, *callback.y])
