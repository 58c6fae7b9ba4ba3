"""Which parameters an optimizer trains together: by weight decay, and by depth where the learning rate needs it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

LR_SCALE = "lr_scale"
_log = logging.getLogger(__name__)


class LayerDecay(NamedTuple):
    """Learning rates that fall with depth (BEiT, arXiv 2106.08254): ``lr * factor ** depth``.

    Attributes:
        factor: Of one layer, in (0, 1].
        depths: Depth from the top of its tower by parameter name; a name that is not in it (a gap reducer's) has none.
    """

    factor: float
    depths: Mapping[str, int]


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, decay_all: bool, layer_decay: LayerDecay | None = None
) -> list[dict[str, Any]]:
    """Groups of the parameters that have gradients, each parameter in exactly one.

    Args:
        named_parameters: Of the whole module.
        decay_all: Weight decay on every parameter (I0T); else on matrices and kernels only (open_clip).
        layer_decay: ``None``: one learning rate for all.

    Returns:
        For an optimizer: with and without decay; with ``layer_decay`` both for every depth, deepest first, with the
        factor of their learning rate under ``lr_scale`` and a ``name``. :func:`scale_learning_rates` applies it.

    Raises:
        ValueError: If the factor is not in (0, 1].

    Example:
        >>> import torch
        >>> weight, bias = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
        >>> groups = parameter_groups([("0.w", weight), ("1.b", bias)], decay_all=False,
        ...                           layer_decay=LayerDecay(0.5, {"0.w": 2, "1.b": 1}))
        >>> [(g["name"], g["lr_scale"], g.get("weight_decay")) for g in groups]
        [('depth_2', 0.25, None), ('depth_1_no_decay', 0.5, 0.0)]
    """
    trained = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    if layer_decay is None:
        decayed = [p for _, p in trained if decay_all or p.ndim >= 2]
        others = [p for _, p in trained if not decay_all and p.ndim < 2]
        return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    check_factor(layer_decay.factor)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in trained:
        depth, decays = layer_decay.depths.get(name, 0), decay_all or parameter.ndim >= 2
        group = groups.setdefault((depth, decays), {"params": [], "names": []})
        group["params"].append(parameter)
        group["names"].append(name)
    ordered = sorted(groups.items(), key=lambda item: (-item[0][0], not item[0][1]))
    _log_table([(depth, decays, group["names"]) for (depth, decays), group in ordered], layer_decay.factor)
    return [_group(depth, decays, group["params"], layer_decay.factor) for (depth, decays), group in ordered]


def _group(depth: int, decays: bool, parameters: list[nn.Parameter], factor: float) -> dict[str, Any]:
    name = f"depth_{depth}" if decays else f"depth_{depth}_no_decay"
    undecayed = {} if decays else {"weight_decay": 0.0}
    return {"params": parameters, "name": name, LR_SCALE: factor**depth, **undecayed}


def scale_learning_rates(optimizer: Optimizer) -> None:
    """Multiplies every group's learning rate by its ``lr_scale``; before the schedule, which then keeps the ratios."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group.get(LR_SCALE, 1.0)


def check_factor(factor: float) -> None:
    """Refuses a factor that is none.

    Raises:
        ValueError: If it is not in (0, 1].
    """
    if not 0 < factor <= 1:
        raise ValueError(f"layer_decay={factor} must be above 0 and at most 1 (BEiT: 0.65 to 0.95), or null")


def _log_table(rows: Iterable[tuple[int, bool, list[str]]], factor: float) -> None:
    """Into the run's log file: who learns how fast."""
    lines = [
        f"{depth:5d}  {factor**depth:<10.4g} {'yes' if decays else 'no':12s} {len(names):6d}  {names[0]}"
        for depth, decays, names in rows
    ]
    head = f"layer_decay={factor}\ndepth  lr factor  weight decay tensors  first"
    _log.info("%s", "\n".join([head, *lines]))
