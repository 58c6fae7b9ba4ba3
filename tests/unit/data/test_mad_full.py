"""`experiment=mad_full`, small: from IDX files to its report."""

import json
import struct

import numpy as np
import pytest

from i0t import engine
from i0t.config import compose


def write_mnist(folder, stem, num, seed):
    """Strokes in the style of digits, as many of each label: a vertical bar at a place of the label's own."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num, dtype=np.uint8) % 10
    images = np.zeros((num, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top = int(generator.integers(4, 8))
        image[top : top + 16, 4 + 2 * label : 7 + 2 * label] = 255
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"{stem}-{kind}-ubyte").write_bytes(head + array.tobytes())


def test_the_experiment_trains_on_all_digits_and_draws_one_variant_of_each():
    cfg = compose("train", ["paths.output_dir=out", "experiment=mad_full", "data.root=mnist"])
    assert (cfg.data.source, cfg.data.variants, cfg.data.val_digits) == ("mnist", "one", 0)
    assert list(cfg.compare) == ["none"]


@pytest.mark.slow
def test_the_experiment_runs_through_to_its_report(tmp_path):
    write_mnist(tmp_path, "train", 60, seed=0)
    write_mnist(tmp_path, "t10k", 40, seed=1)
    small = ["data.eval_digits=12", "data.batch_size=20", "trainer.max_steps=6", "trainer.val_check_interval=3"]
    small.append("scheduler.warmup_steps=2")
    few = [f"evaluation.{name}.num_resamples=10" for name in ("gap", "retrieval", "zeroshot", "object_bias")]
    cfg = compose(
        "train",
        [
            "experiment=mad_full",
            f"data.root={tmp_path}",
            f"data.cache_dir={tmp_path / 'cache'}",
            f"paths.output_dir={tmp_path / 'run'}",
            "logger=[csv]",
            "data.generator_workers=0",
            *small,
            *few,
        ],
    )
    engine.train(cfg)
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (found["data"]["num_digits"], found["data"]["num_images"], found["data"]["source"]) == (12, 288, "mnist")
    assert found["data"]["caption_bits"] < found["data"]["image_bits"]
    assert 0 <= found["test/none/zeroshot/digit"] <= 1
    assert found["test/none/retrieval/i2t_r1"] > 0
    assert "<html" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    made = sorted(np.load(path).shape[0] for path in (tmp_path / "cache").glob("*/images.npy"))
    assert made == [6, 12, 60], "a tenth of train for val, the sample of test, and all of train"
