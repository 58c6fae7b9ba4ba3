"""The I0T recipe on stand-ins: stage 1, its checkpoint, the cache, stage 2, evaluation, and the paper's tables."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from i0t import engine, runs
from i0t.config import Command, ConfigError, check_command, compose, conf_dir
from i0t.data.sharegpt4v import NUM_VALIDATION
from i0t.embedding_store import load_set

NUM_TRAIN = 24
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
ANNOTATIONS = "share-captioner_coco_lcs_sam_1246k_1107.json"
EXPERIMENTS = sorted(file.stem for file in (conf_dir() / "experiment").glob("i0t_*.yaml"))
STAGE_TWO = [name for name in EXPERIMENTS if name.startswith("i0t_async")]
QUICK = {"i0t_stage1", "i0t_long_clip"}


def make_sharegpt4v(folder):
    """Photos of random colours with long captions: the published thousand for validation, and a few to train on."""
    generator = np.random.default_rng(0)
    (folder / "coco" / "train2017").mkdir(parents=True)
    entries = []
    for i in range(NUM_VALIDATION + NUM_TRAIN):
        name = f"coco/train2017/{i:012d}.jpg"
        if i < NUM_TRAIN or i >= NUM_VALIDATION:
            color = generator.integers(0, 255, size=(4, 4, 3), dtype=np.uint8)
            Image.fromarray(color).resize((40, 40)).save(folder / name)
        caption = f"Image {i} shows a thing of colour {generator.integers(99)}. It is a fine thing. " * 3
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": caption}]
        entries.append({"id": f"{i:012d}", "image": name, "conversations": turns})
    (folder / ANNOTATIONS).write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "small.json").write_text(json.dumps(SMALL))
    torch.manual_seed(3)
    clip = open_clip.model.CLIP(**{**SMALL, "output_dict": False})
    torch.save(clip.state_dict(), folder / "small.pt")
    make_sharegpt4v(folder / "sharegpt4v")
    return folder


def arguments(world, experiment, *more):
    return [
        f"experiment={experiment}",
        "trainer=cpu",
        f"data.root={world / 'sharegpt4v'}",
        "data.only_present=true",
        f"data.limit={NUM_TRAIN}",
        "data.batch_size=8",
        "data.num_workers=0",
        "scheduler.warmup_steps=1",
        "trainer.max_epochs=2",
        "trainer.val_check_interval=3",
        "trainer.enable_progress_bar=false",
        "logger=[csv]",
        "evaluation=[gap,retrieval]",
        "evaluation.gap.num_resamples=10",
        "evaluation.retrieval.num_resamples=10",
        "report=false",
        f"paths.cache_dir={world / 'cache'}",
        *more,
    ]


def model_of(world):
    return f"model.architecture={world / 'small.json'}", f"model.pretrained={world / 'small.pt'}"


def train(world, experiment, folder, *more):
    """Runs a small form of an experiment in this process, as ``train.py`` would."""
    overrides = [*arguments(world, experiment, *more), f"paths.output_dir={folder}"]
    command = runs.prepare_training(Command("train", overrides))
    engine.train(compose("train", command.overrides))
    return json.loads((folder / "metrics.json").read_text())


def read(folder):
    return torch.load(folder / runs.CHECKPOINT, weights_only=True)


def reducer_state(checkpoint):
    prefix = "gap_reducer."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def stage_one(world):
    """The folder of a finished stage 1."""
    folder = world / "runs" / "stage1"
    train(world, "i0t_stage1", folder, *model_of(world))
    return folder


@pytest.fixture(scope="module")
def stage_two(world, stage_one):
    """The folder of a finished stage 2 from the cache."""
    folder = world / "runs" / "async"
    train(world, "i0t_async", folder, f"ckpt_path={stage_one / runs.CHECKPOINT}")
    return folder


def test_stage_one_trains_both_towers_and_says_what_it_is(world, stage_one):
    numbers = json.loads((stage_one / "metrics.json").read_text())
    assert numbers["model"]["trained_as"] == "i0t_stage1"
    assert numbers["model"]["architecture"] == str(world / "small.json")
    assert numbers["rows"]["posthoc_test"]["settings"]["fit_split"] == "test"
    assert numbers["test/posthoc_test/gap/centroid_distance"] < 0.2 < numbers["test/none/gap/centroid_distance"]
    before, after = torch.load(world / "small.pt", weights_only=True), read(stage_one)["state_dict"]
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
def test_every_row_of_the_tables_trains_and_is_measured(world, tmp_path, experiment):
    numbers = train(world, experiment, tmp_path / "run", *model_of(world), "trainer.max_epochs=1")
    assert numbers["model"]["trained_as"] == experiment
    rows = set(numbers["rows"]) - {"none", "posthoc", "posthoc_test"}
    reducer = compose("train", arguments(world, experiment, *model_of(world), "paths.output_dir=o")).gap_reducer
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


def test_stage_two_reaches_the_same_statistics_through_the_encoders(world, stage_one, stage_two, tmp_path):
    numbers = train(world, "i0t_async_end_to_end", tmp_path / "run", f"ckpt_path={stage_one / runs.CHECKPOINT}")
    cached, through = reducer_state(read(stage_two)), reducer_state(read(tmp_path / "run"))
    assert cached.keys() == through.keys()
    for name, value in cached.items():
        torch.testing.assert_close(through[name], value, rtol=1e-5, atol=1e-7, msg=name)
    of_cache = json.loads((stage_two / "metrics.json").read_text())
    key = "test/async_bn/gap/centroid_distance"
    assert numbers[key] == pytest.approx(of_cache[key], abs=1e-5)
    assert numbers[key] != pytest.approx(numbers["test/none/gap/centroid_distance"], abs=1e-2)


@pytest.mark.slow
def test_stage_two_as_published(world, stage_one, tmp_path):
    numbers = train(world, "i0t_async_published", tmp_path / "run", f"ckpt_path={stage_one / runs.CHECKPOINT}")
    assert numbers["model"]["trained_as"] == "i0t_async_published"
    assert "async_bn" in numbers["rows"]


def test_a_checkpoint_of_stage_two_is_evaluated_without_its_training_data(world, stage_two, tmp_path):
    overrides = [
        f"ckpt_path={stage_two / runs.CHECKPOINT}",
        "data=embeddings",
        "compare=baseline",
        "report=false",
        f"paths.output_dir={tmp_path / 'run'}",
        f"paths.cache_dir={world / 'cache'}",
    ]
    features = np.random.default_rng(0).normal(size=(30, 32)).astype(np.float32)
    np.savez(tmp_path / "pairs.npz", image=features, text=features + 1, text_image_index=np.arange(30))
    command = runs.prepare_evaluation(Command("eval", [*overrides, f"data.path={tmp_path / 'pairs.npz'}"]))
    numbers = engine.evaluate(compose("eval", command.overrides))
    assert any(name.startswith("test/async_bn/") for name in numbers)


def test_encoders_that_are_not_those_of_the_reducer_are_refused(world, stage_two, tmp_path):
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


def test_a_checkpoint_of_another_architecture_is_refused_by_both_names(world, stage_one, tmp_path):
    other = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "layers": 1}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match=r"made with .*small.json \(LongClip\), but model is .*other.json"):
        train(
            world,
            "i0t_async",
            tmp_path / "run",
            f"ckpt_path={stage_one / runs.CHECKPOINT}",
            f"model.architecture={tmp_path / 'other.json'}",
            "model.pretrained=null",
        )
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_stage_two_encodes_once(world, stage_one, stage_two, tmp_path, monkeypatch):
    from i0t.models.long_clip import LongClip

    def refuse(self, *arguments):
        raise AssertionError("the encoders ran")

    splits = {load_set(index.parent).provenance["split"] for index in (world / "cache").rglob("index.json")}
    assert splits >= {"train", "val"}
    monkeypatch.setattr("i0t.engine.training._finish", lambda *arguments: {})  # which encodes the test split
    monkeypatch.setattr(LongClip, "encode_image", refuse)
    monkeypatch.setattr(LongClip, "encode_text", refuse)
    overrides = arguments(world, "i0t_async", f"ckpt_path={stage_one / runs.CHECKPOINT}")
    command = runs.prepare_training(Command("train", [*overrides, f"paths.output_dir={tmp_path / 'run'}"]))
    engine.train(compose("train", command.overrides))
    state, first = reducer_state(read(tmp_path / "run")), reducer_state(read(stage_two))
    assert all(torch.equal(state[name], first[name]) for name in first)


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
def test_what_does_not_go_together_is_one_line(world, tmp_path, overrides, message):
    overrides = [*arguments(world, "i0t_async", *model_of(world)), *overrides, f"paths.output_dir={tmp_path}"]
    with pytest.raises(ConfigError, match=message):
        engine.train(compose("train", overrides))


def test_without_checkpoint_and_weights_a_stage_says_what_is_missing():
    with pytest.raises(ConfigError, match=r"model\.pretrained must be given"):
        check_command(Command("train", ["experiment=i0t_async"]))
