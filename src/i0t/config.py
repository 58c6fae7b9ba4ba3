"""The root schema, composition with strict checks, and the only wrapper of ``hydra.utils.instantiate``.

Hydra leaves two holes that we close here: a misspelt key in an experiment file merges silently, and a value of the
wrong type under an untyped node surfaces deep inside a run. Both are found before anything is imported or written,
by composing every job of a command first.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra.utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from i0t.config_errors import DEFAULTS_ONLY, ConfigError, explain, nearest

# Prefixes of `_target_` that the user trusts in checkpoints, separated by commas.
TRUST_VARIABLE = "I0T_TRUSTED"
_FIT_DATA = re.compile(r"^\+?([\w.]+\.fit_data)=(?!null$)")
# Groups whose files set values of the whole config.
_FILES_OF_VALUES = ("experiment", "sweep")
# What these files may add to: the varied keys, and what happens at the end of a multirun.
_FREE_KEYS = ("hydra.sweeper.params.", "hydra.callbacks.")
# What to write for values that a user must give; the key is the last part of the value's name.
HINTS = {
    "fit_split": "train, val or test; fitted on test, a row's numbers are transductive",
    "root": "the folder of the data set",
    "path": "a file of embeddings, or of captions as JSON lines",
    "pretrained": "a tag of open_clip's, a file, or null for random weights",
    "architecture": "a name of open_clip.list_models(), or a .json file",
}


@dataclass
class TrainConfig:
    """Root keys of ``train.yaml``; an unknown one is an error."""

    name: str = MISSING
    seed: int = MISSING
    data: Any = MISSING
    model: Any = MISSING
    gap_reducer: Any = MISSING
    compare: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = None
    evaluation: Any = MISSING
    paths: Any = MISSING
    report: bool = True
    ckpt_path: str | None = None
    encoders: str = "trained"
    views: int = 1
    decay_all: bool = False
    resume: str | None = None
    row: str | None = None  # name of the run's own reducer in the table; kept for a resumed run


@dataclass
class EvalConfig:
    """Root keys of ``eval.yaml``; an unknown one is an error."""

    name: str = MISSING
    seed: int = MISSING
    ckpt_path: str | None = None
    split: str = MISSING
    data: Any = MISSING
    model: Any = None
    gap_reducer: Any = None
    compare: Any = MISSING
    trainer: Any = MISSING
    evaluation: Any = MISSING
    paths: Any = MISSING
    report: bool = True
    inherited_rows: bool = False  # set where `compare` is the checkpoint's: rows that these data cannot fit are dropped


@dataclass
class Command:
    """A command line, as Hydra's flags and overrides.

    ``<row>.fit_data=<data set>`` is read as Hydra's ``data@<row>.fit_data=<data set>``, which nobody guesses.
    """

    config_name: str
    overrides: list[str] = field(default_factory=list)
    config_dir: str | None = None
    multirun: bool = False

    def __post_init__(self) -> None:
        self.overrides = [_FIT_DATA.sub(r"data@\1=", override) for override in self.overrides]


def register_schemas() -> None:
    """Puts the root schemas where the defaults lists find them."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="eval_schema", node=EvalConfig)


