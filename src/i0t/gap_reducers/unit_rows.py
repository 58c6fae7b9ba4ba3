"""Normalising rows, and refusing those that have no direction."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_unit(rows: Tensor, what: str, *, min_norm: float, check: bool) -> Tensor:
    """L2-normalises rows.

    Args:
        rows: ``(N, D)``.
        what: For the message.
        min_norm: Below it a row has no direction.
        check: Whether to look; that waits for the device.

    Raises:
        ValueError: If ``check`` and a row is zero, NaN or infinite.
    """
    if check:
        norm = torch.linalg.vector_norm(rows.detach(), dim=-1)
        bad = ~(torch.isfinite(norm) & (norm > min_norm))
        if bool(bad.any()):
            raise ValueError(
                f"{int(bad.sum())} of {len(bad)} {what} features are zero, NaN or infinite and have no direction, "
                f"first at row {int(bad.nonzero()[0])}"
            )
    return F.normalize(rows, dim=-1)
