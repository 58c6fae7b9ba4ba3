"""The command that makes a job of a sweep again, by itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

_SCRIPTS = {"train": "python train.py", "eval": "python eval.py"}
# With ckpt_path=, the commands add these themselves: what the checkpoint holds has no file to be named by.
_FROM_CHECKPOINT = "from_checkpoint"
_INHERITED_ROWS = "inherited_rows=true"


def command_of(hydra: Mapping[str, Any], overrides: Sequence[Any] | None, started_by: Any = None) -> str:
    """What to type for the same run: the program, and every override that the job was given.

    Args:
        hydra: The node ``hydra`` of the job's ``.hydra/hydra.yaml``.
        overrides: Of ``.hydra/overrides.yaml``, as Hydra was given them; ``None`` where the file is missing.
        started_by: The command line that started it, if known, whose program is named as the user named it.

    Returns:
        The command, quoted for a POSIX shell; empty where the folder does not say what ran.

    Example:
        >>> print(command_of({"job": {"config_name": "train"}}, ["seed=1", "+tags=[a, b]"]))
        python train.py seed=1 '+tags=[a, b]'
    """
    job, runtime = hydra.get("job"), hydra.get("runtime")
    name = str(job.get("config_name")) if isinstance(job, Mapping) else ""
    if overrides is None or name not in _SCRIPTS:
        return ""
    first = str(started_by).split(" ", 1)[0]
    program = first if first in (f"i0t-{name}",) else _SCRIPTS[name]
    folders = _config_dirs(runtime) if isinstance(runtime, Mapping) else []
    words = [word for folder in folders for word in ("--config-dir", folder)]
    return " ".join([program, *map(shlex.quote, [*words, *_typed(list(map(str, overrides)))])])


def _typed(overrides: Sequence[str]) -> list[str]:
    """Those that a user may type: without what the commands add themselves."""
    inherited = f"compare={_FROM_CHECKPOINT}" in overrides
    return [
        override
        for override in overrides
        if override.partition("=")[2] != _FROM_CHECKPOINT and not (inherited and override == _INHERITED_ROWS)
    ]


def _config_dirs(runtime: Mapping[str, Any]) -> list[str]:
    sources = runtime.get("config_sources") or []
    return [str(s["path"]) for s in sources if isinstance(s, Mapping) and s.get("provider") == "command-line"]
