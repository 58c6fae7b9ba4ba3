"""ALIGN from Hugging Face ``transformers`` (Jia et al. 2021, arXiv 2102.05918; weights by Kakao Brain)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from i0t.models.hugging_face import HuggingFaceModel, Towers, from_pretrained


class AlignTowers(Towers):
    """EfficientNet's pooled output as it is, BERT's first token through a projection, as in ``AlignModel``."""

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, D)``."""
        return self.inner.vision_model(pixel_values=images).pooler_output

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(T, L)`` to ``(T, D)``."""
        encoded = self.inner.text_model(input_ids=tokens, attention_mask=self.mask(tokens))
        return self.inner.text_projection(encoded.last_hidden_state[:, 0])

    @property
    def image_modules(self) -> list[nn.Module]:
        """Modules of the image tower."""
        return [self.inner.vision_model]

    @property
    def text_modules(self) -> list[nn.Module]:
        """Modules of the text tower."""
        return [self.inner.text_model, self.inner.text_projection]


class Align(HuggingFaceModel):
    """ALIGN. Arguments: :class:`~i0t.models.hugging_face.HuggingFaceModel`."""

    def build(self, transformers: Any, config: Any, source: str | None) -> Any:
        """``AlignModel``."""
        kind = transformers.AlignModel
        return kind(config) if source is None else from_pretrained(kind, config, source)

    def wrap(self, inner: Any, *, pad_token_id: int, logit_scale: float | None) -> Towers:
        """Both towers; ALIGN divides by a temperature, here the logarithm of its inverse is learnt."""
        temperature = inner.temperature.item()
        inner.temperature.requires_grad_(False)
        if inner.text_model.pooler is not None:
            inner.text_model.pooler.requires_grad_(False)
        return AlignTowers(inner, pad_token_id=pad_token_id, logit_scale=logit_scale or 1 / temperature)

    def width(self, config: Any) -> int:
        """D."""
        return int(config.projection_dim)
