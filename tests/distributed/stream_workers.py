"""Trainings on streamed shards in every process of the gloo pool, or, with a world of one, in the test's own."""

import math
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torchvision.transforms import functional

from i0t.data.cc12m import Cc12mDataModule
from i0t.distributed import world_size
from i0t.gap_reducers.none import NoReducer
from i0t.losses.clip import ClipLoss
from i0t.models.base import ClipModel
from i0t.module import ClipModule

from .pool_environment import ddp_in_pool

_WORDS, _DIM = 24, 5


class _StreamTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(3, _DIM), nn.Linear(_WORDS, _DIM)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(7.0)))

    def encode_image(self, images):
        return self.image(images)

    def encode_text(self, tokens):
        return self.text(tokens.float() / 100)


class _Recorder(ClipModule):
    """Keeps the identifiers of the samples it is trained on, and what is logged of their number."""

    seen: list
    counted: list

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.sample_id.tolist())
        loss = super().training_step(batch, batch_idx)
        self.counted.append(self.trainer.callback_metrics["progress/samples_seen"])
        return loss


def _tokenize(texts):
    """A caption's bytes."""
    return torch.tensor([list(text.encode().ljust(_WORDS, b"\0")) for text in texts], dtype=torch.int64)


def _colours(image):
    """The mean of each channel."""
    return functional.to_tensor(image).mean(dim=(1, 2))


def train_on_stream(root, max_steps, *, resume=None, save=None, accumulate=1, val_every=None, **options):
    """Trains to ``max_steps``; returns what every batch held, the counts logged, and the parameters at the end."""
    torch.manual_seed(0)
    model = ClipModel(_StreamTowers(), transform=None, tokenizer=None, embed_dim=_DIM, max_logit_scale=100.0)
    module = _Recorder(
        model, NoReducer(_DIM), ClipLoss(), optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), config={}
    )
    module.seen, module.counted = [], []
    defaults = {
        "root": root,
        "train_shards": "train/*.tar",
        "val_shards": "val/*.tar",
        "test_shards": None,
        "caption_key": "txt",
        "caption_field": None,
        "caption_part": "half",
        "shuffle_buffer": 6,
        "resampled": False,
        "limit": None,
        "train_eval_limit": 10,
        "batch_size": 2,
        "eval_batch_size": 4,
        "num_workers": 0,
        "train_seed": 0,
    }
    datamodule = Cc12mDataModule(**defaults | options)
    datamodule.bind(transform=_colours, tokenizer=_tokenize)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world_size(),
        strategy=ddp_in_pool(),
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=val_every or 4 * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=root,
    )
    trainer.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=True)
    assert trainer.global_step == max_steps
    assert trainer.world_size == world_size()
    if save is not None:
        trainer.save_checkpoint(Path(save))
    return {
        "seen": module.seen,
        "counted": [float(count) for count in module.counted],
        "parameters": {name: value.clone() for name, value in model.state_dict().items()},
        "skipped": datamodule.skipped.take().number,
    }


def call_train_on_stream(args, options):
    """``train_on_stream`` for a pool, which passes no keywords."""
    return train_on_stream(*args, **options)
