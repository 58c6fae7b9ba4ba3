"""Batches beyond memory: encode in chunks, keep only features, and recompute every chunk once its gradient is known.

GradCache (Gao et al. 2021, arXiv 2101.06983), also used to train CLIP at batches that no GPU holds (Pham et al. 2021,
arXiv 2111.10050). A contrastive loss needs the features of the whole batch, but the gradient of an encoder's weights is
a sum over rows once the gradients of the features are known. So the encoders run twice, and the activations of one
chunk at a time are all that is ever kept.

Shapes: B rows of this rank, C rows of a chunk, D embedding width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import get_device_states, set_device_states

Encode = Callable[[Tensor], Tensor]


def encode_in_chunks(encode: Encode, rows: Tensor, weights: Sequence[nn.Parameter], *, chunk: int) -> Tensor:
    """``encode(rows)`` with the activations of one chunk in memory at a time, and the gradient of the whole.

    Forward encodes chunk after chunk without a graph. Backward encodes each again, from the state of the random number
    generators that it had, under the same autocast, and adds up the gradients of the weights. They leave as one
    gradient per weight: what waits for it (the buckets of ``DistributedDataParallel``, a gradient scaler, accumulation
    over batches) sees one ordinary backward pass. The dropout of a chunk is the same in both passes, but not that of
    the whole batch encoded at once, which draws in another order.

    Exact where a row's features depend on that row alone: no batch norm in train mode
    (:func:`check_chunk`). Costs one more forward pass and one more copy of the gradients.

    Args:
        encode: ``(C, …)`` to ``(C, D)``; called twice for every chunk.
        rows: ``(B, …)``; no gradient goes into them.
        weights: All parameters that ``encode`` may use, others too.
        chunk: C; the last chunk may be smaller.

    Returns:
        ``(B, D)``.

    **DDP:** nothing is communicated here; every rank cuts its own rows.
    """
    trained = [weight for weight in weights if weight.requires_grad]
    if chunk >= len(rows) or not trained or not torch.is_grad_enabled():
        return encode(rows)
    features: Tensor = _Recomputed.apply(encode, rows, chunk, *trained)
    return features


def check_chunk(chunk: int, model: nn.Module) -> None:
    """Rejects chunks of no rows, and models whose features of one row depend on the others of its batch.

    Args:
        chunk: Rows.
        model: In the mode in which it is trained.

    Raises:
        ValueError: With the number, or with the first batch norm in train mode.
    """
    if not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"trainer.grad_cache_chunk={chunk} must be a whole number of at least 1, or null for none")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise ValueError(
                f"trainer.grad_cache_chunk: {name} is a batch norm, whose statistics of a chunk are not those of the "
                "batch, so no chunks give its exact gradient; choose a model without (a ViT), lock the tower, or take "
                "more devices"
            )


class _Conditions(NamedTuple):
    """What a chunk was encoded under.

    Attributes:
        random: State of the CPU's generator.
        devices: Accelerators whose generators were used.
        device_states: Their states.
    """

    random: Tensor
    devices: list[int]
    device_states: list[Tensor]

    @classmethod
    def now(cls, rows: Tensor) -> _Conditions:
        return cls(torch.get_rng_state(), *get_device_states(rows))

    @contextlib.contextmanager
    def again(self, rows: Tensor) -> Iterator[None]:
        device_type = rows.device.type
        with torch.random.fork_rng(self.devices, device_type=device_type if self.devices else "cuda"):
            torch.set_rng_state(self.random)
            set_device_states(self.devices, self.device_states, device_type=device_type)
            yield


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, encode: Encode, rows: Tensor, chunk: int, *weights: Tensor) -> Tensor:
        device = rows.device.type
        ctx.encode, ctx.chunk = encode, chunk
        ctx.autocast = {"dtype": torch.get_autocast_dtype(device), "enabled": torch.is_autocast_enabled(device)}
        ctx.conditions = []
        ctx.save_for_backward(rows, *weights)
        features = []
        for part in rows.split(chunk):
            ctx.conditions.append(_Conditions.now(part))
            features.append(encode(part))
        return torch.cat(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # once_differentiable would only look at the incoming gradient, which may be a constant.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "features encoded in chunks have no second derivative: leave create_graph=True away, or set "
                "trainer.grad_cache_chunk=null"
            )
        rows, *weights = ctx.saved_tensors
        totals: list[Tensor | None] = [None] * len(weights)
        parts = zip(rows.split(ctx.chunk), gradient.split(ctx.chunk), ctx.conditions, strict=True)
        for part, part_gradient, conditions in parts:
            with torch.enable_grad(), conditions.again(part), torch.autocast(rows.device.type, **ctx.autocast):
                features = ctx.encode(part)
            if not features.requires_grad:  # this encoder is frozen, the weights are others'
                break
            found = torch.autograd.grad(features, weights, part_gradient, allow_unused=True)
            _add(totals, found)
        return (None, None, None, *totals)


def _add(totals: list[Tensor | None], found: Sequence[Tensor | None]) -> None:
    """Adds gradients up in place; ``None`` where there is none."""
    for at, gradient in enumerate(found):
        total = totals[at]
        if gradient is None:
            continue
        # The first may be an expanded view, into which nothing can be added.
        totals[at] = gradient.clone(memory_format=torch.contiguous_format) if total is None else total.add_(gradient)
