"""A training step of this project beside a plain PyTorch loop with open_clip's loss.

    python benchmarks/training_loop.py [--batch-sizes 256 768 --steps 20 --rounds 5]

Both start from the same weights and see the same MAD-like batches, which lie in memory, with the same optimizer,
schedule, clipping and bound of the logit scale. Ours is `ClipModule` in a Lightning trainer as `python train.py` builds
it: every callback but checkpoints, the CSV logger every 10 steps, the progress bar drawn. The plain loop logs nothing.
A step is counted from the end of the one before; the first steps of a round, which set up, are left out. Before the
rounds both must have reached the same loss after the same steps.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import measure
import open_clip
import pytorch_lightning as pl
import torch
from measure import Entry
from torch import Tensor, nn
from torch.utils.data import DataLoader

from i0t.callbacks.refit_reducer import RefitReducer
from i0t.config import compose, instantiate
from i0t.data.base import Batch
from i0t.engine.trainer import build_trainer
from i0t.engine.training import quiet
from i0t.models.base import ClipModel
from i0t.module import ClipModule

WARM_UP_STEPS = 3
NUM_BATCHES = 4
TOLERANCE = 1e-3  # of the loss
MILLISECONDS = 1e3
_AFTER_VALIDATION = (pl.callbacks.ModelCheckpoint, RefitReducer)  # of which there is none


class Terminal(io.StringIO):
    """Takes the progress bar, which is drawn for a terminal only."""

    def isatty(self) -> bool:
        """It says it is one."""
        return True


class StepTimes(pl.Callback):
    """When every training step ended, and its loss."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts anew."""
        self.ended: list[float] = []
        self.loss = torch.tensor(0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Reads the clock."""
        self.ended.append(time.perf_counter())
        self.loss = outputs["loss"]


def milliseconds_per_step(ended: list[float]) -> float:
    """From the moments at which the steps ended, without the first ones."""
    return MILLISECONDS * (ended[-1] - ended[WARM_UP_STEPS - 1]) / (len(ended) - WARM_UP_STEPS)


def make_batches(model: ClipModel, batch_size: int) -> list[Batch]:
    """Random images of MAD's size with captions of six words."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(batch_size)
    batches = []
    for _ in range(NUM_BATCHES):
        digits = torch.randint(10, (batch_size,), generator=generator).tolist()
        tokens = model.tokenizer([f"{digit}-large-red" for digit in digits])
        images = torch.randn(batch_size, 3, 28, 28, generator=generator)
        batches.append(Batch(images, tokens, rows, rows, rows))
    return batches


def plain_loop(cfg: Any, model: ClipModel, batches: list[Batch], num_steps: int) -> tuple[float, Tensor]:
    """Milliseconds per step, and the last loss, as a user of open_clip would write it."""
    clip: Any = model.clip
    loss_function = open_clip.ClipLoss()
    clip.train()
    matrices = [p for p in clip.parameters() if p.ndim >= 2]
    others = [p for p in clip.parameters() if p.ndim < 2]
    optimizer = instantiate(cfg.optimizer)([{"params": matrices}, {"params": others, "weight_decay": 0.0}])
    schedule = instantiate(cfg.scheduler)(optimizer, num_steps=num_steps)
    ended = []
    for step in range(num_steps):
        batch = batches[step % len(batches)]
        image = nn.functional.normalize(clip.encode_image(batch.images), dim=-1)
        text = nn.functional.normalize(clip.encode_text(batch.tokens), dim=-1)
        loss = loss_function(image, text, clip.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), cfg.trainer.gradient_clip_val)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(max=torch.tensor(model.max_logit_scale).log().item())
        ended.append(time.perf_counter())
    return milliseconds_per_step(ended), loss.detach()


def our_loop(cfg: Any, model: ClipModel, batches: list[Batch], num_steps: int) -> tuple[float, Tensor]:
    """The same with our module in Lightning, logging on."""
    module = ClipModule(
        model,
        instantiate(cfg.gap_reducer, dim=model.embed_dim),
        instantiate(cfg.loss),
        optimizer=instantiate(cfg.optimizer),
        scheduler=instantiate(cfg.scheduler),
        config={},
    )
    times = StepTimes()
    built = [instantiate(node) for node in cfg.callbacks.values() if node]
    callbacks = [callback for callback in built if not isinstance(callback, _AFTER_VALIDATION)]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"max_steps": num_steps, "limit_val_batches": 0, "default_root_dir": folder}
        logger = instantiate(cfg.logger.csv, save_dir=folder)
        trainer = build_trainer(
            cfg.trainer, **settings, enable_checkpointing=False, callbacks=[*callbacks, times], logger=[logger]
        )
        with contextlib.redirect_stdout(terminal := Terminal()):
            trainer.fit(module, train_dataloaders=DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    assert "train" in terminal.getvalue(), "no progress bar was drawn"
    return milliseconds_per_step(times.ended), times.loss.detach()


Loop = Callable[[Any, ClipModel, list[Batch], int], tuple[float, Tensor]]


def run(loop: Loop, cfg: Any, model: ClipModel, batches: list[Batch], num_steps: int) -> float:
    """One round from the given weights."""
    return loop(cfg, copy.deepcopy(model), batches, num_steps)[0]


def compare(cfg: Any, model: ClipModel, batch_size: int, options: Namespace) -> Entry:
    """Both loops at one batch size."""
    batches = make_batches(model, batch_size)
    # In the first steps rounding has not been amplified yet.
    steps = WARM_UP_STEPS + 1
    ours, plain = (float(loop(cfg, copy.deepcopy(model), batches, steps)[1]) for loop in (our_loop, plain_loop))
    if not abs(ours - plain) <= TOLERANCE * plain:
        raise SystemExit(f"the loops differ: after {steps} steps their losses are {ours} and {plain}")
    loops: dict[str, Loop] = {"ours": our_loop, "plain": plain_loop}
    calls = {
        name: partial(run, loop, cfg, model, batches, options.steps + WARM_UP_STEPS) for name, loop in loops.items()
    }
    times = measure.alternate(calls, rounds=options.rounds, warm_up=0, timed=False)
    return Entry(
        name=f"step of {batch_size} pairs",
        unit="ms",
        ours=times["ours"],
        peers={"plain loop, open_clip's ClipLoss": times["plain"]},
        note=f"mad_tiny, {torch.get_num_threads()} threads, csv and progress bar on; {options.steps} steps a round; "
        f"equal loss after {WARM_UP_STEPS + 1} steps",
        target="<= 1.1",
    )


def main() -> None:
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=(256, 768))
    parser.add_argument("--steps", type=int, default=20, help="of each loop in a round")
    options = measure.parse(parser, quick={"batch_sizes": (16,), "steps": 4, "rounds": 2})
    quiet()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose("train", ["logger=[csv]", "scheduler.warmup_steps=2", f"paths.output_dir={folder}"])
        pl.seed_everything(0, verbose=False)
        model = instantiate(cfg.model)
        entries = [compare(cfg, model, batch_size, options) for batch_size in options.batch_sizes]
    measure.finish(entries, options)


if __name__ == "__main__":
    main()
