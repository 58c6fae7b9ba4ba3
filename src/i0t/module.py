"""ClipModule: wires model, gap reducer and loss into Lightning; no mathematics of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities.enums import GradClipAlgorithmType
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from i0t.data.base import Batch, ImageTextDataModule
from i0t.distributed import all_reduce_sum, world_size
from i0t.encode import encode_batch
from i0t.features import Features
from i0t.gap_reducers.base import GapReducer
from i0t.grad_cache import check_chunk, encode_in_chunks
from i0t.metrics import Alignment, CentroidDistance, LogitEntropy, RelativeModalityGap, Uniformity
from i0t.models.base import ClipModel, ClipOutput
from i0t.parameter_groups import LayerDecay, parameter_groups, scale_learning_rates

CHECKPOINT_KEY = "i0t"


class View(NamedTuple):
    """One encoding of a batch of B pairs.

    Attributes:
        output: Raw features and logits.
        image: ``(B, D)`` unit rows after the reducer.
        text: ``(B, D)`` unit rows after the reducer.
        short: Further arguments of the loss: the first sentences' features, where the batch has them.
    """

    output: ClipOutput
    image: Tensor
    text: Tensor
    short: dict[str, Tensor]


class ClipModule(pl.LightningModule):
    """``model -> gap_reducer -> loss`` for training and validation, ``model`` alone for encoding.

    A reducer that is only fitted (``posthoc``) is the identity inside the loss; one with parameters (``async_bn``)
    is part of the graph. Validation always looks through the reducer.

    Args:
        model: Two towers.
        gap_reducer: Applied to their features.
        loss: ``(image_features, text_features, logit_scale, logit_bias) -> {"loss": …, parts}``.
        optimizer: Makes the optimizer from parameter groups; ``None`` for a module that only encodes.
        scheduler: Makes the schedule from the optimizer, given ``num_steps``.
        config: Plain containers, saved in every checkpoint.
        num_views: How often every batch is encoded, with other dropout each time; the loss is averaged over all
            pairings of an image view and a text view (MCSIE: I0T, arXiv 2412.14384, §4.1, and its code).
        decay_all: Decay every parameter, as I0T does; else matrices and kernels only, as open_clip does.
        layer_decay: Factor of the learning rate per layer below the top of a tower (:mod:`i0t.parameter_groups`);
            ``None``: one learning rate for all.
        encoder_weights: Hash of frozen encoders, saved in every checkpoint, so that the reducer that was trained on
            them is never used with others.
        grad_cache_chunk: Rows of this rank that the encoders take at a time in training, with the exact gradient of
            the whole batch (:mod:`i0t.grad_cache`); ``None``: all at once.

    Raises:
        ValueError: If ``grad_cache_chunk`` is below 1, or given for a model whose rows see each other (batch norm).

    DDP:
        Losses and batch statistics are those of the global batch (see ``i0t.losses``); logged losses are averaged
        over ranks; validation metrics are computed on all ranks' rows.
    """

    def __init__(
        self,
        model: ClipModel,
        gap_reducer: GapReducer,
        loss: nn.Module,
        *,
        optimizer: Callable[..., Optimizer] | None = None,
        scheduler: Callable[..., Any] | None = None,
        config: Mapping[str, Any],
        num_views: int = 1,
        decay_all: bool = False,
        layer_decay: float | None = None,
        encoder_weights: str | None = None,
        grad_cache_chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.num_views = num_views
        self.decay_all = decay_all
        self.layer_decay = layer_decay
        self.encoder_weights = encoder_weights
        self.grad_cache_chunk = grad_cache_chunk
        self.model = model
        self.gap_reducer = gap_reducer
        self.loss = loss
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.config = dict(config)
        self.val_metrics = MetricCollection(
            {
                "centroid_distance": CentroidDistance(),
                "rmg": RelativeModalityGap(),
                "alignment": Alignment(),
                "uniformity": Uniformity(),
                "logit_entropy": LogitEntropy(),
            },
            prefix="val/",
        )
        self.samples_seen = 0  # on all ranks
        self.train()  # reducers start in eval mode
        if grad_cache_chunk is not None:
            check_chunk(grad_cache_chunk, model)

    def forward(self, images: Tensor, tokens: Tensor) -> ClipOutput:
        """Raw features of a batch."""
        return self.model(images, tokens)

    def reduce(self, output: ClipOutput) -> tuple[Tensor, Tensor]:
        """Unit features as the loss sees them, ``(B, D)`` and ``(T, D)``.

        In train mode a reducer that is fitted, not trained, only normalises.
        """
        return self.gap_reducer(output.image_features, output.text_features)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch, with its parts logged."""
        views = [self._view(batch) for _ in range(self.num_views)]
        parts = mean_of_parts([self._loss(image, text) for image in views for text in views])
        self.log_dict({f"train/{name}": value for name, value in mean_over_ranks(parts).items()})
        self.log("train/temperature", 1 / self.model.logits()[0].detach())
        self.samples_seen += len(batch.images) * self.trainer.world_size
        # In double precision: in single, whole numbers end at 16.8 million.
        self.log("progress/samples_seen", torch.tensor(self.samples_seen, dtype=torch.float64))
        return parts["loss"]

    def _view(self, batch: Batch) -> View:
        """Encodes and reduces a batch once."""
        encode_text = self._in_chunks(self.model.encode_text)
        image_features = self._in_chunks(self.model.encode_image)(batch.images)
        output = ClipOutput(image_features, encode_text(batch.tokens), *self.model.logits())
        image, text = self.reduce(output)
        if batch.short_tokens is None:
            return View(output, image, text, {})
        short = self.gap_reducer.reduce_text(encode_text(batch.short_tokens))
        return View(output, image, text, {"short_text_features": short})

    def _in_chunks(self, encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """An encoder as training calls it."""
        if self.grad_cache_chunk is None:
            return encode
        weights = list(self.model.parameters())
        return functools.partial(encode_in_chunks, encode, weights=weights, chunk=self.grad_cache_chunk)

    def _loss(self, image_view: View, text_view: View) -> dict[str, Tensor]:
        """The loss of one view's images with one view's texts."""
        output = image_view.output
        parts: dict[str, Tensor] = self.loss(
            image_view.image, text_view.text, output.logit_scale, output.logit_bias, **text_view.short
        )
        return parts

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Keeps the temperature within its bound."""
        self.clamp_temperature()

    def clamp_temperature(self) -> None:
        """Keeps a temperature that is trained within CLIP's bound."""
        if self.model.max_logit_scale is not None and self.model.log_logit_scale.requires_grad:
            with torch.no_grad():
                self.model.log_logit_scale.clamp_(max=math.log(self.model.max_logit_scale))

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Collects the features of the validation set.

        Returns:
            ``image_features`` and ``text_features`` of this batch, reduced, for callbacks.
        """
        output = self.model(batch.images, batch.tokens)
        image_features, text_features = self.reduce(output)
        self.val_metrics.update(
            image_features.float(),
            text_features.float(),
            text_image_index=batch.text_image_index,
            sample_id=batch.sample_id,
            logit_scale=output.logit_scale.detach().float(),
        )
        return {"image_features": image_features, "text_features": text_features}

    def on_validation_epoch_end(self) -> None:
        """Logs gap, alignment, uniformity and entropy of the whole validation set."""
        # Every rank computes the same values from all ranks' rows: nothing is left to reduce.
        self.log_dict(self.val_metrics.compute(), rank_zero_only=False)
        self.log("val/temperature", 1 / self.model.logits()[0].detach())
        # Where loggers put these values: after so many steps. Lightning would put them one step earlier.
        self.log("step", torch.tensor(self.global_step, dtype=torch.float64), sync_dist=True)
        self.val_metrics.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> Features:
        """Raw features, for the cache and for evaluation."""
        return encode_batch(self.model, batch)

    def configure_optimizers(self) -> Any:
        """Parameter groups by weight decay and depth; the schedule runs per step."""
        assert self.make_optimizer is not None, "this module was built to encode, not to train"
        by_depth = None
        if self.layer_decay is not None:
            depths = {f"model.{name}": depth for name, depth in self.model.layer_depths().items()}
            by_depth = LayerDecay(self.layer_decay, depths)
        optimizer = self.make_optimizer(
            parameter_groups(self.named_parameters(), decay_all=self.decay_all, layer_decay=by_depth)
        )
        scale_learning_rates(optimizer)  # before the schedule takes them as its peaks
        if self.make_scheduler is None:
            return {"optimizer": optimizer}
        schedule = self.make_scheduler(optimizer, num_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does, and a fused optimizer in bf16 too: without a scaler nothing must be scaled back first."""
        plugin = self.trainer.precision_plugin
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            kind = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, kind)
            return
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tells the data where training goes on, and counts on from there.

        Not ``trainer.global_step``: a schedule over epochs makes Lightning build the training loader, to count its
        batches, before it restores the step.
        """
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(datamodule, ImageTextDataModule):
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            datamodule.go_on(checkpoint[CHECKPOINT_KEY].get("position"), progress)
        self.samples_seen = checkpoint[CHECKPOINT_KEY].get("samples_seen", 0)  # older ones do not say

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the plain config, so that the checkpoint alone rebuilds the model, and what is counted."""
        self.clamp_temperature()  # callbacks save before on_train_batch_end comes here
        checkpoint[CHECKPOINT_KEY] = {
            "config": self.config,
            "encoder_weights": self.encoder_weights,
            "samples_seen": self.samples_seen,
        }
        datamodule = self.trainer.datamodule if "loops" in checkpoint else None  # type: ignore[attr-defined]
        if isinstance(datamodule, ImageTextDataModule):
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            checkpoint[CHECKPOINT_KEY]["position"] = datamodule.training_position(progress["total"]["processed"])


def mean_over_ranks(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached means over the ranks, in one collective; Lightning's own waits at a barrier for each.

    Args:
        parts: Numbers, ``()`` each.
    """
    values = torch.stack([value.detach() for value in parts.values()])
    return dict(zip(parts, (all_reduce_sum(values) / world_size()).unbind(), strict=True))


def mean_of_parts(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several losses, part by part."""
    return {name: sum((parts[name] for parts in losses[1:]), losses[0][name]) / len(losses) for name in losses[0]}
