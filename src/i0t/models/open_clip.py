"""Any architecture of open_clip, with published weights, a local file or none."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import open_clip
import torch
from huggingface_hub import constants
from open_clip.model import resize_pos_embed
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from i0t.models.architectures import preprocess_of, quick_gelu_of, register_architecture, trained_with_quick_gelu
from i0t.models.available import check_weights_exist
from i0t.models.base import ClipModel
from i0t.models.dropout import add_dropout
from i0t.models.fitting import check_positions, convert, load_weights
from i0t.models.tokenizers import ArchitectureTokenizer, context_length_of, hub_name
from i0t.models.weights import Weights, check_activation_of_tag, check_training, find_weights, read_weights


class OpenClip(ClipModel):
    """An open_clip model with its transforms and tokenizer.

    QuickGELU or GELU is what the architecture's name says, and QuickGELU for the tag ``openai``; weights that are
    known to need the other one are refused.

    Args:
        architecture: A name of open_clip's, or a ``.json`` file in the form of its ``model_configs``.
        pretrained: A tag of open_clip's, a file (``.pt``, ``.safetensors``, a checkpoint of ours) or ``None``: random.
        load_weights: ``False``: the same shape, activation and transform without reading or downloading any weight,
            for a model whose state comes from a checkpoint.
        tokenizer: A local folder with the tokenizer's files; ``None``: open_clip's, or the hub's for SigLIP and others.
        image_size: Side of the images in pixels, positions are interpolated; ``None``: the architecture's.
        image_mean: Means of the three channels; ``None``: the tag's, else what all tags of the architecture share.
        image_std: Standard deviations of the three channels; likewise.
        interpolation: ``"bicubic"`` or ``"bilinear"``; likewise.
        resize_mode: ``"shortest"`` (then crop), ``"longest"`` (then pad) or ``"squash"``; likewise.
        crop_scale: Range of the random crop's share of the area in training; ``None``: no augmentation.
        color_jitter: Brightness, contrast, saturation and hue of a jitter in training.
        color_jitter_prob: How often it is applied; ``None``: never.
        gray_scale_prob: How often a training image loses its colour; ``None``: never.
        logit_scale: Set after loading, the factor itself (I0T: 100); ``None``: the weights' own.
        logit_bias: Likewise (SigLIP: -10); a number gives a model without bias one.
        max_logit_scale: Bound of the factor in training; ``None``: no bound.
        dropout: Share of attention weights and MLP outputs that training sets to zero in both towers (I0T's two
            views: 0.1); 0: none. Features in eval mode are the same.
        lock_image: The image tower is not trained and stays in eval mode (batch statistics, dropout).
        lock_text: The text tower likewise.
        grad_checkpointing: Compute activations twice to save memory.
        compile: ``torch.compile`` the towers; names in the state dict stay.

    Raises:
        ValueError: If the architecture or tag is unknown, or the weights do not fit it.
        ConnectionError: If something must be downloaded and cannot.
    """

    # Tokens of a text where a subclass differs from the architecture.
    text_positions: int | None = None

    def __init__(
        self,
        *,
        architecture: str,
        pretrained: str | None,
        load_weights: bool,
        tokenizer: str | None,
        image_size: int | None,
        image_mean: Sequence[float] | None,
        image_std: Sequence[float] | None,
        interpolation: str | None,
        resize_mode: str | None,
        crop_scale: Sequence[float] | None,
        color_jitter: Sequence[float] | None,
        color_jitter_prob: float | None,
        gray_scale_prob: float | None,
        logit_scale: float | None,
        logit_bias: float | None,
        max_logit_scale: float | None,
        dropout: float,
        lock_image: bool,
        lock_text: bool,
        grad_checkpointing: bool,
        compile: bool,
    ) -> None:
        name = register_architecture(architecture)
        check_activation_of_tag(name, pretrained)
        quick_gelu = quick_gelu_of(name, pretrained)
        preprocess = preprocess_of(
            name, pretrained, mean=image_mean, std=image_std, interpolation=interpolation, resize_mode=resize_mode
        )
        context_length = self.text_positions or context_length_of(name)
        augmentation = _augmentation(crop_scale, color_jitter, color_jitter_prob, gray_scale_prob)
        file = find_weights(name, pretrained) if pretrained is not None and load_weights else None
        tokens = ArchitectureTokenizer(
            name, context_length=context_length, folder=tokenizer, local_files_only=not load_weights
        )
        if file is not None or hub_name(name) is None:
            tokens.load()  # what is missing is missed before anything is built
        clip = _create(name, quick_gelu, image_size, context_length, preprocess, logit_bias)
        self.prepare(clip)
        if file is not None:
            weights = read_weights(file)
            if trained_with_quick_gelu(name, pretrained) is None:  # a tag is known better than the files beside it
                check_training(weights, name, quick_gelu=quick_gelu, preprocess=preprocess)
            self.load(clip, weights, name, image_size)
        _set_logits(clip, logit_scale, logit_bias)
        pixels = PreprocessCfg(**clip.visual.preprocess_cfg)
        super().__init__(
            clip,
            transform=image_transform_v2(pixels, is_train=False),
            train_transform=None if augmentation is None else _train_transform(pixels, augmentation),
            tokenizer=tokens,
            embed_dim=int(open_clip.get_model_config(name)["embed_dim"]),
            max_logit_scale=max_logit_scale,
            weights_files=() if file is None else (file,),
        )
        self.description = _describe(name, quick_gelu, clip, context_length)
        self._add_dropout(name, dropout, lock_image, lock_text)
        self._prepare_training(name, lock_image, lock_text, grad_checkpointing, compile)

    def _add_dropout(self, name: str, dropout: float, lock_image: bool, lock_text: bool) -> None:
        """Into the towers that are trained: a locked one stays in eval mode."""
        if dropout == 0:
            return
        if lock_image and lock_text:
            raise ValueError(f"model.dropout={dropout} would be ignored: both towers are locked")
        clip: Any = self.clip
        if not lock_image:
            add_dropout(clip.visual, dropout, name=f"the image tower of {name}")
        if not lock_text:
            add_dropout(_text_tower(clip), dropout, name=f"the text tower of {name}")

    def _prepare_training(
        self, name: str, lock_image: bool, lock_text: bool, grad_checkpointing: bool, compile: bool
    ) -> None:
        clip: Any = self.clip
        if lock_image:
            self.freeze(clip.visual)
        if lock_text:
            self.freeze(*_text_parts(clip))
        if grad_checkpointing and isinstance(clip.visual, ModifiedResNet):
            raise ValueError(
                f"model.grad_checkpointing: open_clip has none for the image tower of {name} (it would be ignored)"
            )
        if grad_checkpointing:
            clip.set_grad_checkpointing(True)
        if compile:
            # In place: a wrapper of torch.compile would put "_orig_mod." into the names of the state dict.
            for tower in (clip.visual, _text_tower(clip)):
                tower.compile()

    @classmethod
    def check_node(cls, node: Mapping[str, Any]) -> None:
        """Architecture and weights exist and fit each other, as far as their names tell."""
        name, pretrained = register_architecture(node["architecture"]), node["pretrained"]
        check_activation_of_tag(name, pretrained)
        if pretrained is not None and node["load_weights"]:
            check_weights_exist(name, pretrained)

    def prepare(self, clip: Any) -> None:
        """Changes the new model before weights are loaded; a subclass's place."""

    def load(self, clip: Any, weights: Weights, architecture: str, image_size: int | None) -> None:
        """Copies weights into the model, through open_clip's own conversions.

        Raises:
            ValueError: If they do not fit.
        """
        state = convert(clip, weights.state)
        check_positions(state, clip, weights, architecture, image_size)
        if image_size is not None:
            resize_pos_embed(state, clip)
        load_weights(clip, weights._replace(state=state), architecture)

    def identity(self) -> dict[str, str]:
        """As for every model, with the architecture's settings in place of its name."""
        return {**super().identity(), "architecture": f"{type(self).__qualname__} {self.description}"}

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` transformed images to ``(B, D)`` un-normalised features."""
        return self.clip.encode_image(images, normalize=False)  # type: ignore[operator]

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(T, L)`` tokens to ``(T, D)`` un-normalised features."""
        return self.clip.encode_text(tokens, normalize=False)  # type: ignore[operator]


def _text_tower(clip: Any) -> nn.Module:
    """What holds the blocks of the text tower."""
    return getattr(clip, "text", None) or clip.transformer


def _text_parts(clip: nn.Module) -> list[nn.Module | nn.Parameter]:
    """Modules and bare parameters of the text tower: all but the image tower and the logits' two numbers."""
    parts: list[nn.Module | nn.Parameter] = [m for name, m in clip.named_children() if name != "visual"]
    own = clip.named_parameters(recurse=False)
    return parts + [parameter for name, parameter in own if name not in ("logit_scale", "logit_bias")]


def _create(
    architecture: str,
    quick_gelu: bool,
    image_size: int | None,
    context_length: int,
    preprocess: Mapping[str, Any],
    logit_bias: float | None,
) -> Any:
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


def _set_logits(clip: Any, logit_scale: float | None, logit_bias: float | None) -> None:
    with torch.no_grad():
        if logit_scale is not None:
            clip.logit_scale.fill_(math.log(logit_scale))
        if logit_bias is not None:
            clip.logit_bias.fill_(logit_bias)


def _augmentation(
    crop_scale: Sequence[float] | None,
    color_jitter: Sequence[float] | None,
    color_jitter_prob: float | None,
    gray_scale_prob: float | None,
) -> dict[str, Any] | None:
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


def _train_transform(pixels: PreprocessCfg, augmentation: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        # It calls colour settings unused that it has just used (open_clip 3.3, image_transform).
        warnings.filterwarnings("ignore", "Unused augmentation cfg items", UserWarning)
        return image_transform_v2(pixels, is_train=True, aug_cfg=augmentation)


def _describe(architecture: str, quick_gelu: bool, clip: Any, context_length: int) -> str:
    """All settings of the architecture, the same whether its name or its weights asked for QuickGELU."""
    config = deepcopy(open_clip.get_model_config(architecture))
    config["quick_gelu"] = quick_gelu
    config["vision_cfg"]["image_size"] = clip.visual.image_size
    config["text_cfg"]["context_length"] = context_length
    config.pop("init_logit_bias", None)
    return json.dumps(config, sort_keys=True)
