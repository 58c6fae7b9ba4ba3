"""Strict keys and types of a composed config.

Hydra leaves two holes that are closed here: a misspelt key in an experiment file merges silently, and a value of the
wrong type under an untyped node surfaces deep inside a run.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig

from i0t.config_errors import DEFAULTS_ONLY, ConfigError, nearest

# Groups whose files set values of the whole config.
_FILES_OF_VALUES = ("experiment", "hparams_search", "sweep")
# What these files may add to: the varied keys, and what happens at the end of a multirun.
_FREE_KEYS = ("hydra.sweeper.params.", "hydra.callbacks.")


def choices_of(loader: ConfigLoaderImpl, overrides: list[str]) -> list[str]:
    """The choices of groups alone, without any value of experiment, sweep or command line.

    What they compose has the valid keys and types.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    kept = []
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        if key in _FILES_OF_VALUES and override.value() is not None:
            kept.append(f"{text.partition('=')[0]}={_without_values(loader, key, str(override.value()))}")
        elif is_choice(loader, override):
            kept.append(text)
    return kept


def is_choice(loader: ConfigLoaderImpl, override: Override) -> bool:
    """Whether an override chooses a file of a group, rather than setting a value."""
    return override.package is not None or _is_group(loader, override.key_or_group)


@functools.lru_cache(maxsize=1024)  # a command names the same few keys in all its jobs
def _is_group(loader: ConfigLoaderImpl, key: str) -> bool:
    return key in _groups(loader, key)


def _groups(loader: ConfigLoaderImpl, key: str) -> list[str]:
    parent = key.rpartition("/")[0]
    return [f"{parent}/{name}" if parent else name for name in loader.list_groups(parent)]


def _without_values(loader: ConfigLoaderImpl, group: str, choice: str) -> str:
    """Stores the defaults list of an experiment or sweep alone under another name, and returns that name."""
    result = loader.repository.load_config(f"{group}/{choice}")
    if result is None:
        return choice  # composing it reports the missing file
    name = f"{choice}{DEFAULTS_ONLY}"
    defaults = [_as_plain_default(d) for d in result.defaults_list or []]
    for at, default in enumerate(defaults):
        if isinstance(default, dict) and "override /experiment" in default:  # a sweep names what it varies
            default["override /experiment"] = _without_values(loader, "experiment", default["override /experiment"])
        elif isinstance(default, str) and default != "_self_":
            parent = default.removeprefix(f"/{group}/")
            if "/" not in parent:  # the parent in the same group
                defaults[at] = _without_values(loader, group, parent)
    ConfigStore.instance().store(group=group, name=name, node={"defaults": defaults}, package="_global_")
    return name


def _as_plain_default(default: Any) -> Any:
    if default.is_self():
        return "_self_"
    if not hasattr(default, "group"):
        return default.path if default.package is None else f"{default.path}@{default.package}"
    prefix = "override " if default.override else ""
    package = f"@{default.package}" if default.package is not None else ""
    return {f"{prefix}{default.group}{package}": default.value}


def check_keys_and_types(config: DictConfig, baseline: DictConfig, added: Sequence[str]) -> None:
    """Compares a composed config with what its choices alone compose.

    Args:
        config: The whole config.
        baseline: That of :func:`choices_of`.
        added: Keys that the command line adds with ``+``.

    Raises:
        ConfigError: For the first key that is unknown or of another type.
    """
    valid = dict(leaves(baseline))
    for key, (value, _) in leaves(config):
        if any(key == a or key.startswith(f"{a}.") for a in added) or key.startswith(_FREE_KEYS):
            continue
        if key not in valid:
            if value is None and any(name.startswith(f"{key}.") for name in valid):
                continue  # a part that is switched off
            parent = next((p for p in _parents(key) if p in valid), None)
            if parent is not None and valid[parent][0] is None:
                continue  # a null that the user replaces by a dictionary
            raise ConfigError(f"unknown key '{key}' in the experiment file{nearest(key, valid)}")
        expected, strict = valid[key]
        if strict and not _fits(value, expected):
            kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(expected)]
            raise ConfigError(f"{key} must be {kind}, got {value!r}")


def leaves(node: Any, prefix: str = "", strict: bool = True) -> Iterator[tuple[str, tuple[Any, bool]]]:
    """Yields (key, (value, whether the type of its default is binding)) of every leaf.

    Types bind only in nodes of ours: other libraries take "auto", lists and numbers in one argument.
    """
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        if "_target_" in node:
            strict = str(node["_target_"]).startswith("i0t.")
        for name in map(str, node):
            yield from leaves(node._get_node(name), f"{prefix}.{name}" if prefix else name, strict)
        return
    value = node
    if isinstance(node, ListConfig):
        value = list
    elif hasattr(node, "_value"):
        value = node._value()
    yield prefix, (value, strict)


def _parents(key: str) -> Iterator[str]:
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def _fits(value: Any, expected: Any) -> bool:
    if type(expected) not in (bool, int, float) or value is None:
        return True
    if isinstance(value, str) and ("${" in value or value == "???"):
        return True
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) == isinstance(expected, bool)
    return isinstance(value, int if isinstance(expected, int) else (int, float))
