"""Models whose weights come from a checkpoint of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig

from i0t import runs
from i0t.config import instantiate, to_container, to_yaml
from i0t.config_errors import ConfigError
from i0t.models.base import ClipModel

_PREFIX = "model."


def build_model(cfg: DictConfig) -> ClipModel:
    """The model of a training run: pretrained or random, or that of ``ckpt_path``, or that of the run that goes on.

    Raises:
        ConfigError: If the checkpoint was made with another architecture.
    """
    node = to_container(cfg.model)
    path = Path(cfg.paths.output_dir) / runs.CHECKPOINT if cfg.resume else cfg.ckpt_path
    if path is None:
        model: ClipModel = instantiate(node)
        return model
    checkpoint = runs.read_checkpoint(Path(path))
    _check_same_architecture(node, checkpoint, path)
    model = build_from_checkpoint(node, checkpoint, path)
    if not cfg.resume:
        _set_logits(model, node, checkpoint[runs.CHECKPOINT_KEY]["config"]["model"])
    return model


def _set_logits(model: ClipModel, node: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """The logit scale and bias that this run asks for; what it inherits from the checkpoint's run was trained."""
    scale, bias = node.get("logit_scale"), node.get("logit_bias")
    own_bias = model.logits()[1]
    with torch.no_grad():
        if scale is not None and scale != saved.get("logit_scale"):
            model.log_logit_scale.fill_(math.log(scale))
        if bias is not None and bias != saved.get("logit_bias") and own_bias is not None:
            own_bias.fill_(bias)


def check_models(jobs: Sequence[DictConfig]) -> None:
    """See :func:`i0t.engine.check_models`."""
    nodes = {to_yaml(job.model): job.model for job in jobs if job.model is not None and job.ckpt_path is None}
    for node in nodes.values():
        model = get_class(node["_target_"])
        if issubclass(model, ClipModel):
            model.check_node(to_container(node))


def build_from_checkpoint(node: Mapping[str, Any], checkpoint: Mapping[str, Any], path: str | Path) -> ClipModel:
    """The model that a node describes, with a checkpoint's weights; nothing is downloaded.

    Raises:
        ConfigError: If the weights do not fit, or are not those that the checkpoint says it was trained on.
    """
    without_weights = {**node, "load_weights": False} if "load_weights" in node else node
    model: ClipModel = instantiate(without_weights)
    state = checkpoint["state_dict"]
    own = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    try:
        missing, unexpected = model.load_state_dict(own, strict=False)
    except RuntimeError as error:  # of other shapes
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(f"ckpt_path={path}: its weights do not fit the model ({reason})") from error
    if missing or unexpected:
        raise ConfigError(
            f"ckpt_path={path}: its weights do not fit the model its config describes "
            f"({len(missing)} missing, {len(unexpected)} unexpected, first {(missing + unexpected)[0]})"
        )
    check_encoder_weights(model, checkpoint[runs.CHECKPOINT_KEY].get("encoder_weights"), path)
    return model


def check_encoder_weights(model: ClipModel, expected: str | None, path: str | Path) -> None:
    """Compares the weights of frozen encoders with the hash of those that a reducer was trained on.

    Raises:
        ConfigError: If they differ: the reducer belongs to other encoders.
    """
    if expected is not None and model.identity()["weights"] != expected:
        raise ConfigError(f"{path}: its encoders are not the ones that its gap reducer was trained on")


def _check_same_architecture(node: Mapping[str, Any], checkpoint: Mapping[str, Any], path: str | Path) -> None:
    saved = checkpoint[runs.CHECKPOINT_KEY]["config"]["model"]
    asked, made = _architecture(node), _architecture(saved)
    if asked != made:
        raise ConfigError(
            f"ckpt_path={path} was made with {made}, but model is {asked}: take model=… away, the checkpoint brings "
            f"its own, or give a checkpoint of {asked}"
        )


def _architecture(node: Mapping[str, Any]) -> str:
    """In words: the name of the architecture, where it has one, and the class."""
    name, kind = node.get("architecture"), str(node["_target_"]).rpartition(".")[2]
    return f"{name} ({kind})" if name else kind
