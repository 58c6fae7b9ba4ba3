"""The I0T recipe as it is typed: several processes, a killed run, reports, and input that cannot be used."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from i0t import runs

ROOT = Path(__file__).resolve().parents[2]
NUM_TRAIN = 24  # of the world in conftest.py


def read(folder):
    return torch.load(folder / runs.CHECKPOINT, weights_only=True)


def reducer_state(checkpoint):
    prefix = "gap_reducer."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


def last_run(cwd, name):
    (folder,) = (cwd / "outputs" / name).iterdir()
    return folder


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("experiment", ["i0t_async", "i0t_async_end_to_end"])
def test_two_processes_train_the_reducer_of_one(recipe, stage_one, tmp_path, experiment):
    # A rate at which scale and shift move a thousand times as far as the tolerance.
    checkpoint = (f"ckpt_path={stage_one / runs.CHECKPOINT}", "optimizer.lr=1e-2")
    recipe.train(experiment, tmp_path / "one", *checkpoint)
    arguments = recipe.arguments(experiment, *checkpoint, "trainer=ddp_cpu", "data.batch_size=4")
    arguments.remove("trainer=cpu")
    done = recipe.shell("train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = last_run(tmp_path, experiment)
    one, two = reducer_state(read(tmp_path / "one")), reducer_state(read(folder))
    assert one.keys() == two.keys()
    for name, value in one.items():
        trained = name.endswith((".weight", ".bias"))
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5 if trained else 1e-6, msg=name)
        if trained:
            assert (value - float(name.endswith(".weight"))).abs().max() > 1e-2, "it has moved"
    assert int(two["num_fit_images"]) == NUM_TRAIN
    numbers = [json.loads((f / "metrics.json").read_text()) for f in (tmp_path / "one", folder)]
    for name in ("test/async_bn/gap/centroid_distance", "test/async_bn/gap/rmg"):
        assert numbers[1][name] == pytest.approx(numbers[0][name], abs=1e-4)


@pytest.mark.slow
@pytest.mark.ddp
def test_stage_one_with_two_views_ends_on_two_processes(recipe, tmp_path):
    arguments = recipe.arguments("i0t_stage1", *recipe.model, "trainer=ddp_cpu", "data.batch_size=4")
    arguments.remove("trainer=cpu")
    done = recipe.shell("train.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = last_run(tmp_path, "i0t_stage1")
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["rows"]["posthoc"]["fit_samples"] == NUM_TRAIN, "every image once, over both processes"
    assert read(folder)["global_step"] == 2 * NUM_TRAIN // 8
    before, after = torch.load(recipe.folder / "small.pt", weights_only=True), read(folder)["state_dict"]
    assert not torch.equal(before["text_projection"], after["model.clip.text_projection"])


@pytest.mark.slow
def test_a_killed_stage_two_resumes_to_exactly_the_uninterrupted_one(recipe, stage_one, tmp_path):
    long = ("optimizer.lr=1e-3", "trainer.max_epochs=200", "trainer.val_check_interval=10", "compare=baseline")
    overrides = recipe.arguments("i0t_async", f"ckpt_path={stage_one / runs.CHECKPOINT}", *long)
    whole = recipe.shell("train.py", *overrides, "hydra.run.dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("outputs/i0t_async/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert re.search(r"^train.py: stopped by SIGTERM after step \d+; go on with resume=\S+$", stderr, re.MULTILINE)
    folder = last_run(tmp_path, "i0t_async")
    assert 0 < read(folder)["global_step"] < 200 * 3
    stopped = reducer_state(read(folder))
    done = recipe.shell("train.py", "resume=last", "name=i0t_async", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last_run(tmp_path, "i0t_async") == folder, "it went on in the same folder"
    resumed, expected = reducer_state(read(folder)), reducer_state(read(tmp_path / "whole"))
    assert resumed.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name
    assert not torch.equal(stopped["image_norm.weight"], expected["image_norm.weight"]), "it was in the middle"
    assert read(folder)["global_step"] == 200 * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("evaluation", "sections"),
    [
        ("mean_activations", ["Which dimensions carry the gap", "dimensions count from 1"]),
        ("caption_correlation", ["Ranges of cosines", "image and judged caption"]),
    ],
)
def test_judged_captions_from_the_shell_with_a_report(recipe, stage_two, tmp_path, evaluation, sections):
    done = recipe.shell(
        "eval.py",
        f"ckpt_path={stage_two / runs.CHECKPOINT}",
        "data=flickr8k_expert",
        f"evaluation={evaluation}",
        "compare=i0t_paper",
        "hydra.run.dir=run",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert not [section for section in sections if section not in page]
    assert "48 judged captions, where the published set has 5,664" in page
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(numbers["rows"]) == {
        "none",
        "posthoc_test",
        "mean_shift_375",
        "mean_shift_500",
        "mean_shift_minus_500",
        "async_bn",
    }
    if evaluation == "mean_activations":
        rows = json.loads((tmp_path / "run" / "mean_activations.json").read_text())
        assert set(rows) == set(numbers["rows"])
        assert all(len(row["before"]["image"]["means"]) == 32 for row in rows.values())
        assert (tmp_path / "run" / "mean_activations.csv").exists()
    else:
        values = [numbers[f"test/{row}/caption_correlation/tau_c"] for row in ("none", "posthoc_test", "async_bn")]
        assert all(-1 <= value <= 1 for value in values)
        assert len(set(values)) == 3


@pytest.mark.slow
def test_rows_of_judgements_that_cannot_be_used_are_counted_and_named(recipe, stage_one, tmp_path):
    good = (recipe.folder / "data" / "flickr8k" / "ExpertAnnotations.txt").read_text().splitlines()
    root = tmp_path / "flickr8k"
    root.mkdir()
    for file in (recipe.folder / "data" / "flickr8k").iterdir():
        (root / file.name).symlink_to(file)
    bad = {
        2: "nobody.jpg\ttest_0.jpg#0\t1\t1\t1",
        4: "test_0.jpg\ttest_1.jpg#0\t1\t1",
        5: "test_0.jpg\ttest_1.jpg#0\t1\t1\t5",
        7: "test_0.jpg\ttest_1.jpg#9\t1\t1\t1",
        9: "test_0.jpg\ttest_1.jpg#0\t1\tx\t1",
        11: "",
        12: "garbage",
        13: "garbage",
    }
    for line, text in bad.items():
        good[line - 1] = text
    (root / "ExpertAnnotations.txt").unlink()
    (root / "ExpertAnnotations.txt").write_text("\n".join(good) + "\n")
    done = recipe.shell(
        "eval.py",
        f"ckpt_path={stage_one / runs.CHECKPOINT}",
        "data=flickr8k_expert",
        f"data.root={root}",
        "evaluation=caption_correlation",
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert "ExpertAnnotations.txt: 7 of 63 rows cannot be used: line 2: " in error
    assert re.findall(r"line (\d+):", error) == ["2", "4", "5", "7", "9"]
    assert "no image nobody.jpg" in error
    assert "; …" in error
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.*")), "nothing is left"


@pytest.mark.slow
def test_captions_beyond_the_context_are_cut_and_said(recipe, stage_one, tmp_path):
    root = tmp_path / "flickr30k"
    root.mkdir()
    source = recipe.folder / "data" / "flickr30k"
    (root / "flickr30k-images").symlink_to(source / "flickr30k-images")
    content = json.loads((source / "dataset_flickr30k.json").read_text())
    test = [entry for entry in content["images"] if entry["split"] == "test"]
    for entry in test[:3]:
        entry["sentences"][0]["raw"] = "word " * 300
    (root / "dataset_flickr30k.json").write_text(json.dumps(content))
    done = recipe.shell(
        "eval.py",
        f"ckpt_path={stage_one / runs.CHECKPOINT}",
        "data=flickr30k",
        f"data.root={root}",
        "evaluation=gap",
        "compare=baseline",
        "report=false",
        "hydra.run.dir=run",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    said = "3 of 80 captions are longer than the model's context and are cut"
    assert said in done.stdout
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert any(said in warning for warning in numbers["data"]["warnings"])


@pytest.mark.slow
def test_stage_two_with_a_checkpoint_of_another_architecture_names_both(recipe, stage_one, tmp_path):
    overrides = recipe.arguments("i0t_async", f"ckpt_path={stage_one / runs.CHECKPOINT}", "model.pretrained=null")
    done = recipe.shell("train.py", *overrides, "model.architecture=ViT-B-32-quickgelu", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if "error:" in line]
    assert "small.json (LongClip)" in error
    assert "ViT-B-32-quickgelu (LongClip)" in error
    assert not list(tmp_path.rglob("*.yaml")), "no run folder is left"
