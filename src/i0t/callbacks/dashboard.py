"""Shows dashboards the embeddings at validations: cosines, projections, examples.

Shapes: K chosen pairs of the validation split, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from i0t.callbacks.dashboard_content import Images, Moment, Shown, ShownPairs, log_moment
from i0t.data.base import Batch, ImageTextDataModule, MissingSplitError

# Place among the chosen pairs and features, of images and of texts.
_Part = tuple[Tensor, Tensor, Tensor, Tensor]


class DashboardSnapshots(pl.Callback):
    """Gives the loggers what a seeded choice of validation pairs looks like, through the reducer of the moment.

    Mean cosines go to every logger, histograms, projections and examples to those that are dashboards
    (:mod:`i0t.loggers`). Nothing is encoded for it: the features are those of the validation. A split whose texts
    belong to no single image (class names) has no pairs to show.

    Args:
        every_n_validations: Show every n-th validation, the first among them.
        num_pairs: The most pairs that are shown, twice as many points.
        num_examples: Images with captions.
        seed: Of the choice of pairs.

    Raises:
        ValueError: If a number is too small.

    DDP:
        Every rank keeps what it encodes of the chosen pairs; the first collects them, at most ``2 K D`` numbers.

    State:
        The number of validations.
    """

    def __init__(self, *, every_n_validations: int, num_pairs: int, num_examples: int, seed: int) -> None:
        for name, value, least in (
            ("every_n_validations", every_n_validations, 1),
            ("num_pairs", num_pairs, 2),
            ("num_examples", num_examples, 0),
        ):
            if value < least:
                raise ValueError(f"callbacks.dashboard.{name} must be at least {least}, got {value}")
        self.shown = Shown(num_pairs=num_pairs, num_examples=num_examples, seed=seed)
        self.every_n_validations = every_n_validations
        self.validations = 0
        self._looked = False
        self._pairs: ShownPairs | None = None
        self._collecting = False
        self._parts: list[_Part] = []
        self._places: tuple[Tensor, Tensor] | None = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decides whether this validation is shown."""
        self._parts, self._collecting = [], False
        if trainer.sanity_checking:
            return
        due = self.validations % self.every_n_validations == 0
        self.validations += 1
        # The first rank's word: some loggers are there alone.
        if due and trainer.strategy.broadcast(bool(trainer.loggers)):
            self._collecting = self._choose(trainer.datamodule)  # type: ignore[attr-defined]

    def _choose(self, datamodule: Any) -> bool:
        """Draws the pairs, once; returns whether there are any."""
        if self._looked:
            return self._pairs is not None
        self._looked = True
        if not isinstance(datamodule, ImageTextDataModule):
            return False
        try:
            split = datamodule.describe("val")
        except (MissingSplitError, NotImplementedError):
            return False
        if split.text_image_index is None or len(split.text_image_index) == 0:
            return False
        index = split.text_image_index.cpu()
        pairs = torch.stack([index, torch.arange(len(index))], dim=1)
        self._pairs = self.shown.choose(pairs, split.captions, labels=split.labels, class_names=split.class_names)
        of_image = torch.full((split.num_images,), -1, dtype=torch.int64)
        of_text = torch.full((len(index),), -1, dtype=torch.int64)
        of_image[self._pairs.image_rows] = torch.arange(len(self._pairs.image_rows))
        of_text[self._pairs.text_rows] = torch.arange(len(self._pairs.text_rows))
        self._places = (of_image, of_text)
        return True

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the features of the chosen pairs."""
        if not self._collecting:
            return
        assert isinstance(batch, Batch)
        assert self._places is not None
        image_features, text_features = outputs["image_features"], outputs["text_features"]
        images, texts = self._places[0][batch.sample_id.cpu()], self._places[1][batch.text_id.cpu()]
        self._parts.append(
            (
                images[images >= 0],
                image_features[images.to(image_features.device) >= 0].float().cpu(),
                texts[texts >= 0],
                text_features[texts.to(text_features.device) >= 0].float().cpu(),
            )
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the loggers what was kept."""
        if not self._collecting:
            return
        self._collecting = False
        parts, self._parts = _of_all_ranks(self._parts), []
        assert self._pairs is not None
        moment = _moment(parts, self._pairs, trainer.global_step)
        if moment is None or not trainer.is_global_zero:
            return
        images = _images(trainer.datamodule) if self.shown.num_examples else None  # type: ignore[attr-defined]
        log_moment(trainer.loggers, moment, images, num_examples=self.shown.num_examples)

    def state_dict(self) -> dict[str, Any]:
        """The number of validations, so that a resumed run shows the same ones."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts on."""
        self.validations = int(state_dict["validations"])


def _moment(parts: Sequence[_Part], pairs: ShownPairs, step: int) -> Moment | None:
    """The pairs of which image and text were encoded; ``None`` for fewer than two (``limit_val_batches``)."""
    if not parts:
        return None
    image_places, image_rows, text_places, text_rows = (torch.cat(column) for column in zip(*parts, strict=True))
    number = len(pairs.image_rows)
    images, texts = torch.zeros(number, image_rows.shape[1]), torch.zeros(number, text_rows.shape[1])
    images[image_places], texts[text_places] = image_rows, text_rows
    seen = torch.zeros(2, number, dtype=torch.bool)
    seen[0, image_places] = True
    seen[1, text_places] = True
    kept = seen.all(dim=0).nonzero().flatten()
    if len(kept) < 2:
        return None
    return Moment("val", step, pairs.take(kept), images[kept], texts[kept])


def _images(datamodule: ImageTextDataModule) -> Images | None:
    """How to look at validation images; ``None`` for cached features, which have none."""
    if type(datamodule).images is ImageTextDataModule.images:
        return None

    def images(rows: Sequence[int]) -> list[np.ndarray]:
        return datamodule.images("val", rows)

    return images


def _of_all_ranks(parts: list[_Part]) -> list[_Part]:
    if not (dist.is_available() and dist.is_initialized()):
        return parts
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, parts)
    return [part for of_rank in gathered for part in of_rank]
