"""Cross-modal retrieval over a data set."""

from collections.abc import Sequence

from torch import Tensor

from i0t.metrics import functional
from i0t.metrics.paired_embedding_metric import PairedEmbeddingMetric, PairedEmbeddings


class RetrievalRecall(PairedEmbeddingMetric):
    """Recall at k and median rank in both directions; see :func:`i0t.metrics.functional.retrieval_recall`.

    Not torchmetrics' metric of that name, which divides by the number of a query's correct items.

    **DDP:** gathered at ``compute``. **State:** that of :class:`PairedEmbeddingMetric`.

    Args:
        k: Cut-offs.

    Example:
        >>> import torch
        >>> metric = RetrievalRecall()
        >>> x, y = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
        >>> metric.update(x, y)
        >>> metric.compute()["i2t_r1"].item()
        0.5
    """

    higher_is_better = True

    def __init__(self, *, k: Sequence[int] = (1, 5, 10)) -> None:
        super().__init__()
        self.k = tuple(k)

    def evaluate(self, embeddings: PairedEmbeddings) -> dict[str, Tensor]:
        """``i2t_r1``, …, ``i2t_medr``, ``i2t_tied``, ``i2t_unpaired`` and the same for ``t2i``."""
        return functional.retrieval_recall(*embeddings[:3], k=self.k)
