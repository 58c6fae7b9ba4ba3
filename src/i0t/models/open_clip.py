"""Any architecture of open_clip, with published weights, a local file or none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import open_clip
import torch
from open_clip.model import resize_pos_embed
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from i0t.models.architectures import preprocess_of, quick_gelu_of, register_architecture, trained_with_quick_gelu
from i0t.models.augmentation import augmentation_settings, train_transform
from i0t.models.available import check_weights_exist
from i0t.models.base import ClipModel
from i0t.models.construction import create, describe, set_logits
from i0t.models.dropout import add_dropout
from i0t.models.fitting import check_positions, convert, load_weights
from i0t.models.layer_depths import depths, image_tower_level, transformer_level
from i0t.models.lora import LoraSettings, adapt_state, add_lora, batch_norms, check_peft, merge, merged_state
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
        lora: ``rank``, ``alpha``, ``dropout`` and ``targets`` of adapters (:class:`~i0t.models.lora.LoraSettings`):
            of a tower that is not locked they alone are trained. ``None``: no adapters.
        grad_checkpointing: Compute activations twice to save memory.
        channels_last: Images and convolutions of the image tower with the channels innermost; the same numbers.
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
        lora: Mapping[str, Any] | None = None,  # these two have defaults for checkpoints that do not name them
        grad_checkpointing: bool,
        channels_last: bool = False,
        compile: bool,
    ) -> None:
        adapters = None if lora is None else _read_lora(lora, lock_image=lock_image, lock_text=lock_text)
        name = register_architecture(architecture)
        check_activation_of_tag(name, pretrained)
        quick_gelu = quick_gelu_of(name, pretrained)
        preprocess = preprocess_of(
            name, pretrained, mean=image_mean, std=image_std, interpolation=interpolation, resize_mode=resize_mode
        )
        context_length = self.text_positions or context_length_of(name)
        augmentation = augmentation_settings(crop_scale, color_jitter, color_jitter_prob, gray_scale_prob)
        file = find_weights(name, pretrained) if pretrained is not None and load_weights else None
        tokens = ArchitectureTokenizer(
            name, context_length=context_length, folder=tokenizer, local_files_only=not load_weights
        )
        if file is not None or hub_name(name) is None:
            tokens.load()  # what is missing is missed before anything is built
        clip = create(name, quick_gelu, image_size, context_length, preprocess, logit_bias)
        self.prepare(clip)
        if file is not None:
            weights = read_weights(file)
            if trained_with_quick_gelu(name, pretrained) is None:  # a tag is known better than the files beside it
                check_training(weights, name, quick_gelu=quick_gelu, preprocess=preprocess)
            self.load(clip, weights, name, image_size)
        set_logits(clip, logit_scale, logit_bias)
        pixels = PreprocessCfg(**clip.visual.preprocess_cfg)
        super().__init__(
            clip,
            transform=image_transform_v2(pixels, is_train=False),
            train_transform=None if augmentation is None else train_transform(pixels, augmentation),
            tokenizer=tokens,
            embed_dim=int(open_clip.get_model_config(name)["embed_dim"]),
            max_logit_scale=max_logit_scale,
            weights_files=() if file is None else (file,),
        )
        self._lora, self.channels_last = adapters, channels_last
        self.description = describe(name, quick_gelu, clip, context_length)
        self._add_dropout(name, dropout, lock_image, lock_text)
        self._add_lora(name, lock_image, lock_text)
        if channels_last:
            clip.visual.to(memory_format=torch.channels_last)
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

    def _add_lora(self, name: str, lock_image: bool, lock_text: bool) -> None:
        """Into the towers that are not locked; of the others, and of what stands between them, nothing is trained."""
        if self._lora is None:
            return
        clip: Any = self.clip
        for part in (clip.visual, *_text_parts(clip)):
            part.requires_grad_(False)
        if not lock_image:
            add_lora(clip.visual, self._lora, name=f"the image tower of {name}")
            self.freeze(*batch_norms(clip.visual))
        if not lock_text:
            add_lora(_text_tower(clip), self._lora, name=f"the text tower of {name}")
        self.register_load_state_dict_pre_hook(_take_plain_weights)

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
        if grad_checkpointing and not lock_image and self._lora is None and batch_norms(clip.visual):
            raise ValueError(
                f"model.grad_checkpointing: the image tower of {name} has batch norms, whose running statistics would "
                "count every batch twice; set model.grad_checkpointing=false, or lock that tower"
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

    def plain_state(self) -> Mapping[str, Tensor]:
        """The state dict, adapters merged into the weights they stand beside."""
        state = self.state_dict()
        return state if self._lora is None else merged_state(state, scaling=self._lora.scaling)

    def open_clip_state(self) -> dict[str, Tensor]:
        """The weights as plain open_clip names and loads them, adapters merged."""
        prefix = "clip."
        return {name.removeprefix(prefix): value.detach() for name, value in self.plain_state().items()}

    def open_clip_config(self) -> dict[str, Any]:
        """``model_cfg`` and ``preprocess_cfg`` of open_clip's ``open_clip_config.json``."""
        model: dict[str, Any] = json.loads(self.description)
        bias = self.logits()[1]
        if bias is not None:
            model["init_logit_bias"] = bias.item()
        return {"model_cfg": model, "preprocess_cfg": dict(self.clip.visual.preprocess_cfg)}  # type: ignore[union-attr, arg-type]

    def merge_adapters(self) -> None:
        """Turns the model into the plain one with the same features, up to rounding."""
        if self._lora is not None:
            merge(self.clip, scaling=self._lora.scaling)

    def layer_depths(self) -> dict[str, int]:
        """As of the architecture: blocks of transformers, stages of ResNets, timm's own groups."""
        names = [name for name, _ in self.clip.named_parameters()]
        visual: Any = self.clip.visual
        image = [name.removeprefix("visual.") for name in names if name.startswith("visual.")]
        text = [name for name in names if not name.startswith(("visual.", "logit_"))]
        found = {f"clip.{name}": 0 for name in names if name.startswith("logit_")}
        of_image = depths(image, image_tower_level(visual), tower="image tower")
        of_text = depths(text, lambda name: transformer_level(name.removeprefix("text.")), tower="text tower")
        found |= {f"clip.visual.{name}": depth for name, depth in of_image.items()}
        return found | {f"clip.{name}": depth for name, depth in of_text.items()}

    def identity(self) -> dict[str, str]:
        """As for every model, with the architecture's settings in place of its name."""
        return {**super().identity(), "architecture": f"{type(self).__qualname__} {self.description}"}

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` transformed images to ``(B, D)`` un-normalised features."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.clip.encode_image(images, normalize=False)  # type: ignore[operator]

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(T, L)`` tokens to ``(T, D)`` un-normalised features."""
        return self.clip.encode_text(tokens, normalize=False)  # type: ignore[operator]


def _read_lora(node: Mapping[str, Any], *, lock_image: bool, lock_text: bool) -> LoraSettings:
    """Settings that have somewhere to go, and a package that can do it, before any weight is read."""
    settings = LoraSettings.read(node)
    if lock_image and lock_text:
        raise ValueError("model.lora would be ignored: both towers are locked")
    check_peft()
    return settings


def _take_plain_weights(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets a checkpoint from before the adapters be loaded."""
    adapt_state(state, module.state_dict(), prefix)


def _text_tower(clip: Any) -> nn.Module:
    """What holds the blocks of the text tower."""
    return getattr(clip, "text", None) or clip.transformer


def _text_parts(clip: nn.Module) -> list[nn.Module | nn.Parameter]:
    """Modules and bare parameters of the text tower: all but the image tower and the logits' two numbers."""
    parts: list[nn.Module | nn.Parameter] = [m for name, m in clip.named_children() if name != "visual"]
    own = clip.named_parameters(recurse=False)
    return parts + [parameter for name, parameter in own if name not in ("logit_scale", "logit_bias")]
