"""Whole trainings by Lightning, in every process of the gloo pool or, with a world of one, in the test's own."""

import math

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from i0t.data.base import Batch
from i0t.distributed import rank, world_size
from i0t.gap_reducers.async_bn import AsyncBatchNorm
from i0t.gap_reducers.layer_norm import LayerNorm
from i0t.gap_reducers.mean_shift import MeanShift
from i0t.gap_reducers.none import NoReducer
from i0t.gap_reducers.posthoc import Posthoc
from i0t.losses.clip import ClipLoss
from i0t.losses.cloob import CloobLoss
from i0t.losses.cyclip import CyClipLoss
from i0t.losses.long_clip import LongClipLoss
from i0t.losses.siglip import SigLipLoss
from i0t.losses.uniformity_alignment import UniformityAlignmentLoss
from i0t.models.base import ClipModel
from i0t.module import ClipModule

from .pool_environment import ddp_in_pool

_PIXELS, _WORDS, _DIM, _GLOBAL_BATCH, _STEPS = 20, 20, 16, 32, 20

TRAINING_LOSSES = {
    "clip": lambda: ClipLoss(label_smoothing=0.1),
    "cyclip": lambda: CyClipLoss(),
    "siglip": lambda: SigLipLoss(),
    "cloob": lambda: CloobLoss(inv_tau=5.0, scale_hopfield=3.0),
    "uniformity_alignment": lambda: UniformityAlignmentLoss(cross_uniformity_weight=0.5),
    # Its components are those of each device's own batch: with so many, that batch comes back whole on any.
    "long_clip": lambda: LongClipLoss(num_components=_DIM),
}
TRAINING_REDUCERS = {
    "none": lambda: NoReducer(_DIM),
    "posthoc": lambda: Posthoc(_DIM, fit_split="train"),
    "mean_shift": lambda: MeanShift(_DIM, fit_split="train"),
    "async_bn": lambda: AsyncBatchNorm(_DIM, loss=ClipLoss(), fit_split="train"),
    "layer_norm": lambda: LayerNorm(_DIM),
}


class _Towers(nn.Module):
    """Two small towers, with all of CLIP's parameters."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Linear(_PIXELS, 24), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, _DIM))
        self.text = nn.Sequential(nn.Linear(_WORDS, 24), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, _DIM))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(7.0)))

    def encode_image(self, images):
        return self.image(images)

    def encode_text(self, tokens):
        return self.text(tokens.to(self.text[0].weight.dtype))


def _batches(short):
    """This rank's share of every global batch."""
    generator = torch.Generator().manual_seed(1)
    per_rank = _GLOBAL_BATCH // world_size()
    own = slice(rank() * per_rank, (rank() + 1) * per_rank)
    found = []
    for _ in range(_STEPS):
        images = torch.randn(_GLOBAL_BATCH, _PIXELS, generator=generator, dtype=torch.float64)
        tokens, short_tokens = torch.randint(1, 9, (2, _GLOBAL_BATCH, _WORDS), generator=generator)
        rows = torch.arange(per_rank)
        found.append(
            Batch(images[own], tokens[own], rows, rows, rows, short_tokens=short_tokens[own] if short else None)
        )
    return found


def train_whole(loss_name, reducer_name, optimizer_name, chunk):
    """Twenty steps of a ClipModule; returns its parameters and buffers before and after them."""
    torch.manual_seed(0)
    model = ClipModel(_Towers(), transform=None, tokenizer=None, embed_dim=_DIM, max_logit_scale=100.0)
    if loss_name == "siglip":
        model.clip.logit_bias = nn.Parameter(torch.tensor(-3.0))
    precision, optimizer = {
        "sgd": ("32-true", lambda groups: torch.optim.SGD(groups, lr=0.02)),
        "adamw": ("64-true", lambda groups: torch.optim.AdamW(groups, lr=1e-2)),
    }[optimizer_name]
    loss = TRAINING_LOSSES[loss_name]()
    module = ClipModule(
        model,
        TRAINING_REDUCERS[reducer_name](),
        loss,
        optimizer=optimizer,
        config={},
        grad_cache_chunk=chunk,
    )
    start = _state(module)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world_size(),
        strategy=ddp_in_pool(),
        precision=precision,
        max_steps=_STEPS,
        barebones=True,
        use_distributed_sampler=False,
    )
    batches = _batches(short=loss_name == "long_clip")
    if precision == "32-true":
        batches = [batch._replace(images=batch.images.float()) for batch in batches]
    trainer.fit(module, DataLoader(batches, batch_size=None))
    assert trainer.global_step == _STEPS
    assert trainer.world_size == world_size()
    return start, _state(module)


def _state(module):
    return {name: value.clone() for name, value in module.state_dict().items() if not name.startswith("val_metrics")}
