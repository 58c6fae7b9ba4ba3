"""Cases that run in every process of the gloo pool, and, with a world of one, in the test's own process."""

import os
import time
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from i0t.distributed import (
    all_gather_with_grad,
    all_reduce_sum,
    all_reduce_sum_with_grad,
    is_distributed,
    rank,
    rows_per_rank,
    world_size,
)
from i0t.gap_reducers.async_bn import AsyncBatchNorm
from i0t.gap_reducers.batch_norm import GlobalBatchNorm
from i0t.gap_reducers.layer_norm import LayerNorm
from i0t.gap_reducers.mean_shift import MeanShift
from i0t.gap_reducers.posthoc import Posthoc
from i0t.losses.clip import ClipLoss
from i0t.losses.cloob import CloobLoss
from i0t.losses.cyclip import CyClipLoss
from i0t.losses.long_clip import LongClipLoss
from i0t.losses.siglip import SigLipLoss
from i0t.losses.uniformity_alignment import UniformityAlignmentLoss
from i0t.models.mad_tiny import ConvTower

CPU = torch.device("cpu")


def shard(rows, sizes):
    """This rank's rows of a whole batch that is cut into the given sizes."""
    return rows.split(sizes)[rank()] if is_distributed() else rows


def even(rows):
    """This rank's equal share."""
    return rows.chunk(world_size())[rank()]


# --- pool self-tests ---


def world():
    return rank(), world_size(), is_distributed()


def raise_on(failing_rank):
    if rank() == failing_rank:
        raise KeyError("a marked failure")
    return "fine"


def die_on(dying_rank):
    if rank() == dying_rank:
        os._exit(3)
    return "fine"


def sleep_on(sleeping_rank, seconds):
    if rank() == sleeping_rank:
        time.sleep(seconds)
    return "fine"


# --- collectives ---


def gather_gradient(x, weights):
    """Gathers local rows, takes another loss on every rank; returns the rows gathered and the local gradient."""
    own = even(x).clone().requires_grad_()
    gathered = all_gather_with_grad(own)
    (gathered.square() * weights[rank()]).sum().backward()
    return gathered.detach(), own.grad


def gather_uneven(sizes):
    return all_gather_with_grad(torch.zeros(sizes[rank()], 2))


def reduce_gradient(x, weights):
    own = x[rank()].clone().requires_grad_()
    total = all_reduce_sum_with_grad(own)
    (total.square() * weights[rank()]).sum().backward()
    return total.detach(), own.grad


def reduce_in_place(x):
    mine, copied = x[rank()].clone(), x[rank()].clone()
    returned = all_reduce_sum(mine, in_place=True)
    total = all_reduce_sum(copied)
    return mine, returned, copied, total, rows_per_rank(rank() + 5, CPU)


# --- losses under real DDP ---


