"""A small world for the I0T recipe: a Long-CLIP of two layers, photos under the names of published data sets, and runs.

Names begin with ``recipe``: the files beside this one have worlds of their own.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from i0t import engine, preparation, runs
from i0t.config import Command, compose
from i0t.data.sharegpt4v import NUM_VALIDATION

ROOT = Path(__file__).resolve().parents[2]
NUM_TRAIN = 24
NUM_PHOTOS = 16  # of a split of Flickr30k, COCO and Flickr8k
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
ANNOTATIONS = "share-captioner_coco_lcs_sam_1246k_1107.json"
CLASSES = ("Acadian_Flycatcher", "Blue_Jay", "Canada_Goose", "Dunlin")
COLORS = ("red", "green", "blue", "brown", "white", "black", "grey", "pink")


def photo(path, generator):
    """A photo of random colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = generator.integers(0, 255, size=(4, 4, 3), dtype=np.uint8)
    Image.fromarray(color).resize((40, 40)).save(path)


def caption(generator):
    """A short caption."""
    first, second = generator.choice(COLORS, size=2)
    return f"A {first} thing beside {generator.integers(99)} {second} ones ."


def make_sharegpt4v(folder):
    """Long captions: the published thousand for validation, and a few to train on."""
    generator = np.random.default_rng(0)
    entries = []
    for i in range(NUM_VALIDATION + NUM_TRAIN):
        name = f"coco/train2017/{i:012d}.jpg"
        if i < NUM_TRAIN or i >= NUM_VALIDATION:
            photo(folder / name, generator)
        text = f"Image {i} shows a thing of colour {generator.integers(99)}. It is a fine thing. " * 3
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
        entries.append({"id": f"{i:012d}", "image": name, "conversations": turns})
    (folder / ANNOTATIONS).write_text(json.dumps(entries))


def make_karpathy(folder, name, images, seed):
    """Flickr30k or COCO as Karpathy's file has them, five captions each."""
    generator = np.random.default_rng(seed)
    entries = []
    for split in ("train", "val", "test"):
        for i in range(NUM_PHOTOS):
            photo(folder / images / f"{split}_{i}.jpg", generator)
            sentences = [{"raw": caption(generator)} for _ in range(5)]
            entries.append({"filename": f"{split}_{i}.jpg", "split": split, "sentences": sentences, "imgid": i})
    (folder / f"dataset_{name}.json").write_text(json.dumps({"images": entries, "dataset": name}))


def make_flickr8k(folder):
    """Flickr8k with both files of judgements: every test photo with its own caption and with three of others."""
    generator = np.random.default_rng(8)
    tokens, expert, crowd = [], [], []
    for split in ("train", "dev", "test"):
        names = [f"{split}_{i}.jpg" for i in range(NUM_PHOTOS)]
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
        for name in names:
            photo(folder / "images" / name, generator)
            tokens += [f"{name}#{k}\t{caption(generator)}" for k in range(5)]
    for i in range(NUM_PHOTOS):
        for other in range(4):
            of = f"test_{(i + other) % NUM_PHOTOS}.jpg#{other}"
            ratings, yes = generator.integers(1, 5, size=3), generator.integers(0, 4)
            expert.append("\t".join([f"test_{i}.jpg", of, *map(str, ratings)]))
            crowd.append(f"test_{i}.jpg\t{of}\t{yes / 3:.6f}\t{yes}\t{3 - yes}")
    (folder / "Flickr8k.token.txt").write_text("\n".join(tokens) + "\n")
    (folder / "ExpertAnnotations.txt").write_text("\n".join(expert) + "\n")
    (folder / "CrowdFlowerAnnotations.txt").write_text("\n".join(crowd) + "\n")


def make_birdsnap(folder):
    """Four classes of photos in one folder each."""
    generator = np.random.default_rng(9)
    for name in CLASSES:
        for i in range(5):
            photo(folder / "test" / name / f"{i}.jpg", generator)


