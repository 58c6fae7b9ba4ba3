"""Linear warm-up and half a cosine, as CLIP and both papers train."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def cosine(optimizer: Optimizer, *, num_steps: int, warmup_steps: int) -> LambdaLR:
    """Learning rate that rises linearly for ``warmup_steps``, then falls as half a cosine to zero at ``num_steps``.

    Args:
        optimizer: Its learning rates are the peaks.
        num_steps: Steps of the whole run.
        warmup_steps: Steps of the rise; 0 for none.

    Raises:
        ValueError: If the warm-up is longer than the run.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = cosine(optimizer, num_steps=4, warmup_steps=1)
        >>> [round(schedule.lr_lambdas[0](step), 2) for step in range(5)]
        [1.0, 1.0, 0.75, 0.25, 0.0]
    """
    if warmup_steps > num_steps:
        raise ValueError(f"scheduler.warmup_steps={warmup_steps} is longer than the run of {num_steps} steps")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)
