"""Samplers that shard exactly: no padding, and the same global batches whatever the number of ranks.

Lightning's own samplers shuffle under DDP even where they should not, and pad with duplicates; a duplicate is a false
negative in a contrastive batch and a wrong count in an evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler

_log = logging.getLogger(__name__)


def _world() -> tuple[int, int]:
    """Rank and number of ranks, asked when iteration starts: loaders are built before the processes are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class GlobalBatchSampler(Sampler[list[int]]):
    """Shuffled batches of a training split; the ranks' batches of one step make up one slice of one permutation.

    The last uneven global batch is dropped. After ``resume_at(batch)`` the next epoch starts at that batch of its
    permutation, so that a resumed run sees the batches it would have seen.

    Args:
        num_samples: Length of an epoch.
        batch_size: Per rank.
        seed: Of the shuffle, together with the epoch.

    Raises:
        ValueError: If a batch has fewer than two pairs, or (when asked for its length) the split is smaller than one
            global batch.
    """

    def __init__(self, num_samples: int, *, batch_size: int, seed: int) -> None:
        if batch_size < 2:
            raise ValueError(f"data.batch_size={batch_size}: a contrastive batch needs at least 2 pairs")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self._skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation; Lightning calls it at the start of every epoch."""
        self.epoch = epoch

    def resume_at(self, batch: int) -> None:
        """Goes to the epoch of this batch, counted from the run's first, and skips the batches before it.

        Batches, not optimizer steps: where gradients are accumulated a step takes several, and the last of an epoch
        fewer. The epoch is set here too: Lightning starts worker processes before it tells the epoch.
        """
        self.epoch, self._skip = divmod(batch, len(self))

    def __len__(self) -> int:
        _, world = _world()
        if self.width > self.num_samples:
            raise ValueError(
                f"data.batch_size={self.batch_size} on {world} device(s), "
                f"but an epoch of training has {self.num_samples} images; "
                "a contrastive batch is never padded, so choose a smaller one"
            )
        return self.num_samples // self.width

    @property
    def width(self) -> int:
        """Samples of a batch on all ranks together."""
        return self.batch_size * _world()[1]

    def position(self, batch: int) -> dict[str, int]:
        """Where a run stands before this batch, counted as in ``resume_at``, whatever goes on with it.

        Returns:
            The epoch, the samples of it that all ranks have behind them, the width of the batches that were, and what
            makes the permutation.
        """
        epoch, done = divmod(batch, len(self))
        return {"epoch": epoch, "samples": done * self.width, "width": self.width, **self._identity()}

    def batch_at(self, position: Mapping[str, int], *, accumulate: int) -> int:
        """The batch, counted as in ``resume_at``, with which a run goes on from a position.

        Where the width of a batch has changed, the position may lie within one, or between those of an optimizer step.
        The next step's first is taken then: no sample comes up twice, and fewer than a step takes are left out, with a
        warning.

        Args:
            position: Of a run with any batch size and number of ranks.
            accumulate: Batches of an optimizer step.

        Raises:
            ValueError: If the position is one in another permutation.
        """
        for name, now in self._identity().items():
            if position[name] != now:
                raise ValueError(
                    f"the run to go on with had {name}={position[name]} in its training data, now it is {now}: these "
                    "are other data or another order; start a new run from its weights with ckpt_path="
                )
        epoch, behind = position["epoch"], position["samples"]
        if position["width"] == self.width:
            return epoch * len(self) + behind // self.width
        steps = -(-behind // (self.width * accumulate))
        first = min(steps * accumulate, len(self))
        left_out = first * self.width - behind  # negative where only what is dropped anyway is left of the epoch
        if left_out > 0 and _world()[0] == 0:
            _log.warning(
                "training goes on with the next whole step: batches of %d pairs on all devices do not end where those "
                "of %d did, so %d of the %d samples of this epoch are left out",
                self.width, position["width"], left_out, self.num_samples,
            )  # fmt: skip
        return epoch * len(self) + first

    def _identity(self) -> dict[str, int]:
        return {"num_samples": self.num_samples, "train_seed": self.seed}

    def __iter__(self) -> Iterator[list[int]]:
        rank, world = _world()
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_samples)
        width = self.batch_size * world
        first, self._skip = self._skip, 0
        for batch in range(first, len(self)):
            start = batch * width + rank * self.batch_size
            yield order[start : start + self.batch_size].tolist()


class ShardedBatchSampler(Sampler[list[int]]):
    """Every sample of an evaluation split exactly once over all ranks, in order, in contiguous shards.

    Args:
        num_samples: Length of the split.
        batch_size: Per rank.

    Raises:
        ValueError: If ``batch_size`` is below 1, or (when asked for its length, on every rank alike) there are fewer
            samples than ranks.
    """

    def __init__(self, num_samples: int, *, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"data.eval_batch_size={batch_size}: choose at least 1")
        self.num_samples = num_samples
        self.batch_size = batch_size

    def _bounds(self) -> tuple[int, int]:
        rank, world = _world()
        if self.num_samples < world:
            # On every rank: one alone would leave the others waiting for it.
            raise ValueError(
                f"{self.num_samples} image(s) to evaluate on {world} devices, each of which needs one: "
                "choose a larger data.limit or fewer devices"
            )
        return self.num_samples * rank // world, self.num_samples * (rank + 1) // world

    def __len__(self) -> int:
        start, stop = self._bounds()
        return -(-(stop - start) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        start, stop = self._bounds()
        for first in range(start, stop, self.batch_size):
            yield list(range(first, min(first + self.batch_size, stop)))


def draw_caption_rows(num_captions: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """One caption for each image, by seed, epoch and row alone.

    Args:
        num_captions: ``(N,)`` int64, how many captions each image has, at least one; they lie in the images' order.
        seed: Of the run.
        epoch: Counting from 0.

    Returns:
        ``(N,)`` int64 rows among all captions.
    """
    # The third number keeps this stream apart from the shuffle's, which is seeded with the first two.
    uniform = np.random.default_rng([seed, epoch, 1]).random(len(num_captions))
    first = np.cumsum(num_captions) - num_captions
    return first + (uniform * num_captions).astype(np.int64)
