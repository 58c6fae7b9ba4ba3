"""The torch side of saving and loading reducers, see :mod:`i0t.gap_reducers.saved` for the file."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import nn

from i0t import __version__
from i0t.gap_reducers.errors import NotAffineError
from i0t.gap_reducers.fit_splits import FIT_SPLITS
from i0t.gap_reducers.saved import FORMAT, METADATA_KEY, check_path, read_saved, tensors_hash, write_aside

if TYPE_CHECKING:
    from i0t.gap_reducers.base import GapReducer

OWN_PACKAGE = "i0t.gap_reducers."


def save_reducer(reducer: GapReducer, path: str | Path, *, provenance: Mapping[str, Any] | None = None) -> Path:
    """Writes a reducer, see :meth:`i0t.gap_reducers.base.GapReducer.save`."""
    path = check_path(path)
    tensors = {f"state.{name}": value.detach().cpu().numpy() for name, value in _state(reducer).items()}
    affine = _affine_tensors(reducer)
    tensors |= affine or {}
    arguments, modules = _arguments(reducer)
    description = {
        "format": FORMAT,
        "class": _class_path(type(reducer)),
        "arguments": arguments,
        "modules": modules,
        "affine": affine is not None,
        "fit_split": reducer.fit_split,
        "num_fit_images": int(reducer.num_fit_images),
        "num_fit_texts": int(reducer.num_fit_texts),
        "protocol": FIT_SPLITS.get(reducer.fit_split or "", "nothing is fitted"),
        "provenance": dict(provenance or {}),
        "versions": {"i0t": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
        "sha256": tensors_hash(tensors),
    }
    text = json.dumps(description, indent=2, sort_keys=True)
    write_aside(path, save({name: np.asarray(t, order="C") for name, t in tensors.items()}, {METADATA_KEY: text}))
    write_aside(path.with_suffix(".json"), (text + "\n").encode())
    return path


def load_reducer(
    expected: type[GapReducer], path: str | Path, *, modules: Mapping[str, nn.Module] | None = None
) -> GapReducer:
    """Reads a reducer, see :meth:`i0t.gap_reducers.base.GapReducer.load`."""
    path = Path(path)
    description, tensors = read_saved(path)
    kind = _find_class(expected, description["class"], path)
    arguments = {**description["arguments"], **dict.fromkeys(description["modules"]), **(modules or {})}
    unknown = arguments.keys() - inspect.signature(kind).parameters.keys()
    if unknown:
        raise ValueError(f"{path}: {description['class']} takes no argument {sorted(unknown)}")
    reducer = kind(**arguments)
    state = {
        name.removeprefix("state."): torch.from_numpy(t) for name, t in tensors.items() if name.startswith("state.")
    }
    try:
        reducer.load_state_dict({**_state_of_modules(reducer), **state})
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit {description['class']}: {str(error).splitlines()[-1].strip()}"
        ) from error
    return reducer.eval()


def _find_class(expected: type[GapReducer], class_path: str, path: Path) -> type[GapReducer]:
    """The saved class, imported only if it is ours: a file must not decide what runs."""
    if class_path == _class_path(expected):
        return expected
    if class_path.startswith(OWN_PACKAGE):
        module, _, name = class_path.rpartition(".")
        kind: type[GapReducer] = getattr(importlib.import_module(module), name)
        if issubclass(kind, expected):
            return kind
    name = class_path.rpartition(".")[2]
    raise ValueError(
        f"{path} holds a {class_path}: import that class and call {name}.load, not {expected.__name__}.load"
    )


def _class_path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _arguments(reducer: GapReducer) -> tuple[dict[str, Any], dict[str, str]]:
    """The constructor's plain arguments, and those that are modules, in words."""
    arguments: dict[str, Any] = {}
    modules: dict[str, str] = {}
    for name in inspect.signature(type(reducer)).parameters:
        if not hasattr(reducer, name):
            raise ValueError(
                f"{type(reducer).__name__} cannot be saved: it must keep its argument {name!r} as an attribute"
            )
        value = getattr(reducer, name)
        if isinstance(value, nn.Module):
            modules[name] = repr(value)
        else:
            arguments[name] = value
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise ValueError(f"{type(reducer).__name__} cannot be saved: its arguments must be plain ({error})") from error
    return arguments, modules


def _state(reducer: GapReducer) -> dict[str, torch.Tensor]:
    """Buffers and parameters, but not those of modules that came as arguments (a loss)."""
    foreign = _state_of_modules(reducer)
    return {name: value for name, value in reducer.state_dict().items() if name not in foreign}


def _state_of_modules(reducer: GapReducer) -> dict[str, torch.Tensor]:
    names = [n for n in inspect.signature(type(reducer)).parameters if isinstance(getattr(reducer, n, None), nn.Module)]
    return {k: v for k, v in reducer.state_dict().items() if any(k.startswith(f"{name}.") for name in names)}


def _affine_tensors(reducer: GapReducer) -> dict[str, np.ndarray] | None:
    """Scale and shift of each fitted modality; ``None`` for a kind that is not of this form."""
    tensors: dict[str, np.ndarray] = {}
    try:
        for modality in reducer.fitted_modalities:
            scale, shift = reducer.affine_image() if modality == "image" else reducer.affine_text()
            tensors[f"{modality}.scale"] = scale.detach().cpu().double().numpy()
            tensors[f"{modality}.shift"] = shift.detach().cpu().double().numpy()
    except NotAffineError:
        return None
    return tensors
