"""What MAD's image tower reaches when it is trained on the labels: the ceiling beside the zero-shot accuracies.

The same tower, images, batch size, number of steps, optimizer and schedule as `python train.py`, with one linear head
per factor in place of the captions.

Usage:
    python benchmarks/mad_supervised.py [overrides of train.py, e.g. seed=1]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from i0t.config import compose, instantiate
from i0t.data.base import Batch
from i0t.data.mad import MadDataModule
from i0t.metrics.functional import bootstrap_interval


def main(overrides: list[str]) -> dict[str, float]:
    """Trains the tower on all labels at once and prints its accuracy per factor with a 95 % interval."""
    cfg = compose("train", [f"paths.output_dir={tempfile.gettempdir()}", *overrides])
    torch.manual_seed(cfg.seed)
    data, model = instantiate(cfg.data), instantiate(cfg.model)
    data.bind(transform=model.transform, tokenizer=model.tokenizer)
    classes = {name: len(values) for name, values in data.describe("train").class_names.items()}
    heads = nn.ModuleDict({name: nn.Linear(model.embed_dim, count) for name, count in classes.items()})
    tower = model.clip.visual
    train(cfg, data, tower, heads)
    accuracies = evaluate(data, tower, heads)
    for name, found in accuracies.items():
        Console().print(f"{name:10s} {found['mean']:.3f}  [{found['low']:.3f}, {found['high']:.3f}]", highlight=False)
    return {name: float(found["mean"]) for name, found in accuracies.items()}


def train(cfg: DictConfig, data: MadDataModule, tower: nn.Module, heads: nn.ModuleDict) -> None:
    """As many steps as ``train.py``, on the same batches."""
    parameters = [*tower.parameters(), *heads.parameters()]
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    optimizer = instantiate(cfg.optimizer)([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])
    schedule = instantiate(cfg.scheduler)(optimizer, num_steps=cfg.trainer.max_steps)
    loader = data.train_dataloader()
    batches = endless(loader)
    tower.train()
    for _ in track(range(cfg.trainer.max_steps), "training on labels"):
        batch = next(batches)
        features = tower(batch.images)
        labels = torch.stack(list(batch.labels.values()), dim=1)
        loss = sum(F.cross_entropy(head(features), labels[:, i]) for i, head in enumerate(heads.values()))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, cfg.trainer.gradient_clip_val)
        optimizer.step()
        schedule.step()


def endless(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """Batches of epoch after epoch."""
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


@torch.no_grad()
def evaluate(data: MadDataModule, tower: nn.Module, heads: nn.ModuleDict) -> dict[str, dict[str, torch.Tensor]]:
    """Accuracy on the test split, resampling source digits."""
    tower.eval()
    features = torch.cat([tower(batch.images) for batch in data.eval_dataloader("test")])
    info = data.describe("test")
    hits = {name: (head(features).argmax(1) == info.labels[name]).double() for name, head in heads.items()}
    return {name: bootstrap_interval(hit, info.groups) for name, hit in hits.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
