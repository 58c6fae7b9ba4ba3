"""Batch norm over the rows of all ranks, which may subtract a share of the mean.

Shapes: B rows of this rank, D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i0t.distributed import batch_moments, is_distributed
from i0t.gap_reducers.fit_rows import Moments


class GlobalBatchNorm(nn.Module):
    """``nn.BatchNorm1d`` whose batch is that of all ranks, with ``strength`` times the mean subtracted.

    ``nn.SyncBatchNorm`` refuses CPU tensors and so cannot run on gloo; this runs on any backend.

    **DDP:** in train mode two all-reduces, (D + 1,) and (D,), with gradients; ranks may hold different numbers of rows.

    **State:** ``weight``, ``bias`` (D,) parameters; ``running_mean``, ``running_var`` (D,) float32.

    Args:
        dim: D.
        momentum: Share of the newest batch in the running statistics.
        eps: Added to the variance.
        strength: Share of the mean that is subtracted; the variance is about the whole mean whatever it is.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, *, momentum: float, eps: float, strength: float = 1.0) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.strength = strength
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    @torch.no_grad()
    def reset(self) -> None:
        """Makes it the identity, as it was constructed."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1)

    @torch.no_grad()
    def set_statistics(self, moments: Moments) -> None:
        """Replaces the running statistics by exact ones."""
        self.running_mean.copy_(moments.mean)
        self.running_var.copy_(moments.variance)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (D,) float64 of the map in eval mode."""
        scale = torch.rsqrt(self.running_var.double() + self.eps) * self.weight.double()
        return scale, self.bias.double() - self.strength * self.running_mean.double() * scale

    def forward(self, rows: Tensor) -> Tensor:
        """Standardises per dimension.

        Args:
            rows: ``(B, D)``.

        Returns:
            ``(B, D)``.

        Raises:
            ValueError: In train mode, if all ranks together have one row, which has no variance.
        """
        if not self.training:
            scale = torch.rsqrt(self.running_var + self.eps) * self.weight
            return (rows - self.strength * self.running_mean) * scale + self.bias
        return self._train_forward(rows)

    def _train_forward(self, rows: Tensor) -> Tensor:
        if len(rows) > 1 and self.strength == 1 and not is_distributed() and rows.dtype == self.weight.dtype:
            # The same as below in one kernel, at half the time.
            return F.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
            )
        centred, mean, variance, count = batch_moments(rows)
        if len(rows) < 2 and int(count) < 2:  # a rank with two rows need not wait for the device to know
            raise ValueError("batch norm needs at least 2 rows over all devices in train mode, got 1: raise batch_size")
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        if self.strength != 1:
            centred = centred + (1 - self.strength) * mean
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
