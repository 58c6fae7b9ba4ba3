"""What the towers from Hugging Face ``transformers`` share; the package is an extra and imported when needed.

D is the width of the shared space, L the context length, T the number of texts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor, nn

from i0t.models.base import ClipModel
from i0t.models.fitting import load_weights as copy_weights
from i0t.models.layer_depths import depths, transformer_level
from i0t.models.truncation import count_hugging_face
from i0t.models.weights import read_weights

_WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")


class ProcessorTransform:
    """An image processor of transformers as a transform of one image.

    Args:
        processor: From ``AutoImageProcessor``.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Any) -> Tensor:
        """A PIL image or ``(H, W, 3)`` uint8 array to ``(3, H', W')``."""
        if hasattr(image, "convert"):
            image = image.convert("RGB")
        return torch.as_tensor(self.processor(images=image, return_tensors="pt")["pixel_values"][0])

    def __repr__(self) -> str:
        return f"ProcessorTransform({json.dumps(self.processor.to_dict(), sort_keys=True, default=str)})"


class FixedLengthTokenizer:
    """A tokenizer of transformers that cuts and pads every text to the same length.

    Args:
        tokenizer: From ``AutoTokenizer``.
        context_length: L, special tokens included.
    """

    def __init__(self, tokenizer: Any, *, context_length: int) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Returns ``(T, L)`` int64 tokens."""
        length = self.context_length
        encoded = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return encoded["input_ids"]

    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many texts have more than L tokens, special ones included."""
        return count_hugging_face(self.tokenizer, texts, context_length=self.context_length)


class Towers(nn.Module):
    """The interface of an open_clip model around one of transformers.

    Args:
        inner: The model of transformers.
        pad_token_id: What fills texts up; such places are masked.
        logit_scale: The factor of the cosines at the start.
    """

    def __init__(self, inner: Any, *, pad_token_id: int, logit_scale: float) -> None:
        super().__init__()
        self.inner = inner
        self.pad_token_id = pad_token_id
        self.logit_scale = nn.Parameter(torch.tensor(math.log(logit_scale)))

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, D)``."""
        raise NotImplementedError

    def encode_text(self, tokens: Tensor) -> Tensor:
        """``(T, L)`` to ``(T, D)``."""
        raise NotImplementedError

    def mask(self, tokens: Tensor) -> Tensor:
        """``(T, L)``: 1 where a token stands."""
        return (tokens != self.pad_token_id).long()

    @property
    def image_modules(self) -> list[nn.Module]:
        """Modules of the image tower."""
        raise NotImplementedError

    @property
    def text_modules(self) -> list[nn.Module]:
        """Modules of the text tower."""
        raise NotImplementedError


class HuggingFaceModel(ClipModel):
    """Two towers of transformers with their own image processor and tokenizer; a subclass names the classes.

    Args:
        architecture: A folder or hub name with the config, the image processor and the tokenizer.
        pretrained: A folder or hub name with weights, a file of weights or a checkpoint of ours, or ``None``: random.
        load_weights: ``False``: the same shape and transform without reading any weight; nothing is downloaded.
        context_length: L, longer texts are cut.
        logit_scale: The factor of the cosines; ``None``: the weights' own, or 1/0.07 where they have none.
        max_logit_scale: Bound of the factor in training; ``None``: no bound.
        lock_image: The image tower is not trained and stays in eval mode.
        lock_text: The text tower likewise.
        grad_checkpointing: Compute activations twice to save memory.
        compile: ``torch.compile`` the towers; names in the state dict stay.

    Raises:
        ImportError: Without the package transformers.
        ValueError: If the files do not fit each other.
        ConnectionError: If something must be downloaded and cannot.
    """

    def __init__(
        self,
        *,
        architecture: str,
        pretrained: str | None,
        load_weights: bool,
        context_length: int,
        logit_scale: float | None,
        max_logit_scale: float | None,
        lock_image: bool,
        lock_text: bool,
        grad_checkpointing: bool,
        compile: bool,
    ) -> None:
        transformers = _transformers()
        local = {"local_files_only": not load_weights}
        config = _read(transformers.AutoConfig, architecture, **local)
        tokenizer = _read(transformers.AutoTokenizer, architecture, **local)
        processor = _read(transformers.AutoImageProcessor, architecture, **local)
        source = pretrained if load_weights else None
        file = Path(source).expanduser() if source is not None and Path(source).expanduser().is_file() else None
        inner = self.build(transformers, config, None if file is not None else source)
        clip = self.wrap(inner, pad_token_id=int(tokenizer.pad_token_id), logit_scale=logit_scale)
        if file is not None:
            copy_weights(clip, read_weights(file), architecture)
        super().__init__(
            clip,
            transform=ProcessorTransform(processor),
            tokenizer=FixedLengthTokenizer(tokenizer, context_length=context_length),
            embed_dim=self.width(config),
            max_logit_scale=max_logit_scale,
            weights_files=(file,) if file is not None else _files_of(source),
        )
        if lock_image:
            self.freeze(*clip.image_modules)
        if lock_text:
            self.freeze(*clip.text_modules)
        if grad_checkpointing:
            inner.gradient_checkpointing_enable()
        if compile:
            for module in (*clip.image_modules, *clip.text_modules):
                module.compile()

    def layer_depths(self) -> dict[str, int]:
        """Blocks of both towers; what belongs to neither has no depth."""
        clip: Any = self.clip
        found = {f"clip.{name}": 0 for name, _ in clip.named_parameters()}
        for tower, modules in (("image tower", clip.image_modules), ("text tower", clip.text_modules)):
            own = {id(parameter) for module in modules for parameter in module.parameters()}
            names = [name for name, parameter in clip.named_parameters() if id(parameter) in own]
            of_tower = depths(names, transformer_level, tower=tower)
            found |= {f"clip.{name}": depth for name, depth in of_tower.items()}
        return found

    def build(self, transformers: Any, config: Any, source: str | None) -> Any:
        """The model of transformers, random or with the weights of ``source``."""
        raise NotImplementedError

    def wrap(self, inner: Any, *, pad_token_id: int, logit_scale: float | None) -> Towers:
        """The model with the interface of open_clip's."""
        raise NotImplementedError

    def width(self, config: Any) -> int:
        """D."""
        raise NotImplementedError


