"""Which figures a report has, and the words that stand above each of them.

Shapes: N images, M texts, D embedding width.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from i0t.analysis.activation_change import ActivationChange
from i0t.analysis.activations import activation_profile
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import RowResult
from i0t.report.detail_figures import draw_details
from i0t.report.figures import Points, draw_cosines, draw_curves, draw_projection, history_panels
from i0t.report.panel import Panel
from i0t.report.samples import (
    CosineSample,
    choose_rows,
    matched_and_unmatched_cosines,
    paired_projection,
    sample_pairs,
)
from i0t.report.style import png_bytes

_PROJECTED_PAIRS = 200
_SAMPLED_COSINES = 10_000
_ACTIVATIONS = "mean_activations"


@dataclass(frozen=True)
class FigureGroup:
    """Panels that belong together, under a heading and a few sentences on how to read them."""

    heading: str
    explanation: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class EmbeddingState:
    """Both modalities at one stage: the encoders' output, or what one reducer made of it; unit rows on the CPU."""

    name: str
    image_features: Tensor
    text_features: Tensor


def embedding_states(embeddings: EmbeddingSet, rows: Sequence[RowResult]) -> list[EmbeddingState]:
    """The states to draw: every row, and first the encoders' output unless a row already is just that.

    Args:
        embeddings: The raw features.
        rows: The rows of the comparison.

    Raises:
        ValueError: If a row has another number of images or texts than the set.
    """
    states = []
    for row in rows:
        sizes = (len(row.image_features), len(row.text_features))
        if sizes != (embeddings.num_images, embeddings.num_texts):
            raise ValueError(
                f"row {row.name!r} has {sizes[0]} images and {sizes[1]} texts, the embeddings have "
                f"{embeddings.num_images} and {embeddings.num_texts}: pass the set the row was measured on"
            )
        states.append(EmbeddingState(row.name, _on_cpu(row.image_features), _on_cpu(row.text_features)))
    raw = _raw_state(embeddings)
    if any(state.name == raw.name for state in states):
        raw = dataclasses.replace(raw, name=f"{raw.name} (no row)")
    return states if any(_equal(raw, state) for state in states) else [raw, *states]


def training_group(history: Mapping[str, Points]) -> FigureGroup | None:
    """The curves of the training run, or nothing when nothing was trained."""
    panels = tuple(
        Panel(f"training_{_slug(title)}.png", png_bytes(draw_curves(title, curves)), f"{title}: {', '.join(curves)}")
        for title, curves in history_panels(history).items()
    )
    explanation = "Values logged during training, against the number of optimiser steps. "
    if any("gap" in panel.file for panel in panels):
        explanation += "The gap panel shows whether training itself closes the modality gap, before any reducer does."
    return FigureGroup("Training", explanation, panels) if panels else None


def projection_group(embeddings: EmbeddingSet, states: Sequence[EmbeddingState]) -> FigureGroup:
    """Both modalities in the plane of the largest joint variance."""
    generator = torch.Generator().manual_seed(0)
    paired = len(embeddings.pairs) > 0
    if paired:
        image_rows, text_rows = choose_rows(embeddings.pairs.cpu(), _PROJECTED_PAIRS, generator).unbind(1)
    else:
        image_rows = choose_rows(torch.arange(embeddings.num_images), _PROJECTED_PAIRS, generator)
        text_rows = choose_rows(torch.arange(embeddings.num_texts), _PROJECTED_PAIRS, generator)
    views = [paired_projection(state.image_features, state.text_features, image_rows, text_rows) for state in states]
    limit = 1.08 * max(float(torch.cat([view.images, view.texts]).abs().max()) for view in views)
    panels = []
    for number, (state, view) in enumerate(zip(states, views, strict=True), start=1):
        figure = draw_projection(state.name, view, limit=limit or 1.0, paired=paired)
        alt = f"Images and texts of {state.name} in two principal components"
        panels.append(Panel(f"projection_{number}_{_slug(state.name)}.png", png_bytes(figure), alt))
    shown = (
        f"{len(image_rows):,} pairs, images as circles and their texts as triangles, joined by a line"
        if paired
        else f"{len(image_rows):,} images (circles) and {len(text_rows):,} texts (triangles); no pairs are "
        "known, so no lines join them"
    )
    explanation = (
        f"Each panel shows {shown}, in the plane in which all embeddings together vary most. All panels have one "
        "scale. Two separate clouds are the modality gap; where it is closed, the clouds lie over each other"
        + (" and the lines are shorter." if paired else ".")
    )
    return FigureGroup("The modality gap, seen", explanation, tuple(panels))


