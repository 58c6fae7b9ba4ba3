"""What an open_clip architecture's name and a tag say before any weight is read."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import get_pretrained_cfg, is_pretrained_cfg

PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")
_QUICK_GELU = "-quickgelu"
_CLIP_PREPROCESS: Mapping[str, Any] = {
    "mean": OPENAI_DATASET_MEAN,
    "std": OPENAI_DATASET_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


def register_architecture(architecture: str) -> str:
    """Makes an architecture known to open_clip and returns its name there.

    Args:
        architecture: One of ``open_clip.list_models()``, or a ``.json`` file in the form of open_clip's own.

    Raises:
        ValueError: If there is none of that name, naming the nearest; or if a file hides one of open_clip's.
    """
    path = Path(architecture).expanduser()
    if path.suffix == ".json":
        return _register_file(path)
    names = open_clip.list_models()
    if architecture not in names:
        close = difflib.get_close_matches(architecture, names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"model.architecture={architecture} is not an open_clip architecture; {hint}open_clip.list_models() "
            "lists them, and a .json file in the form of open_clip's model_configs adds one"
        )
    return architecture


def _register_file(path: Path) -> str:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"model.architecture={path} cannot be read as JSON ({error})") from error
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise ValueError(f"model.architecture={path} must have embed_dim, vision_cfg and text_cfg")
    known = open_clip.get_model_config(path.stem)
    if known is None:
        open_clip.add_model_config(path)
    elif known != config:
        raise ValueError(f"model.architecture={path}: open_clip has another {path.stem}; rename the file")
    return path.stem


def trained_with_quick_gelu(architecture: str, pretrained: str | None) -> bool | None:
    """Whether a tag's weights were trained with QuickGELU; ``None`` for a file, or for no weights."""
    bare = architecture.removesuffix(_QUICK_GELU)
    if pretrained is None or not is_pretrained_cfg(bare, pretrained):
        return None
    return bool(get_pretrained_cfg(bare, pretrained).get("quick_gelu", False))


def quick_gelu_of(architecture: str, pretrained: str | None) -> bool:
    """Whether a model is built with QuickGELU: by its name, or because its weights are OpenAI's.

    No other tag changes what the name says: OpenAI's are the one case in which everybody means QuickGELU.
    """
    config = open_clip.get_model_config(architecture) or {}
    if config.get("quick_gelu", False):
        return True
    is_openai = pretrained is not None and pretrained.lower() == "openai"
    return is_openai and bool(trained_with_quick_gelu(architecture, pretrained))


def preprocess_of(architecture: str, pretrained: str | None, **given: Any) -> dict[str, Any]:
    """How images are resized and normalised: as given, else as for the tag, else as all tags of the architecture agree.

    Without any of these, as CLIP does.

    Args:
        architecture: An open_clip architecture.
        pretrained: A tag, a file or ``None``.
        **given: Values of ``mean``, ``std``, ``interpolation`` and ``resize_mode`` that are not ``None`` win.
    """
    published = [get_pretrained_cfg(architecture, pretrained)] if pretrained is not None else []
    if not any(published):
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        published = [get_pretrained_cfg(architecture, tag) for tag in tags]
    result = dict(_CLIP_PREPROCESS)
    for key in PREPROCESS_KEYS:
        values = [config[key] for config in published]
        if values and all(value == values[0] for value in values):
            result[key] = values[0]
    return result | {key: value for key, value in given.items() if value is not None}


def quick_gelu_of_node(node: Mapping[str, Any]) -> bool:
    """:func:`quick_gelu_of` the plain config node of a checkpoint."""
    return quick_gelu_of(_name(node), node["pretrained"])


def preprocess_of_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`preprocess_of` the plain config node of a checkpoint."""
    return preprocess_of(
        _name(node),
        node["pretrained"],
        mean=node["image_mean"],
        std=node["image_std"],
        interpolation=node["interpolation"],
        resize_mode=node["resize_mode"],
    )


def _name(node: Mapping[str, Any]) -> str:
    path = Path(node["architecture"])
    return path.stem if path.suffix == ".json" else str(path)
