"""What becomes of the gap and of what embeddings are good for when dimensions are dropped from both modalities.

Shapes: N images, M texts, D embedding width, C classes, T prompts per class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from i0t.analysis.dimensions_queries import Queries, query_hits
from i0t.embeddings import EmbeddingSet
from i0t.metrics import functional as metrics
from i0t.metrics.functional.dimensions import without_dimensions


@dataclass(frozen=True, kw_only=True)
class LostRows:
    """Rows that lay in the dropped dimensions altogether, so that they have no direction left.

    Attributes:
        num_dropped: Dimensions that were dropped.
        images: How many images.
        texts: How many texts.
        prompts: How many prompts of classes.
    """

    num_dropped: int
    images: int
    texts: int
    prompts: int

    def __str__(self) -> str:
        counts = (("images", self.images), ("texts", self.texts), ("class prompts", self.prompts))
        return " and ".join(f"{count:,} {name}" for name, count in counts if count > 0)


@dataclass(frozen=True, kw_only=True)
class AblationCurve:
    """Numbers of a set without its first n dimensions of an order, for several n.

    Attributes:
        order: ``(D,)`` int64 dimensions from 0 in the order in which they were dropped.
        num_dropped: The n, ascending.
        gap: ``centroid_distance`` and, for a set with pairs, ``rmg``: a number for each n, ``None`` where a row was
            lost.
        performance: ``i2t_r1``, ``t2i_r1``, ``accuracy/<label>``: likewise.
        lost: Where the curve ends early, and why.
    """

    order: Tensor
    num_dropped: tuple[int, ...]
    gap: Mapping[str, tuple[float | None, ...]]
    performance: Mapping[str, tuple[float | None, ...]]
    lost: LostRows | None = None


def dropped_counts(dim: int, *, max_dims: int, num_coarse: int) -> tuple[int, ...]:
    """How many dimensions are dropped: 0, 1, … ``max_dims``, then coarsely up to all but one.

    Args:
        dim: D.
        max_dims: Up to which every number occurs.
        num_coarse: How many follow at most, evenly in the logarithm; 0: none.
    """
    fine = list(range(min(max_dims, dim - 1) + 1))
    if num_coarse == 0 or fine[-1] == dim - 1:
        return tuple(fine)
    ratio = (dim - 1) / max_dims
    coarse = {round(max_dims * ratio ** (step / num_coarse)) for step in range(1, num_coarse + 1)}
    return (*fine, *sorted(coarse - set(fine)))


def drop_dimensions(embeddings: EmbeddingSet, dropped: Tensor) -> EmbeddingSet | LostRows:
    """The set without some dimensions, its rows and prompts normalised again.

    Args:
        embeddings: Unit rows, D wide.
        dropped: ``(n,)`` int64 dimensions from 0, n < D.

    Returns:
        The set, D - n wide; or how many rows have nothing left, where there is such a row.
    """
    image, text = (without_dimensions(f, dropped) for f in (embeddings.image_features, embeddings.text_features))
    prompts = {name: without_dimensions(table.features, dropped) for name, table in embeddings.prompts.items()}
    lost = LostRows(
        num_dropped=len(dropped),
        images=_num_zero(image),
        texts=_num_zero(text),
        prompts=sum(_num_zero(rows[embeddings.prompts[name].mask]) for name, rows in prompts.items()),
    )
    if lost.images or lost.texts or lost.prompts:
        return lost
    tables = {name: dataclasses.replace(embeddings.prompts[name], features=rows) for name, rows in prompts.items()}
    return dataclasses.replace(embeddings, image_features=image, text_features=text, prompts=tables)


def ablate(
    embeddings: EmbeddingSet, order: Tensor, num_dropped: Sequence[int], queries: Queries | None
) -> AblationCurve:
    """Drops the first n dimensions of an order from both modalities, normalises, and measures what is left.

    Two Effects, One Trigger (arXiv 2404.07983), the cumulative ablation. Where a row has nothing left it has no
    direction, and that set of dimensions and all larger ones are not measured.

    Args:
        embeddings: Unit rows.
        order: ``(D,)`` int64 dimensions from 0.
        num_dropped: The n, ascending, all below D.
        queries: Rows that ask; ``None`` measures the gap alone.
    """
    gap: dict[str, list[float | None]] = {}
    performance: dict[str, list[float | None]] = {}
    for place, number in enumerate(num_dropped):
        remaining = drop_dimensions(embeddings, order[:number])
        if isinstance(remaining, LostRows):
            return _curve(order, num_dropped, gap, performance, remaining)
        hits = {} if queries is None else query_hits(remaining, queries)
        accuracy = {name: float(values.mean()) for name, values in hits.items()}
        for curves, found in ((gap, _gap_numbers(remaining)), (performance, accuracy)):
            for name, value in found.items():
                curves.setdefault(name, [None] * len(num_dropped))[place] = value
    return _curve(order, num_dropped, gap, performance, None)


def random_orders(dim: int, num_orders: int, *, seed: int) -> list[Tensor]:
    """Seeded random orders of the D dimensions, ``(D,)`` int64 each: the control of an ablation."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(dim, generator=generator) for _ in range(num_orders)]


def mean_curves(curves: Sequence[Mapping[str, Sequence[float | None]]]) -> dict[str, tuple[float | None, ...]]:
    """Mean over several ablations of each number; ``None`` where one of them has none."""
    found: dict[str, tuple[float | None, ...]] = {}
    for name in curves[0] if curves else ():
        columns = zip(*(curve[name] for curve in curves), strict=True)
        found[name] = tuple(_mean(column) for column in columns)
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else None


def _gap_numbers(embeddings: EmbeddingSet) -> dict[str, float]:
    image, text = embeddings.image_features, embeddings.text_features
    numbers = {"centroid_distance": float(metrics.centroid_distance(image, text))}
    if len(embeddings.pairs) > 0 and len(image) > 1 and len(text) > 1:
        numbers["rmg"] = float(metrics.relative_modality_gap(image, text, pairs=embeddings.pairs))
    return numbers


def _curve(
    order: Tensor,
    num_dropped: Sequence[int],
    gap: Mapping[str, Sequence[float | None]],
    performance: Mapping[str, Sequence[float | None]],
    lost: LostRows | None,
) -> AblationCurve:
    return AblationCurve(
        order=order,
        num_dropped=tuple(num_dropped),
        gap={name: tuple(values) for name, values in gap.items()},
        performance={name: tuple(values) for name, values in performance.items()},
        lost=lost,
    )


def _num_zero(rows: Tensor) -> int:
    """How many rows are zero."""
    return int((~rows.any(dim=-1)).sum())
