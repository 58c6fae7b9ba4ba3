"""Object bias of both modalities over a data set."""

from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from i0t.metrics import functional
from i0t.metrics.paired_embedding_metric import PairedEmbeddingMetric, PairedEmbeddings


class ObjectBias(PairedEmbeddingMetric):
    """Object bias (MOAD) of the images and of the texts; see :func:`i0t.metrics.functional.object_bias`.

    A text has the labels of its image.

    **DDP:** gathered at ``compute``. **State:** that of :class:`PairedEmbeddingMetric`, and the labels of every image;
    it therefore forms a compute group of its own.

    Args:
        cross: Which pairs of different labels count: ``"all_pairs"``, or ``"upper_triangle"`` for those that the
            reference implementation takes (:func:`i0t.metrics.functional.label_contrast`), rows in order of sample ids.

    Example:
        >>> import torch
        >>> metric = ObjectBias()
        >>> objects, colours = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        >>> x = torch.nn.functional.normalize(torch.tensor([[5.0, 0, 1], [5, 0, -1], [0, 5, 1], [0, 5, -1]]), dim=-1)
        >>> metric.update(x, x, object_labels=objects, attribute_labels=colours)
        >>> sorted(metric.compute())
        ['image_object_bias', 'text_object_bias']
    """

    higher_is_better = None

    object_labels: list[Tensor] | Tensor
    attribute_labels: list[Tensor] | Tensor

    def __init__(self, *, cross: str = "all_pairs") -> None:
        super().__init__()
        self.cross = cross
        self.add_state("object_labels", default=[], dist_reduce_fx="cat")
        self.add_state("attribute_labels", default=[], dist_reduce_fx="cat")

    def update(
        self,
        image_features: Tensor,
        text_features: Tensor,
        text_image_index: Tensor | None = None,
        sample_id: Tensor | None = None,
        logit_scale: Tensor | float | None = None,
        *,
        object_labels: Tensor | None = None,
        attribute_labels: Tensor | None = None,
    ) -> None:
        """Collect one batch.

        Args:
            image_features: ``(B, D)`` float, L2-normalised.
            text_features: ``(T, D)`` float, L2-normalised.
            text_image_index: ``(T,)`` image row, within the batch, of every text; None pairs row i with row i.
            sample_id: ``(B,)`` integers >= 0, the same for the same sample on every process; None numbers the rows.
            logit_scale: Not used here.
            object_labels: ``(B,)`` integers; required.
            attribute_labels: ``(B, A)`` integers, one column per factor, or ``(B,)`` for one factor; required.

        Raises:
            ValueError: If labels are missing, or shapes, types or indices do not fit.
        """
        if object_labels is None or attribute_labels is None:
            raise ValueError("ObjectBias needs labels: update(..., object_labels=..., attribute_labels=...)")
        if len(object_labels) != len(image_features) or len(attribute_labels) != len(image_features):
            raise ValueError(
                f"every one of the {len(image_features)} images needs labels, got {len(object_labels)} object labels"
                f" and {len(attribute_labels)} rows of attribute labels"
            )
        super().update(image_features, text_features, text_image_index, sample_id, logit_scale)
        self._append("object_labels", object_labels.detach())
        self._append("attribute_labels", attribute_labels.detach())

    def evaluate(self, embeddings: PairedEmbeddings) -> dict[str, Tensor]:
        """``image_object_bias`` and ``text_object_bias``, scalars ``()``; above 0 is a bias towards objects."""
        objects = dim_zero_cat(self.object_labels)[embeddings.image_order]
        attributes = dim_zero_cat(self.attribute_labels)[embeddings.image_order]
        of_text = embeddings.text_image_index
        sides = {
            "image": (embeddings.image_features, objects, attributes),
            "text": (embeddings.text_features, objects[of_text], attributes[of_text]),
        }
        return {f"{name}_object_bias": functional.object_bias(*rows, cross=self.cross) for name, rows in sides.items()}
