"""How far below the top of its tower every parameter lies, for learning rates that fall with depth.

As in BEiT (Bao et al. 2021, arXiv 2106.08254, its ``optim_factory.py``): a tower of L blocks has L + 2 levels: 0
the embeddings, i + 1 block i (from 0), L + 1 what stands above all blocks, the last norm and the projection. The depth
of a parameter is L + 1 minus its level: 0 at the top, L + 1 for the embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from timm.models._manipulate import group_with_matcher
from torch import nn

# The lists of blocks in open_clip's towers and in those of transformers.
_BLOCK = re.compile(r"(?:^|\.)(?:resblocks|encoder\.(?:layers?|blocks?))\.(\d+)\.")
_EMBEDDING = re.compile(
    r"^(?:conv1|class_embedding|positional_embedding(?:_res)?|ln_pre|token_embedding|cls_emb)\b"
    r"|(?:^|\.)(?:embeddings|shared)\."
)
_RESNET_STAGE = re.compile(r"^layer(\d)\.")
_RESNET_STEM = re.compile(r"^(?:conv|bn)\d\.")
_NOWHERE = "\0"  # a name that no matcher of timm's knows

# The level of a parameter's name within its tower; ``None``: above all blocks.
Level = Callable[[str], "int | None"]


def depths(names: Iterable[str], level: Level, *, tower: str) -> dict[str, int]:
    """Depth from the top of every parameter of one tower.

    Args:
        names: Of its parameters.
        level: Of a name.
        tower: What it is called in an error.

    Raises:
        ValueError: If no parameter lies in a block.

    Example:
        >>> depths(["conv1.weight", "resblocks.0.w", "resblocks.1.w", "proj"], transformer_level, tower="image tower")
        {'conv1.weight': 3, 'resblocks.0.w': 2, 'resblocks.1.w': 1, 'proj': 0}
    """
    levels = {name: level(name) for name in names}
    top = 1 + max((found for found in levels.values() if found is not None), default=0)
    if top < 2:
        raise ValueError(f"layer_decay: the {tower} has no blocks that can be told apart; set layer_decay=null")
    return {name: 0 if found is None else top - found for name, found in levels.items()}


def transformer_level(name: str) -> int | None:
    """Level in a transformer of open_clip's or of Hugging Face's (and in an EfficientNet of the latter)."""
    block = _BLOCK.search(name)
    if block is not None:
        return int(block[1]) + 1
    return 0 if _EMBEDDING.search(name) else None


def resnet_level(name: str) -> int | None:
    """Level in open_clip's ``ModifiedResNet``: the stem, four stages, and the attention pool that projects."""
    stage = _RESNET_STAGE.match(name)
    if stage is not None:
        return int(stage[1])
    return 0 if _RESNET_STEM.match(name) else None


def image_tower_level(visual: nn.Module) -> Level:
    """The levels of an image tower of open_clip's.

    Raises:
        ValueError: If it is timm's and timm does not say how its layers follow each other.
    """
    if isinstance(visual, ModifiedResNet):
        return resnet_level
    if isinstance(visual, TimmModel):
        return _timm_levels(visual.trunk).get
    return transformer_level


def _timm_levels(trunk: Any) -> Mapping[str, int]:
    """Levels by timm's own grouping (that of its ``param_groups_layer_decay``), without what is above all blocks."""
    if not hasattr(trunk, "group_matcher"):
        raise ValueError(f"layer_decay: timm does not group the layers of {type(trunk).__name__}; set layer_decay=null")
    named = [(name, None) for name, _ in trunk.named_parameters()]
    ids = group_with_matcher(iter([*named, (_NOWHERE, None)]), trunk.group_matcher(coarse=False), reverse=True)
    above = ids.pop(_NOWHERE)
    return {f"trunk.{name}": level for name, level in ids.items() if level != above}
