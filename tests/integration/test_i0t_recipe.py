"""The I0T recipe on stand-ins: stage 1, its checkpoint, the cache, stage 2, evaluation, and the paper's tables."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from i0t import engine, runs
from i0t.callbacks.graceful_stop import StoppedBySignal
from i0t.config import Command, ConfigError, check_command, compose, conf_dir
from i0t.embedding_store import load_set
from i0t.module import ClipModule

ROOT = Path(__file__).resolve().parents[2]
NUM_TRAIN = 24  # of the world in conftest.py
EXPERIMENTS = sorted(file.stem for file in (conf_dir() / "experiment").glob("i0t_*.yaml"))
STAGE_TWO = [name for name in EXPERIMENTS if name.startswith("i0t_async")]
QUICK = {"i0t_stage1", "i0t_long_clip"}


def read(folder):
    return torch.load(folder / runs.CHECKPOINT, weights_only=True)


def reducer_state(checkpoint):
    prefix = "gap_reducer."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


def test_stage_one_trains_both_towers_and_says_what_it_is(recipe, stage_one):
    numbers = json.loads((stage_one / "metrics.json").read_text())
    assert numbers["model"]["trained_as"] == "i0t_stage1"
    assert numbers["model"]["architecture"] == str(recipe.folder / "small.json")
    assert numbers["rows"]["posthoc_test"]["settings"]["fit_split"] == "test"
    assert numbers["test/posthoc_test/gap/centroid_distance"] < 0.2 < numbers["test/none/gap/centroid_distance"]
    before, after = torch.load(recipe.folder / "small.pt", weights_only=True), read(stage_one)["state_dict"]
    for name in ("visual.proj", "text_projection"):
        assert not torch.equal(before[name], after[f"model.clip.{name}"]), name
    assert read(stage_one)["i0t"]["encoder_weights"] is None
    assert after["model.clip.positional_embedding"].shape == (248, 64)


@pytest.mark.parametrize(
    "experiment",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in EXPERIMENTS
        if name not in STAGE_TWO and name != "i0t_stage1"
    ],
)
def test_every_row_of_the_tables_trains_and_is_measured(recipe, tmp_path, experiment):
    numbers = recipe.train(experiment, tmp_path / "run", *recipe.model, "trainer.max_epochs=1")
    assert numbers["model"]["trained_as"] == experiment
    rows = set(numbers["rows"]) - {"none", "posthoc", "posthoc_test"}
    reducer = compose("train", recipe.arguments(experiment, *recipe.model, "paths.output_dir=o")).gap_reducer
    expected = {"NoReducer": set(), "LayerNorm": {"layer_norm"}, "AsyncBatchNorm": {"async_bn"}}
    assert rows == expected[reducer._target_.rpartition(".")[2]]


def test_stage_two_from_cache_leaves_the_encoders_and_trains_the_reducer(stage_one, stage_two):
    first, second = read(stage_one), read(stage_two)
    for name, weight in first["state_dict"].items():
        if name.startswith("model."):
            assert torch.equal(weight, second["state_dict"][name]), name
    state = reducer_state(second)
    assert bool(state["fitted"])
    assert int(state["num_fit_images"]) == NUM_TRAIN
    assert not torch.equal(state["image_norm.bias"], torch.zeros(32))
    assert second["i0t"]["encoder_weights"]
    assert second["i0t"]["config"]["name"] == "i0t_async"


def test_stage_two_reaches_the_same_statistics_through_the_encoders(recipe, stage_one, stage_two, tmp_path):
    numbers = recipe.train("i0t_async_end_to_end", tmp_path / "run", f"ckpt_path={stage_one / runs.CHECKPOINT}")
    cached, through = reducer_state(read(stage_two)), reducer_state(read(tmp_path / "run"))
    assert cached.keys() == through.keys()
    for name, value in cached.items():
        torch.testing.assert_close(through[name], value, rtol=1e-5, atol=1e-7, msg=name)
    of_cache = json.loads((stage_two / "metrics.json").read_text())
    key = "test/async_bn/gap/centroid_distance"
    assert numbers[key] == pytest.approx(of_cache[key], abs=1e-5)
    assert numbers[key] != pytest.approx(numbers["test/none/gap/centroid_distance"], abs=1e-2)


@pytest.mark.slow
def test_stage_two_as_published(recipe, stage_one, tmp_path):
    numbers = recipe.train("i0t_async_published", tmp_path / "run", f"ckpt_path={stage_one / runs.CHECKPOINT}")
    assert numbers["model"]["trained_as"] == "i0t_async_published"
    assert "async_bn" in numbers["rows"]


def test_a_checkpoint_of_stage_two_is_evaluated_without_its_training_data(recipe, stage_two, tmp_path):
    overrides = [
        f"ckpt_path={stage_two / runs.CHECKPOINT}",
        "data=embeddings",
        "compare=baseline",
        "report=false",
        f"paths.output_dir={tmp_path / 'run'}",
        f"paths.cache_dir={recipe.folder / 'cache'}",
    ]
    features = np.random.default_rng(0).normal(size=(30, 32)).astype(np.float32)
    np.savez(tmp_path / "pairs.npz", image=features, text=features + 1, text_image_index=np.arange(30))
    command = runs.prepare_evaluation(Command("eval", [*overrides, f"data.path={tmp_path / 'pairs.npz'}"]))
    numbers = engine.evaluate(compose("eval", command.overrides))
    assert any(name.startswith("test/async_bn/") for name in numbers)


def test_encoders_that_are_not_those_of_the_reducer_are_refused(recipe, stage_two, tmp_path):
    checkpoint = read(stage_two)
    checkpoint["state_dict"]["model.clip.text_projection"] += 0.1
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    overrides = [
        f"ckpt_path={tmp_path / 'changed.ckpt'}",
        f"paths.output_dir={tmp_path / 'run'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "report=false",
    ]
    command = runs.prepare_evaluation(Command("eval", overrides))
    with pytest.raises(ConfigError, match="not the ones that its gap reducer was trained on"):
        engine.evaluate(compose("eval", command.overrides))


def test_a_checkpoint_of_another_architecture_is_refused_by_both_names(recipe, stage_one, tmp_path):
    other = json.loads((recipe.folder / "small.json").read_text())
    other["vision_cfg"]["layers"] = 1
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match=r"made with .*small.json \(LongClip\), but model is .*other.json"):
        recipe.train(
            "i0t_async",
            tmp_path / "run",
            f"ckpt_path={stage_one / runs.CHECKPOINT}",
            f"model.architecture={tmp_path / 'other.json'}",
            "model.pretrained=null",
        )
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_stage_two_encodes_once(recipe, stage_one, stage_two, tmp_path, monkeypatch):
    from i0t.models.long_clip import LongClip

    def refuse(self, *arguments):
        raise AssertionError("the encoders ran")

    splits = {load_set(index.parent).provenance["split"] for index in (recipe.folder / "cache").rglob("index.json")}
    assert splits >= {"train", "val"}
    monkeypatch.setattr("i0t.engine.training._finish", lambda *arguments: {})  # which encodes the test split
    monkeypatch.setattr(LongClip, "encode_image", refuse)
    monkeypatch.setattr(LongClip, "encode_text", refuse)
    overrides = recipe.arguments("i0t_async", f"ckpt_path={stage_one / runs.CHECKPOINT}")
    command = runs.prepare_training(Command("train", [*overrides, f"paths.output_dir={tmp_path / 'run'}"]))
    engine.train(compose("train", command.overrides))
    state, first = reducer_state(read(tmp_path / "run")), reducer_state(read(stage_two))
    assert all(torch.equal(state[name], first[name]) for name in first)


# Of three steps an epoch: after its first, its second, its last.
@pytest.mark.parametrize("step", [3, pytest.param(4, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)])
def test_a_stopped_stage_two_resumes_inside_its_epoch(recipe, stage_one, tmp_path, monkeypatch, step):
    longer = (f"ckpt_path={stage_one / runs.CHECKPOINT}", "optimizer.lr=1e-2", "trainer.max_epochs=3")
    original, seen = ClipModule.training_step, []

    def recorded(self, batch, batch_idx):
        seen.append(batch.sample_id.tolist())
        if len(seen) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClipModule, "training_step", recorded)
    stop_at = None
    recipe.train("i0t_async", tmp_path / "whole", *longer)
    expected, stop_at = seen.copy(), step + 1
    seen.clear()
    with pytest.raises(StoppedBySignal):
        recipe.train("i0t_async", tmp_path / "stopped", *longer)
    stop_at = None
    saved = yaml.safe_load((tmp_path / "stopped" / runs.CONFIG_FILE).read_text())
    engine.train(OmegaConf.create({**saved, "resume": str(tmp_path / "stopped")}))
    assert seen == expected, "every batch once, in the order of an uninterrupted run"
    one, other = (reducer_state(read(tmp_path / name)) for name in ("whole", "stopped"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoders=frosen"], "encoders=frosen is unknown; choose trained, frozen"),
        (["encoders=cached", "views=2"], "views=2 needs encoders=trained"),
        (["encoders=frozen", "gap_reducer=none"], "has nothing to train: choose gap_reducer=async_bn"),
        (["views=0"], "views=0 must be at least 1"),
        (["encoders=trained", "loss=long_clip"], "data.short_captions=true"),
        (["encoders=trained", "data.short_captions=true"], "CyClipLoss has no use for them"),
    ],
)
def test_what_does_not_go_together_is_one_line(recipe, tmp_path, overrides, message):
    overrides = [*recipe.arguments("i0t_async", *recipe.model), *overrides, f"paths.output_dir={tmp_path}"]
    with pytest.raises(ConfigError, match=message):
        engine.train(compose("train", overrides))


def test_without_checkpoint_and_weights_a_stage_says_what_is_missing():
    with pytest.raises(ConfigError, match=r"model\.pretrained must be given"):
        check_command(Command("train", ["experiment=i0t_async"]))


# The tables


def table_lines(recipe, cwd, *arguments):
    """What ``i0t-tables`` prints, as CSV: (row, column) to its line."""
    done = recipe.shell("i0t.paper", "--format", "csv", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return {(line["row"], line["column"]): line for line in csv.DictReader(io.StringIO(done.stdout))}


def measure_for_the_tables(recipe, checkpoint, folder):
    """``eval.py`` on Flickr30k with the paper's one caption an image."""
    return recipe.evaluate(
        folder,
        f"ckpt_path={checkpoint}",
        "data=flickr30k",
        f"data.root={recipe.folder / 'data' / 'flickr30k'}",
        "data.captions_per_image=1",
        "data.num_workers=0",
        "compare=i0t_paper",
        "evaluation=[gap,retrieval]",
        *recipe.few_resamples("gap", "retrieval"),
    )


