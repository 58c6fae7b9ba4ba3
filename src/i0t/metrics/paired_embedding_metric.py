"""The state that all metrics of paired embeddings share."""

# B images, T texts of a batch; N images, M texts of the data set; D feature width.
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from i0t.metrics.functional.checks import check_unit_rows

# Numbers made up for samples without an id are negative, so that they never meet an id of the data set.
_FIRST_MADE_UP_ID = -(2**62)
_MADE_UP_IDS_PER_RANK = 2**40


class PairedEmbeddings(NamedTuple):
    """Everything that was collected: duplicates removed, in order of the sample ids."""

    image_features: Tensor  # (N, D)
    text_features: Tensor  # (M, D)
    text_image_index: Tensor  # (M,)
    image_order: Tensor  # (N,) which of the collected image rows each image is
    logit_scale: Tensor  # (), 0 if never given


class PairedEmbeddingMetric(Metric):
    """Base of metrics over the embeddings of a whole data set.

    Collects the features of every batch; ``compute`` drops samples and captions that occur twice (the padding of
    distributed evaluation), sorts by sample id, so that the value does not depend on which process saw what, and calls
    a function of :mod:`i0t.metrics.functional`.

    All subclasses that add no state have the same states, so that in a ``torchmetrics.MetricCollection`` they form one
    compute group and the features are kept once.

    **DDP:** states are gathered at ``compute``; shards may be uneven. A process without data must still call ``update``
    with empty ``(0, D)`` tensors.

    **State:** features and ids of all batches, and the last ``logit_scale``.
    """

    is_differentiable = False
    full_state_update = False

    image_features: list[Tensor] | Tensor
    image_sample_id: list[Tensor] | Tensor
    text_features: list[Tensor] | Tensor
    text_sample_id: list[Tensor] | Tensor
    text_position: list[Tensor] | Tensor
    logit_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("image_features", "image_sample_id", "text_features", "text_sample_id", "text_position"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        # A state of every metric, though one alone reads it: metrics with other states would not share features.
        self.add_state("logit_scale", default=torch.zeros(()), dist_reduce_fx="max")

    def update(
        self,
        image_features: Tensor,
        text_features: Tensor,
        text_image_index: Tensor | None = None,
        sample_id: Tensor | None = None,
        logit_scale: Tensor | float | None = None,
    ) -> None:
        """Collect one batch.

        Args:
            image_features: ``(B, D)`` float, L2-normalised.
            text_features: ``(T, D)`` float, L2-normalised; all texts of an image come with it, in a fixed order.
            text_image_index: ``(T,)`` image row, within the batch, of every text; None pairs row i with row i.
            sample_id: ``(B,)`` integers >= 0, the same for the same sample on every process and in every epoch. None
                numbers the rows as they come; duplicates can then not be recognised.
            logit_scale: The factor of the logits (not its logarithm); the last one given counts.

        Raises:
            ValueError: If a row is not a unit vector, or shapes, types or indices do not fit.
        """
        matches = _batch_matches(image_features, text_features, text_image_index)
        num_images = len(image_features)
        ids = self._made_up_ids(num_images) if sample_id is None else _checked_ids(sample_id, num_images)
        ids = ids.to(image_features.device)
        self._append("image_features", image_features.detach())
        self._append("image_sample_id", ids)
        self._append("text_features", text_features.detach())
        self._append("text_sample_id", ids[matches])
        self._append("text_position", _position_within_image(matches))
        if logit_scale is not None:
            self.logit_scale = torch.as_tensor(logit_scale).detach().to(self.logit_scale)

    def compute(self) -> Tensor | dict[str, Tensor]:
        """Value of the metric over all collected samples.

        Raises:
            ValueError: If nothing was collected, or as the functional raises.
        """
        return self.evaluate(self.collected())

    @abstractmethod
    def evaluate(self, embeddings: PairedEmbeddings) -> Tensor | dict[str, Tensor]:
        """Value of the metric over a whole data set."""

    def collected(self) -> PairedEmbeddings:
        """All samples that were collected, each once, sorted by sample id, captions in their order."""
        if not isinstance(self.image_features, Tensor) and not self.image_features:
            raise ValueError(f"{type(self).__name__} has no data: call update() before compute()")
        image_id, text_id = dim_zero_cat(self.image_sample_id), dim_zero_cat(self.text_sample_id)
        image_order = _first_of_each(image_id)
        text_order = _first_of_each(text_id, dim_zero_cat(self.text_position))
        return PairedEmbeddings(
            dim_zero_cat(self.image_features)[image_order],
            dim_zero_cat(self.text_features)[text_order],
            torch.searchsorted(image_id[image_order], text_id[text_order]),
            image_order,
            self.logit_scale,
        )

    def _append(self, state: str, rows: Tensor) -> None:
        """Append rows of a batch to a list state."""
        getattr(self, state).append(rows)

    def _made_up_ids(self, num_images: int) -> Tensor:
        """Ids ``(B,)`` for samples that have none, different on every process."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        seen = sum(len(ids) for ids in self.image_sample_id)
        return _FIRST_MADE_UP_ID + rank * _MADE_UP_IDS_PER_RANK + seen + torch.arange(num_images)


def _batch_matches(image_features: Tensor, text_features: Tensor, text_image_index: Tensor | None) -> Tensor:
    """Check a batch, which may be empty, and return the image row of every text ``(T,)``."""
    if image_features.ndim != 2 or text_features.ndim != 2 or image_features.shape[1] != text_features.shape[1]:
        raise ValueError(
            "image_features and text_features must be matrices of one width,"
            f" got shapes {tuple(image_features.shape)} and {tuple(text_features.shape)}"
        )
    for features, name in ((image_features, "image_features"), (text_features, "text_features")):
        if len(features) > 0:  # a process without data updates with none
            check_unit_rows(features, name)
    num_images, num_texts = len(image_features), len(text_features)
    if text_image_index is None:
        if num_images != num_texts:
            raise ValueError(f"{num_images} images and {num_texts} texts need a text_image_index")
        return torch.arange(num_texts, device=image_features.device)
    if tuple(text_image_index.shape) != (num_texts,) or text_image_index.is_floating_point():
        raise ValueError(
            f"text_image_index must be integers of shape ({num_texts},),"
            f" got {text_image_index.dtype} {tuple(text_image_index.shape)}"
        )
    matches = text_image_index.long().to(image_features.device)
    if bool(((matches < 0) | (matches >= num_images)).any()):
        raise ValueError(f"text_image_index must lie in 0 … {num_images - 1}, the image rows of the batch")
    return matches


def _checked_ids(sample_id: Tensor, num_images: int) -> Tensor:
    """Sample ids as int64."""
    if tuple(sample_id.shape) != (num_images,) or sample_id.is_floating_point():
        raise ValueError(
            f"sample_id must be integers of shape ({num_images},), got {sample_id.dtype} {tuple(sample_id.shape)}"
        )
    if bool((sample_id < 0).any()):
        raise ValueError(f"sample_id must not be negative, got {int(sample_id.min())}")
    return sample_id.long()


def _position_within_image(matches: Tensor) -> Tensor:
    """How many earlier texts of the batch belong to the same image, ``(T,)``: the caption's number."""
    order = torch.argsort(matches, stable=True)
    grouped = matches[order]
    start_of_group = torch.searchsorted(grouped, grouped)
    position = torch.empty_like(matches)
    position[order] = torch.arange(len(matches), device=matches.device) - start_of_group
    return position


def _first_of_each(*keys: Tensor) -> Tensor:
    """Rows in order of the keys (the first key first), the first row of each distinct combination."""
    order = torch.arange(len(keys[0]), device=keys[0].device)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    new = torch.ones(len(order), dtype=torch.bool, device=order.device)
    if len(order) > 1:
        new[1:] = torch.stack([key[order][1:] != key[order][:-1] for key in keys]).any(dim=0)
    return order[new]
