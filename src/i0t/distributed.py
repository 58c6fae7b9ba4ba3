"""Collectives that autograd can go through, and world helpers that also work without a process group.

``torch.distributed.nn.functional`` warns that it is deprecated since torch 2.14, and the private functional
collectives that follow it were renamed in the same release; hence the two short autograd functions below, on torch's
public collectives only.

Shapes: B rows of this rank, W ranks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def is_distributed() -> bool:
    """Whether a process group of more than one process is up."""
    return world_size() > 1


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0; 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gathered = x.new_empty(world_size() * x.shape[0], *x.shape[1:])
        dist.all_gather_into_tensor(gathered, x.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every rank's loss depends on this rank's rows: their gradient is the sum of what all ranks found for them.
        own = gradient.new_empty(gradient.shape[0] // world_size(), *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return all_reduce_sum(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient)


def all_gather_with_grad(x: Tensor) -> Tensor:
    """Rows of all ranks, in rank order; the gradient of a row is the sum over the ranks that used it.

    Together with the averaging of gradients that ``DistributedDataParallel`` does, a loss that is each rank's local
    mean then has exactly the gradients of one process with the whole batch.

    Args:
        x: ``(B, ...)`` rows of this rank; B is the same on every rank.

    Returns:
        ``(W * B, ...)``; ``x`` itself without a process group.

    Raises:
        ValueError: If ranks hold different numbers of rows. Only checked for CPU tensors: on an accelerator the check
            would stall the stream at every step, and the data modules drop uneven batches.
    """
    if not is_distributed():
        return x
    if x.device.type == "cpu":
        _check_equal_rows(x)
    gathered: Tensor = _AllGather.apply(x)
    return gathered


def _check_equal_rows(x: Tensor) -> None:
    rows = rows_per_rank(len(x), x.device)
    if len(set(rows)) > 1:
        raise ValueError(f"ranks hold different numbers of rows {rows}; drop the last uneven batch (drop_last=True)")


def rows_per_rank(num_rows: int, device: torch.device) -> list[int]:
    """Every rank's number of rows, in rank order (waits for the device).

    Args:
        num_rows: Rows of this rank.
        device: Where the backend communicates (CPU for gloo, a GPU for NCCL).

    Example:
        >>> rows_per_rank(5, torch.device("cpu"))
        [5]
    """
    counts = torch.zeros(world_size(), dtype=torch.int64, device=device)
    counts[rank()] = num_rows
    rows: list[int] = all_reduce_sum(counts, in_place=True).tolist()
    return rows


def all_reduce_sum(x: Tensor, *, in_place: bool = False) -> Tensor:
    """Element-wise sum over ranks, outside autograd.

    Args:
        x: Any shape, the same on every rank.
        in_place: Write the sum into ``x`` instead of a copy.

    Returns:
        The sum, detached; equal to ``x`` without a process group.
    """
    total = x.detach() if in_place else x.detach().clone(memory_format=torch.contiguous_format)
    if is_distributed():
        dist.all_reduce(total)
    return total


def all_reduce_sum_with_grad(x: Tensor) -> Tensor:
    """Element-wise sum over ranks; the gradient of a summand is the sum of all ranks' gradients of the total.

    Args:
        x: Any shape, the same on every rank.

    Returns:
        The sum; ``x`` itself without a process group.
    """
    if not is_distributed():
        return x
    total: Tensor = _AllReduceSum.apply(x)
    return total


class BatchMoments(NamedTuple):
    """Statistics of the batch of all ranks, with gradients; C channels.

    Attributes:
        centred: The input of this rank minus the mean, of its shape.
        mean: ``(C,)``.
        variance: ``(C,)``, biased.
        num_values: ``()`` values per channel over all ranks.
    """

    centred: Tensor
    mean: Tensor
    variance: Tensor
    num_values: Tensor


def batch_moments(x: Tensor) -> BatchMoments:
    """Mean and variance per channel over the batch of all ranks, by two all-reduces, (C + 1,) and (C,).

    Args:
        x: ``(B, C, ...)``; ranks may hold different numbers of rows.
    """
    dims = [0, *range(2, x.ndim)]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    values = x.new_full((1,), x.numel() // x.shape[1])
    sums = all_reduce_sum_with_grad(torch.cat([x.sum(dims), values]))
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = x - mean.view(shape)
    variance = all_reduce_sum_with_grad(centred.square().sum(dims)) / count
    return BatchMoments(centred, mean, variance, count)
