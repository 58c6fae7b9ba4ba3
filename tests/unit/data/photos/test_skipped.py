"""The counter that workers and the main process share."""

from types import SimpleNamespace

import torch
from torch.utils.data import DataLoader, Dataset

from i0t.data.skipped import NUM_REASONS, SkippedSamples


def test_what_is_taken_is_not_told_again():
    counter = SkippedSamples(0)
    assert counter.take() == (0, ())
    for name in "abcdefg":
        counter.add(name)
    counter.add("a")
    assert counter.take() == (8, ("a", "b", "c", "d", "e"))
    assert counter.take() == (0, ())
    counter.add("é" * 600)
    number, (reason,) = counter.take()
    assert number == 1
    assert reason == "é" * 256, "cut to 512 bytes"


class Skipping(Dataset):
    def __init__(self, counter):
        self.counter = counter

    def __len__(self):
        return 40

    def __getitem__(self, row):
        if row % 4 == 0:
            self.counter.add(f"row {row}")
        return torch.tensor(row)


def test_workers_count_into_one_place():
    counter = SkippedSamples(2)
    list(DataLoader(Skipping(counter), num_workers=2))
    number, reasons = counter.take()
    assert number == 10
    assert len(reasons) == NUM_REASONS
    assert set(reasons) <= {f"row {row}" for row in range(0, 40, 4)}
    list(DataLoader(Skipping(counter), num_workers=2))
    assert counter.take().number == 10


def test_no_two_workers_write_to_the_same_place(monkeypatch):
    counter = SkippedSamples(2)
    for worker in (0, 1, 1):
        monkeypatch.setattr("i0t.data.skipped.get_worker_info", lambda worker=worker: SimpleNamespace(id=worker))
        counter.add(f"of {worker}")
    assert counter._counts.tolist() == [1, 2]
    assert counter.take() == (3, ("of 0", "of 1"))
