"""Entropy studies over made-up curves: pairing, intervals, verdicts and files."""

import csv
import json
import math
import statistics

import numpy as np
import pytest
from PIL import Image

from i0t.report.entropy_claims import entropy_claims
from i0t.report.entropy_curves import QUANTITIES, entropy_curves, estimate
from i0t.report.entropy_study import claims_text, main, table_lines, write_entropy_study

STEPS = (0, 10, 20)
FILES = {f"entropy_study.{ending}" for ending in ("json", "csv", "md", "png")}
T_975 = {1: 12.7062, 2: 4.3027, 3: 3.1824}  # Student's t by degrees of freedom, from a printed table


def job(
    number, frozen, seed=0, *, entropy=(1.0, 2.0), gap=(0.3, 0.4), rmg=(0.2, 0.25), scale=(0.05, 0.06), **overrides
):
    """A finished job whose curves go straight from their start to their end."""
    ends = dict(zip(QUANTITIES, (entropy, scale, gap, rmg), strict=True))
    history = {
        f"val/{name}": [[step, low + (high - low) * step / STEPS[-1]] for step in STEPS]
        for name, (low, high) in ends.items()
    }
    return {
        "name": str(number),
        "overrides": {"experiment": "mad_entropy", FREEZE: str(frozen).lower(), "seed": str(seed), **overrides},
        "config": {FREEZE: frozen, "seed": seed},
        "metrics": {"rows": {}},
        "history": history | {"train/loss": [[5, 1.0]]},
    }


FREEZE = "freeze_temperature"


def study(entropy_ends=((2.0, 2.05), (2.1, 2.1), (1.9, 1.95)), gap_ends=((0.35, 0.6), (0.33, 0.62), (0.34, 0.64))):
    """Three seeds, each learnt and frozen."""
    return [
        job(2 * seed + frozen, bool(frozen), seed, entropy=(1.0, entropy_ends[seed][frozen]),
            gap=(0.3, gap_ends[seed][frozen]), rmg=(0.2, gap_ends[seed][frozen] / 2 + 0.05))
        for seed in range(len(gap_ends))
        for frozen in (0, 1)
    ]  # fmt: skip


# --- intervals ---


@pytest.mark.parametrize("values", [[1.0, 3.0], [0.2, 0.5, 0.8], [5.0, 5.0, 5.0], [1.0, -1.0, 4.0, 0.5]])
def test_the_interval_is_student_s(values):
    found = estimate(np.array(values))
    half = T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    assert found == pytest.approx((statistics.fmean(values), found.mean - half, found.mean + half), rel=1e-4)


def test_one_run_has_no_interval():
    assert estimate(np.array([0.7])) == (0.7, None, None)


# --- pairing ---


def test_jobs_are_paired_by_what_repeats_them_in_any_order():
    jobs = study()
    curves = entropy_curves(jobs[::-1])
    assert sorted(curves.repeats) == ["seed=0", "seed=1", "seed=2"]
    assert curves.steps.tolist() == list(STEPS)
    for row, repeat in enumerate(curves.repeats):
        seed = int(repeat.removeprefix("seed="))
        for arm, frozen in ((curves.learnt, 0), (curves.frozen, 1)):
            for name in QUANTITIES:
                expected = [value for _, value in jobs[2 * seed + frozen]["history"][f"val/{name}"]]
                assert arm[name][row].tolist() == expected


def test_checkpoints_repeat_the_study_too():
    jobs = [job(i, frozen, ckpt_path=path) for i, (path, frozen) in
            enumerate([("a.ckpt", False), ("a.ckpt", True), ("b.ckpt", False), ("b.ckpt", True)])]  # fmt: skip
    assert entropy_curves(jobs).repeats == ["ckpt_path=a.ckpt", "ckpt_path=b.ckpt"]


def test_the_default_temperature_needs_no_override():
    jobs = [job(0, False), job(1, True)]
    del jobs[0]["overrides"][FREEZE], jobs[0]["config"][FREEZE]
    curves = entropy_curves(jobs)
    assert (curves.repeats, curves.left_out) == (["one run"], [])