COLUMNS = {
    "CD": ("gap/centroid_distance", 1),
    "LS": ("gap/linear_separability_ols", 1),
    "I2T": ("retrieval/i2t_r1", 100),
    "T2I": ("retrieval/t2i_r1", 100),
}


def printed(numbers, row):
    """What a row's numbers are in the units of the paper's tables."""
    return {column: scale * numbers[f"test/{row}/{name}"] for column, (name, scale) in COLUMNS.items()}


def measured(lines, row):
    return {column: float(lines[row, column]["measured"]) for column in COLUMNS}


def test_the_tables_show_the_numbers_of_these_runs_with_marks_and_nothing_else(recipe, stage_one, stage_two, tmp_path):
    first = measure_for_the_tables(recipe, stage_one / runs.CHECKPOINT, tmp_path / "runs" / "first")
    second = measure_for_the_tables(recipe, stage_two / runs.CHECKPOINT, tmp_path / "runs" / "second")
    one = table_lines(recipe, tmp_path, "--table", "1", "runs")
    two = table_lines(recipe, tmp_path, "--table", "2", "runs")
    assert measured(one, "LCCOM") == pytest.approx(printed(first, "none"))
    assert measured(two, "I0T_async") == pytest.approx(printed(second, "async_bn"))
    assert measured(two, "I0T_post") == pytest.approx(printed(first, "posthoc_test"))
    filled = {(row, column) for row in ("LCCOM", "I0T_async", "I0T_post") for column in COLUMNS}
    assert measured(two, "I0T_async") != measured(two, "I0T_post")
    for key, line in {**one, **two}.items():
        assert line["status"] == ("measured" if key in filled else "not run"), key
        if key in filled:
            assert line["on_protocol"] == "no"
            assert "another architecture than the paper's" in line["notes"]
            assert "flickr30k test: 16 images, where the published split has 1,000" in line["notes"]
            difference = float(line["measured"]) - float(line["published"])
            assert float(line["difference"]) == pytest.approx(difference)


