"""BLIP's contrastive towers from Hugging Face ``transformers`` (Li et al. 2022, arXiv 2201.12086)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from i0t.models.hugging_face import HuggingFaceModel, Towers, from_pretrained


class BlipTowers(Towers):
    """The image-text contrastive part of ``BlipForImageTextRetrieval``: first token, then a projection."""

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, D)``."""
        return self.inner.vision_proj(self.inner.vision_model(pixel_values=images).last_hidden_state[:, 0])

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(T, L)`` to ``(T, D)``."""
        encoded = self.inner.text_encoder(input_ids=tokens, attention_mask=self.mask(tokens))
        return self.inner.text_proj(encoded.last_hidden_state[:, 0])

    @property
    def image_modules(self) -> list[nn.Module]:
        """Modules of the image tower."""
        return [self.inner.vision_model, self.inner.vision_proj]

    @property
    def text_modules(self) -> list[nn.Module]:
        """Modules of the text tower."""
        return [self.inner.text_encoder, self.inner.text_proj]


class Blip(HuggingFaceModel):
    """BLIP for retrieval by cosines; the matching head and the cross attention are not used and not trained.

    Hugging Face's files do not hold BLIP's temperature. Arguments: :class:`~i0t.models.hugging_face.HuggingFaceModel`.
    """

    def build(self, transformers: Any, config: Any, source: str | None) -> Any:
        """``BlipForImageTextRetrieval``."""
        kind = transformers.BlipForImageTextRetrieval
        return kind(config) if source is None else from_pretrained(kind, config, source)

    def wrap(self, inner: Any, *, pad_token_id: int, logit_scale: float | None) -> Towers:
        """Both towers; what belongs to neither gets no gradient (DDP would wait for it)."""
        inner.itm_head.requires_grad_(False)
        for name, parameter in inner.text_encoder.named_parameters():
            if "crossattention" in name:
                parameter.requires_grad_(False)
        return BlipTowers(inner, pad_token_id=pad_token_id, logit_scale=logit_scale or 1 / 0.07)

    def width(self, config: Any) -> int:
        """D."""
        return int(config.image_text_hidden_size)
