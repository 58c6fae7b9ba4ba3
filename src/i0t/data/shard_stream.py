"""Samples of tar shards as a stream without an end, that a worker can enter at any position.

A worker reads its shards one after the other and mixes what it reads in blocks: as many samples as the shuffle buffer
holds, or fewer where an epoch ends, so that no block holds a sample twice. A block's order follows from the seed and
the place at which it begins. A position therefore is four integers (:class:`i0t.data.shard_positions.Position`): to
go on, a worker reads the one block in which it stood again, and drops what it has handed on already, undecoded.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from i0t.data.shard_positions import BLOCK, Position, ShardSequence, StreamProgress, World, digest_names
from i0t.data.shards import UnreadableShard, read_shard
from i0t.data.skipped import SkippedSamples

_log = logging.getLogger(__name__)
# So many shards in a row without a single sample are not an accident.
_MOST_UNREADABLE = 100
_VISIT_BITS = 32  # of an identifier, below the visit: the number of the sample in its shard

Sample = dict[str, Any]


class ShardStream:
    """Samples of this worker's share of the shards, without an end.

    Args:
        shards: Paths, URLs and commands.
        names: By which they are known when a run goes on, wherever they then lie; ``None``: ``shards``.
        suffixes: Of the members that are wanted.
        shuffle_buffer: Samples held to be mixed, encoded as they are in the shard, in every worker; 1 keeps the order.
        seed: Of all draws.
        resampled: See :class:`i0t.data.shard_positions.ShardSequence`.
        skipped: Counts shards that could not be read to their end.

    DDP:
        Nothing is communicated: what a rank reads follows from its number.
    """

    def __init__(
        self,
        shards: Sequence[str],
        *,
        suffixes: Collection[str],
        shuffle_buffer: int,
        seed: int,
        resampled: bool,
        skipped: SkippedSamples,
        names: Sequence[str] | None = None,
    ) -> None:
        self.shards = list(shards)
        self.suffixes = frozenset(suffixes)
        self.shuffle_buffer = shuffle_buffer
        self.sequence = ShardSequence(
            len(self.shards), seed=seed, resampled=resampled, names_digest=digest_names(names or self.shards)
        )
        self.skipped = skipped
        self._positions: list[Position] = []
        self._batches = 0
        self._num_ranks = 1

    def begin(self, progress: StreamProgress) -> None:
        """Called in the main process before every iteration: its workers are then copies that know where to go on.

        Raises:
            ValueError: If there are fewer shards than workers, or a checkpoint's stream was another one.
        """
        self.check_enough(World.now().num_ranks, progress.num_workers)
        self._num_ranks = progress.begin(self.sequence).num_ranks
        self._positions, self._batches = list(progress.positions), progress.batches

    def check_enough(self, num_ranks: int, num_workers: int) -> None:
        """Refuses an epoch that not every worker has a shard of: some would read what others read at the same time.

        Raises:
            ValueError: With the numbers and what to do.
        """
        if not self.sequence.resampled and len(self.shards) < num_ranks * num_workers:
            raise ValueError(
                f"data.train_shards: {len(self.shards)} shards for {num_ranks} device(s) with {num_workers} worker(s) "
                f"each, and every worker needs one of its own: choose data.num_workers={len(self.shards) // num_ranks}"
                " or fewer, cut the data into more shards, or draw shards with replacement (data.resampled=true)"
            )

    def worker(self) -> int:
        """This worker's number, from 0, among those of its rank.

        A loader takes its first batch from its first process. The worker whose turn it was goes there.
        """
        info = get_worker_info()
        return 0 if info is None else (info.id + self._batches) % len(self._positions)

    def __iter__(self) -> Iterator[tuple[Sample, Position]]:
        """Samples, each with the position behind it."""
        start = self._positions[self.worker()]
        samples = self._samples(start.visit, start.sample)
        handed_on = start.taken
        ahead: deque[Sample] = deque()
        while True:
            block = self._next_block(ahead, samples)
            visit, number = place(block[0])
            last, _ = place(block[-1])
            mixed = np.random.default_rng([BLOCK, self.sequence.seed, visit, number]).permutation(len(block))
            for taken, at in enumerate(mixed.tolist(), start=1):
                if taken > handed_on:
                    yield block[at], Position(visit, number, taken, last)
                block[at] = {}  # its bytes make room for those of the next block
                if len(ahead) < taken:
                    ahead.append(next(samples))
            handed_on = 0

    def _next_block(self, ahead: deque[Sample], samples: Iterator[Sample]) -> list[Sample]:
        """As many samples as are mixed with each other, all of one epoch."""
        while len(ahead) < self.shuffle_buffer and (not ahead or self._epoch(ahead[0]) == self._epoch(ahead[-1])):
            ahead.append(next(samples))
        epoch = self._epoch(ahead[0])
        size = sum(1 for _ in itertools.takewhile(lambda sample: self._epoch(sample) == epoch, ahead))
        return [ahead.popleft() for _ in range(size)]

    def _epoch(self, sample: Sample) -> int:
        return place(sample)[0] // len(self.shards)

    def _samples(self, visit: int, first: int) -> Iterator[Sample]:
        """Samples of one shard after the other, from number ``first`` of the first; one that breaks off is left."""
        fruitless: list[str] = []  # shards without a single sample since the last one that had some
        reported: set[str] = set()
        for at in itertools.count(visit, self._num_ranks * len(self._positions)):
            location = self.shards[self.sequence[at]]
            num_samples, reason = 0, ""
            try:
                for sample in read_shard(location, self.suffixes):
                    num_samples += 1
                    if num_samples > first:
                        yield sample | {"__visit__": at, "__number__": num_samples - 1}
            except UnreadableShard as error:
                reason = str(error)
            first = 0
            if not num_samples and not reason:
                reason = f"shard {location} has no member named *.{', *.'.join(sorted(self.suffixes))}"
            if reason:
                self.skipped.add(reason)
            if reason and location not in reported:
                reported.add(location)
                _log.warning("%s; training goes on with the other shards", reason)
            fruitless = [] if num_samples else [*fruitless, location]
            if set(fruitless) == set(self.shards) or len(fruitless) == _MOST_UNREADABLE:
                raise UnreadableShard(f"no sample in {len(fruitless)} shards in a row; the last: {reason}")

    def identifier(self, sample: Sample) -> int:
        """A number that no other sample of this run has: its visit and its number in the shard."""
        visit, number = place(sample)
        return visit << _VISIT_BITS | number

    def name_of(self, identifier: int) -> str:
        """Shard and number of the sample with this identifier."""
        visit, number = identifier >> _VISIT_BITS, identifier & (1 << _VISIT_BITS) - 1
        return f"{self.shards[self.sequence[visit]]}: sample number {number}, counting from 0"


def place(sample: Mapping[str, Any]) -> tuple[int, int]:
    """Visit of the shard of a sample of a stream, and the sample's number in it."""
    return sample["__visit__"], sample["__number__"]
