"""Dropout in transformer towers that have none, for two views of one batch (the I0T paper's multi-view loss)."""

from __future__ import annotations

from typing import Any

from open_clip.transformer import Attention, CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import nn

_BLOCKS = (ResidualAttentionBlock, CustomResidualAttentionBlock)


def add_dropout(tower: nn.Module, probability: float, *, name: str) -> int:
    """Puts dropout into every attention of a tower and behind the last projection of every MLP.

    As in I0T (arXiv 2412.14384, its ``model_longcyclip.py``): on the attention weights and on what an MLP returns.
    Neither has a parameter, so the names in a state dict stay; in eval mode neither does anything.

    Args:
        tower: Of open_clip; changed in place.
        probability: Share of the values that are set to zero, in ``[0, 1)``.
        name: What the tower is called in an error.

    Returns:
        The number of places: two for every block, one for every pooling attention.

    Raises:
        ValueError: If the probability is out of range, or the tower has no transformer block of open_clip's.
    """
    if not 0 <= probability < 1:
        raise ValueError(f"model.dropout must be at least 0 and below 1, got {probability}")
    blocks: list[Any] = [module for module in tower.modules() if isinstance(module, _BLOCKS)]
    if not blocks:
        raise ValueError(
            f"model.dropout={probability} cannot be put into {name} ({type(tower).__name__} has no transformer block "
            "of open_clip's): set model.dropout=0.0, or lock that tower"
        )
    places = 0
    for module in tower.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = probability
            places += 1
        elif isinstance(module, Attention):  # open_clip's own, of architectures that scale or normalise inside
            module.attn_drop.p = probability
            places += 1
    for block in blocks:
        block.mlp.add_module("dropout", nn.Dropout(probability))
        places += 1
    return places
