"""The root schema, composition with strict checks, and the only wrapper of ``hydra.utils.instantiate``.

Every job of a command is composed and checked before anything is imported or written.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
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
from omegaconf import MISSING, DictConfig, OmegaConf

from i0t.config_errors import ConfigError, explain
from i0t.config_keys import check_keys_and_types, choices_of, is_choice, leaves
from i0t.config_resolvers import register_resolvers
from i0t.launch import check_ranks_of_job
from i0t.sweeps.checks import check_is_multirun, check_search, check_sweeper, is_search
from i0t.sweeps.space import read_space

_FIT_DATA = re.compile(r"^\+?([\w.]+\.fit_data)=(?!null$)")
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
    report_points: int = 1000
    split: str = "test"
    ckpt_path: str | None = None
    needs_ckpt_path: bool = False
    encoders: str = "trained"
    views: int = 1
    decay_all: bool = False
    layer_decay: float | None = None
    freeze_temperature: bool = False
    validate_first: bool = False
    skip_finished: bool = False
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
    report_points: int = 1000
    skip_finished: bool = False
    model_tag: str | None = None  # architecture and weights in one key, for sweeps over models: ViT-B-32/openai
    logger: Any = None
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


@dataclass
class _Shared:
    """What jobs of one command have in common: by their choices, the valid keys and types, and what their files say."""

    baselines: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)
    templates: dict[tuple[str, ...], tuple[DictConfig, list[str]]] = field(default_factory=dict)


def register_schemas() -> None:
    """Puts the root schemas where the defaults lists find them."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="eval_schema", node=EvalConfig)
    register_resolvers()


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
        check_is_multirun(command.overrides)
        return [_check_job(loader, command.config_name, command.overrides, RunMode.RUN, _Shared())]
    with explain(loader, command.config_name, command.overrides):
        first = loader.load_configuration(command.config_name, command.overrides, run_mode=RunMode.MULTIRUN)
        check_sweeper(first.hydra)
        params = [f"{key}={value}" for key, value in (first.hydra.sweeper.get("params") or {}).items()]
        parsed = OverridesParser.create(config_loader=loader).parse_overrides([*params, *command.overrides])
        search = is_search(first.hydra)
        jobs = read_space(parsed).corners() if search else BasicSweeper.split_arguments(parsed, None)[0]
    shared = _Shared()
    found = [_check_job(loader, command.config_name, job, RunMode.MULTIRUN, shared) for job in jobs]
    if search:
        check_search(found[0])
    else:
        _check_folders(found, jobs)
    return found


def _check_folders(configs: Sequence[DictConfig], jobs: Sequence[Sequence[str]]) -> None:
    """Refuses a multirun of which one job would write over another."""
    owners: dict[str, str] = {}
    for config, job in zip(configs, jobs, strict=True):
        plain = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        assert isinstance(plain, dict)
        if "hydra.job." in str(plain["subdir"]):  # known when it runs only: its number
            continue
        folder, words = str(config.hydra.sweep.subdir), " ".join(job)
        if folder in owners:
            raise ConfigError(
                f"two jobs would share the folder {folder} and lose one's numbers: '{owners[folder]}' and '{words}'; "
                "give each a sweep of its own with name=…, or another hydra.sweep.subdir"
            )
        owners[folder] = words


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
    shared: _Shared,
) -> DictConfig:
    """Composes and checks one job."""
    with explain(loader, config_name, overrides):
        config, choices = _composed(loader, config_name, overrides, run_mode, shared)
    if tuple(choices) not in shared.baselines:
        with explain(loader, config_name, choices):
            shared.baselines[tuple(choices)] = loader.load_configuration(config_name, choices, run_mode=run_mode)
    baseline = shared.baselines[tuple(choices)]
    check_keys_and_types(config, baseline, added=[o.lstrip("+").split("=")[0] for o in overrides if o[0] == "+"])
    missing = [key for key, (value, _) in leaves(config) if value == "???" and not key.startswith("hydra.")]
    if missing:
        hint = HINTS.get(missing[0].rpartition(".")[2])
        raise ConfigError(f"{missing[0]} must be given: {missing[0]}=…" + (f" ({hint})" if hint else ""))
    if config.get("needs_ckpt_path") and config.ckpt_path is None:
        raise ConfigError("ckpt_path must be given: ckpt_path=… (the checkpoint that this experiment goes on from)")
    if run_mode == RunMode.MULTIRUN:
        check_ranks_of_job(config.trainer, config.hydra.launcher)
    return config


def _composed(
    loader: ConfigLoaderImpl,
    config_name: str,
    overrides: list[str],
    run_mode: RunMode,
    shared: _Shared,
) -> tuple[DictConfig, list[str]]:
    """A job as Hydra composes it, and the choices of :func:`choices_of`.

    Jobs of a multirun that choose the same files differ in values alone: these are set anew, the files read once.
    """
    if run_mode == RunMode.RUN:
        config = loader.load_configuration(config_name, overrides, run_mode=run_mode)
        return config, choices_of(loader, overrides)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    chosen = tuple(str(o.input_line) for o in parsed if is_choice(loader, o))
    if chosen not in shared.templates:
        template = loader.load_configuration(config_name, list(chosen), run_mode=run_mode)
        shared.templates[chosen] = (template, choices_of(loader, list(chosen)))
    template, choices = shared.templates[chosen]
    config = copy.deepcopy(template)
    ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not is_choice(loader, o)], config)
    return config, choices


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


def to_container(config: Any) -> Any:
    """The config as plain, resolved containers, fit for a checkpoint or a YAML file."""
    return OmegaConf.to_container(config, resolve=True)


def to_yaml(config: Any) -> str:
    """The resolved config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(config) if not OmegaConf.is_config(config) else config, resolve=True)
