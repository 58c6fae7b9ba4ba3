"""CC12M with cut captions and the entropy study, small: every experiment runs through to its report."""

import csv
import io
import json
import re

import numpy as np
import pytest
import webdataset as wds
from PIL import Image

from i0t import engine, preparation, runs
from i0t.config import Command, compose

pytestmark = pytest.mark.slow

STUDY = [f"entropy_study.{ending}" for ending in ("json", "csv", "md", "png")]
CLAIMS = 4
# RN50's kind of tower with one block a stage, and a text tower of two layers.
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
FEW = ("evaluation.gap.num_resamples=10", "evaluation.retrieval.num_resamples=10", "trainer.enable_progress_bar=false")


def write_shard(path, first, count):
    """Photos of random colours with captions of eight words."""
    generator = np.random.default_rng(first)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wds.TarWriter(str(path)) as tar:
        for number in range(first, first + count):
            data = io.BytesIO()
            color = generator.integers(0, 255, size=(4, 4, 3), dtype=np.uint8)
            Image.fromarray(color).resize((40, 40)).save(data, format="PNG")
            caption = " ".join(f"w{word}" for word in generator.integers(0, 99, size=8))
            tar.write({"__key__": f"{number:06d}", "png": data.getvalue(), "txt": caption})


@pytest.fixture(scope="module")
def cc12m(tmp_path_factory):
    """Overrides with which the experiments on CC12M are small."""
    folder = tmp_path_factory.mktemp("cc12m")
    for number in range(2):
        write_shard(folder / f"train/{number}.tar", 100 * number, 16)
    write_shard(folder / "val/0.tar", 1000, 20)
    (folder / "small_rn50.json").write_text(json.dumps(SMALL))
    return [
        "trainer=cpu",
        f"data.root={folder}",
        "data.batch_size=8",
        "data.num_workers=0",
        "data.shuffle_buffer=16",
        "scheduler.warmup_steps=1",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "logger=[csv]",
        *FEW,
    ], folder / "small_rn50.json"


def train(folder, *overrides):
    """Trains in this process, as ``train.py`` would; returns ``metrics.json``."""
    command = preparation.prepare_training(Command("train", [*overrides, f"paths.output_dir={folder}"]))
    engine.train(compose("train", command.overrides))
    return json.loads((folder / runs.METRICS_FILE).read_text())


@pytest.fixture(scope="module")
def full_captions(cc12m, tmp_path_factory):
    """A finished small cc12m_full."""
    overrides, architecture = cc12m
    folder = tmp_path_factory.mktemp("full")
    numbers = train(folder, "experiment=cc12m_full", f"model.architecture={architecture}", *overrides)
    return folder, numbers


def check_run(folder, numbers, caption_part):
    assert (numbers["data"]["caption_part"], numbers["data"]["training_caption_part"]) == ("full", caption_part)
    assert 0 < numbers["test/none/gap/rmg"] < 1
    history = json.loads((folder / runs.HISTORY_FILE).read_text())
    assert [step for step, _ in history["val/logit_entropy"]] == [2, 4]
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")


def test_cc12m_full_ends_with_its_report(full_captions):
    check_run(*full_captions, "full")


@pytest.mark.parametrize("part", ["half", "quarter"])
def test_cc12m_with_cut_captions_ends_with_its_report(cc12m, tmp_path, part):
    overrides, architecture = cc12m
    numbers = train(tmp_path, f"experiment=cc12m_{part}", f"model.architecture={architecture}", *overrides)
    check_run(tmp_path, numbers, part)


def check_study(folder, num_pairs, last_step):
    """Curves from the checkpoint's own values on, and one file of every kind."""
    content = json.loads((folder / "entropy_study.json").read_text())
    assert [content["steps"][0], content["steps"][-1]] == [0, last_step]
    assert len(content["repeats"]) == num_pairs
    assert len(content["claims"]) == CLAIMS
    assert content["left_out"] == []
    learnt, frozen = (
        {name: np.array(values) for name, values in content["curves"][arm].items()} for arm in ("learnt", "frozen")
    )
    for name in learnt:
        np.testing.assert_allclose(learnt[name][:, 0], frozen[name][:, 0], rtol=1e-6, err_msg=f"{name} at the start")
        assert np.ptp(learnt[name], axis=1).min() > 0
    assert np.ptp(frozen["temperature"], axis=1).max() == 0, "it stays what the checkpoint brought"
    with (folder / "entropy_study.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * len(learnt)
    with Image.open(folder / "entropy_study.png") as picture:
        assert min(picture.size) > 400
    return learnt, frozen


def test_cc12m_entropy_from_the_shell(cc12m, full_captions, run_script, tmp_path):
    overrides, _ = cc12m
    folder, _ = full_captions
    done = run_script(
        "train.py", "-m", "experiment=cc12m_entropy", f"ckpt_path={folder / runs.CHECKPOINT}", *overrides,
        "trainer.precision=32-true", "optimizer.lr=1e-2", timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs" / "cc12m_entropy").iterdir()
    assert all((sweep / name).is_file() and name in done.stdout for name in STUDY)
    learnt, _ = check_study(sweep, 1, 4)
    jobs = [json.loads((sweep / str(number) / runs.METRICS_FILE).read_text()) for number in (0, 1)]
    assert [job["data"]["training_caption_part"] for job in jobs] == ["quarter"] * 2
    history = json.loads((folder / runs.HISTORY_FILE).read_text())
    for name, values in learnt.items():
        assert values[0, 0] == pytest.approx(history[f"val/{name}"][-1][1], rel=1e-4), "it goes on where full ended"


def test_mad_entropy_from_the_shell(run_script, tmp_path):
    small = [
        "data.limit=12",
        "data.batch_size=32",
        "data.generator_workers=0",
        "trainer.max_steps=4",
        "scheduler.warmup_steps=1",
        *FEW,
    ]
    full = tmp_path / "full"
    overrides = ["data.captions=object_attribute_5", "compare=baseline", "name=mad_full_captions", "report=false"]
    train(full, *overrides, *small, "trainer.val_check_interval=2", "evaluation=[gap,retrieval]")
    done = run_script(
        "train.py", "-m", "experiment=mad_entropy", f"ckpt_path={full / runs.CHECKPOINT}", *small, "seed=0",
        "trainer.val_check_interval=2", "evaluation=[gap,retrieval]", timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs" / "mad_entropy").iterdir()
    check_study(sweep, 1, 4)
    text = done.stdout
    assert len(re.findall(r"^(?:holds|does not hold|undecided): ", text, flags=re.MULTILINE)) == CLAIMS
    assert (sweep / "summary.csv").exists()


@pytest.mark.parametrize("experiment", ["cc12m_entropy", "mad_entropy"])
def test_a_study_without_a_checkpoint_is_one_line(run_script, experiment):
    done = run_script("train.py", "-m", f"experiment={experiment}")
    assert done.returncode == 2
    assert "ckpt_path must be given: ckpt_path=…" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_part_of_captions_that_does_not_exist_is_one_line(cc12m, run_script):
    overrides, architecture = cc12m
    done = run_script(
        "train.py", "experiment=cc12m_full", f"model.architecture={architecture}", *overrides, "data.caption_part=third"
    )
    assert done.returncode == 2
    assert "data.caption_part='third' does not exist; choose one of full, half, quarter" in done.stderr
    assert "Traceback" not in done.stderr
