"""What every model here gives and owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn


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
        tokenizer: Turns a list of strings into ``(T, L)`` int64.
        embed_dim: D, the width of the shared space.
        max_logit_scale: Largest temperature inverse that training may reach; ``None``: no bound.
    """

    def __init__(
        self,
        clip: nn.Module,
        *,
        transform: Callable[[Any], Tensor],
        tokenizer: Callable[[Sequence[str]], Tensor],
        embed_dim: int,
        max_logit_scale: float | None,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.transform = transform
        self.tokenizer = tokenizer
        self.embed_dim = embed_dim
        self.max_logit_scale = max_logit_scale

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
        """The logit scale and bias, each ``()``."""
        return self.log_logit_scale.exp(), getattr(self.clip, "logit_bias", None)

    def logit_values(self) -> tuple[float, float | None]:
        """The logit scale and bias as numbers (waits for the device)."""
        scale, bias = self.logits()
        return scale.item(), None if bias is None else bias.item()

    def forward(self, images: Tensor, tokens: Tensor) -> ClipOutput:
        """Encodes ``(B, 3, H, W)`` images and ``(T, L)`` tokens."""
        return ClipOutput(self.encode_image(images), self.encode_text(tokens), *self.logits())
