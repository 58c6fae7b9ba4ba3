"""The model card of an exported folder, filled from what the run left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import ModelCardData

from i0t import runs
from i0t.gap_reducers.base import GapReducer
from i0t.gap_reducers.errors import NotAffineError

_TABLE_FILE = "table.md"
_TAGS = ("clip", "modality-gap", "i0t")


def model_card(
    run: Path, config: Mapping[str, Any], reducer: GapReducer, *, load: str, weights_license: str | None
) -> str:
    """Markdown with the hub's metadata on top; a run without numbers is said to have none.

    Args:
        run: The run's folder.
        config: Of the run.
        reducer: Beside the weights.
        load: The line that loads the weights.
        weights_license: As the hub names licences; ``None`` leaves it open.
    """
    metadata = ModelCardData(
        library_name="open_clip",
        license=weights_license,
        pipeline_tag="zero-shot-image-classification",
        tags=list(_TAGS),
    )
    about = _about(run)
    environment = about.get("environment", {})
    source = resources.files("i0t.export").joinpath("model_card.md.j2").read_text(encoding="utf-8")
    # Markdown, not HTML: what stands in tables is escaped by _cell.
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    architecture = str(config["model"].get("architecture"))
    return template.from_string(source).render(
        metadata=metadata.to_yaml(),
        title=_cell(config.get("name", "model")),
        architecture=_cell(Path(architecture).stem if architecture.endswith(".json") else architecture),
        reducer=type(reducer).__name__,
        affine=_is_affine(reducer),
        fit_split=reducer.fit_split or "nothing",
        fit_images=int(reducer.num_fit_images),
        fit_texts=int(reducer.num_fit_texts),
        load=load,
        tokenizer=load.replace("create_model(", "get_tokenizer(").partition(", pretrained")[0].rstrip(")") + ")",
        training=[(name, _cell(value)) for name, value in _training({**config, **_whole_config(run)})],
        measured=_cell(_measured(about)),
        table=_read(run / _TABLE_FILE),
        versions=_cell(", ".join(f"{name} {value}" for name, value in environment.items() if name != "command")),
        command=environment.get("command"),
    )


def _training(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What decides about the weights, by the names of the config."""
    data, model, loss = (config.get(name) or {} for name in ("data", "model", "loss"))
    optimizer, trainer = (config.get(name) or {} for name in ("optimizer", "trainer"))
    found = [
        ("run", config.get("name")),
        ("started from", model.get("pretrained") or config.get("ckpt_path") or "random weights"),
        ("data", _stem(data)),
        ("batch size per device", data.get("batch_size")),
        ("loss", _stem(loss)),
        ("learning rate", optimizer.get("lr")),
        ("steps", trainer.get("max_steps")),
        ("epochs", trainer.get("max_epochs")),
        ("precision", trainer.get("precision")),
        ("seed", config.get("seed")),
    ]
    return [(name, value) for name, value in found if value is not None and value != -1]


def _whole_config(run: Path) -> Mapping[str, Any]:
    """What the run's ``config.yaml`` says; a checkpoint keeps what decides about the model alone."""
    try:
        found = yaml.safe_load((run / runs.CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _stem(node: Mapping[str, Any]) -> str | None:
    return str(node["_target_"]).split(".")[-2] if "_target_" in node else None


def _about(run: Path) -> Mapping[str, Any]:
    """What ``metrics.json`` says; nothing where it is missing or torn."""
    try:
        found = json.loads((run / runs.METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _measured(about: Mapping[str, Any]) -> str:
    data = about.get("data", {})
    return f"{data.get('num_images', '?')} images and {data.get('num_texts', '?')} texts"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cell(value: Any) -> str:
    """Text that neither ends a cell of a table nor becomes markup."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


def _is_affine(reducer: GapReducer) -> bool:
    try:
        reducer.affine_image() if "image" in reducer.fitted_modalities else reducer.affine_text()
    except NotAffineError:
        return False
    return True
