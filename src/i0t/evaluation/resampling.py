"""The bootstrap of an evaluation: one set of resamples for every number and every row."""

# N images, R resamples.
from __future__ import annotations

from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.metrics import functional as metrics


def redraws_of(embeddings: EmbeddingSet, num_resamples: int) -> metrics.Redraws:
    """Resamples over the images of a set, or over its groups of images.

    Depends on the shape of the set alone, so that all rows of a comparison get the same.

    Args:
        embeddings: The set.
        num_resamples: R.

    Raises:
        ValueError: If there are to be no resamples.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    return metrics.redraw_set(
        embeddings.num_images,
        embeddings.num_texts,
        image_of_text=embeddings.text_image_index if embeddings.has_one_image_per_text else None,
        has_pairs=len(embeddings.pairs) > 0,
        groups=embeddings.groups,
        num_resamples=num_resamples,
    )


def describe_units(embeddings: EmbeddingSet) -> str:
    """What is resampled, in words."""
    if embeddings.groups is None:
        return f"95 % bootstrap intervals over {embeddings.num_images:,} images"
    return f"95 % bootstrap intervals over {len(embeddings.groups.unique()):,} groups of images"


class Numbers:
    """Collects numbers with their bootstrap replicates."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.replicates: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor | float, replicates: Tensor | None = None) -> None:
        """Adds a number; without replicates (or with none drawn) it has no interval."""
        self.values[name] = float(value)
        if replicates is not None and len(replicates) > 0:
            self.replicates[name] = replicates.float().cpu()

    def add_mean(self, name: str, values: Tensor, units: Tensor, counts: Tensor) -> None:
        """Adds the mean of per-row values.

        Args:
            name: Of the number.
            values: ``(Q,)``.
            units: ``(Q,)`` int64, unit of every row.
            counts: ``(R, G)`` resamples; R = 0 gives no interval.
        """
        values, units = values.double().cpu(), units.cpu()
        replicates = metrics.resampled_means(values, units, counts) if len(counts) > 0 else None
        self.add(name, values.mean(), replicates)
