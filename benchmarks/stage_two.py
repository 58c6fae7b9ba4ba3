"""Stage 2 of I0T (async_bn on frozen encoders) from cached embeddings, beside training through the encoders.

Both ways train with the same module, loss, optimizer, trainer and callbacks as ``experiment=i0t_async``, on ViT-B/32
with Long-CLIP's 248 tokens (random weights: time does not depend on them) and batches of 64. Through the encoders:
photos are decoded and encoded at every step. From the cache: features are read, 118,000 pairs an epoch. The two
alternate in one process; a round through the encoders is a few steps, since one takes seconds on a CPU. Also run: the
reducer's own ``fit`` on the same features, which is what a row of a comparison does.

    python benchmarks/stage_two.py
    python benchmarks/stage_two.py --rounds 5 --pairs 118000 --steps 3
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pytorch_lightning as pl
import torch
from measure import Entry
from PIL import Image

from i0t.config import compose, instantiate
from i0t.data.cached_pairs import CachedPairs
from i0t.embeddings import EmbeddingSet
from i0t.engine.trainer import build_trainer
from i0t.engine.training import quiet
from i0t.models.precomputed import Precomputed
from i0t.module import ClipModule

DIM = 512
ANNOTATIONS = "share-captioner_coco_lcs_sam_1246k_1107.json"
SENTENCE = "A person in a dark coat crosses a wet street between two parked cars while a dog looks on. "


class StepTimes(pl.Callback):
    """When every training step ended."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self.times = [time.perf_counter()]

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: Any) -> None:
        """Reads it."""
        self.times.append(time.perf_counter())

    def pairs_per_second(self, batch_size: int) -> float:
        """Over all steps but the first, which starts workers and allocates."""
        return batch_size * (len(self.times) - 2) / (self.times[-1] - self.times[1])


def make_sharegpt4v(folder: Path, num_train: int) -> None:
    """Photos of COCO's size with captions of about 150 tokens; the first thousand are validation and never read."""
    generator = np.random.default_rng(0)
    (folder / "coco").mkdir(parents=True)
    entries = []
    for i in range(1000 + num_train):
        if i >= 1000:
            coarse = Image.fromarray(generator.integers(0, 255, size=(30, 40, 3), dtype=np.uint8))
            coarse.resize((640, 480)).save(folder / "coco" / f"{i}.jpg")
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": SENTENCE * 8}]
        entries.append({"id": str(i), "image": f"coco/{i}.jpg", "conversations": turns})
    (folder / ANNOTATIONS).write_text(json.dumps(entries))


def cached_set(num_pairs: int, name: str) -> EmbeddingSet:
    """Features as two cones, one caption per image."""
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(num_pairs, DIM, generator=generator) + shift for shift in (0.5, -0.5))
    return EmbeddingSet.from_index(image, text, torch.arange(num_pairs), provenance={"data": name})


def build(cfg: Any) -> tuple[ClipModule, Any]:
    """The frozen module and the data module of ``experiment=i0t_async``."""
    data, model = instantiate(cfg.data), instantiate(cfg.model)
    model.freeze_all()
    data.bind(transform=model.transform, tokenizer=model.tokenizer, train_transform=model.train_transform)
    node = dict(cfg.gap_reducer)
    node.pop("fit_data", None)
    optimizer, scheduler = instantiate(cfg.optimizer), instantiate(cfg.scheduler)
    module = ClipModule(
        model,
        instantiate(node, dim=model.embed_dim),
        instantiate(cfg.loss),
        optimizer=optimizer,
        scheduler=scheduler,
        config={},
        decay_all=cfg.decay_all,
    )
    return module, data


def cached_module(module: ClipModule) -> ClipModule:
    """The same on cached features."""
    return ClipModule(
        Precomputed(module.model),
        module.gap_reducer,
        module.loss,
        optimizer=module.make_optimizer,
        scheduler=module.make_scheduler,
        config={},
        decay_all=module.decay_all,
    )


def timed(cfg: Any, module: ClipModule, data: Any, num_steps: int, batch_size: int) -> float:
    """Pairs per second of a training without validation."""
    times = StepTimes()
    callbacks = [instantiate(cfg.callbacks[name]) for name in ("history", "graceful_stop", "learning_rate")]
    settings = {"max_steps": num_steps, "max_epochs": -1, "limit_val_batches": 0}
    logger = instantiate(cfg.logger.csv)
    trainer = build_trainer(cfg.trainer, **settings, callbacks=[*callbacks, times], logger=[logger])
    trainer.fit(module, train_dataloaders=data.train_dataloader())
    return times.pairs_per_second(batch_size)


def main() -> None:
    """Runs the rounds and prints medians, ranges and the ratio."""
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--pairs", type=int, default=118_000)
    parser.add_argument("--steps", type=int, default=3, help="through the encoders, in a round")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = measure.parse(parser, quick={"pairs": 12, "batch_size": 2, "rounds": 1, "steps": 2})
    batch_size, num_steps = arguments.batch_size, arguments.pairs // arguments.batch_size
    quiet()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    with tempfile.TemporaryDirectory() as folder:
        make_sharegpt4v(Path(folder) / "data", batch_size * (arguments.steps + 2))
        cfg = compose(
            "train",
            [
                "experiment=i0t_async",
                "trainer=cpu",
                "model.pretrained=null",
                f"data.root={folder}/data",
                "data.only_present=true",
                f"data.batch_size={batch_size}",
                f"gap_reducer.batch_size={batch_size}",
                "logger=[csv]",
                "trainer.enable_progress_bar=false",
                "scheduler.warmup_steps=1",
                f"paths.output_dir={folder}/run",
            ],
        )
        module, data = build(cfg)
        features = cached_set(arguments.pairs, "cached")
        pairs = CachedPairs({"train": features, "val": features}, batch_size=batch_size, train_seed=0)
        through, cached, fits = [], [], []
        for _ in range(arguments.rounds):
            through.append(timed(cfg, module, data, arguments.steps + 1, batch_size))
            cached.append(timed(cfg, cached_module(module), pairs, num_steps, batch_size))
            start = time.perf_counter()
            module.gap_reducer.fit(features)
            epochs = int(module.gap_reducer.epochs)  # type: ignore[arg-type]
            fits.append(epochs * (num_steps * batch_size) / (time.perf_counter() - start))
    measure.finish(entries_of(arguments, through, cached, fits), arguments)


def entries_of(arguments: Namespace, through: list[float], cached: list[float], fits: list[float]) -> list[Entry]:
    """Rates beside training through the encoders."""
    size = f"batches of {arguments.batch_size}, epochs of {arguments.pairs:,} pairs"
    note = f"ViT-B/32, 248 tokens, {torch.get_num_threads()} threads; {size}"
    peers = {"through the encoders": through}
    return [
        Entry(name="training from the cache", unit="pairs/s", ours=cached, peers=peers, note=note, target=">= 1000"),
        Entry(name="the reducer's own fit", unit="pairs/s", ours=fits, peers=peers, note=note),
    ]


if __name__ == "__main__":
    main()
