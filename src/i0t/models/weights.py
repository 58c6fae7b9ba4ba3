"""Where weights come from, and what is known of how they were trained."""

from __future__ import annotations

import difflib
import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from huggingface_hub import constants
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from i0t.models.architectures import (
    PREPROCESS_KEYS,
    preprocess_of_node,
    quick_gelu_of,
    quick_gelu_of_node,
    trained_with_quick_gelu,
)
from i0t.models.lora import LoraSettings, merged_state

# OpenAI's archives hold these three numbers beside the weights; no other program writes them.
_OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
# How wrappers prolong the names: DDP, torch.compile, our LightningModule, our ClipModel.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "clip.")


class _NumpyValue:
    """Stands where a checkpoint holds a NumPy number or array (random states, best scores), which is not rebuilt."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# NumPy's own functions are not called: what they make of a forged file is not theirs to guard against.
_NUMPY_NAMES = (
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


class Weights(NamedTuple):
    """A state dict and what its file says about itself.

    Attributes:
        file: Where it was read.
        state: Named as in the bare open_clip model.
        quick_gelu: Whether it was trained with QuickGELU; ``None``: the file does not tell.
        preprocess: Mean, deviation, interpolation and resize mode it was trained with, where the file tells.
    """

    file: Path
    state: dict[str, Tensor]
    quick_gelu: bool | None
    preprocess: Mapping[str, Any]


def find_weights(architecture: str, pretrained: str) -> Path:
    """The local file of a tag (downloaded if it is not in the cache) or of a path.

    Args:
        architecture: An open_clip architecture.
        pretrained: One of its tags, or a file.

    Raises:
        ValueError: If it is neither, naming the nearest tag.
        ConnectionError: If it must be downloaded and cannot; one line with the tag, the place and the way out.
    """
    published = get_pretrained_cfg(architecture, pretrained)
    if not published:
        path = Path(pretrained).expanduser()
        if path.is_file():
            return path
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        close = difflib.get_close_matches(pretrained, tags, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"its tags: {', '.join(tags) or 'none'}"
        raise ValueError(f"model.pretrained={pretrained} is neither a file nor a tag of {architecture}; {hint}")
    try:
        return Path(download_pretrained(published))
    except (OSError, RuntimeError) as error:
        place = f"{constants.ENDPOINT}/{published['hf_hub']}" if published.get("hf_hub") else published["url"]
        raise ConnectionError(
            f"model.pretrained={pretrained}: the weights are not in the cache ({constants.HF_HUB_CACHE}) and "
            f"{place.rstrip('/')} cannot be reached ({_first_line(error)}); offline, give a file, "
            "model.pretrained=<file>, or copy that cache here (HF_HUB_CACHE names its folder)"
        ) from error


def read_weights(file: Path) -> Weights:
    """Reads a file of weights without running anything that is in it.

    A plain state dict, an open_clip training checkpoint (``{"state_dict": …}``) or a checkpoint of ours, as
    ``.safetensors`` or as ``torch.save`` writes it; one of OpenAI's published TorchScript archives, told by its hash.

    Raises:
        ValueError: If the file is corrupt, holds more than tensors and plain containers, or no weights.
    """
    if file.suffix == ".safetensors":
        try:
            content: Any = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file ({_first_line(error)})") from error
    elif _is_torchscript(file):
        content = _read_openai_archive(file)
    else:
        content = _read_torch(file)
    nested = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(nested, Mapping) or not any(isinstance(value, Tensor) for value in nested.values()):
        raise ValueError(f"{file} holds no weights: expected a state dict, or a checkpoint with 'state_dict'")
    state = _unwrap({str(name): value for name, value in nested.items() if isinstance(value, Tensor)})
    adapters = _model_node(content).get("lora")
    if adapters is not None:
        state = merged_state(state, scaling=LoraSettings.read(adapters).scaling)
    needs_quick_gelu, preprocess = _what_the_file_tells(file, content, state)
    for key in _OPENAI_KEYS:
        state.pop(key, None)
    return Weights(file, state, needs_quick_gelu, preprocess)


def check_training(weights: Weights, architecture: str, *, quick_gelu: bool, preprocess: Mapping[str, Any]) -> None:
    """Refuses weights that are known to have been trained with another activation or other pixels.

    Either silently costs accuracy.

    Args:
        weights: What was read.
        architecture: Its name, for the message.
        quick_gelu: Whether the model was built with it.
        preprocess: How the model's transform treats pixels.

    Raises:
        ValueError: Naming both sides and what to write.
    """
    if weights.quick_gelu is not None and weights.quick_gelu != quick_gelu:
        raise ValueError(
            _activation_mismatch(str(weights.file), architecture, needs=weights.quick_gelu, has=quick_gelu)
        )
    for key, expected in weights.preprocess.items():
        if _plain(preprocess[key]) != _plain(expected):
            argument = f"image_{key}" if key in ("mean", "std") else key
            raise ValueError(
                f"{weights.file} was trained with {key} {_plain(expected)}, the transform of {architecture} has "
                f"{_plain(preprocess[key])}: set model.{argument}={str(_plain(expected)).replace(' ', '')}"
            )


def check_activation_of_tag(architecture: str, pretrained: str | None) -> None:
    """Refuses a tag whose weights were trained with another activation than the model is built with.

    Raises:
        ValueError: Naming both and the architecture to write.
    """
    needs, has = trained_with_quick_gelu(architecture, pretrained), quick_gelu_of(architecture, pretrained)
    if needs is not None and needs != has:
        raise ValueError(_activation_mismatch(f"model.pretrained={pretrained}", architecture, needs=needs, has=has))


def _activation_mismatch(source: str, architecture: str, *, needs: bool, has: bool) -> str:
    """One line: what the weights need, what the name gives, and the name to write."""
    names = {True: "QuickGELU", False: "GELU"}
    bare = architecture.removesuffix("-quickgelu")
    fix = f"{bare}-quickgelu" if needs else bare
    return (
        f"{source} was trained with {names[needs]}, {architecture} has {names[has]}: "
        f"set model.architecture={fix} (another activation silently costs accuracy)"
    )


def _read_torch(file: Path) -> Any:
    # Mapped into memory, a checkpoint's optimizer state is never read.
    mapped = zipfile.is_zipfile(file)
    try:
        with torch.serialization.safe_globals([(_NumpyValue, name) for name in _NUMPY_NAMES]):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is no torch file, or holds more than tensors and plain containers, which are not loaded for "
            f"safety ({_first_line(error)}); save its state dict alone, with torch.save(model.state_dict(), …)"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{file} is corrupt or cut short ({_first_line(error)})") from error


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_openai_archive(file: Path) -> dict[str, Tensor]:
    # A TorchScript archive is a program; one whose hash OpenAI published is a known program.
    if _sha256(file) not in _openai_hashes():
        raise ValueError(
            f"{file} is a TorchScript archive, a program, and none that OpenAI published; it is not run for safety: "
            "where you trust it, save its weights with torch.save(torch.jit.load(file).state_dict(), …)"
        )
    return torch.jit.load(str(file), map_location="cpu").state_dict()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _openai_hashes() -> set[str]:
    urls = [open_clip.get_pretrained_url(name, "openai") for name in open_clip.list_openai_models()]
    return {url.split("/")[-2] for url in urls if "/" in url}


def _unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    ours = {name: value for name, value in state.items() if name.startswith(("model.clip.", "module.model.clip."))}
    state = ours or state  # beside the model a checkpoint of ours holds reducers and metrics
    while wrapper := next((w for w in _WRAPPERS if all(name.startswith(w) for name in state)), None):
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return state


def _model_node(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model's config in a checkpoint of ours."""
    node: Mapping[str, Any] = content["i0t"].get("config", {}).get("model", {}) if "i0t" in content else {}
    return node


def _what_the_file_tells(
    file: Path, content: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[bool | None, dict[str, Any]]:
    node = _model_node(content)
    if "architecture" in node and "image_mean" in node:
        return quick_gelu_of_node(node), preprocess_of_node(node)
    beside = file.parent / "open_clip_config.json"  # as in a folder from the Hugging Face hub
    if beside.is_file():
        told = json.loads(beside.read_text(encoding="utf-8"))
        preprocess = {k: v for k, v in told.get("preprocess_cfg", {}).items() if k in PREPROCESS_KEYS}
        return bool(told.get("model_cfg", {}).get("quick_gelu", False)), preprocess
    if set(_OPENAI_KEYS) <= set(state) or _is_long_clip_release(state):
        return True, {}
    return None, {}


def _is_long_clip_release(state: Mapping[str, Tensor]) -> bool:
    """Half-precision matrices beside the second positional embedding: Long-CLIP's own code, which is OpenAI's."""
    return "positional_embedding_res" in state and state["visual.conv1.weight"].dtype == torch.float16


def _plain(value: Any) -> Any:
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else value


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
