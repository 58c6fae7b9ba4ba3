"""What every model here gives and owns."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

# What tokenizers may differ in: case, accents, punctuation, space, markup, length.
_PROBES = (
    "a photo of a cat.",
    "A Photo  of\ttwo DOGS' naïve café—12,345 (test)! &amp; <b>",
    "word " * 400,
)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@runtime_checkable
class CountsTruncated(Protocol):
    """A tokenizer that knows which texts it cuts."""

    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many texts have more tokens than the context holds."""
        ...


class ClipOutput(NamedTuple):
    """Features of a batch of B images and T texts, before any normalisation.

    Attributes:
        image_features: ``(B, D)``.
        text_features: ``(T, D)``.
        logit_scale: ``()``, the factor of the cosines (already exponentiated).
        logit_bias: ``()`` added to the logits (SigLIP), or ``None``.
    """

    image_features: Tensor
    text_features: Tensor
    logit_scale: Tensor
    logit_bias: Tensor | None


class ClipModel(nn.Module):
    """An open_clip model with the transform and tokenizer it was made for.

    Args:
        clip: An open_clip model: ``encode_image``, ``encode_text``, ``logit_scale`` (its logarithm).
        transform: Turns what the data module reads into what the image tower takes.
        tokenizer: Turns a list of strings into ``(T, L)`` int64; see :class:`CountsTruncated`.
        embed_dim: D, the width of the shared space.
        max_logit_scale: Largest temperature inverse that training may reach; ``None``: no bound.
        train_transform: With augmentation, for training; ``None``: ``transform``.
        weights_files: The files its weights were read from.
    """

    def __init__(
        self,
        clip: nn.Module,
        *,
        transform: Callable[[Any], Tensor],
        tokenizer: Callable[[Sequence[str]], Tensor],
        embed_dim: int,
        max_logit_scale: float | None,
        train_transform: Callable[[Any], Tensor] | None = None,
        weights_files: Sequence[Path] = (),
    ) -> None:
        super().__init__()
        self.clip = clip
        self.transform = transform
        self.train_transform = train_transform or transform
        self.weights_files = tuple(weights_files)
        self.tokenizer = tokenizer
        self.embed_dim = embed_dim
        self.max_logit_scale = max_logit_scale
        self._frozen: list[nn.Module] = []

    def freeze(self, *parts: nn.Module | nn.Parameter) -> None:
        """Takes parts out of training: no gradients, and eval mode for good, so that buffers stay as they are."""
        for part in parts:
            part.requires_grad_(False)
            if isinstance(part, nn.Module):
                self._frozen.append(part.eval())

    def freeze_all(self) -> None:
        """Takes everything out of training: both towers, the logit scale and the bias, which no clamp moves either."""
        self.freeze(self.clip)
        self.max_logit_scale = None

    def train(self, mode: bool = True) -> ClipModel:
        """As for every module, except for what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @classmethod
    def check_node(cls, node: Mapping[str, Any]) -> None:
        """Checks, without building anything, that a config node of this class can be built.

        Asked for every model of a multirun before its first job.

        Args:
            node: Plain containers, with ``_target_``.

        Raises:
            ValueError: In one line, if it cannot be.
        """

    @property
    def log_logit_scale(self) -> nn.Parameter:
        """``()``: the learnt logarithm of the logit scale."""
        return self.clip.logit_scale  # type: ignore[return-value]

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` transformed images to ``(B, D)`` un-normalised features."""
        return self.clip.encode_image(images)  # type: ignore[operator]

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(T, L)`` tokens to ``(T, D)`` un-normalised features."""
        return self.clip.encode_text(tokens)  # type: ignore[operator]

    def logits(self) -> tuple[Tensor, Tensor | None]:
        """The logit scale and bias, each ``()``; open_clip's ``nonscalar_logit_scale`` makes them ``(1,)``."""
        bias = getattr(self.clip, "logit_bias", None)
        return self.log_logit_scale.exp().reshape(()), None if bias is None else bias.reshape(())

    def logit_values(self) -> tuple[float, float | None]:
        """The logit scale and bias as numbers (waits for the device)."""
        scale, bias = self.logits()
        return scale.item(), None if bias is None else bias.item()

    def count_truncated(self, texts: Sequence[str]) -> int | None:
        """How many texts have more tokens than the context holds, start and end included; such texts are cut.

        Returns:
            The number; ``None`` where the tokenizer is somebody's own and has no ``count_truncated``.
        """
        return self.tokenizer.count_truncated(texts) if isinstance(self.tokenizer, CountsTruncated) else None

    def plain_state(self) -> Mapping[str, Tensor]:
        """The state dict as of the same model without adapters, whose features it has."""
        return self.state_dict()

    def open_clip_state(self) -> dict[str, Tensor]:
        """The weights as plain open_clip names and loads them.

        Raises:
            ValueError: If open_clip has no such model.
        """
        raise ValueError(f"open_clip has no model like {type(self).__name__}: only models of its architectures leave")

    def open_clip_config(self) -> dict[str, Any]:
        """``model_cfg`` and ``preprocess_cfg``, open_clip's ``open_clip_config.json``, for :meth:`open_clip_state`."""
        raise ValueError(f"open_clip has no model like {type(self).__name__}: only models of its architectures leave")

    def merge_adapters(self) -> None:
        """Puts adapters into the weights they stand beside, for a model that only encodes from now on."""

    def layer_depths(self) -> dict[str, int]:
        """How deep every parameter lies below the top of its tower, for ``layer_decay``.

        Returns:
            Name (as in ``named_parameters``) to depth: 0 for the projections, the logit scale and the bias, most for
            the embeddings, see :mod:`i0t.models.layer_depths`.

        Raises:
            ValueError: If this model cannot say so.
        """
        raise ValueError(
            f"layer_decay: {type(self).__name__} does not say how deep its parameters lie; set layer_decay=null, "
            "or give it a method layer_depths"
        )

    def identity(self) -> dict[str, str]:
        """What its features depend on: a hash of all weights and buffers, the transform and the tokenizer.

        Equal in every process, and for the same weights however they were loaded.
        """
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self.plain_state().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return {
            "weights": digest.hexdigest(),
            "architecture": type(self).__qualname__,
            "transform": describe_transform(self.transform),
            "tokenizer": describe_tokenizer(self.tokenizer),
        }

    def forward(self, images: Tensor, tokens: Tensor) -> ClipOutput:
        """Encodes ``(B, 3, H, W)`` images and ``(T, L)`` tokens."""
        return ClipOutput(self.encode_image(images), self.encode_text(tokens), *self.logits())


def describe_transform(transform: Callable[[Any], Tensor]) -> str:
    """The ``repr`` of a transform.

    Raises:
        ValueError: If it has a memory address, which differs in every process.
    """
    text = repr(transform)
    if _ADDRESS.search(text):
        raise ValueError(f"the transform {text!r} has no settings in its repr; give its class a __repr__ with them")
    return text


def describe_tokenizer(tokenizer: Callable[[Sequence[str]], Tensor]) -> str:
    """Class of a tokenizer and a hash of what it makes of some texts, or of its tables if it refuses them."""
    try:
        tokens = tokenizer(list(_PROBES))
        content = f"{tuple(tokens.shape)} {tokens.tolist()}"
    except ValueError:  # a closed vocabulary, like MAD's
        plain = {k: v for k, v in vars(tokenizer).items() if isinstance(v, (str, int, float, list, tuple, dict))}
        content = json.dumps(plain, sort_keys=True)
    digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    return f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__} {digest}"