class TwoTowers(nn.Module):
    """A small dual encoder with all of CLIP's parameters."""

    def __init__(self, width, dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image_tower = nn.Linear(7, width)
        self.text_tower = nn.Linear(5, width)
        self.logit_scale = nn.Parameter(torch.tensor(2.3))
        self.logit_bias = nn.Parameter(torch.tensor(-1.5))
        for parameter in [*self.image_tower.parameters(), *self.text_tower.parameters()]:
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.to(dtype)

    def forward(self, image, text):
        image = nn.functional.normalize(self.image_tower(image), dim=-1)
        short = nn.functional.normalize(self.text_tower(text.flip(1)), dim=-1)  # of other captions
        text = nn.functional.normalize(self.text_tower(text), dim=-1)
        return image, text, self.logit_scale.exp(), self.logit_bias, short


LOSSES = {
    "clip": lambda **given: ClipLoss(label_smoothing=0.1, **given),
    "cyclip": lambda **given: CyClipLoss(reference_batch=4, label_smoothing=0.05, **given),
    "cloob": lambda **given: CloobLoss(inv_tau=5.0, scale_hopfield=3.0, **given),
    "uniformity_alignment": lambda **given: UniformityAlignmentLoss(cross_uniformity_weight=0.5, **given),
    "long_clip": lambda **given: LongClipLoss(num_components=2, **given),
    "siglip": lambda **given: SigLipLoss(**given),
    "cyclip_unequal": lambda **given: CyClipLoss(cross_weight=0.1, intra_weight=2.0, reference_batch=None, **given),
}


def train_step(loss_name, width, dtype, images, texts, negatives="global"):
    """One step on this rank's share; returns the loss parts, every gradient and every updated parameter."""
    model = TwoTowers(width, dtype)
    wrapped = DistributedDataParallel(model) if is_distributed() else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    image, text, scale, bias, short = wrapped(even(images).to(dtype), even(texts).to(dtype))
    loss = LOSSES[loss_name](negatives=negatives)
    more = {"short_text_features": short} if getattr(loss, "uses_short_captions", False) else {}
    parts = loss(image, text, scale, logit_bias=bias, **more)
    parts["loss"].backward()
    optimizer.step()
    return (
        {name: value.detach() for name, value in parts.items()},
        {name: parameter.grad for name, parameter in model.named_parameters()},
        {name: parameter.detach() for name, parameter in model.named_parameters()},
    )


# --- reducers ---


def batch_norm_step(rows, sizes, upstream):
    """Train-mode forward and backward on uneven batches."""
    torch.manual_seed(1)
    norm = GlobalBatchNorm(rows.shape[1], momentum=0.1, eps=1e-5).double()
    norm.weight.data.uniform_(0.5, 2)
    norm.bias.data.normal_()
    own = shard(rows, sizes).clone().requires_grad_()
    out = norm(own)
    (out * shard(upstream, sizes)).sum().backward()
    gradients = [all_reduce_sum(norm.weight.grad), all_reduce_sum(norm.bias.grad)]
    return out.detach(), own.grad, gradients, norm.running_mean, norm.running_var


def batch_norm_single_row():
    norm = GlobalBatchNorm(3, momentum=0.1, eps=1e-5)
    norm(torch.ones(1 if rank() == 0 else 0, 3))


def embeddings(image, text, pairs, image_sizes, text_sizes, logit_scale=20.0):
    """This rank's shard; sizes cut images and texts so that pairs stay within a shard."""
    if not is_distributed():
        return SimpleNamespace(
            image_features=image, text_features=text, pairs=pairs, logit_scale=logit_scale, logit_bias=None
        )
    image_start, text_start = sum(image_sizes[: rank()]), sum(text_sizes[: rank()])
    own = (pairs[:, 0] >= image_start) & (pairs[:, 0] < image_start + image_sizes[rank()])
    return SimpleNamespace(
        image_features=image.split(image_sizes)[rank()],
        text_features=text.split(text_sizes)[rank()],
        pairs=pairs[own] - torch.tensor([image_start, text_start]),
        logit_scale=logit_scale,
        logit_bias=None,
    )


def fit_posthoc(fit_samples, *data):
    reducer = Posthoc(data[0].shape[1], fit_split="test", fit_samples=fit_samples, seed=4)
    reducer.fit(embeddings(*data))
    return reducer.state_dict()


def fit_async_bn(loss_name, epochs, learning_rate, *data):
    reducer = AsyncBatchNorm(
        data[0].shape[1],
        loss=LOSSES[loss_name](),
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=4,
        fit_split="train",
    )
    reducer.fit(embeddings(*data))
    return reducer.state_dict()


def recalibrate_async_bn(batch_rows, fit_samples, *data):
    """Train-mode batches first, whose running statistics must be replaced; returns the state before and after."""
    torch.manual_seed(0)
    reducer = AsyncBatchNorm(data[0].shape[1], loss=None, epochs=0, fit_samples=fit_samples, seed=4).train()
    reducer.text_norm.weight.data.uniform_(0.5, 2)
    reducer(even(batch_rows), even(batch_rows) + 1)
    before = {name: value.clone() for name, value in reducer.state_dict().items()}
    reducer.recalibrate(embeddings(*data))
    return before, reducer.state_dict()


def async_bn_gradient(images, texts):
    """Gradients of the affine parameters through batch statistics and gathered negatives, averaged over ranks."""
    reducer = AsyncBatchNorm(images.shape[1], loss=CyClipLoss(reference_batch=None)).double().train()
    image, text = reducer(even(images), even(texts))
    reducer.loss(image, text, torch.tensor(20.0))["loss"].backward()
    return {name: all_reduce_sum(p.grad) / world_size() for name, p in reducer.named_parameters()}


def layer_norm_gradient(images, texts):
    """Gradients of the affine parameters through gathered negatives, averaged over ranks."""
    reducer = LayerNorm(images.shape[1], strength=0.7).double().train()
    image, text = reducer(even(images), even(texts))
    CyClipLoss(reference_batch=None)(image, text, torch.tensor(20.0))["loss"].backward()
    return {name: all_reduce_sum(p.grad) / world_size() for name, p in reducer.named_parameters()}


def fit_mean_shift(*data):
    reducer = MeanShift(data[0].shape[1], fit_split="test")
    reducer.fit(embeddings(*data))
    return {**reducer.state_dict(), "shift": reducer.shift()}


def fit_error(what, *data):
    """The message of the ValueError that every rank must raise, whichever rank holds the bad row."""
    reducer = what(data[0].shape[1])
    try:
        reducer.fit(embeddings(*data))
    except ValueError as error:
        dist.barrier()  # hangs if only one rank raised
        return str(error)
    raise AssertionError("fit accepted a row of zeros")


def fit_error_posthoc(*data):
    return fit_error(lambda dim: Posthoc(dim, fit_split="test"), *data)


# --- the shipped tower ---


def tower_step(images, upstream, sizes):
    """Train-mode forward and backward of MAD's image tower; global gradients and running statistics."""
    torch.manual_seed(0)
    tower = ConvTower([4, 6, 8], 5).double()
    out = tower(shard(images, sizes))
    (out * shard(upstream, sizes)).sum().backward()
    gradients = {name: all_reduce_sum(parameter.grad) for name, parameter in tower.named_parameters()}
    return out.detach(), gradients, dict(tower.named_buffers())
