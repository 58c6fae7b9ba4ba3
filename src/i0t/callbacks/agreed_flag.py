"""A number on which all ranks agree during a step, without an accelerator that waits for it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class AgreedFlag:
    """The largest of the ranks' numbers: sent before the backward pass, read after it.

    On a GPU the number is reduced and copied in the order of the stream, in front of the backward pass. The processor
    that reads it waits for the forward pass alone, while the GPU has the whole backward pass still to do and never runs
    dry. A plain ``.item()`` after the backward pass would stop it at every step.

    **DDP:** one all-reduce of four bytes; every rank sends and reads in the same places.
    """

    def __init__(self) -> None:
        self._host = torch.zeros(1, dtype=torch.int32)
        self._copied: torch.cuda.Event | None = None

    def send(self, value: Tensor) -> None:
        """Starts the reduction.

        Args:
            value: ``()`` or ``(1,)``, whole or boolean, where the ranks communicate.
        """
        flag = value.detach().reshape(1).to(torch.int32)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        if flag.is_cuda:
            self._host = torch.empty(1, dtype=torch.int32, pin_memory=True)
            self._host.copy_(flag, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._host, self._copied = flag, None

    def read(self) -> int:
        """The largest number that was sent; 0 before the first."""
        if self._copied is not None:
            self._copied.synchronize()
        return int(self._host)