class RecipeWorld(NamedTuple):
    """Folder with ``small.json``, ``small.pt``, data sets in ``data``, a cache and runs."""

    folder: Path

    @property
    def model(self):
        """Overrides that name the small Long-CLIP's weights."""
        return f"model.architecture={self.folder / 'small.json'}", f"model.pretrained={self.folder / 'small.pt'}"

    def checkpoint(self, name):
        """The checkpoint of a run below ``runs``."""
        return self.folder / "runs" / name / runs.CHECKPOINT

    def arguments(self, experiment, *more):
        """Overrides with which an experiment of ``train.py`` is small."""
        return [
            f"experiment={experiment}",
            "trainer=cpu",
            f"data.root={self.folder / 'data' / 'sharegpt4v'}",
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
            *self.few_resamples("gap", "retrieval"),
            "report=false",
            f"paths.cache_dir={self.folder / 'cache'}",
            *more,
        ]

    @staticmethod
    def few_resamples(*evaluations):
        """Bootstraps of ten samples."""
        return [f"evaluation.{name}.num_resamples=10" for name in evaluations]

    def train(self, experiment, folder, *more):
        """Runs a small form of an experiment in this process, as ``train.py`` would; returns its ``metrics.json``."""
        overrides = [*self.arguments(experiment, *more), f"paths.output_dir={folder}"]
        command = preparation.prepare_training(Command("train", overrides))
        engine.train(compose("train", command.overrides))
        return json.loads((folder / runs.METRICS_FILE).read_text())

    def evaluate(self, folder, *overrides):
        """Runs an evaluation in this process, as ``eval.py`` would; returns its ``metrics.json``."""
        common = ["report=false", f"paths.cache_dir={self.folder / 'cache'}", f"paths.output_dir={folder}"]
        command = preparation.prepare_evaluation(Command("eval", [*overrides, *common]))
        engine.evaluate(compose("eval", command.overrides))
        return json.loads((folder / runs.METRICS_FILE).read_text())

    def shell(self, script, *arguments, cwd, timeout=300):
        """Runs ``train.py``, ``eval.py`` or ``-m <module>`` as a user would, with data sets and cache of the world."""
        program = ["-m", script] if not script.endswith(".py") else [str(ROOT / script)]
        data = {"I0T_DATA_DIR": str(self.folder / "data"), "I0T_CACHE_DIR": str(self.folder / "cache")}
        return subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **data},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def sweep(self, name, *arguments, cwd, script="eval.py"):
        """Runs a sweep to its end; returns its folder and the lines of its ``summary.csv``."""
        done = self.shell(script, "-m", f"sweep={name}", *arguments, cwd=cwd)
        assert done.returncode == 0, done.stderr
        assert "no figure over the jobs" not in done.stdout
        (folder,) = (cwd / "outputs" / name).iterdir()
        with (folder / "summary.csv").open() as file:
            lines = list(csv.DictReader(file))
        for line in lines:  # of every job, what the job itself says
            numbers = json.loads((folder / line["job"] / runs.METRICS_FILE).read_text())
            assert float(line["test/none/gap/rmg"] or "nan") == pytest.approx(
                numbers.get("test/none/gap/rmg", float("nan")), nan_ok=True
            )
        return folder, lines


@pytest.fixture(scope="session")
def recipe(tmp_path_factory):
    """The world, without any run."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "small.json").write_text(json.dumps(SMALL))
    torch.manual_seed(3)
    clip = open_clip.model.CLIP(**{**SMALL, "output_dict": False})
    torch.save(clip.state_dict(), folder / "small.pt")
    data = folder / "data"
    make_sharegpt4v(data / "sharegpt4v")
    make_karpathy(data / "flickr30k", "flickr30k", "flickr30k-images", seed=30)
    make_karpathy(data / "coco", "coco", "val2014", seed=14)
    make_flickr8k(data / "flickr8k")
    make_birdsnap(data / "birdsnap")
    return RecipeWorld(folder)


@pytest.fixture(scope="session")
def stage_one(recipe):
    """The folder of a finished stage 1."""
    folder = recipe.folder / "runs" / "stage1"
    recipe.train("i0t_stage1", folder, *recipe.model)
    return folder


@pytest.fixture(scope="session")
def stage_two(recipe, stage_one):
    """The folder of a finished stage 2 from the cache."""
    folder = recipe.folder / "runs" / "async"
    recipe.train("i0t_async", folder, f"ckpt_path={stage_one / runs.CHECKPOINT}")
    return folder