def test_steps_that_one_run_lacks_are_left_out():
    jobs = study()
    for name in QUANTITIES:
        del jobs[3]["history"][f"val/{name}"][1]
    curves = entropy_curves(jobs)
    assert curves.steps.tolist() == [0, 20]
    assert curves.learnt["rmg"].shape == (3, 2)


def test_a_run_without_its_counterpart_or_with_nan_does_not_count_and_is_named():
    jobs = study()[:-1]  # seed 2 was never frozen
    jobs[1]["history"]["val/rmg"][2][1] = math.nan  # seed 0, frozen
    curves = entropy_curves(jobs)
    assert curves.repeats == ["seed=1"]
    assert curves.left_out == [
        "job 1: its validation curves are missing or not finite",
        "seed=0: there is no usable run with freeze_temperature=true",
        "seed=2: there is no usable run with freeze_temperature=true",
    ]


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([], "no two of 0 finished jobs"),
        ([job(0, False), job(1, False, 1)], r"no two of 2 .* \(seed=0: there is no usable run with freeze_temp.*=true"),
        ([job(0, False), job(1, True) | {"history": {}}], r"no two of 2 .*job 1: its validation curves are missing"),
        ([job(0, True), job(1, True)], r"job 1 repeats another one \(one run, freeze_temperature=true\)"),
        (
            [job(0, False, **{"data.batch_size": "8"}), job(1, True, **{"data.batch_size": "4"})],
            "the jobs differ in data.batch_size too: study one setting at a time",
        ),
    ],
)
def test_what_is_no_study_is_one_line(tmp_path, jobs, message):
    with pytest.raises(ValueError, match=message):
        write_entropy_study(jobs, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_validation_is_no_curve():
    jobs = [job(0, False), job(1, True)]
    for name in QUANTITIES:
        jobs[0]["history"][f"val/{name}"] = [[0, 1.0]]
    with pytest.raises(ValueError, match=r"together at 1 step: set validate_first=true and lower trainer\.val_check"):
        entropy_curves(jobs)


# --- verdicts ---


def verdicts(jobs):
    return [claim.verdict for claim in entropy_claims(entropy_curves(jobs))]


def test_clear_curves_support_every_claim():
    claims = entropy_claims(entropy_curves(study()))
    assert [claim.verdict for claim in claims] == ["holds"] * 4
    relative = [0.05 / 2.0, 0.0, 0.05 / 1.9]
    growth = [0.3 - 2 * 0.05, 0.32 - 2 * 0.03, 0.34 - 2 * 0.04]
    rmg = [0.15 - 2 * 0.025, 0.16 - 2 * 0.015, 0.17 - 2 * 0.02]
    premise = [1.0, 1.1, 0.9]  # the smaller change of each pair
    for claim, values in zip(claims, (premise, relative, growth, rmg), strict=True):
        half = T_975[2] * statistics.stdev(values) / math.sqrt(3)
        mean = statistics.fmean(values)
        assert claim.value == pytest.approx((mean, mean - half, mean + half), rel=1e-3, abs=1e-6)
    lines = claims_text(claims).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("holds: With the temperature learnt and frozen, the logit entropy ends alike. (0.01")


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        (((2.0, 2.19),), "holds"),
        (((2.0, 1.81),), "holds"),
        (((2.0, 2.21),), "does not hold"),
        (((2.0, 1.79),), "does not hold"),
        (((2.0, 3.0), (2.0, 3.1), (2.0, 3.05)), "does not hold"),
        (((2.0, 1.0), (2.0, 1.1), (2.0, 1.05)), "does not hold"),
        (((2.0, 2.0), (2.0, 2.6), (2.0, 1.8)), "undecided"),
    ],
)
def test_entropies_end_alike_within_ten_per_cent(ends, verdict):
    assert verdicts(study(ends, ((0.35, 0.6),) * len(ends)))[1] == verdict


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        (((0.4, 0.51),), "holds"),  # grows by .1 and by .21
        (((0.4, 0.49),), "does not hold"),  # by .1 and by .19
        (((0.2, 0.31),), "holds"),  # shrinks where learnt: any growth is far more
        (((0.1, 0.29),), "does not hold"),  # shrinks in both, less where frozen
        (((0.4, 0.3), (0.4, 0.31), (0.4, 0.32)), "does not hold"),
        (((0.35, 0.6), (0.35, 0.3), (0.35, 0.5)), "undecided"),
    ],
)
def test_the_gap_grows_far_more_only_beyond_twice_as_much(ends, verdict):
    assert verdicts(study(((2.0, 2.0),) * len(ends), ends))[2] == verdict


