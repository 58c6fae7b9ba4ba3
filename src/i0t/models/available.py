"""Which published weights there are, and whether a name is one of them; without a network."""

from __future__ import annotations

import difflib
from pathlib import Path

import open_clip
from open_clip.pretrained import is_pretrained_cfg

from i0t.models.architectures import quick_gelu_of, trained_with_quick_gelu

_QUICK_GELU = "-quickgelu"


def check_weights_exist(architecture: str, pretrained: str) -> None:
    """Refuses what is neither a tag of an architecture nor a file.

    Args:
        architecture: Of open_clip.
        pretrained: A tag or a file.

    Raises:
        ValueError: Naming the nearest tag, or all.
    """
    if is_pretrained_cfg(architecture, pretrained) or Path(pretrained).expanduser().is_file():
        return
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    close = difflib.get_close_matches(pretrained, tags, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"its tags: {', '.join(tags) or 'none'}"
    raise ValueError(f"model.pretrained={pretrained} is neither a file nor a tag of {architecture}; {hint}")


def pretrained_models() -> list[tuple[str, str]]:
    """Architecture and tag of all published weights of open_clip, each set of weights once.

    Left out are names under which weights would get another activation than they were trained with, and, of OpenAI's,
    the second name of the same model (``ViT-B-32-quickgelu`` beside ``ViT-B-32``).
    """
    found = []
    for architecture, tag in open_clip.list_pretrained():
        is_second_name = tag == "openai" and architecture.endswith(_QUICK_GELU)
        trained_so = trained_with_quick_gelu(architecture, tag) == quick_gelu_of(architecture, tag)
        if trained_so and not is_second_name:
            found.append((architecture, tag))
    return found
