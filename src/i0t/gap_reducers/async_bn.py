"""I0T_async: batch norm per modality between two normalisations, trained on frozen embeddings.

Shapes: B rows of this rank, N image rows, M text rows, P pairs, D embedding width, W ranks.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from i0t.distributed import all_reduce_sum, batch_moments, rank, rows_per_rank, world_size
from i0t.gap_reducers.base import FitRows, GapReducer, Rows
from i0t.gap_reducers.fit_rows import Moments, unit_moments

logger = logging.getLogger(__name__)


class GlobalBatchNorm(nn.Module):
    """``nn.BatchNorm1d`` whose batch is that of all ranks.

    ``nn.SyncBatchNorm`` refuses CPU tensors and so cannot run on gloo; this runs on any backend.

    **DDP:** in train mode two all-reduces, (D + 1,) and (D,), with gradients; ranks may hold different numbers of rows.

    **State:** ``weight``, ``bias`` (D,) parameters; ``running_mean``, ``running_var`` (D,) float32.

    Args:
        dim: D.
        momentum: Share of the newest batch in the running statistics.
        eps: Added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, *, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def reset_affine(self) -> None:
        """Makes the affine part the identity."""
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def set_statistics(self, moments: Moments) -> None:
        """Replaces the running statistics by exact ones."""
        self.running_mean.copy_(moments.mean)
        self.running_var.copy_(moments.variance)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift (D,) float64 of the map in eval mode."""
        scale = torch.rsqrt(self.running_var.double() + self.eps) * self.weight.double()
        return scale, self.bias.double() - self.running_mean.double() * scale

    def forward(self, rows: Tensor) -> Tensor:
        """Standardises per dimension.

        Args:
            rows: ``(B, D)``.

        Returns:
            ``(B, D)``.

        Raises:
            ValueError: In train mode, if all ranks together have one row, which has no variance.
        """
        if not self.training:
            scale = torch.rsqrt(self.running_var + self.eps) * self.weight
            return (rows - self.running_mean) * scale + self.bias
        centred, mean, variance, count = batch_moments(rows)
        if len(rows) < 2 and int(count) < 2:  # a rank with two rows need not wait for the device to know
            raise ValueError("batch norm needs at least 2 rows over all devices in train mode, got 1: raise batch_size")
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * (count / (count - 1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class AsyncBatchNorm(GapReducer):
    """I0T_async (arXiv 2412.14384, §4.2, Alg. 1): L2 -> batch norm of each modality -> L2 -> loss.

    :meth:`fit` is stage 2 on frozen, cached features: AdamW on the 4 D affine parameters with the logit scale frozen,
    one random caption per image and epoch, at a constant learning rate; then one exact pass for mean and variance over
    all rows, so that they do not depend on how many steps a running average took. Each fit starts from the identity.
    Batch norm's variance of unit vectors is about 1/D (the paper says about 1), so this is z-scoring per dimension,
    and at the paper's learning rate of 1e-6 the affine part hardly moves. The published code trains with statistics of
    64 rows per GPU; here a batch is that of all ranks.

    Inside a model (``trainable``) it is part of the graph: train mode uses the statistics of the global batch, updates
    the running ones and sets ``fitted``.

    **DDP:** in train mode see :class:`GlobalBatchNorm`. In ``fit`` every epoch takes as many steps as the smallest
    shard allows; gradients are averaged, so parameters are the same on all ranks; the final pass covers all rows.

    **State:** ``image_norm``, ``text_norm``, see :class:`GlobalBatchNorm`.

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
        seed: Of caption choice, order and the draw of ``fit_samples``.
        fit_split: See :class:`~i0t.gap_reducers.base.GapReducer`.
        fit_samples: See there.

    Raises:
        ValueError: If an argument is out of range.
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
        self.loss = loss
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.momentum = momentum
        self.eps = eps
        self.image_norm = GlobalBatchNorm(dim, momentum=momentum, eps=eps)
        self.text_norm = GlobalBatchNorm(dim, momentum=momentum, eps=eps)
        self.eval()

    @property
    def calibration_means(self) -> tuple[Tensor, Tensor] | None:
        """The running means, before the affine part."""
        return (self.image_norm.running_mean, self.text_norm.running_mean) if len(self.fitted_modalities) == 2 else None

    def _reduce_image(self, unit_rows: Tensor) -> Tensor:
        if self.training:
            self.fitted.fill_(True)
        reduced: Tensor = self.image_norm(unit_rows)
        return reduced

    def _reduce_text(self, unit_rows: Tensor) -> Tensor:
        if self.training:
            self.fitted.fill_(True)
        reduced: Tensor = self.text_norm(unit_rows)
        return reduced

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
        norm.reset_affine()
        norm.set_statistics(unit_moments(features, modality, device=self.fitted.device))

    def _fit(self, rows: FitRows) -> None:
        # Before any training, so that features that cannot be used raise here, on every rank.
        image = unit_moments(rows.image_features, "image", device=self.fitted.device)
        text = unit_moments(rows.text_features, "text", device=self.fitted.device)
        num_steps = self._steps_per_epoch(rows)
        was_training = self.training
        # Lightning validates under inference mode; the embeddings then hold inference tensors, which indexing copies.
        with torch.inference_mode(False), torch.enable_grad():
            self.train()
            self._train_affine(rows, num_steps)
        self.train(was_training)
        self.image_norm.set_statistics(image)
        self.text_norm.set_statistics(text)

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
        self.image_norm.reset_affine()
        self.text_norm.reset_affine()
        parameters = [*self.image_norm.parameters(), *self.text_norm.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        logit_scale = torch.tensor(rows.logit_scale, device=device)
        logit_bias = None if rows.logit_bias is None else torch.tensor(rows.logit_bias, device=device)
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * rank())  # shards shuffle independently
        for epoch in range(self.epochs):
            total = torch.zeros((), device=device)
            pairs = draw_captions(rows.pairs.cpu(), generator=generator)
            for batch in pairs.split(self.batch_size)[:num_steps]:
                image = rows.image_features[batch[:, 0].to(rows.image_features.device)].to(device)
                text = rows.text_features[batch[:, 1].to(rows.text_features.device)].to(device)
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
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(gradients) == len(parameters), "every parameter takes part in the loss"
    flat = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients])) / world_size()
    for gradient, average in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(average.view_as(gradient))
