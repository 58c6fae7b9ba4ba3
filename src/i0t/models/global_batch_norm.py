"""Batch norm of images whose batch is that of all ranks, on any backend."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i0t.distributed import batch_moments, is_distributed


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with the statistics of the global batch; alone in the world it is just that.

    ``nn.SyncBatchNorm`` refuses CPU tensors and so cannot run on gloo.

    **DDP:** in train mode two all-reduces with gradients. **State:** that of ``nn.BatchNorm2d``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` standardised per channel."""
        if not self.training or not is_distributed():
            return super().forward(x)
        centred, mean, variance, count = batch_moments(x)
        assert self.running_mean is not None, "built with running statistics"
        assert self.running_var is not None, "built with running statistics"
        assert self.momentum is not None, "built with a moving average"
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
