"""What a model costs for each pair: parameters, arithmetic, memory of activations. Nothing is computed, all is counted.

    python benchmarks/model_costs.py
    python benchmarks/model_costs.py --models ViT-B-32 ViT-H-14 --batch-size 8

Models of open_clip are run in torch's fake mode: arithmetic by torch's FLOP counter (a product and a sum are two),
activations as the bytes that autograd keeps between forward and backward under bfloat16 autocast, each storage once,
weights left out. What `docs/scaling.md` derives memory and step times from.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import open_clip
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

MODELS = ("RN50", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14")


class Cost(NamedTuple):
    """Of a model.

    Attributes:
        parameters: All, both towers.
        width: D of the embedding.
        flops: Of a pair, forward and backward.
        activation_bytes: Kept for a pair between forward and backward.
        checkpointed_bytes: The same with gradient checkpointing.
    """

    parameters: int
    width: int
    flops: float
    activation_bytes: float
    checkpointed_bytes: float


def kept_bytes(model: nn.Module, images: Tensor, tokens: Tensor) -> int:
    """Bytes that autograd keeps of one forward pass, with the copies of weights that autocast makes."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # holding them, so that none is freed and its number given again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        output = model(images, tokens)
    del output
    return sum(storage.nbytes() for storage in kept.values())


def cost_of(name: str, batch_size: int) -> Cost:
    """Counts one model; activations by the difference of two batch sizes, so that copies of weights drop out."""
    with FakeTensorMode():
        config = open_clip.get_model_config(name)
        model = open_clip.CLIP(**config).train()
        size = config["vision_cfg"]["image_size"]
        whole, half = (
            (torch.empty(rows, 3, size, size), torch.zeros(rows, 77, dtype=torch.int64))
            for rows in (batch_size, batch_size // 2)
        )
        with FlopCounterMode(display=False) as counter:
            image, text, _ = model(*whole)
            (image.sum() + text.sum()).backward()
        kept = []
        for checkpointing in (False, True):
            model.set_grad_checkpointing(checkpointing)
            kept.append(kept_bytes(model, *whole) - kept_bytes(model, *half))
    rows = batch_size - batch_size // 2
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        width=image.shape[1],
        flops=counter.get_total_flops() / batch_size,
        activation_bytes=kept[0] / rows,
        checkpointed_bytes=kept[1] / rows,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=MODELS)
    options.add_argument("--batch-size", type=int, default=4)
    chosen = options.parse_args()
    print(f"{'model':>10} {'parameters':>11} {'D':>5} {'GFLOP a pair':>13} {'MB a pair':>10} {'checkpointed':>13}")
    for name in chosen.models:
        cost = cost_of(name, chosen.batch_size)
        print(
            f"{name:>10} {cost.parameters / 1e6:>9.1f} M {cost.width:>5} {cost.flops / 1e9:>13.1f} "
            f"{cost.activation_bytes / 1e6:>10.1f} {cost.checkpointed_bytes / 1e6:>13.1f}"
        )


if __name__ == "__main__":
    main()