@pytest.mark.slow
def test_three_seeds_have_mean_and_deviation_in_table_4(recipe, tmp_path):
    found = {"i0t_async": [], "i0t_stage1": []}
    for seed in (7, 42, 71):
        first, second = (tmp_path / "trained" / f"{name}_{seed}" for name in found)
        short = (f"seed={seed}", "optimizer.lr=1e-3")
        recipe.train("i0t_stage1", second, *recipe.model, *short)
        recipe.train("i0t_async", first, f"ckpt_path={second / runs.CHECKPOINT}", *short)
        for name, folder, row in (("i0t_stage1", second, "posthoc_test"), ("i0t_async", first, "async_bn")):
            numbers = measure_for_the_tables(recipe, folder / runs.CHECKPOINT, tmp_path / "runs" / folder.name)
            found[name].append(printed(numbers, row))
    lines = table_lines(recipe, tmp_path, "--table", "4", "runs")
    for name, label in (("i0t_async", "async"), ("i0t_stage1", "post")):
        for column in COLUMNS:
            values = [numbers[column] for numbers in found[name]]
            together = lines[f"{label}, all three", column]
            assert together["num_seeds"] == "3"
            assert float(together["measured"]) == pytest.approx(sum(values) / 3)
            assert float(together["sd"]) == pytest.approx(np.std(values, ddof=1))
            for seed, value in zip((7, 42, 71), values, strict=True):
                assert float(lines[f"{label}, seed {seed}", column]["measured"]) == pytest.approx(value)
        assert len({numbers["CD"] for numbers in found[name]}) == 3, "seeds matter"
    text = recipe.shell("i0t.paper", "--table", "4", "runs", cwd=tmp_path).stdout
    values = [numbers["CD"] for numbers in found["i0t_async"]]
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}* (3)" in text


# From the shell


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
