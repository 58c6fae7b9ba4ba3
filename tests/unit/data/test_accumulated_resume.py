"""Runs that add gradients up over several batches, stopped and gone on with, against runs that were not stopped."""

# B pairs of a batch, D embedding width.
import itertools
import logging
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


def save_every_validation(folder):
    """As the configuration does, but keeps them all, by the number of batches."""
    return CountBatches(
        dirpath=folder, filename="val", save_top_k=1, monitor=None, save_on_train_epoch_end=False, every_n_epochs=1
    )


class CountBatches(pl.callbacks.ModelCheckpoint):
    """Names checkpoints by the number of batches."""

    def _save_checkpoint(self, trainer, filepath):
        progress = trainer.fit_loop.epoch_loop.batch_progress
        super()._save_checkpoint(trainer, f"{self.dirpath}/batch_{progress.total.processed}.ckpt")

    def _remove_checkpoint(self, trainer, filepath):
        """All are kept."""


@pytest.fixture(scope="module")
def embeddings():
    features = np.random.default_rng(0).standard_normal((2, NUM_IMAGES, DIM)).astype(np.float32)
    image_features, text_features = torch.from_numpy(features)
    pairs = torch.stack([torch.arange(NUM_IMAGES)] * 2, dim=1)
    return EmbeddingSet(image_features=image_features, text_features=text_features, pairs=pairs)


def train(embeddings, folder, max_steps, accumulate, resume=None, *, batch_size=BATCH, val_every=None, save=False):
    torch.manual_seed(0)
    model = ClipModel(Towers(), transform=None, tokenizer=None, embed_dim=DIM, max_logit_scale=100.0)
    module = Recorder(
        model, NoReducer(DIM), ClipLoss(), optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), config={}
    )
    module.seen, module.counted = [], []
    callbacks = [SaveEveryStep(folder)] if val_every is None else [save_every_validation(folder)]
    if resume and not save:
        callbacks = []
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        max_epochs=-1,
        limit_val_batches=0 if val_every is None else 1,
        val_check_interval=val_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=val_every is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=callbacks,
        default_root_dir=folder,
    )
    data = CachedPairs({"train": embeddings, "val": embeddings}, batch_size=batch_size, train_seed=0)
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


def saved_batches(folder):
    return sorted(int(path.stem.removeprefix("batch_")) for path in folder.glob("batch_*.ckpt"))


# --- checkpoints of validations, as the configuration saves them: six batches an epoch ---


@pytest.mark.parametrize(("accumulate", "val_every"), [(3, 3), (2, 4), (3, 6), (4, 6), (1, 4), (2, 2)])
def test_runs_go_on_exactly_from_the_checkpoints_of_validations(embeddings, tmp_path, accumulate, val_every):
    whole = train(embeddings, tmp_path, 6, accumulate, val_every=val_every)
    saved = [batch for batch in saved_batches(tmp_path) if batch < len(whole.seen)]
    assert saved == list(range(val_every, len(whole.seen), val_every))
    for batch in saved:
        resume = str(tmp_path / f"batch_{batch}.ckpt")
        resumed = train(embeddings, tmp_path, 6, accumulate, resume, val_every=val_every)
        assert resumed.seen == whole.seen[batch:]
        for name, value in whole.model.state_dict().items():
            assert torch.equal(resumed.model.state_dict()[name], value), (batch, name)


@pytest.mark.parametrize(
    ("accumulate", "val_every", "choices"), [(3, 4, "3 or 6"), (2, 3, "2 or 4"), (3, 2, "3"), (6, 100, "96 or 102")]
)
def test_validations_between_the_batches_of_a_step_are_refused(embeddings, tmp_path, accumulate, val_every, choices):
    with pytest.raises(ValueError, match=f"val_check_interval={val_every} .*val_check_interval={choices}$") as error:
        train(embeddings, tmp_path, 6, accumulate, val_every=val_every)
    assert "\n" not in str(error.value)
    assert not saved_batches(tmp_path)


@pytest.mark.parametrize("val_every", [3, 4])
def test_validations_that_some_epoch_must_have_between_them_are_warned_of(embeddings, tmp_path, caplog, val_every):
    with caplog.at_level(logging.WARNING, logger="i0t"):
        train(embeddings, tmp_path, 2, 4, val_every=val_every)  # steps of four batches and of two
    assert [record.message.rpartition("; with ")[2] for record in caplog.records] == [
        "trainer.val_check_interval=6 it is"
    ]


# --- another batch size ---


@pytest.mark.parametrize("batch_size", [2, 8, 3, 12])
@pytest.mark.parametrize("stop", [2, 4, 6, 8])
def test_another_batch_size_goes_on_behind_the_samples_that_were_seen(embeddings, tmp_path, stop, batch_size):
    """26 images; what went on is compared with the epochs' permutations, written out."""
    train(embeddings, tmp_path, 9, 1)
    per_epoch = 26 // batch_size
    resumed = train(
        embeddings, tmp_path, stop + 2 * per_epoch, 1, str(tmp_path / f"{stop}.ckpt"), batch_size=batch_size
    )
    epoch, samples = divmod(stop, 6)[0], 4 * (stop % 6)
    expected = []
    first = -(-samples // batch_size)
    while len(expected) < 2 * per_epoch:
        order = np.random.default_rng([0, epoch]).permutation(26).tolist()
        expected += [order[batch * batch_size : (batch + 1) * batch_size] for batch in range(first, per_epoch)]
        epoch, first = epoch + 1, 0
    assert resumed.seen == expected[: 2 * per_epoch]
    assert resumed.counted[-1] == 4 * stop + batch_size * 2 * per_epoch


def test_a_run_goes_on_twice_with_other_batch_sizes(embeddings, tmp_path):
    train(embeddings, tmp_path, 8, 1)  # an epoch, and 8 samples of the next
    (tmp_path / "second").mkdir()
    saved = str(tmp_path / "8.ckpt")
    second = train(embeddings, tmp_path / "second", 10, 1, saved, batch_size=2, save=True)  # 4 samples more
    third = train(embeddings, tmp_path, 12, 1, str(tmp_path / "second/10.ckpt"), batch_size=6)
    order = np.random.default_rng([0, 1]).permutation(26).tolist()
    assert second.seen == [order[8:10], order[10:12]]
    assert third.seen == [order[12:18], order[18:24]]


def test_a_checkpoint_without_a_position_goes_on_by_its_batches(embeddings, tmp_path):
    whole = train(embeddings, tmp_path, 9, 1)
    state = torch.load(tmp_path / "8.ckpt", weights_only=True)
    assert state["i0t"].pop("position") == {"epoch": 1, "samples": 8, "width": 4, "num_samples": 26, "train_seed": 0}
    torch.save(state, tmp_path / "old.ckpt")
    assert train(embeddings, tmp_path, 9, 1, str(tmp_path / "old.ckpt")).seen == whole.seen[8:]
