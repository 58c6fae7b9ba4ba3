"""Which shard comes when in a training stream, and where every worker stands in it.

The shards of epoch 0, shuffled, are followed by those of epoch 1, shuffled anew, and so on without an end. The places
of this one sequence are called visits; it follows from the seed alone and is the same on every rank. Of R ranks with
W workers each, worker w of rank r makes the visits w R + r, then every R W-th: the shards of one epoch are dealt out to
ranks first and to workers second, each to one of them. A worker that is through with its own goes on with the next
epoch by itself, so none ever runs out before another, whatever the shards' sizes.

Letters: R ranks, W workers of a rank (1 where the main process reads).
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist

_log = logging.getLogger(__name__)
# First numbers of the seeds, so that no two kinds of draws ever share one.
ORDER, DRAW, BLOCK, CAPTION = 1, 2, 3, 4


class ShardSequence:
    """The number of the shard of every visit.

    Args:
        num_shards: How many there are.
        seed: Of the order.
        resampled: Draw every visit's shard from all, with replacement, in place of a shuffle an epoch.
        names_digest: Of the shards' names in order, see :func:`digest_names`.

    Example:
        >>> sequence = ShardSequence(3, seed=0, resampled=False)
        >>> sorted(sequence[visit] for visit in (3, 4, 5))
        [0, 1, 2]
    """

    def __init__(self, num_shards: int, *, seed: int, resampled: bool, names_digest: str = "") -> None:
        self.num_shards = num_shards
        self.names_digest = names_digest
        self.seed = seed
        self.resampled = resampled
        self._shuffled: tuple[int, np.ndarray] | None = None

    def __getitem__(self, visit: int) -> int:
        if self.resampled:
            return int(np.random.default_rng([DRAW, self.seed, visit]).integers(self.num_shards))
        epoch, place = divmod(visit, self.num_shards)
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = epoch, np.random.default_rng([ORDER, self.seed, epoch]).permutation(self.num_shards)
        return int(self._shuffled[1][place])

    def identity(self) -> dict[str, int | bool | str]:
        """What must be the same for positions in it to keep their meaning."""
        return {
            "train_shards": self.num_shards,
            "train_seed": self.seed,
            "resampled": self.resampled,
            "shard_names": self.names_digest,
        }


class Position(NamedTuple):
    """Where a worker stands: somewhere in a block of samples that are mixed with each other.

    Attributes:
        visit: Of the shard in which the block begins.
        sample: Samples of that shard that come before the block.
        taken: Samples of the block that have been handed on, in its mixed order.
        last: Visit of the shard of the block's last sample.
    """

    visit: int
    sample: int
    taken: int
    last: int


class World(NamedTuple):
    """The processes that share a stream.

    Attributes:
        rank: r.
        num_ranks: R.
    """

    rank: int
    num_ranks: int

    @classmethod
    def now(cls) -> World:
        """Asked when iteration starts: loaders may be built before the processes are."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)


class StreamProgress:
    """Where the workers of this rank stand after the batches that training has used, kept by the main process.

    Batches that were read ahead and not used are not counted. A stream that is begun again, in this process or from
    a checkpoint, goes on behind the last batch that was used.

    Args:
        num_workers: Of the loader, 0 where the main process reads.
        shuffle_buffer: Samples of a block.

    Attributes:
        batches: How many training has used on every rank, since the stream was dealt out to these workers.
        positions: W positions of this rank; none before the stream is begun.
    """

    def __init__(self, *, num_workers: int, shuffle_buffer: int) -> None:
        self.num_workers = max(1, num_workers)
        self.shuffle_buffer = shuffle_buffer
        self.batches = 0
        self.positions: list[Position] = []
        self._handed_out: deque[tuple[int, Position]] = deque()
        self._saved: Mapping[str, Any] | None = None

    def begin(self, sequence: ShardSequence) -> World:
        """Called before every iteration.

        Returns:
            The world among which the visits are dealt out.

        Raises:
            ValueError: If the checkpoint's stream was another one.
        """
        self.check(sequence)
        world = World.now()
        self._handed_out.clear()
        if self._saved is not None:
            self._restore(self._saved, world)
            self._saved = None
        elif not self.positions:
            self.positions = self._deal(0, world)
        self._identity = sequence.identity()
        return world

    def check(self, sequence: ShardSequence) -> None:
        """Compares the checkpoint's stream with the one that is to go on.

        Raises:
            ValueError: If it was another one.
        """
        if self._saved is not None:
            _check_same(self._saved, sequence)

    @property
    def is_loaded(self) -> bool:
        """Whether it knows where a stream stands that was begun before, here or in a checkpoint."""
        return bool(self.positions or self._saved)

    def hand_out(self, worker: int, position: Position) -> None:
        """A batch leaves the loader; ``position`` is where its worker then stands."""
        self._handed_out.append((worker, position))

    def use(self) -> None:
        """Training takes the next of the batches that were handed out."""
        worker, position = self._handed_out.popleft()
        self.positions[worker] = position
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        """Plain containers; every rank has the whole.

        DDP: gathers the ranks' positions, 4 R W integers. All ranks save a checkpoint together.
        """
        if not self.positions:
            return dict(self._saved or {})
        world = World.now()
        own = [list(position) for position in self.positions]
        every: list[Any] = [own] * world.num_ranks
        if world.num_ranks > 1:
            dist.all_gather_object(every, own)
        return {**self._layout(world), **self._identity, "batches": self.batches, "positions": every}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next ``begin`` goes on from there."""
        self._saved = dict(state)
        self.positions = []

    def _layout(self, world: World) -> dict[str, int]:
        return {
            "num_ranks": world.num_ranks,
            "num_workers": self.num_workers,
            "shuffle_buffer": self.shuffle_buffer,
        }

    def _restore(self, saved: Mapping[str, Any], world: World) -> None:
        changed = {name: now for name, now in self._layout(world).items() if saved[name] != now}
        if not changed:
            self.batches = saved["batches"]
            self.positions = [Position(*position) for position in saved["positions"][world.rank]]
            return
        # Blocks and shards that were begun belong to workers that are no more. None is begun twice.
        first = 1 + max(position[-1] for positions in saved["positions"] for position in positions)
        self.batches, self.positions = 0, self._deal(first, world)
        if world.rank == 0:
            _log.warning(
                "the training stream goes on with the next whole shards, as it has another layout than before (%s)",
                ", ".join(f"{name} {saved[name]}, now {now}" for name, now in changed.items()),
            )

    def _deal(self, first: int, world: World) -> list[Position]:
        """The visits with which this rank's workers begin, from visit ``first`` on."""
        visits = [first + worker * world.num_ranks + world.rank for worker in range(self.num_workers)]
        # Nothing of these shards has been read: the block before them ended with the visit before.
        return [Position(visit, 0, 0, first - 1) for visit in visits]


def digest_names(names: Sequence[str]) -> str:
    """A short hash of the shards' names and their order."""
    return hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]


def _check_same(saved: Mapping[str, Any], sequence: ShardSequence) -> None:
    for name, now in sequence.identity().items():
        before = saved.get(name, now)  # checkpoints of the first releases have no names
        if before == now:
            continue
        if name == "shard_names":
            raise ValueError(
                f"data.train_shards: these {sequence.num_shards} shards have other names, or another order, than those "
                "of the run to go on with: the stream cannot go on where it stood"
            )
        raise ValueError(
            f"data.{name}: the run to go on with had {before}, now it is {now}: the stream cannot go on where it stood"
        )
