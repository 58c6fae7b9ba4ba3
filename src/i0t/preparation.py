"""What a command line takes from a run folder or a checkpoint: the run that goes on, or model, data and rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from i0t.config import Command, conf_dir
from i0t.config_errors import ConfigError
from i0t.config_targets import check_targets
from i0t.launch import is_left_by_this_job, this_launch
from i0t.runs import (
    CHECKPOINT,
    CHECKPOINT_KEY,
    CONFIG_FILE,
    METRICS_FILE,
    first_difference,
    holds_run,
    quoted,
    read_checkpoint,
    refusal,
)

# What may stand beside `resume=`: nothing that could change the run that goes on.
_BESIDE_RESUME = ("resume", "name", "hydra.job.name", "hydra.run.dir", "hydra.output_subdir")
_FROM_CHECKPOINT = "from_checkpoint"
# Groups whose files may choose data, rows and model for the whole run.
_NAMING = ("evaluation", "experiment", "hparams_search", "sweep")
_NOTHING = (None, "null", "")
_ONLY_IN_TRAINING = {
    *(
        "pretrained",
        "load_weights",
        "dropout",
        "logit_scale",
        "logit_bias",
        "max_logit_scale",
        "lock_image",
        "lock_text",
        "channels_last",
    ),
    *("crop_scale", "color_jitter", "color_jitter_prob", "gray_scale_prob", "grad_checkpointing", "compile"),
}


def prepare_training(command: Command) -> Command:
    """Turns ``resume=`` into the saved config and folder of the run that goes on, ``ckpt_path=`` into its model.

    Returns:
        With ``resume``, a command that composes the saved config in the run's own folder; with ``ckpt_path`` and no
        model on the command line, one with the checkpoint's own; else the command unchanged.

    Raises:
        ConfigError: If there is nothing to resume, or an override would change the resumed run.
    """
    given = _given(command.overrides)
    resume = given.get("resume")
    if resume in _NOTHING:
        return _from_stage_one(command, given)
    others = [o for o in command.overrides if o.split("=")[0].lstrip("+") not in _BESIDE_RESUME]
    if others or command.multirun:
        raise ConfigError(
            f"resume goes on with the saved config of the run; take away {' '.join(others) or '--multirun'}, "
            "or start a new run without resume"
        )
    folder = _folder_to_resume(str(resume), given.get("name", "mad"))
    return _resumed(command, folder, f"resume={resume}")


def gone_on(command: Command, folder: Path, config: str, *, named: bool) -> Command | None:
    """The command of a run that its launcher has started again: it goes on with what it left in its folder.

    Args:
        command: As it was prepared and checked.
        folder: Of the run, as that command has it.
        config: The command's resolved config as YAML.
        named: Whether the user named the folder, so that anything may be there.

    Returns:
        The command itself where nothing was left to go on from; ``None`` where the run had finished.

    Raises:
        ConfigError: If another run is there, whose files would be lost.
    """
    asked = yaml.safe_load(config)
    own = is_left_by_this_job(folder, named=named)
    if not holds_run(folder) or asked.get("resume"):
        return command
    if own is not True:
        evaluated_again = command.config_name == "eval" and not (folder / CHECKPOINT).exists()
        difference = _difference(folder, asked)
        if difference is not None or (own is False and not evaluated_again):
            raise ConfigError(refusal(folder, difference))
        if own is False:
            return command
    if (folder / METRICS_FILE).exists():
        return None
    if command.config_name != "train":
        return command
    return _resumed(command, folder.absolute(), f"{folder}, started again", trainer=asked["trainer"])


def _difference(folder: Path, asked: Mapping[str, Any]) -> str | None:
    if not (folder / CONFIG_FILE).is_file():
        return f"it has no {CONFIG_FILE}"
    return first_difference(_saved_config(folder.absolute()), asked)


def check_launch(command: Command, jobs: Sequence[Any]) -> None:
    """Compares how many processes were started with how many the config asks for.

    Raises:
        ConfigError: If they differ; each process would else do the whole work by itself, in one folder.
    """
    launch = this_launch()
    if launch.launcher is None or launch.world_size is None:
        return
    if command.multirun and launch.world_size > 1:
        raise ConfigError(
            f"{launch.launcher} started {launch.world_size} processes, each of which would run the whole multirun: "
            "start it once, with hydra/launcher=slurm if its jobs need several devices"
        )
    for job in jobs:
        devices, num_nodes = job.trainer.get("devices"), job.trainer.get("num_nodes")
        if isinstance(devices, int) and devices * num_nodes != launch.world_size:
            raise ConfigError(
                f"{launch.launcher} started {launch.world_size} process(es), but trainer.devices={devices} x "
                f"trainer.num_nodes={num_nodes}: trainer=ddp, ddp_cpu and fsdp take both from the launcher"
            )


def _resumed(command: Command, folder: Path, asked: str, *, trainer: Mapping[str, Any] | None = None) -> Command:
    """A command that composes the saved config in the run's own folder, with as many processes as ``trainer`` says."""
    read_checkpoint(folder / CHECKPOINT, asked)
    config = _saved_config(folder)
    config["resume"] = str(folder)
    if trainer is not None:  # there may be fewer nodes than before, or more
        config["trainer"] |= {key: trainer[key] for key in ("devices", "num_nodes") if key in trainer}
    node = {"defaults": ["train_schema", {"hydra": "default"}, "_self_"], **config}
    ConfigStore.instance().store(name="resumed_train", node=node)
    kept = [o for o in command.overrides if o.startswith("hydra.") and not o.startswith("hydra.run.dir")]
    return Command("resumed_train", [*kept, f"hydra.run.dir={quoted(folder)}"], command.config_dir)


