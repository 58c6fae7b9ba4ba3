"""Run folders: what they hold, and how it is written and read."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from i0t import __version__
from i0t.config_errors import ConfigError

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
HISTORY_FILE = "history.json"
ERROR_FILE = "error.txt"
CHECKPOINT = Path("checkpoints") / "last.ckpt"
CHECKPOINT_KEY = "i0t"
# `row` is added when a run is written; the others say what to do with a run that is there already, and where.
_NOT_OF_THE_RESULT = ("row", "skip_finished", "paths")
_LIBRARIES = ("torch", "pytorch-lightning", "open_clip_torch", "torchmetrics", "hydra-core", "numpy", "scikit-learn")
# What Hydra puts into a run folder before the run starts: on every rank a log file.
_FIRST_FILES = re.compile(r"\.hydra|i0t(_rank\d+)?\.log")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file whole or not at all: aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with stable key order, whole or not at all."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def discarded_if_not_started(folder: Path, *, owned: bool = True) -> Iterator[None]:
    """Removes a run folder that an error leaves without checkpoint and without numbers: there is nothing in it.

    Only a folder that is new, with nothing but Hydra's own first files in it; anything else is somebody's.

    Args:
        folder: Of the run.
        owned: Whether it is this process that removes it: the first rank of all nodes.
    """
    new = not folder.exists() or all(_FIRST_FILES.fullmatch(path.name) for path in folder.iterdir())
    try:
        yield
    except BaseException:  # Ctrl-C as well
        started = (folder / CHECKPOINT).exists() or (folder / METRICS_FILE).exists()
        if new and not started and owned:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def finished_numbers(folder: Path, config: str) -> dict[str, Any] | None:
    """What ``metrics.json`` of a run folder holds, if it is that of a finished run of this very config.

    Args:
        folder: Of the run.
        config: The resolved config as YAML.

    Returns:
        Its content; ``None`` where the folder holds no finished run, or one of another config.
    """
    try:
        saved = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        found: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    asked = yaml.safe_load(config)
    if not isinstance(saved, dict) or _decides(saved) != _decides(asked):
        return None
    return found


def write_error(folder: Path, reason: str) -> None:
    """Notes in a multirun job's folder why it failed, in one line."""
    write_atomically(folder / ERROR_FILE, " ".join(reason.split()) + "\n")


def forget_error(folder: Path) -> None:
    """Removes the note of an earlier attempt."""
    (folder / ERROR_FILE).unlink(missing_ok=True)


def _decides(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config decides about the result."""
    return {key: value for key, value in config.items() if key not in _NOT_OF_THE_RESULT}


def forget_numbers(folder: Path) -> None:
    """Removes what says that a run folder is finished, and of which config."""
    for name in (METRICS_FILE, CONFIG_FILE):  # the numbers first: without them, the folder is unfinished
        (folder / name).unlink(missing_ok=True)


def environment() -> dict[str, str]:
    """Versions of what produced a number."""
    found = {"i0t": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for library in _LIBRARIES:
        found[library] = importlib.metadata.version(library)
    found["command"] = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    commit = _git_commit()
    return {**found, "git_commit": commit} if commit else found


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def read_checkpoint(path: Path, asked: str | None = None) -> dict[str, Any]:
    """Reads a checkpoint of ours: tensors and plain containers only.

    Args:
        path: The file.
        asked: What the user wrote, for messages; by default ``ckpt_path=<path>``.

    Raises:
        ConfigError: If the file is missing, truncated, or not a checkpoint of i0t.
    """
    asked = asked or f"ckpt_path={path}"
    if not path.is_file():
        raise ConfigError(f"{asked}: there is no file {path}")
    import pickle
    import zipfile

    import torch

    if not zipfile.is_zipfile(path):
        raise ConfigError(f"{asked}: {path} is truncated or not a checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{asked}: {path} is not a checkpoint that can be read safely ({text})") from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        raise ConfigError(f"{asked}: {path} is not the checkpoint of an i0t run, which is <run folder>/{CHECKPOINT}")
    return checkpoint


def quoted(value: object) -> str:
    """A value as Hydra's override grammar reads it back, whatever characters it has."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
