"""Whether weights fit a model: names, shapes, positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor, nn

from i0t.models.weights import Weights


def load_weights(clip: nn.Module, weights: Weights, architecture: str) -> None:
    """Copies weights into a model, all of them or none.

    Raises:
        ValueError: In one line: what is missing, unexpected or of another shape, and what the shapes suggest.
    """
    own, state = clip.state_dict(), weights.state
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    other_shape = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unexpected or other_shape:
        first = (other_shape + missing + unexpected)[0]
        shapes = f" ({_shape(state[first])}, needed {_shape(own[first])})" if other_shape else ""
        suggested = suggest(state, weights.quick_gelu)
        hint = f"; its shapes are those of {suggested}: model.architecture={suggested}" if suggested else ""
        raise ValueError(
            f"{weights.file} does not fit {architecture}: {len(missing)} tensors are missing, {len(unexpected)} "
            f"unexpected, {len(other_shape)} of another shape, first {first}{shapes}{hint}"
        )
    clip.load_state_dict(state)


def convert(clip: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The steps of ``open_clip.load_checkpoint`` between a file and a model, without those that guess."""
    converted: dict[str, Tensor] = dict(convert_state_dict(clip, dict(state)))
    if "positional_embedding" in converted and not hasattr(clip, "positional_embedding"):
        converted = convert_to_custom_text_state_dict(converted)
    own = clip.state_dict()
    for key in ("logit_scale", "logit_bias"):
        if key in converted and key in own:
            converted[key] = converted[key].reshape(own[key].shape)  # a scalar or one element, by version
    if "logit_bias" in own:
        converted.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
    position_ids = "text.transformer.embeddings.position_ids"
    if position_ids in converted and position_ids not in own:
        del converted[position_ids]  # a constant that transformers no longer stores
    return converted


def check_positions(
    state: Mapping[str, Tensor], clip: Any, weights: Weights, architecture: str, image_size: int | None
) -> None:
    """Refuses what open_clip would interpolate in silence: images or texts of another size than the weights'."""
    own = clip.state_dict()
    for key in ("positional_embedding", "text.positional_embedding"):
        if key in own and key in state and own[key].shape[0] != state[key].shape[0]:
            raise ValueError(
                f"{weights.file} has {state[key].shape[0]} text positions, {architecture} has {own[key].shape[0]}; "
                "for 248 take model=longclip_vit_b_32 or its architecture with another size"
            )
    key, conv = "visual.positional_embedding", "visual.conv1.weight"
    if image_size is None and key in own and key in state and own[key].shape[0] != state[key].shape[0]:
        side = math.isqrt(state[key].shape[0] - 1) * state[conv].shape[-1]
        raise ValueError(
            f"{weights.file} was trained on images of {side} pixels, {architecture} takes {clip.visual.image_size}; "
            f"choose: model.image_size={side}, or the other size to interpolate the positions"
        )


def suggest(state: Mapping[str, Tensor], quick_gelu: bool | None = None) -> str | None:
    """The open_clip architecture that has the shapes of a state dict of one of its own ViT or ResNet models.

    Args:
        state: Named as in open_clip.
        quick_gelu: The activation it was trained with, where that is known.
    """
    shape = _shape_of(state)
    if shape is None:
        return None
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    names = [
        name
        for name, config in configs.items()
        if _shape_in_config(config) == shape and quick_gelu in (None, config.get("quick_gelu", False))
    ]
    return min(names, key=len, default=None)


def _shape_of(state: Mapping[str, Tensor]) -> tuple[Any, ...] | None:
    conv, final = state.get("visual.conv1.weight"), state.get("ln_final.weight")
    projection = state.get("text_projection")
    if conv is None or final is None or projection is None:
        return None
    text = (projection.shape[-1], final.shape[0], _count(state, "transformer.resblocks.", 2))
    if "visual.layer1.0.conv1.weight" in state:
        width = state["visual.layer1.0.conv1.weight"].shape[0]
        return (width, tuple(_count(state, f"visual.layer{i}.", 2) for i in (1, 2, 3, 4)), None, *text)
    layers = _count(state, "visual.transformer.resblocks.", 3)
    positions = state.get("visual.positional_embedding")
    if positions is None:
        return None
    return (conv.shape[0], layers, (conv.shape[-1], positions.shape[0]), *text)


def _shape_in_config(config: Mapping[str, Any]) -> tuple[Any, ...] | None:
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text or "layers" not in vision or "custom_text" in config:
        return None
    shared = (config["embed_dim"], text.get("width", 512), text.get("layers", 12))
    if isinstance(vision["layers"], list):
        return (vision.get("width", 64), tuple(vision["layers"]), None, *shared)
    image_size, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    if not isinstance(image_size, int):
        return None
    return (vision.get("width", 768), vision["layers"], (patch, (image_size // patch) ** 2 + 1), *shared)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _count(state: Mapping[str, Tensor], prefix: str, part: int) -> int:
    return len({name.split(".")[part] for name in state if name.startswith(prefix)})