def activation_changes(embeddings: EmbeddingSet, states: Sequence[EmbeddingState]) -> dict[str, ActivationChange]:
    """State to the means of its dimensions, for runs that did not measure them."""
    raw = _raw_state(embeddings)
    before = activation_profile(raw.image_features, raw.text_features)
    return {
        state.name: ActivationChange(before, activation_profile(state.image_features, state.text_features))
        for state in states
    }


def activation_group(changes: Mapping[str, ActivationChange]) -> FigureGroup:
    """The mean of every dimension in both modalities."""
    explanation = (
        "The mean of every embedding dimension over all images and over all texts. A bar that stands out is an offset "
        "that every image, or every text, carries whatever it shows; a few such dimensions can make up most of the "
        "gap. Peaks are named as dimension: mean, and dimensions count from 1, as in the I0T paper. A circle is a peak "
        "as it was before the reducer."
    )
    alt = f"Mean of every dimension of {', '.join(changes)}"
    panel = Panel(f"{_ACTIVATIONS}.png", png_bytes(draw_details(changes)), alt, wide=len(changes) > 1)
    return FigureGroup(next(iter(changes.values())).title, explanation, (panel,))


def measures_activations(rows: Sequence[RowResult]) -> bool:
    """Whether a row brings its mean activations, so that the report need not find them."""
    return any(isinstance(detail, ActivationChange) for row in rows for detail in row.details.values())


def sampled_cosines(embeddings: EmbeddingSet, states: Sequence[EmbeddingState]) -> dict[str, CosineSample]:
    """State to cosines of the same random pairs."""
    sample = sample_pairs(embeddings, count=_SAMPLED_COSINES)
    return {
        state.name: matched_and_unmatched_cosines(sample, state.image_features, state.text_features) for state in states
    }


def cosine_group(cosines: Mapping[str, CosineSample], *, paired: bool) -> FigureGroup:
    """Histograms of cosines between and inside the modalities.

    Args:
        cosines: State to its sampled cosines.
        paired: Whether the set knows its pairs.
    """
    everything = torch.cat([torch.cat([c.matched, c.unmatched, c.image_image, c.text_text]) for c in cosines.values()])
    limits = (float(everything.min()) - 0.02, float(everything.max()) + 0.02)
    panels = []
    for number, (name, values) in enumerate(cosines.items(), start=1):
        png = png_bytes(draw_cosines(name, values, limits=limits, paired=paired))
        panels.append(Panel(f"cosines_{number}_{_slug(name)}.png", png, f"Histograms of the cosines of {name}"))
    filled = (
        "How similar images are to their own text (green) and to a text that is not theirs (grey): retrieval works as "
        "far as green lies to the right of grey. "
        if paired
        else "How similar images are to texts (grey); the set has no pairs, so own texts cannot be told from others. "
    )
    explanation = filled + (
        "The outlines are cosines of two images and of two texts. With a modality gap, grey lies left of them: an "
        "image is less like any text than like other images. Without one, grey and both outlines lie over each other. "
        f"At most {_SAMPLED_COSINES:,} random pairs of each kind."
    )
    return FigureGroup("Cosine similarities", explanation, tuple(panels))


def _raw_state(embeddings: EmbeddingSet) -> EmbeddingState:
    image, text = _on_cpu(embeddings.image_features), _on_cpu(embeddings.text_features)
    return EmbeddingState("encoder output", F.normalize(image, dim=1), F.normalize(text, dim=1))


def _on_cpu(features: Tensor) -> Tensor:
    return features.detach().cpu().float()


def _equal(first: EmbeddingState, second: EmbeddingState) -> bool:
    pairs = ((first.image_features, second.image_features), (first.text_features, second.text_features))
    return all(a.shape == b.shape and torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def _slug(name: str) -> str:
    """The name as a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "row"
