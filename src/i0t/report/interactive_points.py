"""The points of the page's interactive pictures: both modalities in a plane and on a sphere, small enough to be sent.

Shapes: N images, M texts, D embedding width, K points of a modality.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.report.figure_groups import EmbeddingState
from i0t.report.samples import choose_rows, paired_projection

_CHUNK = 16_384
_STEPS = 32_767  # a coordinate is sent as a 16-bit whole number: finer than any screen


@dataclass(frozen=True)
class ChosenPoints:
    """The rows that are drawn; image k and text k belong together where the set knows its pairs.

    Attributes:
        image_rows: ``(K,)`` int64.
        text_rows: ``(K,)`` int64, as many as images if ``paired``.
        paired: Whether they belong together.
    """

    image_rows: Tensor
    text_rows: Tensor
    paired: bool


@dataclass(frozen=True)
class SphereView:
    """Both modalities on a sphere of three dimensions.

    Attributes:
        images: ``(K, 3)`` unit rows.
        texts: ``(K, 3)`` unit rows.
        held: Share of the squared length of all N + M embeddings that lies in the three directions.
    """

    images: Tensor
    texts: Tensor
    held: float


def choose_points(embeddings: EmbeddingSet, count: int, *, seed: int = 0) -> ChosenPoints:
    """At most ``count`` images, and for each the first of its texts; of a set without pairs as many random texts.

    Args:
        embeddings: The set; only its pairs and sizes are looked at.
        count: The most points of a modality.
        seed: Seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = embeddings.pairs.cpu()
    if len(pairs) == 0:
        images, texts = (torch.arange(size) for size in (embeddings.num_images, embeddings.num_texts))
        return ChosenPoints(choose_rows(images, count, generator), choose_rows(texts, count, generator), False)
    first_text = torch.full((embeddings.num_images,), embeddings.num_texts)
    first_text.scatter_reduce_(0, pairs[:, 0], pairs[:, 1], "amin")
    image_rows = choose_rows(pairs[:, 0].unique(), count, generator)
    return ChosenPoints(image_rows, first_text[image_rows], True)


def sphere_view(image_features: Tensor, text_features: Tensor, points: ChosenPoints) -> SphereView:
    """The chosen points' directions within the three-dimensional subspace that holds most of all embeddings.

    The embeddings lie on the unit sphere of D dimensions, where angles are what CLIP compares. No mean is taken off, so
    the origin stays the centre of that sphere: a modality gap shows as two caps on different sides. (The I0T paper,
    arXiv 2412.14384, draws such spheres.) The third column is the direction that holds most, on the mean's side:
    with it towards the reader, most points are on the near side.

    Args:
        image_features: ``(N, D)`` unit rows.
        text_features: ``(M, D)`` unit rows.
        points: The rows to project.

    Returns:
        Unit rows; zero for an embedding that has no part in the three directions.
    """
    moment = _second_moment(image_features) + _second_moment(text_features)
    eigenvalues, eigenvectors = torch.linalg.eigh(moment)  # ascending
    count = min(3, len(moment))
    axes = eigenvectors[:, -count:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    if float((image_features.sum(dim=0) + text_features.sum(dim=0)).double() @ axes[:, 0]) < 0:
        axes[:, 0] *= -1
    total = eigenvalues.sum().clamp_min(torch.finfo(torch.float64).tiny)

    def projected(features: Tensor, rows: Tensor) -> Tensor:
        flat = torch.zeros(len(rows), 3, dtype=torch.float64)
        flat[:, (2, 0, 1)[:count]] = features[rows].double() @ axes
        length = flat.norm(dim=1, keepdim=True)
        return torch.where(length > 1e-9, flat / length.clamp_min(1e-9), torch.zeros_like(flat))

    return SphereView(
        images=projected(image_features, points.image_rows),
        texts=projected(text_features, points.text_rows),
        held=float(eigenvalues[-count:].sum() / total),
    )


def points_data(embeddings: EmbeddingSet, states: Sequence[EmbeddingState], points: ChosenPoints) -> dict[str, Any]:
    """What the page's script draws: captions once, and for every state the coordinates of both views.

    Args:
        embeddings: For captions and identifiers.
        states: The encoders' output and the rows of the comparison.
        points: The rows to draw.
    """
    views = [
        (
            paired_projection(state.image_features, state.text_features, points.image_rows, points.text_rows),
            sphere_view(state.image_features, state.text_features, points),
        )
        for state in states
    ]
    largest = max(float(torch.cat([plane.images, plane.texts]).abs().max()) for plane, _ in views)
    limit = 1.08 * largest or 1.0
    return {
        "paired": points.paired,
        "limit": limit,
        "images": [_image_name(embeddings, row) for row in points.image_rows.tolist()],
        "texts": [text_name(embeddings, row) for row in points.text_rows.tolist()],
        "states": [
            {
                "name": state.name,
                "explained": [f"{share:.0%}" for share in plane.explained],
                "held": f"{sphere.held:.0%}",
                "plane": [pack(plane.images / limit), pack(plane.texts / limit)],
                "sphere": [pack(sphere.images), pack(sphere.texts)],
                "cosines": pack(_cosines(state, points)) if points.paired else None,
            }
            for state, (plane, sphere) in zip(states, views, strict=True)
        ],
    }


def pack(values: Tensor) -> str:
    """Numbers within [-1, 1] as base64 of little-endian 16-bit whole numbers, row by row."""
    whole = np.round(values.numpy() * _STEPS).astype("<i2")
    return base64.b64encode(whole.tobytes()).decode("ascii")


def text_name(embeddings: EmbeddingSet, row: int) -> str:
    """The caption, or the row where the set has none."""
    return embeddings.captions[row] if embeddings.captions else f"text {row}"


def _cosines(state: EmbeddingState, points: ChosenPoints) -> Tensor:
    """``(K,)`` of each image and its text, within [-1, 1]."""
    images, texts = state.image_features[points.image_rows], state.text_features[points.text_rows]
    return (images.double() * texts.double()).sum(dim=1).clamp(-1, 1)


def _image_name(embeddings: EmbeddingSet, row: int) -> str:
    return embeddings.image_ids[row] if embeddings.image_ids else f"image {row}"


def _second_moment(features: Tensor) -> Tensor:
    """``(D, D)`` float64 sum of outer products, chunk by chunk so that no float64 copy is made."""
    moment = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for chunk in features.split(_CHUNK):
        double = chunk.double()
        moment += double.T @ double
    return moment
