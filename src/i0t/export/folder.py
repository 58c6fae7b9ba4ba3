"""What ``i0t-export`` writes: weights, config, reducer, its application and a model card, all of them or nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from safetensors.torch import save_file

from i0t import runs
from i0t.engine.rows import checkpoint_row
from i0t.engine.weights import build_from_checkpoint
from i0t.export.card import model_card
from i0t.gap_reducers.base import GapReducer
from i0t.gap_reducers.none import NoReducer
from i0t.models.base import ClipModel

WEIGHTS_FILE, CONFIG_FILE = "open_clip_model.safetensors", "open_clip_config.json"  # as open_clip looks for them
REDUCER_FILE, APPLICATION_FILE, CARD_FILE = "gap_reducer.safetensors", "apply_reducer.py", "README.md"


class Exported(NamedTuple):
    """What was written.

    Attributes:
        folder: Where.
        architecture: open_clip's name of it.
        load: The line that loads the weights.
        reducer: The reducer's class.
        reducer_file: Its name in the folder.
    """

    folder: Path
    architecture: str
    load: str
    reducer: str
    reducer_file: str


def export(
    checkpoint: Path,
    output: Path | None = None,
    *,
    reducer: Path | None = None,
    weights_license: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Writes a checkpoint as a folder that needs no i0t.

    Args:
        checkpoint: Of a run, or the run's folder.
        output: Where to; ``None``: the folder ``export`` of the run.
        reducer: A saved reducer in place of the checkpoint's own.
        weights_license: Of the weights, for the model card.
        overwrite: Whether what is there may be replaced.

    Raises:
        ValueError: If the checkpoint or the reducer cannot be read or do not fit each other, open_clip has no such
            model, or there is something at ``output``.
    """
    path = checkpoint / runs.CHECKPOINT if checkpoint.is_dir() else checkpoint
    content = runs.read_checkpoint(path, str(checkpoint))
    run = path.parent.parent
    output = run / "export" if output is None else output
    _check_output(output, overwrite=overwrite)
    config = content[runs.CHECKPOINT_KEY]["config"]
    model = build_from_checkpoint(config["model"], content, path)
    model.merge_adapters()
    model.eval()
    found = _own_reducer(content, model.embed_dim) if reducer is None else _load_reducer(reducer, model.embed_dim)
    architecture = str(config["model"].get("architecture"))
    about = model.open_clip_config()
    load = load_line(architecture, about["model_cfg"])
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        _write_model(aside, model, about)
        _write_reducer(aside, found, config)
        card = model_card(run, config, found, load=load, weights_license=weights_license)
        (aside / CARD_FILE).write_text(card, encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        aside.replace(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(output, architecture, load, type(found).__name__, REDUCER_FILE)


def load_line(architecture: str, model_config: Mapping[str, Any]) -> str:
    """How plain open_clip loads the weights: by the architecture's name, if that says everything, else by the folder.

    Args:
        architecture: Of the run: a name of open_clip's, or a file.
        model_config: ``model_cfg`` of the folder.
    """
    named = open_clip.get_model_config(architecture)
    if named is not None and {"quick_gelu": False, **named} == {"quick_gelu": False, **model_config}:
        return f'open_clip.create_model("{architecture}", pretrained="{WEIGHTS_FILE}")'
    return 'open_clip.create_model("local-dir:<this folder>")'


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Refuses, before any work, an output that cannot be written."""
    if output.is_file():
        raise ValueError(f"{output} is a file: name a folder")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists; --overwrite replaces it")
    if output.exists() and any(output.iterdir()) and not (output / CONFIG_FILE).exists():
        raise ValueError(f"{output} is no export, and is not replaced: name another folder")


def _own_reducer(content: Mapping[str, Any], dim: int) -> GapReducer:
    row = checkpoint_row(content, dim=dim)
    return NoReducer(dim) if row is None else row.reducer


def _load_reducer(path: Path, dim: int) -> GapReducer:
    reducer = GapReducer.load(path)
    if reducer.dim != dim:
        raise ValueError(f"--reducer {path} is for width {reducer.dim}, the model's is {dim}")
    return reducer


def _write_model(folder: Path, model: ClipModel, about: Mapping[str, Any]) -> None:
    state = {name: value.detach().cpu().contiguous() for name, value in model.open_clip_state().items()}
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _write_reducer(folder: Path, reducer: GapReducer, config: Mapping[str, Any]) -> None:
    reducer.save(folder / REDUCER_FILE, provenance={"run": config.get("name"), "seed": config.get("seed")})
    source = resources.files("i0t.export").joinpath(APPLICATION_FILE)
    (folder / APPLICATION_FILE).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
