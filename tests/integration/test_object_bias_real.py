"""MIT-States, UT-Zappos and DCI through the engine to their reports, in small copies of their layouts."""

import csv
import itertools
import json

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F

from i0t import engine, preparation, runs
from i0t.config import Command, compose
from i0t.embedding_store import load_set

from .compositions import LEATHERS, SHOES, STATES, THINGS, make_compositional, photo

pytestmark = pytest.mark.slow

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
NUM_DCI = 24


def make_dci(folder):
    """Annotations, photos and splits of a few images."""
    generator = np.random.default_rng(6)
    (folder / "annotations").mkdir(parents=True)
    for number in range(NUM_DCI):
        photo(folder / "photos" / f"sa_{number}.jpg", generator)
        content = {"image": f"sa_{number}.jpg", "short_caption": f"A thing of colour {number}.", "extra_caption": "So."}
        (folder / "annotations" / f"{number}.json").write_text(json.dumps(content))
    names = [f"{number}.json" for number in range(NUM_DCI)]
    splits = {"train": names[:12], "valid": names[12:18], "test": names[18:]}
    (folder / "splits.json").write_text(json.dumps(splits))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small model's shape and weights, and the three data sets."""
    folder = tmp_path_factory.mktemp("object_bias")
    (folder / "small.json").write_text(json.dumps(SMALL))
    torch.manual_seed(3)
    clip = open_clip.model.CLIP(**{**SMALL, "output_dict": False})
    torch.save(clip.state_dict(), folder / "small.pt")
    make_compositional(folder / "mit_states", STATES, THINGS, " ", ("ripe", "car"))
    make_compositional(folder / "ut_zappos", LEATHERS, SHOES, "_", None)
    make_dci(folder / "dci")
    return folder


def model(world):
    return f"model.architecture={world / 'small.json'}", f"model.pretrained={world / 'small.pt'}"


def evaluate(world, run, data, *more):
    """``eval.py`` with the report; returns numbers, ``metrics.json`` and the encoded test split."""
    overrides = [
        f"data={data}",
        f"data.root={world / data}",
        "data.num_workers=0",
        f"paths.output_dir={run}",
        f"paths.cache_dir={run.parent / (run.name + '_cache')}",
        *more,
    ]
    command = preparation.prepare_evaluation(Command("eval", overrides))
    numbers = engine.evaluate(compose("eval", command.overrides))
    sets = [load_set(folder) for folder in (run.parent / (run.name + "_cache") / "embeddings").glob("*/")]
    (encoded,) = [one for one in sets if one.provenance["split"] == "test"]
    return numbers, json.loads((run / runs.METRICS_FILE).read_text()), encoded


def contrast(features, labels):
    """Mean cosine of two rows of one label minus that of two rows of different labels, pair by pair."""
    rows = F.normalize(features, dim=-1).double().numpy()
    same, other = [], []
    for i, j in itertools.combinations(range(len(rows)), 2):
        (same if labels[i] == labels[j] else other).append(float(rows[i] @ rows[j]))
    return np.mean(same) - np.mean(other)


def test_mit_states_runs_to_its_report_with_object_bias_and_ideal_words_of_the_whole_grid(world, tmp_path):
    numbers, about, encoded = evaluate(
        world,
        tmp_path / "mit",
        "mit_states",
        "model=open_clip",
        *model(world),
        "data.compositions=all",
        "evaluation=[gap,zeroshot,object_bias,ideal_words]",
        *(f"evaluation.{name}.num_resamples=10" for name in ("gap", "zeroshot", "object_bias", "ideal_words")),
    )
    assert encoded.num_images == 24
    assert encoded.num_texts == 9
    assert encoded.captions[4] == "an image of a ripe car"
    row = "test/none"
    object_, attribute = encoded.labels["object"].tolist(), encoded.labels["attribute"].tolist()
    expected = contrast(encoded.image_features, object_) - contrast(encoded.image_features, attribute)
    assert numbers[f"{row}/object_bias/image"] == pytest.approx(expected, abs=1e-5)
    assert numbers[f"{row}/ideal_words/real/attribute"] == numbers[f"{row}/zeroshot/attribute"]
    assert numbers[f"{row}/ideal_words/real/object"] == numbers[f"{row}/zeroshot/object"]
    image, text = (F.normalize(x, dim=-1) for x in (encoded.image_features, encoded.text_features))
    ideal = text.reshape(3, 3, 32).mean(1)
    hits = ((image @ ideal.T).argmax(1) == encoded.labels["attribute"]).double().mean()
    assert numbers[f"{row}/ideal_words/ideal/attribute"] == pytest.approx(float(hits))
    kinds = ("ideal", "ideal_minus_u0", "ideal_plus_gap", "ideal_minus_u0_plus_gap")
    for kind in kinds:
        assert -1 <= numbers[f"{row}/ideal_words/{kind}/cosine"] <= 1
    distances = [numbers[f"{row}/ideal_words/{kind}/distance"] for kind in kinds]
    assert distances[2] < distances[0], "moved across the gap"
    assert not any("ideal words are means over" in note for note in about["rows"]["none"].get("notes", []))
    assert about["data"]["main_object"] == "object"
    lines = list(csv.DictReader((tmp_path / "mit" / "ideal_words.csv").open()))
    assert [line["words"] for line in lines][:2] == ["real words", "ideal words"]
    assert len(lines) == 5
    assert (tmp_path / "mit" / "figures" / "ideal_words.png").stat().st_size > 1000
    assert "Ideal words" in (tmp_path / "mit" / "report.html").read_text()


