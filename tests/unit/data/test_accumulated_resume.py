"""Runs that add gradients up over several batches, stopped and gone on with, against runs that were not stopped."""

# B pairs of a batch, D embedding width.
import itertools
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from i0t.data.cached_pairs import CachedPairs
from i0t.embeddings import EmbeddingSet
from i0t.gap_reducers.none import NoReducer
from i0t.losses.clip import ClipLoss
from i0t.models.base import ClipModel
from i0t.module import ClipModule

DIM, NUM_IMAGES, BATCH = 5, 26, 4  # six batches an epoch
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable"),
]


class Towers(nn.Module):
    """Two linear towers."""

    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(7.0)))

    def encode_image(self, images):
        return self.image(images)

    def encode_text(self, tokens):
        return self.text(tokens)


class Recorder(ClipModule):
    """Keeps the rows of the images of every batch, and what is logged of their number."""

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.sample_id.tolist())
        loss = super().training_step(batch, batch_idx)
        self.counted.append(float(self.trainer.callback_metrics["progress/samples_seen"]))
        return loss


class SaveEveryStep(pl.Callback):
    """What a run that is stopped by a signal leaves behind, at every step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not trainer.fit_loop._should_accumulate():
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.fixture(scope="module")
def embeddings():
    features = np.random.default_rng(0).standard_normal((2, NUM_IMAGES, DIM)).astype(np.float32)
    image_features, text_features = torch.from_numpy(features)
    pairs = torch.stack([torch.arange(NUM_IMAGES)] * 2, dim=1)
    return EmbeddingSet(image_features=image_features, text_features=text_features, pairs=pairs)


def train(embeddings, folder, max_steps, accumulate, resume=None):
    torch.manual_seed(0)
    model = ClipModel(Towers(), transform=None, tokenizer=None, embed_dim=DIM, max_logit_scale=100.0)
    module = Recorder(
        model, NoReducer(DIM), ClipLoss(), optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), config={}
    )
    module.seen, module.counted = [], []
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=-1,
        limit_val_batches=0,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[] if resume else [SaveEveryStep(folder)],
        default_root_dir=folder,
    )
    data = CachedPairs({"train": embeddings, "val": embeddings}, batch_size=BATCH, train_seed=0)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return module


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_resumed_run_sees_the_batches_that_an_uninterrupted_one_would_have_seen(embeddings, tmp_path, accumulate):
    whole = train(embeddings, tmp_path, 7, accumulate)
    steps_of_an_epoch = [range(start, min(start + accumulate, 6)) for start in range(0, 6, accumulate)]
    num_batches = sum(len(steps_of_an_epoch[step % len(steps_of_an_epoch)]) for step in range(7))
    assert len(whole.seen) == num_batches, "the last step of an epoch takes what is left of it"
    assert whole.counted == [4.0 * (batch + 1) for batch in range(num_batches)]
    epochs = [list(itertools.chain(*whole.seen[start : start + 6])) for start in range(0, num_batches - 5, 6)]
    assert all(len(set(epoch)) == 24 for epoch in epochs)
    for stop in range(1, 7):
        resumed = train(embeddings, tmp_path, 7, accumulate, resume=str(tmp_path / f"{stop}.ckpt"))
        behind = num_batches - len(resumed.seen)
        assert behind == sum(len(steps_of_an_epoch[step % len(steps_of_an_epoch)]) for step in range(stop))
        assert resumed.seen == whole.seen[behind:]
        assert resumed.counted == whole.counted[behind:]
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), name


def test_samples_are_counted_exactly_beyond_single_precision(embeddings, tmp_path):
    train(embeddings, tmp_path, 1, 1)
    state = torch.load(tmp_path / "1.ckpt", weights_only=True)
    assert state["i0t"]["samples_seen"] == 4
    state["i0t"]["samples_seen"] = 2**24 + 1
    torch.save(state, tmp_path / "far.ckpt")
    assert train(embeddings, tmp_path, 2, 1, resume=str(tmp_path / "far.ckpt")).counted == [2**24 + 5]
