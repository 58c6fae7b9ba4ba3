"""Turns Hydra's and OmegaConf's exceptions into one line that says what is wrong and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException, ValidationError

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl


# Choices that come with a package of their own.
_BRINGING = {
    "hydra/launcher/joblib": "i0t[sweeps]",
    "hydra/launcher/ray": "hydra-ray-launcher",
    "hydra/launcher/submitit_local": "i0t[slurm]",
    "hydra/launcher/submitit_slurm": "i0t[slurm]",
}
# Ends the names under which the checks keep the choices of an experiment without its values.
DEFAULTS_ONLY = "__defaults_only"


class ConfigError(ValueError):
    """A config that cannot be run; the message is one line for the user."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the choice nearest to ``word``, or nothing.

    Example:
        >>> nearest("batchsize", ["batch_size", "seed"])
        "; did you mean 'batch_size'?"
    """
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


@contextmanager
def explain(loader: ConfigLoaderImpl, config_name: str, overrides: list[str]) -> Iterator[None]:
    """Re-raises what composition raises as a :class:`ConfigError`.

    Args:
        loader: The loader that composes, asked for groups and keys.
        config_name: The root config.
        overrides: The command line's overrides.
    """
    try:
        yield
    except OverrideParseException as error:
        text = f"cannot read '{error.override}': write key=value, and quote values with , = or spaces"
        raise ConfigError(text) from error
    except MissingConfigException as error:
        raise ConfigError(_missing_file(loader, error)) from error
    except ConfigCompositionException as error:
        raise ConfigError(_composition(loader, config_name, error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_first_line(error)) from error


def _missing_file(loader: ConfigLoaderImpl, error: MissingConfigException) -> str:
    path = error.missing_cfg_file or ""
    group, _, name = path.rpartition("/")
    if path in _BRINGING:
        return f"{group}={name} needs a package: pip install '{_BRINGING[path]}'"
    if not group or error.options is None:
        return _first_line(error)
    options = [option for option in error.options if not option.endswith(DEFAULTS_ONLY)]
    if not options:
        groups = loader.list_groups("")
        return f"there is no config group '{group}'{nearest(group, groups)}"
    return f"{group}={name}: there is no such choice{nearest(name, options)} (choices: {', '.join(options)})"


def _composition(loader: ConfigLoaderImpl, config_name: str, error: ConfigCompositionException) -> str:
    cause: Any = error.__cause__
    while isinstance(cause, ConfigCompositionException):
        cause = cause.__cause__
    if isinstance(cause, ValidationError):
        return f"{cause.full_key or cause.key}: {_first_line(cause)}"
    if isinstance(cause, OmegaConfBaseException) and cause.key is not None and cause.parent_node is not None:
        keys = [str(k) for k in cause.parent_node]
        full_key = cause.full_key or str(cause.key)
        return f"unknown key '{full_key}'{_nearest_key(full_key, str(cause.key), keys)}"
    text = _first_line(error)
    in_file = re.search(r"Key '([^']+)' not in '\w+'\s+full_key: (\S+)", str(error))
    if in_file:
        where = text.partition(":")[0].replace("In ", "in ")
        return f"unknown key '{in_file[2]}' {where}{nearest(in_file[1], _root_names(loader, config_name))}"
    if "Could not override" in text:
        key = text.split("'")[1::2][-1]
        return _not_overridden(loader, config_name, key, text)
    return text


def _not_overridden(loader: ConfigLoaderImpl, config_name: str, key: str, text: str) -> str:
    """A group that nobody knows, or one that this root config has not: an experiment of training given to eval.py."""
    group, names = key.partition("@")[0], _root_names(loader, config_name)
    if group not in names:
        return f"unknown key or group '{key}'{nearest(group, names)}"
    where = f" ({text.partition(':')[0].replace('In ', 'in ')})" if text.startswith("In ") else ""
    return f"{config_name}.yaml has no '{key}' that could be overridden{where}"


def _root_names(loader: ConfigLoaderImpl, config_name: str) -> list[str]:
    """Groups and scalars of the root config, which need not compose as it is: an evaluation has no data of its own."""
    found = loader.repository.load_config(config_name)
    assert found is not None, "the root config is shipped"
    return [*loader.list_groups(""), *map(str, found.config)]


def _nearest_key(full_key: str, key: str, keys: list[str]) -> str:
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{full_key[: len(full_key) - len(key)]}{close[0]}'?"
    return f" (valid here: {', '.join(sorted(keys))})"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