def conf_dir() -> Path:
    """The shipped ``conf/``: inside the package in a wheel, beside ``src/`` in a checkout or editable install."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


def check_command(command: Command) -> list[DictConfig]:
    """Composes and checks every job of a command.

    Returns:
        The configs of the jobs, each with its ``hydra`` node.

    Raises:
        ConfigError: With one line that says what is wrong and names the nearest valid choice.
    """
    try:
        return _check_jobs(command, _loader(command))
    finally:
        GlobalHydra.instance().clear()  # Hydra's own start refuses to find one


def _check_jobs(command: Command, loader: ConfigLoaderImpl) -> list[DictConfig]:
    if not command.multirun:
        return [_check_job(loader, command.config_name, command.overrides, RunMode.RUN, {})]
    with explain(loader, command.config_name, command.overrides):
        first = loader.load_configuration(command.config_name, command.overrides, run_mode=RunMode.MULTIRUN)
        params = [f"{key}={value}" for key, value in (first.hydra.sweeper.get("params") or {}).items()]
        parsed = OverridesParser.create(config_loader=loader).parse_overrides([*params, *command.overrides])
        jobs = [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    baselines: dict[tuple[str, ...], DictConfig] = {}
    return [_check_job(loader, command.config_name, job, RunMode.MULTIRUN, baselines) for job in jobs]


def compose(config_name: str, overrides: Sequence[str] = (), *, config_dir: str | None = None) -> DictConfig:
    """Composes and checks one job, for notebooks and tests; give ``paths.output_dir``, which Hydra else decides.

    Args:
        config_name: ``"train"`` or ``"eval"``.
        overrides: As on the command line.
        config_dir: A folder of your own configs.

    Raises:
        ConfigError: As :func:`check_command`.
    """
    (config,) = check_command(Command(config_name, list(overrides), config_dir))
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def _loader(command: Command) -> ConfigLoaderImpl:
    GlobalHydra.instance().clear()
    search_path = create_config_search_path(str(conf_dir()))
    if command.config_dir is not None:
        path = Path(command.config_dir).absolute()
        if not path.is_dir():
            raise ConfigError(f"--config-dir {command.config_dir}: there is no such folder")
        search_path.prepend("command-line", f"file://{path}", anchor=SearchPathQuery(provider="schema"))
    register_schemas()
    loader = Hydra.create_main_hydra2(task_name="i0t", config_search_path=search_path).config_loader
    assert isinstance(loader, ConfigLoaderImpl)
    return loader


def _check_job(
    loader: ConfigLoaderImpl,
    config_name: str,
    overrides: list[str],
    run_mode: RunMode,
    baselines: dict[tuple[str, ...], DictConfig],
) -> DictConfig:
    """Composes and checks one job; jobs of the same choices share a baseline."""
    with explain(loader, config_name, overrides):
        config = loader.load_configuration(config_name, overrides, run_mode=run_mode)
    choices = _choices(loader, overrides)
    if tuple(choices) not in baselines:
        with explain(loader, config_name, choices):
            baselines[tuple(choices)] = loader.load_configuration(config_name, choices, run_mode=run_mode)
    baseline = baselines[tuple(choices)]
    _check_keys_and_types(config, baseline, added=[o.lstrip("+").split("=")[0] for o in overrides if o[0] == "+"])
    missing = [key for key, (value, _) in _leaves(config) if value == "???" and not key.startswith("hydra.")]
    if missing:
        hint = HINTS.get(missing[0].rpartition(".")[2])
        raise ConfigError(f"{missing[0]} must be given: {missing[0]}=…" + (f" ({hint})" if hint else ""))
    if run_mode == RunMode.MULTIRUN and not _on_one_device(config.trainer):
        # Every further rank would start the whole sweep again, in a folder of its own.
        raise ConfigError("a multirun's jobs run on one device each (trainer.devices=1); start one train.py per job")
    return config


def _on_one_device(trainer: DictConfig) -> bool:
    return trainer.get("devices") == 1 and trainer.get("num_nodes") == 1


def _choices(loader: ConfigLoaderImpl, overrides: list[str]) -> list[str]:
    """The choices of groups alone, without any value of experiment, sweep or command line.

    What they compose has the valid keys and types.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    kept = []
    for override in parsed:
        key, text = override.key_or_group, str(override.input_line)
        if key in _FILES_OF_VALUES and override.value() is not None:
            kept.append(f"{text.partition('=')[0]}={_without_values(loader, key, str(override.value()))}")
        elif override.package is not None or key in _groups(loader, key):
            kept.append(text)
    return kept


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


def _check_keys_and_types(config: DictConfig, baseline: DictConfig, added: Sequence[str]) -> None:
    valid = dict(_leaves(baseline))
    for key, (value, _) in _leaves(config):
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


def _leaves(node: Any, prefix: str = "", strict: bool = True) -> Iterator[tuple[str, tuple[Any, bool]]]:
    """Yields (key, (value, whether the type of its default is binding)) of every leaf.

    Types bind only in nodes of ours: other libraries take "auto", lists and numbers in one argument.
    """
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        if "_target_" in node:
            strict = str(node["_target_"]).startswith("i0t.")
        for name in map(str, node):
            yield from _leaves(node._get_node(name), f"{prefix}.{name}" if prefix else name, strict)
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


def instantiate(node: Any, **arguments: Any) -> Any:
    """Builds what a config node describes, giving it plain lists and dictionaries.

    Args:
        node: A node with ``_target_``; nested nodes are built first.
        **arguments: Further keyword arguments of the target, which only the engine knows.

    Raises:
        ValueError: In one line, if the target cannot be imported or refuses its arguments.
    """
    try:
        return hydra.utils.instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ValueError, OSError)):
            raise cause from error
        target = node.get("_target_") if isinstance(node, Mapping) else None
        text = str(cause or error).splitlines()[0]
        raise ConfigError(f"cannot build {target}: {text}") from error


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


def help_text(config_name: str, config_dir: str | None) -> str:
    """What ``--help`` prints: the groups and their choices, and how to see the rest.

    Hydra's own page composes the config once per group and takes seconds.
    """
    groups: dict[str, list[str]] = {}
    for root in [conf_dir(), *([Path(config_dir)] if config_dir else [])]:
        for file in sorted({*root.rglob("*.yaml"), *(root / "sweep").glob("*.yaml")}):  # a link in a checkout
            group = file.parent.relative_to(root).as_posix()
            if group not in (".", "hydra", "paths"):
                groups.setdefault(group, []).append(file.stem)
    width = max(map(len, groups))
    choices = "\n".join(f"  {group:<{width}}  {', '.join(sorted(set(names)))}" for group, names in groups.items())
    root_file = (conf_dir() / f"{config_name}.yaml").read_text(encoding="utf-8")
    return f"""Usage: python {config_name}.py [group=choice ...] [key=value ...] [flags]

Groups and their choices (group=choice, several where a list stands: logger=[csv,wandb]):
{choices}

The root config, conf/{config_name}.yaml:
{textwrap.indent(root_file, "  ")}
Flags:
  --cfg job          print the whole composed config      --config-dir DIR   add your own configs
  -m, --multirun     run every combination of a=1,2,3     --info defaults    print where each part comes from
  --hydra-help       Hydra's own flags                    --version          Hydra's version

HYDRA_FULL_ERROR=1 shows the traceback of an error."""


def to_container(config: Any) -> Any:
    """The config as plain, resolved containers, fit for a checkpoint or a YAML file."""
    return OmegaConf.to_container(config, resolve=True)


def to_yaml(config: Any) -> str:
    """The resolved config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(config) if not OmegaConf.is_config(config) else config, resolve=True)
