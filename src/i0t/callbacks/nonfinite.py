"""Stops a run whose loss is not a number before the weights are, and says where it comes from.

Shapes: B pairs of this rank, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from i0t.callbacks.agreed_flag import AgreedFlag
from i0t.callbacks.agreed_stop import AgreedStop
from i0t.data.base import Batch, ImageTextDataModule, MissingSplitError

EXIT_CODE = 2
# How far down the chain images, weights, features, loss something is not finite, and what.
Cause = tuple[int, str]


class NonFiniteLoss(AgreedStop):
    """The loss of a step is NaN or infinite; the weights are those of the step before."""


class StopOnNonFinite(pl.Callback):
    """Stops the run at a NaN or infinite loss, before the optimizer uses its gradient.

    Says the step, the ranks and samples, and whether images, weights, features or the loss alone are not finite. The
    last checkpoint stays as it is: weights that are not finite are never saved. Infinite gradients of a finite loss, at
    which a gradient scaler skips the step (``precision: 16-mixed``), are none of its business.

    Watches what goes into ``pl_module.loss`` and what comes out of it, unscaled.

    Args:
        ckpt_path: The checkpoint that the message points to.
        most_named: So many samples of a rank are named, further ones counted.

    DDP:
        All ranks stop after the same forward pass, if the loss of one is not finite, and rank 0 speaks for all. Costs
        an all-reduce of four bytes in each step; on a GPU the processor waits for the forward pass while the backward
        pass, which waits for nothing, is running (:class:`~i0t.callbacks.agreed_flag.AgreedFlag`).
    """

    def __init__(self, ckpt_path: str, *, most_named: int = 5) -> None:
        self.ckpt_path = Path(ckpt_path)
        self.most_named = most_named
        self._flag = AgreedFlag()
        self._hook: RemovableHandle | None = None
        self._batch: Any = None
        self._features: list[tuple[Tensor, Tensor]] = []
        self._bad: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins to look at the loss."""
        loss = pl_module.loss
        assert isinstance(loss, nn.Module)
        self._hook = loss.register_forward_hook(self._look)

    def _look(self, loss: nn.Module, arguments: tuple[Tensor, ...], parts: Mapping[str, Tensor]) -> None:
        bad = ~parts["loss"].detach().isfinite().all()
        self._bad = bad if self._bad is None else self._bad | bad
        self._features.append((arguments[0].detach(), arguments[1].detach()))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batch for the message."""
        self._batch, self._features, self._bad = batch, [], None

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Tells the other ranks whether this one's loss is finite."""
        # Not of the argument: that is scaled, and may be infinite in half precision where the loss is not.
        assert self._bad is not None, "the module has computed its loss with `module.loss`"
        self._flag.send(self._bad)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops all ranks if one of them has a loss that is not finite."""
        if not self._flag.read():
            self._batch, self._features = None, []
            return
        ranks = first_causes(_of_all_ranks(self._report(trainer, pl_module)))
        self._stop(trainer, f"the loss of step {trainer.global_step + 1} is not finite: {'; '.join(ranks)}")

    def _stop(self, trainer: pl.Trainer, message: str) -> NoReturn:
        kept = (
            f"the last checkpoint, {self.ckpt_path}, is from before"
            if self.ckpt_path.is_file()
            else "there is no checkpoint yet"
        )
        raise NonFiniteLoss(f"{message}. {kept}", exit_code=EXIT_CODE, speaks=trainer.is_global_zero)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps weights that are not finite from replacing good ones: a finite loss may have had such a gradient."""
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        bad = [name for name, weight in pl_module.named_parameters() if not _is_finite(weight)]
        found = _of_all_ranks((1, bad[0]) if bad else None)  # a weight may be cut over the ranks
        if any(found):
            self._stop(
                trainer,
                f"weights are not finite after step {trainer.global_step}, the first is {first_causes(found)[0]}: "
                "a gradient was not, though the loss was",
            )

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Cause | None:
        """What is not finite on this rank; ``None`` where all is."""
        assert self._bad is not None
        if not bool(self._bad):
            return None
        depth, text = self._cause(trainer, pl_module)
        return depth, f"rank {trainer.global_rank}: {text}" if trainer.world_size > 1 else text

    def _cause(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Cause:
        batch = self._batch
        named = _namer(trainer, batch, self.most_named)
        images = _bad_rows([batch.images]) if isinstance(batch, Batch) and batch.images.is_floating_point() else []
        if images:
            return 0, f"images are not finite: {named(images)}"
        weights = [name for name, weight in pl_module.named_parameters() if not _is_finite(weight)]
        if weights:
            return 1, f"{len(weights)} weights are not finite since an earlier step, the first is {weights[0]}"
        rows = {
            "image": _bad_rows([image for image, _ in self._features]),
            "text": _bad_rows([text for _, text in self._features]),
        }
        causes = [
            f"{what} features of {len(bad)} of {len(self._features[0][0])} pairs are not finite: {named(bad)}"
            for what, bad in rows.items()
            if bad
        ]
        if causes:
            return 2, " and ".join(causes)
        return 3, "images, weights and features are finite, the loss alone is not"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the weights once more, and away."""
        self._release()
        self._check_weights(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Likewise."""
        self._release()

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._batch, self._features = None, None, []


def first_causes(ranks: Sequence[Cause | None]) -> list[str]:
    """The causes that come first: batch norm and negatives of the global batch carry them from one rank to the others.

    Example:
        >>> first_causes([(3, "rank 0: the loss alone"), (0, "rank 1: images"), None])
        ['rank 1: images']
    """
    found = [cause for cause in ranks if cause is not None]
    first = min(depth for depth, _ in found)
    return [text for depth, text in found if depth == first]


def _is_finite(weight: Tensor) -> bool:
    """Of a weight that is cut over the ranks, this rank's part: not all ranks may come here."""
    local = weight.to_local() if hasattr(weight, "to_local") else weight
    return bool(local.detach().isfinite().all())


def _bad_rows(tensors: Sequence[Tensor]) -> list[int]:
    """Rows that are not finite in one of the tensors ``(B, …)``."""
    bad: set[int] = set()
    for tensor in tensors:
        finite = tensor.isfinite().reshape(len(tensor), -1).all(dim=1)
        bad |= set((~finite).nonzero().flatten().tolist())
    return sorted(bad)


def _namer(trainer: pl.Trainer, batch: Any, most: int) -> Callable[[list[int]], str]:
    """Names rows of a batch as the data module can: by identifier and caption, or by number in the split."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]

    def named(rows: list[int]) -> str:
        shown = rows[:most]
        if isinstance(batch, Batch) and isinstance(datamodule, ImageTextDataModule):
            texts = _names(datamodule, batch, shown)
        else:
            texts = [f"row {row} of the batch" for row in shown]
        more = f" and {len(rows) - most:,} more" if len(rows) > most else ""
        return ", ".join(texts) + more

    return named


def _names(datamodule: ImageTextDataModule, batch: Batch, rows: Sequence[int]) -> list[str]:
    sample_ids = [int(batch.sample_id[row]) for row in rows]
    of_stream = getattr(datamodule, "sample_names", None)
    if of_stream is not None:
        names: list[str] = of_stream(sample_ids)
        return names
    try:
        split = datamodule.describe("train")
    except (MissingSplitError, NotImplementedError):
        return [f"sample {sample_id}" for sample_id in sample_ids]
    texts = []
    for row, sample_id in zip(rows, sample_ids, strict=True):
        name = split.image_ids[sample_id] if split.image_ids else f"sample {sample_id} of train"
        text_id = int(batch.text_id[row]) if row < len(batch.text_id) else len(split.captions)
        caption = f' "{split.captions[text_id][:60]}"' if text_id < len(split.captions) else ""
        texts.append(name + caption)
    return texts


def _of_all_ranks(cause: Cause | None) -> list[Cause | None]:
    if not (dist.is_available() and dist.is_initialized()):
        return [cause]
    causes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(causes, cause)
    return causes
