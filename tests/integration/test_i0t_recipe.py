"""The I0T recipe on stand-ins: stage 1, its checkpoint, the cache, stage 2, evaluation, and the paper's tables."""

import json
import os
import signal

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from i0t import engine, preparation, runs
from i0t.callbacks.graceful_stop import StoppedBySignal
from i0t.config import Command, ConfigError, check_command, compose, conf_dir
from i0t.embedding_store import load_set
from i0t.models.long_clip import LongClip
from i0t.module import ClipModule

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
    command = preparation.prepare_evaluation(Command("eval", [*overrides, f"data.path={tmp_path / 'pairs.npz'}"]))
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
    command = preparation.prepare_evaluation(Command("eval", overrides))
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
    """With the cache full, the towers see the measured split and nothing else: no row encodes again to be fitted."""
    splits = {load_set(index.parent).provenance["split"] for index in (recipe.folder / "cache").rglob("index.json")}
    assert splits >= {"train", "val"}
    seen = []
    plain = LongClip.encode_image
    monkeypatch.setattr(LongClip, "encode_image", lambda self, images: seen.append(len(images)) or plain(self, images))
    numbers = recipe.train("i0t_async", tmp_path / "run", f"ckpt_path={stage_one / runs.CHECKPOINT}")
    assert numbers["rows"]["posthoc"]["fit_samples"] == NUM_TRAIN
    assert sum(seen) == NUM_TRAIN  # of the test split, as many as of the others
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