def _from_stage_one(command: Command, given: Mapping[str, str]) -> Command:
    """Makes the model of ``ckpt_path`` the run's model, unless the user names one (which then must fit)."""
    path = given.get("ckpt_path")
    if path in _NOTHING or any(_is_of_model(override) for override in command.overrides):
        return command
    node = _checkpoint_config(command, str(path))["model"]
    check_targets(node, str(path))
    ConfigStore.instance().store(group="model", name=_FROM_CHECKPOINT, node=node)
    overrides = [*command.overrides, f"model={_FROM_CHECKPOINT}"]
    return Command(command.config_name, overrides, command.config_dir, command.multirun)


def _is_of_model(override: str) -> bool:
    return override.lstrip("+~").startswith(("model=", "model.", "model_tag="))


def _checkpoint_config(command: Command, path: str) -> dict[str, Any]:
    """The config in the checkpoint; of several, which a sweep goes through, the one config that they share.

    Raises:
        ConfigError: If they are not of one model.
    """
    paths = path.split(",") if command.multirun else [path]
    configs = [read_checkpoint(Path(p.strip("'\" ")))[CHECKPOINT_KEY]["config"] for p in paths]
    for other_path, other in zip(paths[1:], configs[1:], strict=True):
        if _built(other["model"]) != _built(configs[0]["model"]):
            raise ConfigError(f"ckpt_path: {paths[0]} and {other_path} hold different models; sweep each for itself")
    first: dict[str, Any] = configs[0]
    return first


def _built(node: Mapping[str, Any]) -> dict[str, Any]:
    """A model's node without what only matters while it is trained, or before its weights are loaded."""
    return {key: value for key, value in node.items() if key not in _ONLY_IN_TRAINING}


def _saved_config(folder: Path) -> dict[str, Any]:
    """The run's config, with the paths of the folder it is in now."""
    try:
        config = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        was = str(config["paths"]["output_dir"])
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder / CONFIG_FILE} is damaged: {type(error).__name__}; start a new run") from error
    moved: dict[str, Any] = _replace_prefix(config, was, str(folder))
    return moved


