"""The sweep over captions from the shell, tiny: all jobs run, and the report is of them."""

import csv
import json

import pytest

pytestmark = pytest.mark.slow

MAINS, KS, SEEDS = ("digit", "color"), (1, 5), (0, 1)
SMALL = (
    "data.limit=40",
    "data.batch_size=64",
    "data.generator_workers=0",
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "trainer.enable_progress_bar=false",
    "scheduler.warmup_steps=1",
    "evaluation.gap.num_resamples=10",
    "evaluation.zeroshot.num_resamples=10",
    "evaluation.object_bias.num_resamples=10",
)


def folder_of(done, tmp_path, name):
    assert done.returncode == 0, done.stderr
    assert "no figure over the jobs" not in done.stdout
    (folder,) = (tmp_path / "outputs" / name).iterdir()
    return folder


@pytest.fixture
def sweep(run_script, tmp_path):
    captions = ",".join(f"object_attribute_{k}" for k in KS)
    done = run_script(
        "train.py",
        "-m",
        "experiment=mad_information_imbalance",
        f"data.captions={captions}",
        f"data.main_object={','.join(MAINS)}",
        f"seed={','.join(map(str, SEEDS))}",
        *SMALL,
        timeout=900,
    )
    return folder_of(done, tmp_path, "mad_information_imbalance")


def test_the_sweep_runs_to_its_report(sweep):
    content = json.loads((sweep / "information_imbalance.json").read_text())
    grid = {(k, main, f"seed {seed}") for k in KS for main in MAINS for seed in SEEDS}
    assert {(job["k"], job["main_object"], job["repetition"]) for job in content["jobs"]} == grid
    assert content["left_out"] == []
    with (sweep / "summary.csv").open() as file:
        lines = list(csv.DictReader(file))
    for point in content["points"]:
        own = [
            float(line["test/none/gap/rmg"])
            for line in lines
            if line["data.main_object"] == point["main_object"]
            and line["data.captions"] == f"object_attribute_{point['k']}"
        ]
        assert len(own) == len(SEEDS)
        assert point["values"]["gap/rmg"]["mean"] == pytest.approx(sum(own) / len(own))
        assert point["image_bits"] == pytest.approx(10.714, abs=1e-3)
    assert [p["caption_bits"] for p in content["points"]] == pytest.approx([4.800, 10.714, 4.389, 10.714], abs=1e-3)
    claims = {claim["name"]: claim for claim in content["claims"]}
    # Two values of k and two seeds cannot show a trend; everything else is tested from numbers that the jobs left.
    for name, claim in claims.items():
        tested = [test for test in claim["tests"] if test["p_value"] is not None]
        assert tested, name
        assert (claim["verdict"] == "not tested") == (name in ("gap_falls", "accuracy_rises", "bias_falls"))
    history = json.loads((sweep / "0" / "history.json").read_text())
    assert history["val/rmg"][0][0] == 0
    assert len(list((sweep / "figures").glob("*.png"))) == 8
    assert (sweep / "report.html").read_text().count("data:image/png") == 8


def test_from_a_checkpoint_on_full_captions(run_script, tmp_path):
    name = ("data.captions=object_attribute_1", "compare=baseline", "name=one", "report=false", "logger=[csv]")
    start = folder_of(run_script("train.py", *name, "evaluation=[gap]", *SMALL[:7], timeout=600), tmp_path, "one")
    done = run_script(
        "train.py",
        "-m",
        "experiment=mad_large_initial_gap",
        f"ckpt_path={start / 'checkpoints' / 'last.ckpt'}",
        "seed=0,1",
        *SMALL,
        timeout=900,
    )
    folder = folder_of(done, tmp_path, "mad_large_initial_gap")
    content = json.loads((folder / "information_imbalance.json").read_text())
    assert [job["k"] for job in content["jobs"]] == [5, 5]
    begun = json.loads((start / "history.json").read_text())["val/centroid_distance"][-1]
    gone_on = [json.loads((folder / str(job) / "history.json").read_text()) for job in (0, 1)]
    starts = [history["val/centroid_distance"][0] for history in gone_on]
    assert starts[0] == starts[1], "the same model, before its first step"
    assert starts[0][0] == 0
    assert starts[0][1] < 1.0 or begun[1] > 1.0, "not a model that begins at random"
    assert "All runs have k = 5" in (folder / "report.html").read_text()
    closing = next(claim for claim in content["claims"] if claim["name"] == "gap_closes")
    assert closing["tests"][0]["estimate"]["num_values"] == 2
