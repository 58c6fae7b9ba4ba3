"""Encoded rows on their way from the encoders to an EmbeddingSet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from i0t.distributed import is_distributed, world_size


class Features(NamedTuple):
    """Encoded rows of a split, in any order.

    Attributes:
        image_features: ``(B, D)``.
        text_features: ``(T, D)``.
        sample_id: ``(B,)`` row of each image in the split.
        text_id: ``(T,)`` row of each text in the split.
    """

    image_features: Tensor
    text_features: Tensor
    sample_id: Tensor
    text_id: Tensor

    @classmethod
    def cat(cls, parts: Sequence[Features]) -> Features:
        """Joins batches, or the shards of several ranks.

        Raises:
            ValueError: If there is nothing to join.
        """
        if not parts:
            raise ValueError("this rank has no sample to encode: the split has fewer images than there are processes")
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def gathered(self) -> Features:
        """The rows of all ranks, on every rank."""
        if not is_distributed():
            return self
        parts: list[Any] = [None] * world_size()
        dist.all_gather_object(parts, self)  # shards are uneven, which tensor collectives do not take
        return Features.cat(parts)