def from_pretrained(kind: Any, config: Any, source: str) -> Any:
    """A model of transformers with all its weights.

    Raises:
        ValueError: If some weight is missing or of another shape, which transformers leaves random with a warning.
        ConnectionError: As :func:`_read`.
    """
    inner, info = _read(kind, source, config=config, output_loading_info=True)
    lost = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if lost:
        raise ValueError(f"model.pretrained={source} lacks {len(lost)} tensors of the model, first {lost[0]}")
    return inner


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("towers from Hugging Face need transformers: pip install 'i0t[transformers]'") from error
    return transformers


def _read(kind: Any, source: str, **options: Any) -> Any:
    name = str(Path(source).expanduser()) if Path(source).expanduser().is_dir() else source
    try:
        return kind.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).strip()
        if Path(name).is_dir():
            raise ValueError(f"{name}: {kind.__name__} cannot read it ({reason})") from error
        raise ConnectionError(
            f"{kind.__name__}: {source} is no folder, not in the cache ({constants.HF_HUB_CACHE}), and "
            f"{constants.ENDPOINT}/{source} is not asked or cannot be reached ({reason}); fetch it once where there is "
            f"a network (hf download {source}), or give a folder, model.architecture=<folder> "
            "model.pretrained=<folder>"
        ) from error


def _files_of(source: str | None) -> tuple[Path, ...]:
    if source is None:
        return ()
    folder = Path(source).expanduser()
    if folder.is_dir():
        return tuple(sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]))
    found = [try_to_load_from_cache(source, name) for name in _WEIGHTS_NAMES]
    return tuple(Path(path) for path in found if isinstance(path, str))
