"""Counts the samples that training had to leave out, across worker processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.data import get_worker_info

NUM_REASONS = 5
_REASON_BYTES = 512


class Skipped(NamedTuple):
    """What was left out since the last report.

    Attributes:
        number: How many samples; one that came up twice counts twice.
        reasons: The first few of them, a line each.
    """

    number: int
    reasons: tuple[str, ...]


class SkippedSamples:
    """A counter in shared memory: worker processes add, the main process takes.

    Every worker has a slot of its own, and only the main process writes what is taken, so nothing is locked.

    Args:
        num_workers: Of the loader whose samples are counted.
    """

    def __init__(self, num_workers: int) -> None:
        slots = max(1, num_workers)
        self._counts = torch.zeros(slots, dtype=torch.int64).share_memory_()
        self._taken = torch.zeros(slots, dtype=torch.int64).share_memory_()
        self._reasons = torch.zeros(slots, NUM_REASONS, _REASON_BYTES, dtype=torch.uint8).share_memory_()

    def add(self, reason: str) -> None:
        """Counts one sample; called where the sample was read, in a worker or in the main process."""
        info = get_worker_info()
        slot = 0 if info is None else info.id
        number = int(self._counts[slot] - self._taken[slot])
        if number < NUM_REASONS:
            text = reason.encode()[:_REASON_BYTES].ljust(_REASON_BYTES, b"\0")
            self._reasons[slot, number] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._counts[slot] += 1

    def take(self) -> Skipped:
        """What came since the last call; called in the main process."""
        counts = self._counts.clone()
        reasons: list[str] = []
        for slot, new in enumerate((counts - self._taken).tolist()):
            lines = self._reasons[slot, : min(new, NUM_REASONS)].numpy()
            reasons += [line.tobytes().rstrip(b"\0").decode(errors="replace") for line in lines]
        number = int((counts - self._taken).sum())
        self._taken.copy_(counts)
        return Skipped(number, tuple(dict.fromkeys(reasons))[:NUM_REASONS])
