"""What interpolations in config files may ask for: a model's parts, lists of models, and who started the process."""

from __future__ import annotations

import re
import zlib

from omegaconf import OmegaConf

from i0t import launch
from i0t.config_errors import ConfigError

_UNSAFE = re.compile(r"[^\w.+-]+")
_UNSAFE_IN_JOB = re.compile(r"[^\w.+=,-]+")
_MAX_FOLDER = 200  # of the 255 bytes that file systems allow


def register_resolvers() -> None:
    """Makes ``${i0t.architecture:…}`` and its like known to OmegaConf."""
    OmegaConf.register_new_resolver("i0t.architecture", lambda tag: split_tag(tag)[0], replace=True)
    OmegaConf.register_new_resolver("i0t.weights", lambda tag: split_tag(tag)[1], replace=True)
    OmegaConf.register_new_resolver("i0t.folder", folder_name, replace=True)
    OmegaConf.register_new_resolver("i0t.job_folder", job_folder, replace=True)
    OmegaConf.register_new_resolver("i0t.open_clip_tags", open_clip_tags, replace=True)
    # Cached, so that a run has one folder, however often its config asks.
    OmegaConf.register_new_resolver("i0t.run_folder", launch.run_folder, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("i0t.log_name", launch.log_name, replace=True)
    OmegaConf.register_new_resolver("i0t.only_first", only_first, replace=True)
    OmegaConf.register_new_resolver("i0t.processes_per_node", processes_per_node, replace=True)
    OmegaConf.register_new_resolver("i0t.num_nodes", lambda: launch.this_launch().num_nodes, replace=True)


def split_tag(tag: str) -> tuple[str, str | None]:
    """Architecture and weights of one key, at the first slash behind the architecture.

    Args:
        tag: ``<architecture>/<tag, file or null>``; the architecture may be a ``.json`` file in any folder.

    Raises:
        ConfigError: If there is no slash.

    Example:
        >>> split_tag("ViT-B-32/openai")
        ('ViT-B-32', 'openai')
        >>> split_tag("/here/tiny.json//there/tiny.pt")
        ('/here/tiny.json', '/there/tiny.pt')
        >>> split_tag("RN50/null")
        ('RN50', None)
    """
    head, json, rest = str(tag).partition(".json/")
    architecture, weights = (f"{head}.json", rest) if json else (head.partition("/")[0], head.partition("/")[2])
    if not architecture or not weights:
        raise ConfigError(
            f"model_tag={tag} must be <architecture>/<weights>: ViT-B-32/openai, mine.json/mine.pt, RN50/null"
        )
    return architecture, None if weights == "null" else weights


def folder_name(tag: str) -> str:
    """A folder's name for a key: paths as one word.

    Example:
        >>> folder_name("ViT-B-32/openai")
        'ViT-B-32_openai'
    """
    return _UNSAFE.sub("_", str(tag)).strip("_")


def job_folder(overrides: str) -> str:
    """A job's folder by what it overrides, as one word; where that is not all of it, a number stands for the rest.

    Example:
        >>> job_folder("loss=clip,seed=0")
        'loss=clip,seed=0'
        >>> job_folder("data.path=a/b.npz")
        'data.path=a_b.npz_9c02882d'
    """
    name = _UNSAFE_IN_JOB.sub("_", str(overrides)).encode()[:_MAX_FOLDER].decode(errors="ignore")
    return (name or "job") if name == overrides else f"{name}_{zlib.crc32(str(overrides).encode()):08x}"


def open_clip_tags() -> str:
    """All published weights of open_clip, in the form of a list on the command line."""
    from i0t.models.available import pretrained_models  # it imports torch, which only this list is worth

    return ",".join(f"{architecture}/{tag}" for architecture, tag in pretrained_models())


def only_first(value: str) -> str | None:
    """A value for the first rank, nothing for the others.

    Example:
        >>> only_first(".hydra")
        '.hydra'
    """
    return value if launch.this_launch().is_first else None


def processes_per_node(otherwise: int | str) -> int | str:
    """How many processes the launcher has started on this node, or, where Lightning starts them, ``otherwise``.

    Example:
        >>> processes_per_node("auto")
        'auto'
    """
    found = launch.this_launch()
    if found.launcher is None or found.processes_per_node is None:
        return otherwise
    return found.processes_per_node