@pytest.mark.parametrize(
    ("ends", "verdict"), [(((1.5, 1.2),), "holds"), (((1.5, 0.9),), "does not hold"), (((0.9, 1.5),), "does not hold")]
)
def test_the_premise_is_that_the_entropy_rises_in_both_runs(ends, verdict):
    assert verdicts(study(ends, ((0.35, 0.6),)))[0] == verdict


# --- files ---


def test_the_table_has_start_end_and_change_with_intervals():
    lines = table_lines(entropy_curves(study()))
    assert [(line["quantity"], line["temperature"]) for line in lines] == [
        (name, temperature) for name in QUANTITIES for temperature in ("learnt", "frozen", "frozen - learnt")
    ]
    gap = {line["temperature"]: line for line in lines if line["quantity"] == "centroid_distance"}
    ends = {"learnt": [0.35, 0.33, 0.34], "frozen": [0.6, 0.62, 0.64]}
    ends["frozen - learnt"] = [b - a for a, b in zip(ends["learnt"], ends["frozen"], strict=True)]
    for temperature, values in ends.items():
        start = 0.0 if temperature == "frozen - learnt" else 0.3
        line, mean = gap[temperature], statistics.fmean(values)
        half = T_975[2] * statistics.stdev(values) / math.sqrt(3)
        assert line["runs"] == 3
        assert [line[k] for k in ("start", "start low", "start high")] == pytest.approx([start] * 3)
        assert [line[k] for k in ("end", "end low", "end high")] == pytest.approx(
            [mean, mean - half, mean + half], rel=1e-4
        )
        assert line["change"] == pytest.approx(mean - start)


@pytest.mark.parametrize("seeds", [1, 3])
def test_all_files_say_the_same(tmp_path, seeds):
    jobs = study()[: 2 * seeds]
    assert {path.name for path in write_entropy_study(jobs, tmp_path)} == FILES
    assert {path.name for path in tmp_path.iterdir()} == FILES
    content = json.loads((tmp_path / "entropy_study.json").read_text())
    curves = entropy_curves(jobs)
    assert content["steps"] == list(STEPS)
    assert content["curves"]["frozen"]["rmg"] == curves.frozen["rmg"].tolist()
    assert [claim["verdict"] for claim in content["claims"]] == verdicts(jobs)
    assert (content["claims"][0]["value"]["low"] is None) == (seeds == 1)
    with (tmp_path / "entropy_study.csv").open() as file:
        lines = list(csv.DictReader(file))
    for line, expected in zip(lines, table_lines(curves), strict=True):
        assert line == {key: "" if value is None else str(value) for key, value in expected.items()}
    text = (tmp_path / "entropy_study.md").read_text()
    assert ("over 3 pairs of runs" in text) == (seeds == 3)
    assert ("One pair of runs: no intervals" in text) == (seeds == 1)
    assert text.count("| holds |") == 4
    with Image.open(tmp_path / "entropy_study.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 50, "something is drawn"


def test_the_study_over_a_folder_of_runs(tmp_path, capsys):
    for one in study():
        folder = tmp_path / one["name"]
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps([f"{k}={v}" for k, v in one["overrides"].items()]))
        (folder / "config.yaml").write_text(json.dumps(one["config"]))
        for name in ("metrics", "history"):
            (folder / f"{name}.json").write_text(json.dumps(one[name]))
    assert main([str(tmp_path)]) == 0
    assert {line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()} == FILES
    content = json.loads((tmp_path / "entropy_study.json").read_text())
    assert content["repeats"] == ["seed=0", "seed=1", "seed=2"]
    assert content["curves"]["learnt"]["rmg"] == entropy_curves(study()).learnt["rmg"].tolist()


def test_a_folder_without_runs_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no two of 0 finished jobs")
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: python -m i0t.report.entropy_study <folder")
