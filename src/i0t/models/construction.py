"""Builds open_clip's model without weights, as its architecture and the run's settings say."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import open_clip
import torch
from huggingface_hub import constants


def create(
    architecture: str,
    quick_gelu: bool,
    image_size: int | None,
    context_length: int,
    preprocess: Mapping[str, Any],
    logit_bias: float | None,
) -> Any:
    """open_clip's model with random weights.

    Args:
        architecture: Of open_clip.
        quick_gelu: Whether its activation is QuickGELU.
        image_size: Side of the images; ``None``: the architecture's.
        context_length: Tokens of a text.
        preprocess: How its transform treats pixels.
        logit_bias: A number gives a model without bias one.

    Raises:
        ConnectionError: If its text tower is described on the hub and cannot be had.
    """
    bias = {} if logit_bias is None else {"init_logit_bias": logit_bias}
    try:
        with _without_warning("initialized randomly"):
            return open_clip.create_model(
                architecture,
                force_quick_gelu=quick_gelu,
                force_image_size=image_size,
                force_context_length=context_length,
                force_preprocess_cfg=dict(preprocess),
                pretrained_text=False,
                **bias,
            )
    except OSError as error:  # a text tower whose shape is described on the hub
        hub = open_clip.get_model_config(architecture)["text_cfg"].get("hf_model_name")
        reason = next(iter(str(error).splitlines()), "")
        raise ConnectionError(
            f"the text tower of {architecture} is described by {constants.ENDPOINT}/{hub}, which is not in the cache "
            f"({constants.HF_HUB_CACHE}) and cannot be reached ({reason}); fetch it once where there is a network: "
            f"hf download {hub} config.json"
        ) from error


@contextmanager
def _without_warning(text: str) -> Iterator[None]:
    """Keeps open_clip from calling a model random that is about to get its weights, or is meant to be random."""

    def keep(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(keep)
    try:
        yield
    finally:
        root.removeFilter(keep)


def set_logits(clip: Any, logit_scale: float | None, logit_bias: float | None) -> None:
    """Sets the logit scale (the factor itself) and the bias, where given."""
    with torch.no_grad():
        if logit_scale is not None:
            clip.logit_scale.fill_(math.log(logit_scale))
        if logit_bias is not None:
            clip.logit_bias.fill_(logit_bias)


def describe(architecture: str, quick_gelu: bool, clip: Any, context_length: int) -> str:
    """All settings of the architecture, the same whether its name or its weights asked for QuickGELU."""
    config = deepcopy(open_clip.get_model_config(architecture))
    config["quick_gelu"] = quick_gelu
    config["vision_cfg"]["image_size"] = clip.visual.image_size
    config["text_cfg"]["context_length"] = context_length
    config.pop("init_logit_bias", None)
    return json.dumps(config, sort_keys=True)