def _replace_prefix(node: Any, old: str, new: str) -> Any:
    if isinstance(node, dict):
        return {key: _replace_prefix(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [_replace_prefix(value, old, new) for value in node]
    if isinstance(node, str) and (node == old or node.startswith(f"{old}/")):
        return new + node[len(old) :]
    return node


def _folder_to_resume(resume: str, name: str) -> Path:
    if resume == "last":
        folders = sorted(p.parent for p in (Path("outputs") / name).glob(f"*/{CONFIG_FILE}"))
        unfinished = [f for f in folders if not (f / METRICS_FILE).exists() and (f / CHECKPOINT).exists()]
        unfinished.sort(key=lambda f: (f / CHECKPOINT).stat().st_mtime)  # not all names begin with a date
        if not unfinished:
            raise ConfigError(
                f"resume=last: no unfinished run with a checkpoint in outputs/{name} "
                "(give name=… or the run's folder, or start a new run without resume)"
            )
        return unfinished[-1].absolute()
    folder = Path(resume).absolute()
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"resume={resume}: there is no run in this folder (no {CONFIG_FILE})")
    if (folder / METRICS_FILE).exists():
        raise ConfigError(f"resume={resume}: this run is finished; its numbers are in {METRICS_FILE}")
    if not (folder / CHECKPOINT).is_file():
        raise ConfigError(f"resume={resume}: this run has no {CHECKPOINT} to resume from; start a new run")
    return folder


def prepare_evaluation(command: Command) -> Command:
    """Makes a checkpoint's own data, model and rows the defaults of an evaluation.

    An evaluation, experiment or sweep that chooses data or rows in its file keeps them; the model is the checkpoint's.

    Raises:
        ConfigError: If neither a checkpoint nor data are named, or the model of a checkpoint is overridden.
    """
    given = _given(command.overrides)
    path = given.get("ckpt_path")
    in_files, swept = _named_in_files(command, given)
    if path in _NOTHING:
        if not {"data", "experiment", "hparams_search", "sweep"} & {*given, *in_files}:
            raise ConfigError(
                "name what to evaluate: ckpt_path=…, or data=… with model=…, or data=embeddings data.path=…"
            )
        return command
    changed = [o for o in (*command.overrides, *(f"{key}=…" for key in sorted(swept))) if _is_of_model(o)]
    if changed:
        raise ConfigError(f"the model comes from the checkpoint; take away {' '.join(changed)} or ckpt_path")
    config = _checkpoint_config(command, str(path))
    named = {*given, *in_files, *swept}
    if "gap_reducer" in named:
        named.add("compare")
    added = []
    for group in ("data", "model", "compare"):
        node = config[group]
        check_targets(node, str(path))
        ConfigStore.instance().store(group=group, name=_FROM_CHECKPOINT, node=node)
        if group == "model" or group not in named:
            added.append(f"{group}={_FROM_CHECKPOINT}")
    if f"compare={_FROM_CHECKPOINT}" in added:
        added.append("inherited_rows=true")
    check_targets(config["gap_reducer"], str(path))
    return Command(command.config_name, [*command.overrides, *added], command.config_dir, command.multirun)


def _named_in_files(command: Command, given: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """What the chosen evaluations, experiment and sweep say themselves, and a checkpoint therefore does not.

    Returns:
        The groups that their files, or what these build on, choose; and the keys that they vary.
    """
    folders = [*([Path(command.config_dir)] if command.config_dir else []), conf_dir()]
    pending = [(group, name) for group in _NAMING for name in re.findall(r"[\w-]+", given.get(group, ""))]
    chosen: set[str] = set()
    swept: set[str] = set()
    while pending:
        group, name = pending.pop()
        file = next((f for folder in folders if (f := folder / group / f"{name}.yaml").is_file()), None)
        node = {} if file is None else yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        params = ((node.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
        swept |= {str(key).lstrip("+") for key in params}
        for default in node.get("defaults") or ():
            if isinstance(default, str):
                pending += [(group, default.removeprefix(f"/{group}/"))]  # what this file builds on
                continue
            for key, value in default.items():
                other = str(key).removeprefix("override /")
                chosen |= {other} if other != key else set()
                pending += [(other, word) for word in re.findall(r"[\w-]+", str(value)) if other in _NAMING]
    return chosen, swept


def _given(overrides: list[str]) -> dict[str, str]:
    pairs = (o.lstrip("+").partition("=") for o in overrides if "=" in o)
    return {key: value for key, _, value in pairs}
