"""open_clip's augmentation of training images, from the flat arguments of a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from open_clip.transform import PreprocessCfg, image_transform_v2


def augmentation_settings(
    crop_scale: Sequence[float] | None,
    color_jitter: Sequence[float] | None,
    color_jitter_prob: float | None,
    gray_scale_prob: float | None,
) -> dict[str, Any] | None:
    """What open_clip calls an augmentation config; ``None``: training images are treated as in evaluation.

    Raises:
        ValueError: If colours are to change without a crop, or by other than four numbers.
    """
    if crop_scale is None:
        if color_jitter_prob or gray_scale_prob:
            raise ValueError("model.color_jitter_prob and gray_scale_prob need model.crop_scale, [1.0,1.0] at least")
        return None
    if color_jitter_prob and (color_jitter is None or len(color_jitter) != 4):
        raise ValueError(f"model.color_jitter must be four numbers for model.color_jitter_prob, got {color_jitter}")
    settings: dict[str, Any] = {"scale": tuple(crop_scale)}
    if color_jitter_prob and color_jitter is not None:
        settings |= {"color_jitter": tuple(color_jitter), "color_jitter_prob": color_jitter_prob}
    if gray_scale_prob:
        settings["gray_scale_prob"] = gray_scale_prob
    return settings


def train_transform(pixels: PreprocessCfg, augmentation: dict[str, Any]) -> Any:
    """The transform of training images."""
    with warnings.catch_warnings():
        # It calls colour settings unused that it has just used (open_clip 3.3, image_transform).
        warnings.filterwarnings("ignore", "Unused augmentation cfg items", UserWarning)
        return image_transform_v2(pixels, is_train=True, aug_cfg=augmentation)
