"""The runs below any folders as plain data, finished or not: a torn file costs its own run alone.

Beside :func:`i0t.report.jobs.read_jobs`, which reads the finished jobs of one multirun and refuses damaged files, this
reads whatever is there: multiruns, single runs, folders of them, jobs that failed, were killed or were half copied.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from i0t.report.sweep_command import command_of

FINISHED, FAILED, UNFINISHED, DAMAGED = "finished", "failed", "unfinished", "damaged"
_METRICS, _CONFIG, _ERROR, _HYDRA = "metrics.json", "config.yaml", "error.txt", ".hydra"
_CHECKPOINT = Path("checkpoints") / "last.ckpt"
_MULTIRUN = "multirun.yaml"  # Hydra writes it into the folder of a multirun, which is no run itself
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A run, as far as its folder tells.

    Attributes:
        name: Its folder, from the folder that all were looked for in.
        folder: Where it is.
        status: ``finished``, ``failed`` (it left an error), ``unfinished`` (killed, or still running) or ``damaged``
            (its numbers cannot be read).
        reason: Why it has no numbers, in one line; empty for a finished one.
        overrides: Key to value as texts, without the plus signs of additions.
        command: What makes this run again; empty where the folder does not say.
        task: ``train`` or ``eval``; empty where the folder does not say.
        config: Content of its ``config.yaml``.
        choices: Hydra's config groups to the files that were chosen.
        metrics: Content of its ``metrics.json``.
        objectives: Names of the numbers that its sweep searched by, without split and row; empty for a grid.
    """

    name: str
    folder: Path
    status: str
    reason: str = ""
    overrides: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    task: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()

    @property
    def numbers(self) -> dict[str, float]:
        """Its numbers by their full names, ``<split>/<row>/<number>``; NaN stays NaN."""
        return {name: value for name, value in self.metrics.items() if is_number(value)}


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a number, NaN and infinity included."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def find_runs(folder: Path) -> list[Path]:
    """Folders of runs at any depth, in the order of their names, numbers in theirs; inside a run nothing is searched.

    Args:
        folder: A run, a multirun, or a folder of them.
    """
    return sorted(_found(folder), key=lambda run: natural_key(run.relative_to(folder).as_posix()))


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a single run, finished or not."""
    if (folder / _MULTIRUN).exists():
        return False
    return any((folder / name).exists() for name in (_METRICS, _HYDRA, _CONFIG))


def _found(folder: Path) -> Iterator[Path]:
    for path, inner, _ in os.walk(folder):
        if is_run(Path(path)):
            inner.clear()
            yield Path(path)
        inner[:] = [name for name in inner if not name.startswith(".")]  # .submitit


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts texts with the numbers in them by their value.

    Example:
        >>> sorted(["a/10", "a/9", "2", "a/b"], key=natural_key)
        ['2', 'a/9', 'a/10', 'a/b']
    """
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def read_runs(folders: Iterable[Path], *, watched: Callable[[list[Path]], Iterable[Path]] = iter) -> list[SweepJob]:
    """Reads run folders; one that is named twice counts once.

    Args:
        folders: As :func:`find_runs` finds them.
        watched: Goes through the folders while they are read, to show how far that is.
    """
    found = list({folder.resolve(): folder for folder in folders}.values())
    if not found:
        return []
    resolved = [folder.resolve() for folder in found]
    above = Path(os.path.commonpath([folder.parent for folder in resolved]))
    return [read_run(folder, folder.resolve().relative_to(above).as_posix()) for folder in watched(found)]


def read_run(folder: Path, name: str) -> SweepJob:
    """Reads one run, whatever is left of it.

    Args:
        folder: Of the run.
        name: What it is called.
    """
    given = _parsed(folder / _HYDRA / "overrides.yaml", list)
    hydra = _at(_parsed(folder / _HYDRA / "hydra.yaml", dict), "hydra")
    task, choices = _at(hydra, "job").get("config_name"), _at(hydra, "runtime", "choices")
    overrides = [str(override) for override in given or () if "=" in str(override)]
    metrics, damage = _metrics(folder / _METRICS)
    status, reason = _status(folder, damage)
    parts = (override.partition("=") for override in overrides)
    return SweepJob(
        name=name,
        folder=folder,
        status=status,
        reason=reason,
        overrides={key.lstrip("+"): value for key, _, value in parts},
        command=command_of(hydra, given, _at(metrics, "environment").get("command")),
        task=str(task or ""),
        config=_parsed(folder / _CONFIG, dict) or _parsed(folder / _HYDRA / _CONFIG, dict) or {},
        choices={key: value for key, value in choices.items() if "/" not in str(key)},
        metrics=metrics,
        objectives=_objectives(_at(hydra, "sweeper")),
    )


def _objectives(sweeper: Mapping[str, Any]) -> tuple[str, ...]:
    """``hydra.sweeper.minimize`` and ``maximize`` without ``<split>/<row>/``."""
    given = [sweeper.get(key) for key in ("minimize", "maximize")]
    names = [str(name) for listed in given if isinstance(listed, list) for name in listed]
    return tuple(name.split("/", 2)[2] for name in names if name.count("/") >= 2)


def _status(folder: Path, damage: str) -> tuple[str, str]:
    """What became of a run, and why."""
    if (folder / _ERROR).is_file():
        text = " ".join((folder / _ERROR).read_text(encoding="utf-8", errors="replace").split())
        return FAILED, text or "left an empty error.txt"
    if damage:
        return DAMAGED, damage
    if (folder / _METRICS).is_file():
        return FINISHED, ""
    if (folder / _CHECKPOINT).is_file():
        return UNFINISHED, "no numbers, but a checkpoint to go on from"
    return UNFINISHED, "no numbers: interrupted, or still running"


def _metrics(path: Path) -> tuple[dict[str, Any], str]:
    """Content of ``metrics.json`` and what is wrong with it; nothing where there is no such file."""
    if not path.exists():
        return {}, ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return {}, f"{_METRICS} is torn: {error}"
    if not isinstance(content, dict):
        return {}, f"{_METRICS} is no table of numbers"
    rows, intervals = content.get("rows", {}), content.get("intervals", {})
    if not isinstance(rows, dict) or not all(isinstance(about, dict) for about in rows.values()):
        return {}, f"{_METRICS} does not say what its rows are (no table 'rows')"
    if not isinstance(intervals, dict) or not all(map(_is_interval, intervals.items())):
        return {}, f"{_METRICS} has intervals that are no pairs of numbers"
    return _with_rows(content), ""


def _is_interval(item: tuple[str, Any]) -> bool:
    name, ends = item
    is_pair = isinstance(ends, Sequence) and len(ends) == 2 and all(map(is_number, ends))
    return is_pair and name.count("/") >= 2


def _with_rows(content: dict[str, Any]) -> dict[str, Any]:
    """The content with an entry for every row that has a number, also where the file does not describe it."""
    numbers = [name for name, value in content.items() if name.count("/") >= 2 and is_number(value)]
    named: dict[str, dict[str, Any]] = {name.split("/")[1]: {} for name in numbers}
    return {**content, "rows": {**named, **content.get("rows", {})}}


def _parsed(path: Path, kind: type) -> Any:
    """Content of a YAML file; ``None`` where it is missing, torn or of another kind."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return found if isinstance(found, kind) else None


def _at(tree: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return dict(tree) if isinstance(tree, Mapping) else {}
