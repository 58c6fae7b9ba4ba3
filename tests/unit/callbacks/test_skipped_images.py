"""What training could not read is said at the end of the epoch."""

import logging
import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from i0t.callbacks.skipped_images import SkippedImages
from i0t.data.skipped import SkippedSamples


class Rows(Dataset):
    """Eight batches, of which two say that a file was skipped."""

    def __init__(self, counter):
        self.counter = counter

    def __len__(self):
        return 8

    def __getitem__(self, row):
        if row in (2, 5):
            self.counter.add(f"cannot read image {row}.jpg: torn")
        return torch.ones(1)


class Endless(IterableDataset):
    def __init__(self, counter):
        self.counter = counter

    def __iter__(self):
        row = 0
        while True:
            yield Rows(self.counter)[row % 8]
            row += 1


class Data(pl.LightningDataModule):
    def __init__(self, dataset_class, num_workers):
        super().__init__()
        self.skipped = SkippedSamples(num_workers)
        self.loader = DataLoader(dataset_class(self.skipped), batch_size=None, num_workers=num_workers)

    def train_dataloader(self):
        return self.loader

    def val_dataloader(self):
        return DataLoader([torch.ones(1)], batch_size=None)


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.logged = []

    def training_step(self, batch, index):
        return (self.weight * batch).sum()

    def validation_step(self, batch, index):
        pass

    def on_train_epoch_start(self):
        self.logged.append(self.trainer.callback_metrics.get("train/skipped_images"))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, **options):
    callback = SkippedImages()
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=1, **options,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, datamodule=data)
    return callback, module, trainer


def said(caplog):
    return [record.message for record in caplog.records if record.name == "i0t.callbacks.skipped_images"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_every_epoch_says_its_number_and_the_first_names(caplog, num_workers):
    with caplog.at_level(logging.WARNING):
        callback, _, trainer = fit(Data(Rows, num_workers), max_epochs=2)
    names = "cannot read image 2.jpg: torn; cannot read image 5.jpg: torn"
    assert said(caplog) == [f"training skipped 2 samples up to step {step}: {names}" for step in (8, 16)]
    assert callback.total == 4
    assert float(trainer.callback_metrics["train/skipped_images"]) == 2


def test_a_stream_says_it_at_every_validation_and_at_the_end(caplog):
    with caplog.at_level(logging.WARNING):
        callback, _, trainer = fit(Data(Endless, 0), max_steps=15, val_check_interval=8)
    assert math.isinf(trainer.num_training_batches)
    assert [line.partition(":")[0] for line in said(caplog)] == [
        "training skipped 2 samples up to step 8",
        "training skipped 2 samples up to step 15",
    ]
    assert callback.total == 4


def test_nothing_is_said_where_all_could_be_read(caplog):
    data = Data(Rows, 0)
    data.loader = DataLoader([torch.ones(1)] * 3, batch_size=None)
    with caplog.at_level(logging.WARNING):
        callback, _, trainer = fit(data, max_epochs=1)
    assert said(caplog) == []
    assert callback.total == 0
    assert float(trainer.callback_metrics["train/skipped_images"]) == 0


def test_data_that_count_nothing_are_no_matter(caplog):
    data = Data(Rows, 0)
    data.loader = DataLoader([torch.ones(1)] * 3, batch_size=None)
    del data.skipped
    assert fit(data, max_epochs=1)[0].total == 0


def test_the_ranks_are_added_up(monkeypatch, caplog):
    data = Data(Rows, 0)
    data.skipped.add("here.jpg")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)

    def all_gather_object(parts, own):
        parts[:] = [own, type(own)(3, ("there.jpg",))]

    monkeypatch.setattr("torch.distributed.all_gather_object", all_gather_object)
    callback = SkippedImages()

    class Trainer:
        datamodule = data
        global_step = 9

    with caplog.at_level(logging.WARNING):
        assert callback._report(Trainer()) == 4
    assert said(caplog) == ["training skipped 4 samples up to step 9: here.jpg; there.jpg"]
