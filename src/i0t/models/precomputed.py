"""The model of a run on cached features: its towers have already been applied."""

from __future__ import annotations

from torch import Tensor

from i0t.models.base import ClipModel


class Precomputed(ClipModel):
    """A model whose batches are its own features, read from the cache; stage 2 of the I0T paper without its encoders.

    It shares the weights of the model that made them, frozen with their logit scale and bias, so that a checkpoint of
    it has the same names and values and is one of that model. B is the batch size, D the width of the shared space.

    Args:
        model: What the features were made with. It is frozen as well: the weights are the same.

    **State:** that of ``model``.
    """

    def __init__(self, model: ClipModel) -> None:
        super().__init__(
            model.clip,
            transform=model.transform,
            tokenizer=model.tokenizer,
            embed_dim=model.embed_dim,
            max_logit_scale=model.max_logit_scale,
            train_transform=model.train_transform,
            weights_files=model.weights_files,
        )
        self._made_with = (model,)  # in a tuple, or its weights would stand twice in the state dict
        model.freeze_all()
        self.freeze_all()

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, D)`` cached features, returned as they are."""
        return self._checked(images, "image")

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(B, D)`` cached features, returned as they are."""
        return self._checked(tokens, "text")

    def identity(self) -> dict[str, str]:
        """That of the model that made the features."""
        return self._made_with[0].identity()

    def _checked(self, features: Tensor, modality: str) -> Tensor:
        if features.ndim != 2 or features.shape[1] != self.embed_dim or not features.is_floating_point():
            raise ValueError(
                f"this model takes cached {modality} features, (B, {self.embed_dim}) of floats, "
                f"got {tuple(features.shape)} of {features.dtype}"
            )
        return features
