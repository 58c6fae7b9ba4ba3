"""What interpolations in config files may ask for: architecture and weights of one key, and lists of models."""

from __future__ import annotations

import re

from omegaconf import OmegaConf

from i0t.config_errors import ConfigError

_UNSAFE = re.compile(r"[^\w.+-]+")


def register_resolvers() -> None:
    """Makes ``${i0t.architecture:…}`` and its like known to OmegaConf."""
    OmegaConf.register_new_resolver("i0t.architecture", lambda tag: split_tag(tag)[0], replace=True)
    OmegaConf.register_new_resolver("i0t.weights", lambda tag: split_tag(tag)[1], replace=True)
    OmegaConf.register_new_resolver("i0t.folder", folder_name, replace=True)
    OmegaConf.register_new_resolver("i0t.open_clip_tags", open_clip_tags, replace=True)


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


def open_clip_tags() -> str:
    """All published weights of open_clip, in the form of a list on the command line."""
    from i0t.models.available import pretrained_models  # it imports torch, which only this list is worth

    return ",".join(f"{architecture}/{tag}" for architecture, tag in pretrained_models())
