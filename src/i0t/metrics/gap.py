"""Metrics of the modality gap over a data set."""

from torch import Tensor

from i0t.metrics import functional
from i0t.metrics.paired_embedding_metric import PairedEmbeddingMetric, PairedEmbeddings


class CentroidDistance(PairedEmbeddingMetric):
    """Distance between the modality centroids; see :func:`i0t.metrics.functional.centroid_distance`.

    **DDP:** gathered at ``compute``. **State:** that of :class:`PairedEmbeddingMetric`.

    Example:
        >>> import torch
        >>> metric = CentroidDistance()
        >>> x, y = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
        >>> metric.update(x, y)
        >>> round(metric.compute().item(), 4)
        0.0
    """

    higher_is_better = False

    def evaluate(self, embeddings: PairedEmbeddings) -> Tensor:
        """Scalar ``()`` in ``[0, 2]``."""
        return functional.centroid_distance(embeddings.image_features, embeddings.text_features)


class UnbiasedCentroidDistance(PairedEmbeddingMetric):
    """Unbiased squared centroid distance; see :func:`i0t.metrics.functional.unbiased_centroid_distance`.

    **DDP:** gathered at ``compute``. **State:** that of :class:`PairedEmbeddingMetric`.

    Example:
        >>> import torch
        >>> metric = UnbiasedCentroidDistance()
        >>> x, y = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
        >>> metric.update(x, y)
        >>> round(metric.compute().item(), 4)
        -0.3333
    """

    higher_is_better = False

    def evaluate(self, embeddings: PairedEmbeddings) -> Tensor:
        """Scalar ``()``, which may be below zero."""
        return functional.unbiased_centroid_distance(*embeddings[:3])


class InstanceDistance(PairedEmbeddingMetric):
    """Mean distance of matched pairs; see :func:`i0t.metrics.functional.instance_distance`.

    **DDP:** gathered at ``compute``. **State:** that of :class:`PairedEmbeddingMetric`.

    Example:
        >>> import torch
        >>> metric = InstanceDistance()
        >>> x, y = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
        >>> metric.update(x, y)
        >>> round(metric.compute().item(), 4)
        0.7071
    """

    higher_is_better = False

    def evaluate(self, embeddings: PairedEmbeddings) -> Tensor:
        """Scalar ``()`` in ``[0, 2]``."""
        return functional.instance_distance(*embeddings[:3])


class RelativeModalityGap(PairedEmbeddingMetric):
    """Relative modality gap; see :func:`i0t.metrics.functional.relative_modality_gap`.

    **DDP:** gathered at ``compute``. **State:** that of :class:`PairedEmbeddingMetric`.

    Args:
        include_diagonal: Let every row meet itself in the spread of a modality.

    Example:
        >>> import torch
        >>> metric = RelativeModalityGap()
        >>> x, y = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
        >>> metric.update(x, y)
        >>> round(metric.compute().item(), 4)
        0.3333
    """

    higher_is_better = False

    def __init__(self, *, include_diagonal: bool = False) -> None:
        super().__init__()
        self.include_diagonal = include_diagonal

    def evaluate(self, embeddings: PairedEmbeddings) -> Tensor:
        """Scalar ``()`` in ``(0, 1]``."""
        return functional.relative_modality_gap(*embeddings[:3], include_diagonal=self.include_diagonal)


class LinearSeparability(PairedEmbeddingMetric):
    """Held-out linear separability of the modalities; see :func:`i0t.metrics.functional.linear_separability`.

    **DDP:** gathered at ``compute``. **State:** that of :class:`PairedEmbeddingMetric`.

    Args:
        method: ``"logreg"`` (accuracy) or ``"ols"`` (1 - mean squared error).
        test_fraction: Part of the images held out; None is the method's own.
        seed: Of the split.

    Example:
        >>> import torch
        >>> metric = LinearSeparability()
        >>> x = torch.nn.functional.normalize(torch.eye(8) + 1, dim=-1)
        >>> metric.update(x, -x)
        >>> round(metric.compute().item(), 4)
        1.0
    """

    higher_is_better = False

    def __init__(self, *, method: str = "logreg", test_fraction: float | None = None, seed: int = 0) -> None:
        super().__init__()
        self.method = method
        self.test_fraction = test_fraction
        self.seed = seed

    def evaluate(self, embeddings: PairedEmbeddings) -> Tensor:
        """Scalar ``()``; chance is .5 for ``"logreg"``."""
        return functional.linear_separability(
            *embeddings[:3], method=self.method, test_fraction=self.test_fraction, seed=self.seed
        )
