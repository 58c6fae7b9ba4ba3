"""A CLIP for MAD: open_clip's, with a small convolutional image tower and one token per word."""

from __future__ import annotations

from collections.abc import Sequence

import open_clip
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from i0t.models.base import ClipModel
from i0t.models.global_batch_norm import GlobalBatchNorm2d
from i0t.models.layer_depths import depths, transformer_level

PAD, START = 0, 1
_SPECIAL = 2  # pad and start come before the words; end comes last, where open_clip looks for the largest id


class WordTokenizer:
    """One token per word of a fixed vocabulary, as in the MAD experiments.

    Args:
        vocabulary: All words.
        separator: What stands between the words of a caption.
        context_length: Tokens of a text, start and end included; shorter ones are padded.

    Example:
        >>> WordTokenizer(["3", "red"], separator="-", context_length=5)(["red-3"]).tolist()
        [[1, 3, 2, 4, 0]]
    """

    def __init__(self, vocabulary: Sequence[str], *, separator: str, context_length: int) -> None:
        if len(set(vocabulary)) != len(vocabulary):
            raise ValueError("model.vocabulary names a word twice")
        self.token_of = {word: i + _SPECIAL for i, word in enumerate(vocabulary)}
        self.end = len(vocabulary) + _SPECIAL
        self.separator = separator
        self.context_length = context_length

    @property
    def vocab_size(self) -> int:
        """Words and special tokens."""
        return self.end + 1

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Returns ``(T, context_length)`` int64 tokens.

        Raises:
            ValueError: If a word is unknown or a caption too long.
        """
        # One tensor from one nested list: filling rows one by one takes longer than the text tower.
        ids = [self._encode(text) for text in texts]
        return torch.tensor([row + [PAD] * (self.context_length - len(row)) for row in ids], dtype=torch.int64)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Zero: a caption that is too long is an error, not cut."""
        return 0

    def _encode(self, text: str) -> list[int]:
        words = text.split(self.separator)
        unknown = [word for word in words if word not in self.token_of]
        if unknown:
            raise ValueError(f"the caption {text!r} has the word {unknown[0]!r}, which is not in model.vocabulary")
        if len(words) + 2 > self.context_length:
            raise ValueError(
                f"the caption {text!r} needs {len(words) + 2} tokens, model.context_length is {self.context_length}"
            )
        return [START, *(self.token_of[word] for word in words), self.end]


class ConvTower(nn.Module):
    """3x3 convolutions with batch norm over the global batch; the first and every second halve the resolution.

    Mean and maximum over positions go into the projection: colour and scale are everywhere, a fracture is somewhere.

    Args:
        widths: Channels of each convolution.
        embed_dim: D.
    """

    def __init__(self, widths: Sequence[int], embed_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for i, width in enumerate(widths):
            stride = 1 if i % 2 else 2
            layers += [nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)]
            layers += [GlobalBatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        self.layers = nn.Sequential(*layers)
        self.projection = nn.Linear(channels * 2, embed_dim, bias=False)
        self.to(memory_format=torch.channels_last)  # a quarter less time on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 3, H, W)`` to ``(B, D)``."""
        features = self.layers(images.contiguous(memory_format=torch.channels_last))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        return self.projection(pooled)


class MadTiny(ClipModel):
    """open_clip's ``CLIP`` whose ``visual`` is a :class:`ConvTower`.

    Two Effects, One Trigger does not publish its MAD model; this one reaches above .95 digit accuracy within a
    minute on two CPU cores.

    Args:
        embed_dim: D.
        image_widths: Channels of the convolutions.
        text_width: Width of the text transformer.
        text_heads: Its attention heads.
        text_layers: Its layers.
        context_length: Tokens of a caption, start and end included.
        separator: What stands between the words of a caption.
        max_logit_scale: Bound of the temperature's inverse.
        vocabulary: All words of the captions.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        image_widths: Sequence[int],
        text_width: int,
        text_heads: int,
        text_layers: int,
        context_length: int,
        separator: str,
        max_logit_scale: float | None,
        vocabulary: Sequence[str],
    ) -> None:
        tokenizer = WordTokenizer(vocabulary, separator=separator, context_length=context_length)
        # open_clip builds its own image tower; this is the smallest one, replaced at once.
        placeholder = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 28, "image_size": 28}
        text = {
            "context_length": context_length,
            "vocab_size": tokenizer.vocab_size,
            "width": text_width,
            "heads": text_heads,
            "layers": text_layers,
        }
        clip = open_clip.model.CLIP(embed_dim=embed_dim, vision_cfg=placeholder, text_cfg=text)
        clip.visual = ConvTower(image_widths, embed_dim)
        transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
        super().__init__(
            clip, transform=transform, tokenizer=tokenizer, embed_dim=embed_dim, max_logit_scale=max_logit_scale
        )

    def layer_depths(self) -> dict[str, int]:
        """A convolution with its norm is a layer of the image tower; the first is the deepest."""
        names = [name for name, _ in self.clip.named_parameters()]
        image = [name for name in names if name.startswith("visual.")]
        text = [name for name in names if not name.startswith(("visual.", "logit_"))]
        found = depths(image, _convolution_level, tower="image tower")
        found |= depths(text, transformer_level, tower="text tower")
        return {f"clip.{name}": found.get(name, 0) for name in names}


def _convolution_level(name: str) -> int | None:
    """In a :class:`ConvTower`: convolution, norm and activation stand in a row."""
    parts = name.split(".")
    return int(parts[2]) // 3 if parts[1] == "layers" else None
