"""I0T_async: batch norm per modality between two normalisations, trained on frozen embeddings.

Shapes: B rows of this rank, N image rows, M text rows, P pairs, D embedding width, W ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from i0t.distributed import all_reduce_sum, is_distributed, rank, rows_per_rank, world_size
from i0t.gap_reducers.base import Embeddings, FitRows, GapReducer, Rows
from i0t.gap_reducers.batch_norm import GlobalBatchNorm
from i0t.gap_reducers.fit_rows import Moments, unit_moments
from i0t.gap_reducers.strength import check_strength

logger = logging.getLogger(__name__)


class AsyncBatchNorm(GapReducer):
    """I0T_async (arXiv 2412.14384, §4.2, Alg. 1): L2 -> batch norm of each modality -> L2 -> loss.

    :meth:`fit` is stage 2 on frozen, cached features: AdamW on the 4 D affine parameters with the logit scale frozen,
    one random caption per image and epoch, at a constant learning rate; then one exact pass for mean and variance over
    all rows, so that they do not depend on how many steps a running average took. Each fit starts from the identity.
    Batch norm's variance of unit vectors is about 1/D (the paper says about 1), so this is z-scoring per dimension,
    and at the paper's learning rate of 1e-6 the affine part hardly moves. The published code trains with statistics of
    64 rows per GPU; here a batch is that of all ranks.

    Inside a model (``trainable``) it is part of the graph: train mode uses the statistics of the global batch, updates
    the running ones and sets ``fitted``. :meth:`recalibrate` then makes the statistics exact, as :meth:`fit` does.

    **DDP:** in train mode see :class:`~i0t.gap_reducers.batch_norm.GlobalBatchNorm`. In ``fit`` every epoch takes as
    many steps as the smallest shard allows; gradients are averaged, so parameters are the same on all ranks; the final
    pass covers all rows.

    **State:** ``image_norm``, ``text_norm``, see there.

    Args:
        dim: D.
        loss: Called with (image, text, logit scale, logit bias), returns a dict with ``"loss"``; ``None``, after
            :meth:`load`, for a reducer that is applied and not trained again.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, on scale and shift alike, as published.
        epochs: Passes over the images; 0 for z-scoring alone.
        batch_size: Rows per rank; at least 2.
        momentum: Of the running statistics while trained inside a model.
        eps: Added to the variance. That of unit vectors is near 1/D, 2e-3 at D = 512: 1e-5 hardly matters.
        strength: Share of the mean that is subtracted; 0 only scales.
        exact_statistics: Whether training ends with mean and variance of all rows; otherwise the running averages of
            the training stay, as published.
        seed: Of caption choice, order and the draw of ``fit_samples``.
        fit_split: See :class:`~i0t.gap_reducers.base.GapReducer`.
        fit_samples: See there.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> reducer = AsyncBatchNorm(2, loss=None, epochs=0)  # z-scoring alone
        >>> reducer.fit_image(torch.eye(2))
        >>> reducer.fit_text(-torch.eye(2))
        >>> reducer.reduce_text(torch.tensor([[0.0, -5.0]])).detach().round(decimals=4)
        tensor([[ 0.7071, -0.7071]])
    """

    trainable = True
    needs_fit = True

    def __init__(
        self,
        dim: int,
        *,
        loss: nn.Module | None,
        learning_rate: float = 1e-6,
        weight_decay: float = 1e-2,
        epochs: int = 3,
        batch_size: int = 64,
        momentum: float = 0.1,
        eps: float = 1e-5,
        strength: float = 1.0,
        exact_statistics: bool = True,
        seed: int = 0,
        fit_split: str | None = "train",
        fit_samples: int | None = None,
    ) -> None:
        super().__init__(dim, fit_split=fit_split, fit_samples=fit_samples, seed=seed)
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, a batch of one row has no variance, got {batch_size}")
        if epochs < 0:
            raise ValueError(f"epochs must be at least 0, got {epochs}")
        if not (learning_rate >= 0 and weight_decay >= 0):
            raise ValueError(f"learning_rate and weight_decay must be at least 0, got {learning_rate}, {weight_decay}")
        if not (0 < momentum <= 1 and eps > 0):
            raise ValueError(f"momentum must be in (0, 1] and eps above 0, got {momentum}, {eps}")
        if epochs == 0 and not exact_statistics:
            raise ValueError("epochs=0 trains nothing that could leave running averages: set exact_statistics to true")
        check_strength(strength)
        self.loss = loss
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.momentum = momentum
        self.eps = eps
        self.strength = strength
        self.exact_statistics = exact_statistics
        self.image_norm = GlobalBatchNorm(dim, momentum=momentum, eps=eps, strength=strength)
        self.text_norm = GlobalBatchNorm(dim, momentum=momentum, eps=eps, strength=strength)
        self.eval()

    @property
    def calibration_means(self) -> tuple[Tensor, Tensor] | None:
        """The means before the affine part; ``None`` unless they are exact and subtracted whole."""
        centres = self.exact_statistics and self.strength == 1 and len(self.fitted_modalities) == 2
        return (self.image_norm.running_mean, self.text_norm.running_mean) if centres else None

    @property
    def recalibrates(self) -> bool:
        """As ``exact_statistics`` says."""
        return self.exact_statistics

    def recalibrate(self, embeddings: Embeddings) -> None:
        """Replaces the running statistics by exact ones over all rows; scale and shift stay as they were trained."""
        if self.exact_statistics:
            self._fit_with(lambda rows: self._set_statistics(*self._moments(rows)), embeddings)

    def _moments(self, rows: FitRows) -> tuple[Moments, Moments]:
        device = self.fitted.device
        image = unit_moments(rows.image_features, "image", device=device)
        return image, unit_moments(rows.text_features, "text", device=device)

    def _set_statistics(self, image: Moments, text: Moments) -> None:
        self.image_norm.set_statistics(image)
        self.text_norm.set_statistics(text)

    def _reduce_image(self, unit_rows: Tensor) -> Tensor:
        if self.training:
            self._note_training()
        reduced: Tensor = self.image_norm(unit_rows)
        return reduced

    def _reduce_text(self, unit_rows: Tensor) -> Tensor:
        if self.training:
            self._note_training()
        reduced: Tensor = self.text_norm(unit_rows)
        return reduced

    def _note_training(self) -> None:
        """The statistics are from now on those of batches, not of the rows of a fit."""
        self.fitted.fill_(True)
        self.num_fit_images.zero_()
        self.num_fit_texts.zero_()

    def affine_image(self) -> tuple[Tensor, Tensor]:
        """Those of the running statistics and the affine part together."""
        return self.image_norm.affine()

    def affine_text(self) -> tuple[Tensor, Tensor]:
        """Those of the running statistics and the affine part together."""
        return self.text_norm.affine()

    def _fit_image(self, image_features: Rows) -> None:
        self._fit_alone(self.image_norm, image_features, "image")

    def _fit_text(self, text_features: Rows) -> None:
        self._fit_alone(self.text_norm, text_features, "text")

    def _fit_alone(self, norm: GlobalBatchNorm, features: Rows, modality: str) -> None:
        if self.epochs > 0:
            raise ValueError(
                f"async_bn trains on pairs and cannot be fitted on {modality}s alone; epochs=0 is z-scoring, which can"
            )
        norm.reset()
        norm.set_statistics(unit_moments(features, modality, device=self.fitted.device))

    def _fit(self, rows: FitRows) -> None:
        # Before any training, so that features that cannot be used raise here, on every rank.
        moments = self._moments(rows)
        num_steps = self._steps_per_epoch(rows)
        was_training = self.training
        # Lightning validates under inference mode; the embeddings then hold inference tensors, which indexing copies.
        with torch.inference_mode(False), torch.enable_grad():
            self.train()
            self._train_affine(rows, num_steps)
        self.train(was_training)
        if self.exact_statistics:
            self._set_statistics(*moments)

    def _steps_per_epoch(self, rows: FitRows) -> int:
        """Whole batches in the smallest shard, counting images that have a caption."""
        device = self.fitted.device
        if self.epochs == 0:
            return 0
        if sum(rows_per_rank(len(rows.pairs), device)) == 0:
            raise ValueError("async_bn trains with a contrastive loss and needs image-text pairs; this set has none")
        usable = min(rows_per_rank(len(rows.pairs[:, 0].unique()), device))
        if usable < self.batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, but there are only {usable} captioned images to fit on (on the "
                "smallest shard): lower gap_reducer.batch_size"
            )
        return usable // self.batch_size

    def _train_affine(self, rows: FitRows, num_steps: int) -> None:
        """Stage 2: trains scale and shift of both modalities on this rank's pairs."""
        device = self.fitted.device
        if self.loss is None and self.epochs > 0:
            raise ValueError("async_bn has no loss to train with: give load(…, modules={'loss': …}), or epochs=0")
        self.image_norm.reset()
        self.text_norm.reset()
        parameters = [*self.image_norm.parameters(), *self.text_norm.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)
        logit_scale = torch.tensor(rows.logit_scale, device=device)
        logit_bias = None if rows.logit_bias is None else torch.tensor(rows.logit_bias, device=device)
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * rank())  # shards shuffle independently
        for epoch in range(self.epochs):
            total = torch.zeros((), device=device)
            pairs = draw_captions(rows.pairs.cpu(), generator=generator)
            for image, text in self._batches(rows, pairs[: num_steps * self.batch_size]):
                assert self.loss is not None
                loss = self.loss(*self(image, text), logit_scale, logit_bias)["loss"]
                optimizer.zero_grad()
                loss.backward()
                average_gradients(parameters)
                optimizer.step()
                total += loss.detach()
            mean_loss = float(all_reduce_sum(total)) / (num_steps * world_size())
            if not abs(mean_loss) < float("inf"):
                raise ValueError(
                    f"the loss of epoch {epoch + 1} is {mean_loss}: lower learning_rate, now {self.learning_rate}"
                )
            logger.info("async_bn epoch %d of %d: loss %.4f", epoch + 1, self.epochs, mean_loss)

    def _batches(self, rows: FitRows, pairs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Image and text rows of ``(P, 2)`` pairs, batch by batch, where and as the parameters are."""
        image_rows = pairs[:, 0].to(rows.image_features.device).split(self.batch_size)
        text_rows = pairs[:, 1].to(rows.text_features.device).split(self.batch_size)
        for image, text in zip(image_rows, text_rows, strict=True):
            # Half the time of indexing by brackets.
            yield (
                rows.image_features.index_select(0, image).to(self.image_norm.weight),
                rows.text_features.index_select(0, text).to(self.text_norm.weight),
            )


def draw_captions(pairs: Tensor, *, generator: torch.Generator) -> Tensor:
    """One random caption for each image that has any, in random order.

    Args:
        pairs: ``(P, 2)`` int64 (image row, text row), in any order.
        generator: Of both draws.

    Returns:
        ``(images, 2)`` int64.
    """
    by_image = pairs[pairs[:, 0].argsort(stable=True)]
    counts = by_image[:, 0].unique_consecutive(return_counts=True)[1]
    first = counts.cumsum(0) - counts
    draw = torch.rand(len(counts), generator=generator, dtype=torch.float64)
    chosen = by_image[first + (draw * counts).long()]
    return chosen[torch.randperm(len(chosen), generator=generator)]


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Averages gradients over ranks in one all-reduce, as ``DistributedDataParallel`` does.

    Args:
        parameters: All with a gradient; the same list on every rank.
    """
    if not is_distributed():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(gradients) == len(parameters), "every parameter takes part in the loss"
    flat = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
    for gradient, average in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(average.view_as(gradient))
