"""What a search makes small or large: numbers of its jobs, by their names."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i0t.config_errors import ConfigError, nearest
from i0t.runs import HISTORY_FILE, METRICS_FILE

MINIMIZE = "minimize"
MAXIMIZE = "maximize"


def read_directions(maximize: Sequence[str], minimize: Sequence[str]) -> dict[str, str]:
    """The direction of every objective, those to maximise first.

    Raises:
        ConfigError: If there is none, or one in both.

    Example:
        >>> read_directions(["test/none/retrieval/i2t_r1"], ["test/none/gap/rmg"])
        {'test/none/retrieval/i2t_r1': 'maximize', 'test/none/gap/rmg': 'minimize'}
    """
    both = set(maximize) & set(minimize)
    if both:
        raise ConfigError(f"hydra.sweeper: {sorted(both)[0]} cannot be maximized and minimized")
    if not maximize and not minimize:
        raise ConfigError(
            "the search has no objective: hydra.sweeper.maximize=[…] or hydra.sweeper.minimize=[…] with numbers of "
            "metrics.json, test/none/retrieval/i2t_r1"
        )
    return {**dict.fromkeys(map(str, maximize), MAXIMIZE), **dict.fromkeys(map(str, minimize), MINIMIZE)}


def check_objectives(names: Sequence[str], *, split: str, rows: Sequence[str], evaluations: Sequence[str]) -> None:
    """Refuses an objective that no job can have; which numbers an evaluation has is known after the first job only.

    Args:
        names: Of the objectives: ``<split>/<row>/<evaluation>/<number>``, or two words for one of ``history.json``.
        split: Which the jobs measure.
        rows: Of their comparison.
        evaluations: That they make.

    Raises:
        ConfigError: In one line, with the nearest valid word.
    """
    for name in names:
        words = name.split("/")
        if len(words) == 2 and words[0] in ("train", "val"):
            continue  # the last value that was logged
        if len(words) < 4:
            raise ConfigError(f"objective {name}: write {split}/<row>/<evaluation>/<number>, or val/<number> logged")
        if words[0] != split:
            raise ConfigError(f"objective {name}: the jobs measure the split {split} (split={words[0]} changes that)")
        for word, kind, known in ((words[1], "row", rows), (words[2], "evaluation", evaluations)):
            if word not in known:
                raise ConfigError(
                    f"objective {name}: the jobs have no {kind} '{word}'{nearest(word, known)} ({', '.join(known)})"
                )


def read_values(folder: Path, names: Sequence[str]) -> list[float]:
    """The objectives of a finished job.

    Args:
        folder: Of the job.
        names: In ``metrics.json``; those that are not there are looked up in ``history.json``, where the last counts.

    Raises:
        ConfigError: For a name that the job has no number of, with the nearest that it has.
        ValueError: For a number that is not finite.
    """
    numbers = _numbers(folder)
    for name in names:
        if name not in numbers:
            raise ConfigError(f"objective {name}: {folder} has no such number{nearest(name, numbers)}")
        if not math.isfinite(numbers[name]):
            raise ValueError(f"{name} is {numbers[name]}")
    return [numbers[name] for name in names]


def _numbers(folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    if (folder / HISTORY_FILE).is_file():
        history: Mapping[str, Sequence[tuple[int, float]]] = _read(folder / HISTORY_FILE)
        found |= {name: float(values[-1][1]) for name, values in history.items() if values}
    metrics = _read(folder / METRICS_FILE)
    return found | {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
