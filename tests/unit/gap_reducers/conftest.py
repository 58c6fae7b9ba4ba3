"""Synthetic embeddings: two cones, several captions per image."""

from types import SimpleNamespace

import pytest
import torch


def make_embeddings(num_images, dim, *, captions=1, seed=0, offset=3.0, noise=1.0, logit_scale=20.0):
    """Images and captions share a latent; each modality has its own offset. Rows are not unit."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.Generator().manual_seed(12345)  # the same cones for every seed
    image_offset, text_offset = torch.randn(2, dim, generator=directions, dtype=torch.float64) * offset / dim**0.5
    latent = torch.randn(num_images, dim, generator=generator, dtype=torch.float64) / dim**0.5
    index = torch.arange(num_images * captions) // captions

    def noisy(rows):
        return rows + noise * torch.randn(rows.shape, generator=generator, dtype=torch.float64) / dim**0.5

    text = noisy(latent[index]) + text_offset
    image = (noisy(latent) + image_offset) * (1 + torch.rand(num_images, 1, generator=generator))
    return SimpleNamespace(
        image_features=image.float(),
        text_features=text.float(),
        pairs=torch.stack([index, torch.arange(len(index))], dim=1),
        logit_scale=logit_scale,
        logit_bias=None,
    )


@pytest.fixture(scope="session")
def make():
    return make_embeddings
