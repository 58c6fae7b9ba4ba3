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
# What the others have put into a run folder by the time at which the first rank makes it.
_OF_OTHER_RANKS = re.compile(r"i0t_(node\d+_)?rank\d+\.log")

_made: list[Path] = []  # the folder of this process's run, until it ends


def write_atomically(path: Path, text: str) -> None:
    """Writes a file whole or not at all: aside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with stable key order, whole or not at all."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def make_folder(folder: Path, *, shared: bool = False) -> bool:
    """Makes a run folder, unless it is there.

    Args:
        folder: Of the run.
        shared: Whether other ranks may make it too, for their log files.

    Returns:
        Whether it is this run's.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return shared and all(_OF_OTHER_RANKS.fullmatch(path.name) for path in folder.iterdir())
    return True


def make_free_folder(folder: Path) -> Path:
    """Makes the first of ``folder``, ``folder_2``, … that nobody else has made."""
    number, free = 1, folder
    while not make_folder(free):
        number += 1
        free = folder.with_name(f"{folder.name}_{number}")
    return free


@contextlib.contextmanager
def discarded_if_not_started(folder: Path | None) -> Iterator[None]:
    """Removes a run folder that an error leaves without checkpoint and without numbers: there is nothing in it.

    Args:
        folder: Of the run, if this process made it; ``None``: it belongs to somebody else.
    """
    if folder is not None:
        _made.append(folder)
    try:
        yield
    except BaseException:  # Ctrl-C as well
        discard_not_started()
        raise
    finally:
        _made.clear()


def discard_not_started() -> None:
    """What :func:`discarded_if_not_started` does, for a process that another rank's error ends from a thread."""
    for folder in _made:
        if not holds_run(folder):
            shutil.rmtree(folder, ignore_errors=True)


def holds_run(folder: Path) -> bool:
    """Whether a folder holds the numbers or the last checkpoint of a run."""
    return (folder / METRICS_FILE).exists() or (folder / CHECKPOINT).exists()


def refusal(folder: Path, difference: str | None) -> str:
    """Why nothing new starts in a folder that holds a run, and what to do.

    Args:
        folder: As the user wrote it.
        difference: By which that run is another one, if it is.
    """
    finished = (folder / METRICS_FILE).exists()
    which = f"{'a finished' if finished else 'an unfinished'} run{f' ({difference})' if difference else ''}"
    ways = "name another folder, or take this one away"
    return f"{folder} holds {which}: {ways}{'' if finished else f', or go on with resume={folder}'}"


def is_run_of(folder: Path, config: str) -> bool:
    """Whether what a run folder holds was made with this very config.

    Args:
        folder: Of the run.
        config: The resolved config as YAML.
    """
    try:
        saved = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(saved, dict) and first_difference(saved, yaml.safe_load(config)) is None


def first_difference(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    """The first key by which the results of two configs may differ, with both values.

    Example:
        >>> first_difference({"seed": 0, "row": "none"}, {"seed": 7})
        'seed is 0 there, 7 here'
    """
    one, other = ({k: v for k, v in config.items() if k not in _NOT_OF_THE_RESULT} for config in (saved, asked))
    return _difference(one, other, "")


def _difference(saved: Any, asked: Any, key: str) -> str | None:
    if not (isinstance(saved, Mapping) and isinstance(asked, Mapping)):
        return None if saved == asked else f"{key} is {saved} there, {asked} here"
    for name in dict.fromkeys((*asked, *saved)):
        dotted = f"{key}.{name}" if key else str(name)
        if name not in saved or name not in asked:
            return f"{dotted} is not in both configs"
        found = _difference(saved[name], asked[name], dotted)
        if found is not None:
            return found
    return None


def finished_numbers(folder: Path, config: str) -> dict[str, Any] | None:
    """What ``metrics.json`` of a run folder holds, if it is that of a finished run of this very config.

    Args:
        folder: Of the run.
        config: The resolved config as YAML.

    Returns:
        Its content; ``None`` where the folder holds no finished run, or one of another config.
    """
    try:
        found: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if is_run_of(folder, config) else None


def write_error(folder: Path, reason: str) -> None:
    """Notes in a multirun job's folder why it failed, in one line."""
    write_atomically(folder / ERROR_FILE, " ".join(reason.split()) + "\n")


def forget_error(folder: Path) -> None:
    """Removes the note of an earlier attempt."""
    (folder / ERROR_FILE).unlink(missing_ok=True)


def forget_run(folder: Path) -> None:
    """Removes what says that a run folder is finished, of which config, and from where it would go on."""
    # The numbers first: without them, the folder is unfinished; without a checkpoint, nothing takes it for its own.
    for name in (METRICS_FILE, CHECKPOINT, CONFIG_FILE):
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
