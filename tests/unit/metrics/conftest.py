"""Synthetic paired sets for the metric tests."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

PairedSet = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="session")
def paired_set() -> Callable[..., PairedSet]:
    """A maker of (image rows, text rows, image row of every text), unit rows with a gap, texts in shuffled order."""

    def make(
        num_images: int = 12,
        captions: int = 1,
        dim: int = 8,
        *,
        gap: float = 0.5,
        noise: float = 0.5,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> PairedSet:
        generator = torch.Generator().manual_seed(seed)

        def draw(rows: int) -> Tensor:
            return torch.randn(rows, dim, generator=generator, dtype=torch.float64)

        direction = normalize(draw(1), dim=1)
        image = draw(num_images)
        index = torch.arange(num_images).repeat_interleave(captions)
        index = index[torch.randperm(len(index), generator=generator)]
        text = image[index] + noise * draw(len(index)) - gap * dim**0.5 * direction
        image = image + gap * dim**0.5 * direction
        return normalize(image, dim=1).to(dtype), normalize(text, dim=1).to(dtype), index

    return make
