"""Fully sharded data parallel training (FSDP2, ``torch.distributed.fsdp.fully_shard``) of the towers' blocks.

What repeats in a tower, the members of its lists of layers, and its embeddings hold almost all of its weights. These
are cut over the ranks and gathered block by block while a batch goes through; the rest (projections, norms,
temperature, the gap reducer) is whole on every rank, and its gradients are averaged as DDP does. So every method of a
model can be called as ever, not only the ``forward`` of the module that Lightning knows.

While the model only encodes, validation included, its weights are whole: ranks may then have different numbers of
batches, and no step waits for another rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra.utils import get_class
from omegaconf import DictConfig
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication
from torch.optim import Optimizer

from i0t.config_errors import ConfigError
from i0t.distributed import all_reduce_sum, world_size
from i0t.module import ClipModule

_PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16-true")


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, for models whose parts are called by other names than ``forward``.

    A checkpoint is one file with whole tensors, as that of any other strategy.

    Args:
        reshard_after_forward: Drop a block's gathered weights between forward and backward.
        min_parameters: Blocks and embeddings with fewer parameters stay whole.
        timeout_minutes: After which a rank stops waiting for the others.

    DDP:
        Gradients are means over ranks, as with ``DistributedDataParallel``; the norm that clipping looks at is that of
        all ranks' parts together.
    """

    def __init__(self, *, reshard_after_forward: bool, min_parameters: int, timeout_minutes: float) -> None:
        # The sizes are those of the run, which are known in `setup_environment` only.
        super().__init__(
            data_parallel_size="auto",
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.reshard_after_forward = reshard_after_forward
        self.min_parameters = min_parameters

    def setup_environment(self) -> None:
        """Starts the processes' group, all ranks on one axis."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Cuts the blocks before a training; for anything else, the model stays as it is."""
        assert self.accelerator is not None
        assert self.model is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        if trainer.state.fn == TrainerFn.FITTING and not sharded_units(self.model):
            assert isinstance(self.model, ClipModule)
            _broadcast(self.model)
            mesh = self.device_mesh["data_parallel"]
            shard(self.model.model, mesh, self.min_parameters, reshard_after_forward=self.reshard_after_forward)
        if not any(isinstance(callback, WholeWhileEncoding) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            # Before all others: some of them encode, or save.
            callback = WholeWhileEncoding(reshard_after_forward=self.reshard_after_forward)
            trainer.callbacks.insert(0, callback)  # type: ignore[attr-defined]
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def setup_precision_plugin(self) -> None:
        """Makes clipping see the norm of all ranks' parts."""
        super().setup_precision_plugin()
        self.precision_plugin.clip_grad_by_norm = _clip_by_norm  # type: ignore[method-assign]

    def post_backward(self, closure_loss: Tensor) -> None:
        """Averages the gradients of what is whole on every rank.

        With several batches to a step it does so after each: a mean over ranks does not change what is one already.
        """
        assert self.lightning_module is not None
        parameters = self.lightning_module.parameters()
        gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p, DTensor)]
        for same_type in _by_type(gradients):
            flat = all_reduce_sum(torch.cat([g.flatten() for g in same_type]), in_place=True) / world_size()
            for gradient, mean in zip(same_type, flat.split([g.numel() for g in same_type]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def optimizer_step(self, optimizer: Optimizer, closure: Any, model: Any = None, **kwargs: Any) -> Any:
        """Steps over cut and whole parameters together, in one call of the fused or `foreach` kernels."""
        with implicit_replication():
            return super().optimizer_step(optimizer, closure, model, **kwargs)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """That of all parameters; torch makes a state that is not there yet by a step, over both kinds together."""
        with implicit_replication():
            return super().optimizer_state(optimizer)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Likewise."""
        with implicit_replication():
            return super().load_checkpoint(checkpoint_path, weights_only)


def check_sharding(cfg: DictConfig) -> None:
    """Checks what cannot be trained with cut weights, before anything is built.

    Args:
        cfg: Composed from ``train.yaml``.

    Raises:
        ConfigError: In one line.
    """
    trainer = cfg.trainer
    node = trainer.get("strategy")
    if not isinstance(node, DictConfig) or not issubclass(get_class(node["_target_"]), ShardedStrategy):
        return
    clipping, chunk = trainer.get("gradient_clip_algorithm"), trainer.get("grad_cache_chunk")
    refused = {
        f"trainer.precision={trainer.precision}": str(trainer.precision) not in _PRECISIONS,
        f"trainer.gradient_clip_algorithm={clipping}": clipping not in (None, "norm"),
        f"trainer.grad_cache_chunk={chunk}": chunk is not None,
        f"encoders={cfg.encoders}": cfg.encoders != "trained",
        f"views={cfg.views}": cfg.views > 1,
        "model.compile=true": bool(cfg.model.get("compile")),
        "model.channels_last=true": bool(cfg.model.get("channels_last")),  # torch cuts contiguous weights only
        "callbacks=[…,ema]": any(_averages(callback) for callback in cfg.callbacks.values()),
    }
    for option, given in refused.items():
        if given:
            raise ConfigError(f"{option} does not go with fully sharded training: choose trainer=ddp (or ddp_cpu)")


def _averages(callback: Any) -> bool:
    return callback is not None and issubclass(get_class(callback["_target_"]), pl.callbacks.WeightAveraging)


class WholeWhileEncoding(pl.Callback):
    """Gathers the weights for a validation or an encoding pass, and cuts them again after it.

    Args:
        reshard_after_forward: Of the training in between.
    """

    def __init__(self, *, reshard_after_forward: bool) -> None:
        self.reshard_after_forward = reshard_after_forward

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gathers."""
        gather(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cuts."""
        scatter(pl_module, reshard_after_forward=self.reshard_after_forward)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gathers."""
        gather(pl_module)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cuts."""
        scatter(pl_module, reshard_after_forward=self.reshard_after_forward)


def shard(model: nn.Module, mesh: Any, min_parameters: int, *, reshard_after_forward: bool) -> None:
    """Cuts the blocks and embeddings of a model over a mesh, in place.

    Args:
        model: Two towers.
        mesh: A one-dimensional ``DeviceMesh``.
        min_parameters: See :class:`ShardedStrategy`.
        reshard_after_forward: Likewise.
    """
    for module in reversed(list(model.modules())):  # what is inside comes before what it is in
        units = [unit for unit in _units(module) if _num_whole(unit) >= min_parameters]
        for unit in units:
            fully_shard(unit, mesh=mesh, reshard_after_forward=reshard_after_forward)
        if len(units) > 1 and module is not model:
            # It cuts no weights of its own, but lets its blocks be gathered one ahead of the other.
            whole = {p for p in module.parameters() if not isinstance(p, DTensor)}
            fully_shard(module, mesh=mesh, reshard_after_forward=reshard_after_forward, ignored_params=whole)


def _units(module: nn.Module) -> Sequence[nn.Module]:
    """Members of a list of layers, and a table of embeddings, that this module holds."""
    children = list(module.children())
    lists = [child for child in children if isinstance(child, (nn.ModuleList, nn.Sequential))]
    tables = [child for child in children if isinstance(child, nn.Embedding)]
    return [*(unit for one in lists for unit in one if any(True for _ in unit.children())), *tables]


def _num_whole(module: nn.Module) -> int:
    """How many parameters of a module are not cut yet; none where it is cut itself."""
    if isinstance(module, FSDPModule):
        return 0
    return sum(parameter.numel() for parameter in module.parameters() if not isinstance(parameter, DTensor))


def sharded_units(module: nn.Module) -> list[FSDPModule]:
    """The parts of a module that are cut."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def gather(module: nn.Module) -> None:
    """Makes the weights whole on every rank, until :func:`scatter`; all ranks together."""
    for unit in sharded_units(module):
        unit.unshard()
        unit.set_reshard_after_forward(False)


def scatter(module: nn.Module, *, reshard_after_forward: bool) -> None:
    """Leaves every rank its part again.

    Args:
        module: With parts that :func:`gather` made whole.
        reshard_after_forward: What is then done between forward and backward.
    """
    for unit in sharded_units(module):
        unit.set_reshard_after_forward(reshard_after_forward)
        unit.reshard()


def _broadcast(module: nn.Module) -> None:
    """Begins with the first rank's weights and buffers, as DDP does."""
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor.detach(), src=0)


def _by_type(gradients: Iterable[Tensor]) -> list[list[Tensor]]:
    found: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        found.setdefault(gradient.dtype, []).append(gradient)
    return list(found.values())


def _clip_by_norm(optimizer: Optimizer, clip_val: float) -> None:
    """Scales all gradients so that their norm together is at most ``clip_val``."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = global_norm(gradients)
    scale = (clip_val / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(scale.to(gradient.dtype))


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of gradients, of which some are cut over the ranks and some whole, ``()`` float32."""
    cut = [g.to_local() for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    device = gradients[0].device
    parts = [sum((g.float().square().sum() for g in some), torch.zeros((), device=device)) for some in (cut, whole)]
    return (all_reduce_sum(parts[0]) + parts[1]).sqrt()
