"""Metrics of how embeddings lie on the sphere, over a data set."""

from torch import Tensor

from i0t.metrics import functional
from i0t.metrics.paired_embedding_metric import PairedEmbeddingMetric, PairedEmbeddings


class Alignment(PairedEmbeddingMetric):
    """Mean squared distance of matched pairs; see :func:`i0t.metrics.functional.alignment`.

    **DDP:** gathered at ``compute``. **State:** that of :class:`PairedEmbeddingMetric`.

    Example:
        >>> import torch
        >>> metric = Alignment()
        >>> x, y = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
        >>> metric.update(x, y)
        >>> round(metric.compute().item(), 4)
        1.0
    """

    higher_is_better = False

    def evaluate(self, embeddings: PairedEmbeddings) -> Tensor:
        """Scalar ``()`` in ``[0, 4]``."""
        return functional.alignment(*embeddings[:3])


class Uniformity(PairedEmbeddingMetric):
    """Uniformity of each modality; see :func:`i0t.metrics.functional.uniformity`.

    **DDP:** gathered at ``compute``. **State:** that of :class:`PairedEmbeddingMetric`.

    Example:
        >>> import torch
        >>> metric = Uniformity()
        >>> x, y = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
        >>> metric.update(x, y)
        >>> sorted(metric.compute())
        ['image_uniformity', 'text_uniformity']
    """

    higher_is_better = False

    def evaluate(self, embeddings: PairedEmbeddings) -> dict[str, Tensor]:
        """``image_uniformity`` and ``text_uniformity``, scalars ``()`` in ``[-8, 0]``."""
        return {
            "image_uniformity": functional.uniformity(embeddings.image_features),
            "text_uniformity": functional.uniformity(embeddings.text_features),
        }


class LogitEntropy(PairedEmbeddingMetric):
    """Entropy of the image-to-text matching in nats; see :func:`i0t.metrics.functional.logit_entropy`.

    ``update`` must be given ``logit_scale`` at least once; the last one counts.

    **DDP:** gathered at ``compute``; of different scales the largest counts. **State:** that of
    :class:`PairedEmbeddingMetric`.

    Example:
        >>> import torch
        >>> metric = LogitEntropy()
        >>> x, y = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
        >>> metric.update(x, y, logit_scale=10.0)
        >>> metric.compute().ndim
        0
    """

    higher_is_better = None

    def evaluate(self, embeddings: PairedEmbeddings) -> Tensor:
        """Scalar ``()`` in ``[0, log M]``.

        Raises:
            ValueError: If no logit scale was given.
        """
        if embeddings.logit_scale == 0:
            raise ValueError("LogitEntropy needs the factor of the logits: update(..., logit_scale=...)")
        return functional.logit_entropy(embeddings.image_features, embeddings.text_features, embeddings.logit_scale)
