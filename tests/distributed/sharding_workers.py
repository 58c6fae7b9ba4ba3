"""Trainings whose weights are cut over the ranks, beside the same ones under DDP or in one process."""

import math
from types import SimpleNamespace

import pytorch_lightning as pl
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from i0t.data.base import Batch, ImageTextDataModule
from i0t.distributed import rank, world_size
from i0t.engine.sharding import ShardedStrategy, global_norm, sharded_units
from i0t.gap_reducers.async_bn import AsyncBatchNorm
from i0t.losses.clip import ClipLoss
from i0t.models.base import ClipModel
from i0t.module import ClipModule

from .pool_environment import ddp_in_pool, pool_environment

_WIDTH, _WORDS, _DIM, _GLOBAL_BATCH = 8, 5, 6, 16
SHARDED_OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9),
    "adamw_fused": lambda groups: torch.optim.AdamW(groups, lr=1e-3, fused=True),
    "adamw_foreach": lambda groups: torch.optim.AdamW(groups, lr=1e-3, foreach=True),
    "adamw_plain": lambda groups: torch.optim.AdamW(groups, lr=1e-3, foreach=False),
}


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 32), nn.Linear(32, _WIDTH)

    def forward(self, x):
        return x + self.outer(nn.functional.gelu(self.inner(self.norm(x))))


class _Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(_Block() for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class _Towers(nn.Module):
    """As open_clip's: blocks in lists, bare parameters beside them, methods that are not ``forward``."""

    def __init__(self):
        super().__init__()
        self.image, self.text = _Layers(), _Layers()
        self.image_projection, self.text_projection = (nn.Parameter(torch.randn(_WIDTH, _DIM)) for _ in range(2))
        self.token_embedding = nn.Embedding(40, _WIDTH)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(90.0)))

    def encode_image(self, images):
        return self.image(images) @ self.image_projection

    def encode_text(self, tokens):
        return self.text(self.token_embedding(tokens).mean(1)) @ self.text_projection


class _From:
    """Rows from where an interrupted epoch stopped; its length is the whole epoch's, as Lightning counts."""

    def __init__(self, first, length):
        self.first, self.length = first, length

    def __iter__(self):
        return iter(range(self.first, self.length))

    def __len__(self):
        return self.length


class _Data(ImageTextDataModule):
    """This rank's share of every global batch; for validation, ranks have different numbers of batches."""

    def __init__(self, steps, val_batches):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.batches, self.val_batches = [], []
        for _ in range(steps):
            images = torch.randn(_GLOBAL_BATCH, _WIDTH, generator=generator)
            tokens = torch.randint(0, 40, (_GLOBAL_BATCH, _WORDS), generator=generator)
            per_rank = _GLOBAL_BATCH // world_size()
            own = slice(rank() * per_rank, (rank() + 1) * per_rank)
            self.batches.append(_batch(images[own], tokens[own], torch.arange(per_rank)))
        for number in range(val_batches):
            images = torch.randn(4, _WIDTH, generator=generator)
            tokens = torch.randint(0, 40, (4, _WORDS), generator=generator)
            if number % world_size() == rank():
                self.val_batches.append(_batch(images, tokens, torch.arange(4) + 4 * number))

    def train_dataloader(self):
        return DataLoader(self.batches, batch_size=None, sampler=_From(self.first_batch, len(self.batches)))

    def val_dataloader(self):
        return DataLoader(self.val_batches, batch_size=None)

    def predict_dataloader(self):
        return self.val_dataloader()


def _batch(images, tokens, sample_id):
    return Batch(images, tokens, torch.arange(len(images)), sample_id, sample_id)


class _Watch(pl.Callback):
    """Counts the parts that are cut, and encodes before each validation, as a reducer's refit does."""

    def __init__(self):
        self.in_training, self.between, self.in_validation, self.refit = [], [], [], []

    def on_before_backward(self, trainer, pl_module, loss):
        self.between.append(sum(isinstance(p, DTensor) for p in pl_module.parameters()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.in_training.append(sum(isinstance(p, DTensor) for p in pl_module.parameters()))

    def on_validation_start(self, trainer, pl_module):
        self.in_validation.append(sum(isinstance(p, DTensor) for p in pl_module.parameters()))
        with torch.no_grad():
            for batch in trainer.datamodule.val_batches:
                self.refit.append(float(pl_module.model.encode_text(batch.tokens).sum()))


def _strategy(kind):
    if kind == "one":
        return "auto"
    if kind == "ddp":
        return ddp_in_pool()
    reshard = kind == "sharded"
    strategy = ShardedStrategy(reshard_after_forward=reshard, min_parameters=100, timeout_minutes=1)
    strategy.cluster_environment = pool_environment()
    return strategy


def train_sharded(kind, optimizer_name, settings, folder, steps, ckpt_path):
    """A training with clipping, uneven validation and a checkpoint; returns what it left and saw.

    Args:
        kind: one, ddp, sharded, or sharded_kept (without resharding after the forward pass).
        optimizer_name: Of ``SHARDED_OPTIMIZERS``.
        settings: Further arguments of the trainer; ``frozen`` for a locked image tower.
        folder: For the checkpoint.
        steps: At which to stop.
        ckpt_path: To go on from.
    """
    torch.manual_seed(rank() if kind.startswith("sharded") else 0)  # the first rank's weights count
    model = ClipModel(_Towers(), transform=None, tokenizer=None, embed_dim=_DIM, max_logit_scale=100.0)
    if settings.pop("frozen", False):
        model.clip.image.requires_grad_(False)
    module = ClipModule(
        model,
        AsyncBatchNorm(_DIM, loss=ClipLoss(), fit_split="train"),
        ClipLoss(),
        optimizer=SHARDED_OPTIMIZERS[optimizer_name],
        config={},
    )
    watch = _Watch()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world_size() if kind != "one" else 1,
        strategy=_strategy(kind),
        max_steps=steps,
        val_check_interval=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
        callbacks=[watch],
        **settings,
    )
    trainer.fit(module, datamodule=_Data(8 * settings.get("accumulate_grad_batches", 1), 5), ckpt_path=ckpt_path)
    trainer.save_checkpoint(f"{folder}/{kind}.ckpt")
    features = trainer.predict(module, dataloaders=_Data(0, 5).predict_dataloader())
    trainer.save_checkpoint(f"{folder}/{kind}.ckpt")  # still whole after an encoding pass
    return SimpleNamespace(
        units=len(sharded_units(module)),
        in_training=watch.in_training,
        between=watch.between,
        in_validation=watch.in_validation,
        refit=watch.refit,
        metrics={name: float(value) for name, value in trainer.callback_metrics.items()},
        features=torch.cat([f.image_features for f in features]),
        scale=float(module.model.logits()[0].detach()),
    ).__dict__


def cut_norm(parts, whole):
    """The norm of a gradient that is cut over the ranks together with one that is whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world_size(),))
    return float(global_norm([*(distribute_tensor(part, mesh, [Shard(0)]) for part in parts), *whole]))
