"""Small photos, a small model with CLIP's own tokenizer, and configs over both."""

import json

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from i0t.config import compose, conf_dir
from i0t.models.open_clip import OpenClip

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}
SIZES = {"train": 8, "dev": 4, "test": 5}
LONG = "a very long caption " * 5


@pytest.fixture(scope="session")
def architecture(tmp_path_factory):
    """A file of open_clip's form: texts of 16 tokens."""
    file = tmp_path_factory.mktemp("architecture") / "engine-tiny.json"
    file.write_text(json.dumps(ARCHITECTURE))
    return file


@pytest.fixture(scope="session")
def build(architecture):
    """Builds the small model with random weights, and options changed."""
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / "open_clip.yaml"))
    shipped = {key: value for key, value in node.items() if key != "_target_"}

    def model(seed=0, **changed):
        torch.manual_seed(seed)
        return OpenClip(**shipped | {"architecture": str(architecture), "pretrained": None} | changed)

    return model


@pytest.fixture(scope="session")
def flickr8k(tmp_path_factory):
    """Flickr8k's files with two captions an image; the first one is too long in the first three images of a split."""
    root, lines = tmp_path_factory.mktemp("flickr8k"), []
    (root / "Flicker8k_Dataset").mkdir()
    generator = np.random.default_rng(0)
    for split, count in SIZES.items():
        names = [f"{1000 + i}_{split}.jpg" for i in range(count)]
        (root / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            pixels = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((32, 32)).save(root / "Flicker8k_Dataset" / name)
            lines += [f"{name}#0\t{LONG if i < 3 else ''}photo {i}", f"{name}#1\tthing {i} of {split}"]
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def composed(flickr8k, architecture):
    """Small training runs, by the choice of their gap reducer: composing takes longer than most tests."""
    overrides = [
        "data=flickr8k",
        f"data.root={flickr8k}",
        "data.batch_size=4",
        "data.num_workers=0",
        "model=open_clip",
        f"model.architecture={architecture}",
        "model.pretrained=null",
        "scheduler.warmup_steps=0",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "trainer.enable_progress_bar=false",
        "logger=[]",
        "callbacks.learning_rate=null",
        "evaluation=gap",
        "evaluation.gap.num_resamples=5",
        "compare=baseline",
        "report=false",
        "paths.output_dir=set later",
        "paths.cache_dir=set later",
    ]
    return {name: compose("train", [*overrides, f"gap_reducer={name}"]) for name in ("none", "async_bn")}


@pytest.fixture
def training_config(composed, tmp_path):
    """The config of a small training run, with values changed."""

    def config(*changes, gap_reducer="none"):
        cfg = composed[gap_reducer].copy()
        paths = [f"paths.output_dir={tmp_path / 'run'}", f"paths.cache_dir={tmp_path / 'cache'}"]
        for change in [*paths, *changes]:
            key, _, value = change.partition("=")
            OmegaConf.update(cfg, key, yaml.safe_load(value))
        return cfg

    return config
