"""Which classes a checkpoint may ask to be built."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from i0t.config import conf_dir
from i0t.config_errors import ConfigError

# Prefixes of `_target_` that the user trusts in checkpoints, separated by commas.
TRUST_VARIABLE = "I0T_TRUSTED"


def check_targets(node: Any, source: str) -> None:
    """Refuses targets that came with a file and that nobody vouches for.

    Args:
        node: A plain config node read from a checkpoint.
        source: The file, for the message.

    Raises:
        ConfigError: If a ``_target_`` stands neither in the shipped ``conf/`` nor under a prefix in ``I0T_TRUSTED``.
    """
    prefixes = tuple(p.strip() for p in os.environ.get(TRUST_VARIABLE, "").split(",") if p.strip())
    for target in _targets(node):
        if target in _shipped_targets() or any(target == p or target.startswith(f"{p}.") for p in prefixes):
            continue
        package = target.partition(".")[0]
        raise ConfigError(
            f"{source} asks to build {target}, which i0t does not ship; "
            f"if you trust it, set {TRUST_VARIABLE}={package} and run again"
        )


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _targets(value)


def _shipped_targets() -> set[str]:
    pattern = re.compile(r"^\s*(?:- )?_target_:\s*(\S+)", re.MULTILINE)
    return {t for file in conf_dir().rglob("*.yaml") for t in pattern.findall(file.read_text())}
