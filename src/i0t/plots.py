"""The report's figures of one reducer at a time, as matplotlib figures for a notebook.

Every function takes the raw set and, unless it is to be seen as it is, a fitted reducer.
"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from i0t.analysis.activation_change import ActivationChange
from i0t.analysis.activations import activation_profile
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import reduced
from i0t.gap_reducers.base import GapReducer
from i0t.gap_reducers.none import NoReducer
from i0t.report.detail_figures import draw_details
from i0t.report.figures import draw_cosines, draw_projection
from i0t.report.samples import choose_rows, matched_and_unmatched_cosines, paired_projection, sample_pairs

__all__ = ["cosines", "mean_activations", "projection"]


def projection(
    embeddings: EmbeddingSet,
    reducer: GapReducer | None = None,
    *,
    num_pairs: int = 200,
    title: str | None = None,
    seed: int = 0,
) -> Figure:
    """Images and texts in the plane in which all of them together vary most; matched pairs are joined by lines.

    Args:
        embeddings: Raw features.
        reducer: Fitted; ``None``: the encoders' output.
        num_pairs: Of points of each modality, at most.
        title: ``None``: the reducer's class.
        seed: Of the draw.

    Example:
        >>> x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
        >>> figure = projection(EmbeddingSet.from_index(x + 1, x - 1, torch.arange(9)))
        >>> figure.axes[0].get_xlabel().split(" (")[0]
        'component 1'
    """
    measured, name = _reduced(embeddings, reducer, title)
    generator = torch.Generator().manual_seed(seed)
    paired = len(measured.pairs) > 0
    if paired:
        image_rows, text_rows = choose_rows(measured.pairs.cpu(), num_pairs, generator).unbind(1)
    else:
        image_rows = choose_rows(torch.arange(measured.num_images), num_pairs, generator)
        text_rows = choose_rows(torch.arange(measured.num_texts), num_pairs, generator)
    view = paired_projection(measured.image_features.cpu(), measured.text_features.cpu(), image_rows, text_rows)
    limit = 1.08 * float(torch.cat([view.images, view.texts]).abs().max())
    return draw_projection(name, view, limit=limit or 1.0, paired=paired)


def cosines(
    embeddings: EmbeddingSet,
    reducer: GapReducer | None = None,
    *,
    num_pairs: int = 10_000,
    title: str | None = None,
    seed: int = 0,
) -> Figure:
    """Histograms of the cosines of matched and unmatched image-text pairs, and inside each modality.

    Args:
        embeddings: Raw features.
        reducer: Fitted; ``None``: the encoders' output.
        num_pairs: Of each kind, at most.
        title: ``None``: the reducer's class.
        seed: Of the draw.

    Example:
        >>> x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
        >>> figure = cosines(EmbeddingSet.from_index(x + 1, x - 1, torch.arange(9)))
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()][:2]
        ['image-text, matched', 'image-text, not matched']
    """
    measured, name = _reduced(embeddings, reducer, title)
    sample = sample_pairs(measured, count=num_pairs, seed=seed)
    found = matched_and_unmatched_cosines(sample, measured.image_features.cpu(), measured.text_features.cpu())
    values = torch.cat([found.matched, found.unmatched, found.image_image, found.text_text])
    limits = (float(values.min()) - 0.02, float(values.max()) + 0.02)
    return draw_cosines(name, found, limits=limits, paired=len(measured.pairs) > 0)


def mean_activations(
    embeddings: EmbeddingSet, reducer: GapReducer | None = None, *, title: str | None = None
) -> Figure:
    """The mean of every embedding dimension over images and over texts, the highest peaks named by their dimension.

    Args:
        embeddings: Raw features.
        reducer: Fitted; ``None``: the encoders' output.
        title: ``None``: the reducer's class.

    Example:
        >>> x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
        >>> figure = mean_activations(EmbeddingSet.from_index(x + 1, x - 1, torch.arange(9)))
        >>> figure.axes[0].get_title()
        'encoders'
    """
    raw, _ = _reduced(embeddings, None, None)
    measured, name = _reduced(embeddings, reducer, title)
    before, after = (activation_profile(*_features(one)) for one in (raw, measured))
    return draw_details({name: ActivationChange(before, after)})


def _reduced(embeddings: EmbeddingSet, reducer: GapReducer | None, title: str | None) -> tuple[EmbeddingSet, str]:
    """Unit features, and the title."""
    name = title or ("encoders" if reducer is None else type(reducer).__name__)
    return reduced(embeddings, NoReducer(embeddings.dim) if reducer is None else reducer), name


def _features(embeddings: EmbeddingSet) -> tuple[Tensor, Tensor]:
    return embeddings.image_features.cpu(), embeddings.text_features.cpu()