def test_ut_zappos_runs_to_its_report_before_and_after_a_reducer(world, tmp_path):
    numbers, about, encoded = evaluate(
        world,
        tmp_path / "zappos",
        "ut_zappos",
        "model=open_clip",
        *model(world),
        "gap_reducer=posthoc",
        "gap_reducer.fit_split=train",
        "evaluation=[gap,zeroshot,object_bias,ideal_words]",
        *(f"evaluation.{name}.num_resamples=10" for name in ("gap", "zeroshot", "object_bias", "ideal_words")),
    )
    assert list(about["rows"]) == ["none", "posthoc"]
    assert encoded.captions[0] == "an image of a faux leather ankle boots"
    assert encoded.prompts["object"].class_names == ("ankle boots", "loafers shoes")
    for row in about["rows"]:
        assert numbers[f"test/{row}/ideal_words/real/object"] == numbers[f"test/{row}/zeroshot/object"]
    text_bias = contrast(encoded.text_features, [0, 1, 0, 1]) - contrast(encoded.text_features, [0, 0, 1, 1])
    assert numbers["test/none/object_bias/text"] == pytest.approx(text_bias, abs=1e-5)
    assert numbers["test/posthoc/gap/centroid_distance"] < numbers["test/none/gap/centroid_distance"]
    assert (tmp_path / "zappos" / "report.html").is_file()


def test_dci_is_fine_tuned_from_before_to_after_and_then_measured_elsewhere(world, tmp_path):
    run = tmp_path / "dci"
    overrides = [
        "experiment=dci_finetune",
        "trainer=cpu",
        *model(world),
        f"data.root={world / 'dci'}",
        "data.batch_size=8",
        "data.num_workers=0",
        "trainer.val_check_interval=3",
        "trainer.max_epochs=2",
        "trainer.enable_progress_bar=false",
        "scheduler.warmup_steps=1",
        "logger=[csv]",
        "evaluation.gap.num_resamples=10",
        "evaluation.retrieval.num_resamples=10",
        f"paths.output_dir={run}",
        f"paths.cache_dir={tmp_path / 'cache'}",
    ]
    command = preparation.prepare_training(Command("train", overrides))
    cfg = compose("train", command.overrides)
    assert cfg.optimizer.lr == 1e-5
    assert cfg.optimizer.weight_decay == 0.1
    numbers = engine.train(cfg)
    history = json.loads((run / "history.json").read_text())
    steps = [step for step, _ in history["val/centroid_distance"]]
    assert steps == [0, 3, 6], "before the first step, and after either epoch of 24 images in batches of 8"
    about = json.loads((run / runs.METRICS_FILE).read_text())
    assert any("among those that data.train_on=all trains on" in text for text in about["data"]["warnings"])
    assert 0 <= numbers["test/none/retrieval/i2t_r1"] <= 1
    assert (run / "report.html").is_file()
    before = torch.load(world / "small.pt", weights_only=True)
    after = torch.load(run / runs.CHECKPOINT, weights_only=True)["state_dict"]
    moved = [
        name for name in before if not torch.equal(before[name], after[next(k for k in after if k.endswith(name))])
    ]
    assert "visual.conv1.weight" in moved
    assert "text_projection" in moved
    elsewhere, _, encoded = evaluate(
        world,
        tmp_path / "after",
        "mit_states",
        f"ckpt_path={run / runs.CHECKPOINT}",
        "evaluation=[object_bias]",
        "evaluation.object_bias.num_resamples=10",
    )
    object_, attribute = encoded.labels["object"].tolist(), encoded.labels["attribute"].tolist()
    expected = contrast(encoded.image_features, object_) - contrast(encoded.image_features, attribute)
    assert elsewhere["test/none/object_bias/image"] == pytest.approx(expected, abs=1e-5)
