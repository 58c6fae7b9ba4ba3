"""What is known of a model of open_clip: what it was trained on, how large it is, and of which kind."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

UNKNOWN = "unknown"
_FILE_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".npz", ".safetensors")
# By how the name of timm's image tower begins; without timm, a list of layers is a ResNet and all else a ViT.
_TIMM_FAMILIES = (
    ("convnext", "ConvNeXt"),
    ("eva", "EVA"),
    ("vitamin", "ViTamin"),
    ("fastvit", "FastViT"),
    ("mobileclip", "FastViT"),
    ("vit_pe", "ViT"),
    ("vit", "ViT"),
    ("resnet", "ResNet"),
    ("swin", "Swin"),
)


class TrainingData(NamedTuple):
    """What a model's published weights were trained on.

    Attributes:
        name: Models of one name have equal training data; ``"unknown"`` for random weights, files and unlisted tags.
        family: Of related data sets: the colour in figures.
        num_pairs: Distinct image-text pairs; ``None`` where nobody says.
        source: Where the number stands.
        left_out: Why such a model does not count in correlations; ``None``: it counts.
    """

    name: str
    family: str
    num_pairs: float | None
    source: str
    left_out: str | None


class ModelShape(NamedTuple):
    """How large a model is.

    Attributes:
        num_parameters: Of both towers; ``None`` where its description is not at hand.
        width: D, of the shared space; likewise.
        family: Of its image tower: ViT, ResNet, ConvNeXt, …
    """

    num_parameters: int | None
    width: int | None
    family: str


def training_data_of(architecture: str, tag: str | None) -> TrainingData:
    """What the shipped table says of a tag.

    Args:
        architecture: Of open_clip.
        tag: One of its tags; a file or ``None`` is unknown.

    Example:
        >>> training_data_of("ViT-B-32", "laion400m_e32").name
        'LAION-400M'
        >>> training_data_of("ViT-B-32", "mine.pt").num_pairs is None
        True
    """
    is_file = tag is not None and ("/" in tag or Path(tag).suffix.lower() in _FILE_ENDINGS)
    for pattern, data in _table():
        if tag is not None and not is_file and fnmatchcase(f"{architecture}/{tag}", pattern):
            return data
    return TrainingData(UNKNOWN, UNKNOWN, None, "", None)


@functools.cache
def _table() -> tuple[tuple[str, TrainingData], ...]:
    text = resources.files("i0t.report").joinpath("model_training_data.yaml").read_text(encoding="utf-8")
    return tuple(
        (
            entry["pattern"],
            TrainingData(entry["name"], entry["family"], entry["pairs"], entry["source"], entry.get("left_out")),
        )
        for entry in yaml.safe_load(text)
    )


def shape_of(architecture: str) -> ModelShape:
    """Parameters, width and family of an architecture, built without memory for its weights.

    Args:
        architecture: A name of open_clip's, or a ``.json`` file in the form of its ``model_configs``.

    Returns:
        ``None`` in place of numbers for an unknown name or a file that is gone; no number of parameters for a text
        tower that the Hugging Face hub describes and the cache does not have.
    """
    import open_clip  # only where models are looked at: it takes seconds

    config = _config_of(architecture)
    if config is None:
        return ModelShape(None, None, UNKNOWN)
    name = Path(architecture).stem if architecture.endswith(".json") else architecture
    if open_clip.get_model_config(name) is None:
        open_clip.add_model_config(Path(architecture))
    return ModelShape(_num_parameters(name), int(config["embed_dim"]), _family(config))


def _config_of(architecture: str) -> dict[str, Any] | None:
    import open_clip

    path = Path(architecture)
    if path.suffix != ".json":
        found: dict[str, Any] | None = open_clip.get_model_config(architecture)
        return found
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) and "embed_dim" in read else None


@functools.cache
def _num_parameters(name: str) -> int | None:
    import open_clip
    import torch

    try:
        # Shapes only: the largest have 10 GB of weights.
        with torch.device("meta"), _no_warnings():
            model = open_clip.create_model(name, device="meta", load_weights=False, pretrained_text=False)
    except (OSError, NotImplementedError):  # described on the hub; or a tower that computes with its own weights
        return None
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Keeps open_clip from calling the model random: it has no weights at all."""

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def _family(config: Mapping[str, Any]) -> str:
    vision = config.get("vision_cfg", {})
    timm_name = vision.get("timm_model_name")
    if timm_name:
        return next((family for start, family in _TIMM_FAMILIES if timm_name.startswith(start)), "other")
    return "ResNet" if isinstance(vision.get("layers"), list) else "ViT"
