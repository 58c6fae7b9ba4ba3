"""The cyclic loss beside this project's contrastive loss and beside the published formula, forward and backward.

    python benchmarks/cyclip_loss.py
    python benchmarks/cyclip_loss.py --sizes 1024 8192 --rounds 5 --threads 2

The published formula (Goel et al. 2022) is written out here on open_clip's two matrices of logits, with two more of
in-modal similarities. Times are taken in turn in one process; errors are those of the gradients of the same float32
rows, relative to float64, of independent rows and of modalities that nearly agree.
"""

from __future__ import annotations

import argparse
from functools import partial

import measure
import torch
import torch.nn.functional as F
from contrastive_loss import Loss, draw_rows, gradient_errors, step
from measure import Entry
from torch import Tensor

from i0t.losses.clip import ClipLoss
from i0t.losses.cyclip import CyClipLoss

WEIGHT = 0.25
OUR_CLIP, PUBLISHED = "our clip", "published formula"
TARGET_SIZE = 8192
_KINDS = {"independent rows": None, "texts = images + .01 noise": 0.01}


def published(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Five N x N matrices and more for their gradients; ``reference_batch`` is off."""
    logits, num = scale * image @ text.T, len(image)
    targets = torch.arange(num)
    contrastive = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    in_modal = (scale * image @ image.T - scale * text @ text.T).square().mean()
    cross_modal = (logits - logits.T).square().mean()
    return contrastive + WEIGHT * num / scale**2 * (in_modal + cross_modal)


def ours(module: torch.nn.Module, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """As training calls it."""
    loss: Tensor = module(image, text, scale)["loss"]
    return loss


METHODS: dict[str, Loss] = {
    "ours": partial(ours, CyClipLoss(reference_batch=None)),
    OUR_CLIP: partial(ours, ClipLoss()),
    PUBLISHED: published,
}


def measure_times(num: int, options: argparse.Namespace) -> Entry:
    """A step of each."""
    rows = draw_rows(num, options.dim)
    for method in METHODS.values():
        step(method, *draw_rows(600, options.dim), "float32")
    calls = {
        name: partial(step, method, *rows, "float32")
        for name, method in METHODS.items()
        if name != PUBLISHED or num <= options.max_published
    }
    times = measure.alternate(calls, rounds=options.rounds, warm_up=0)
    return Entry(
        name=f"cyclip step, N = {num:,}",
        unit="s",
        ours=times.pop("ours"),
        peers=times,
        note=f"{options.threads} threads, D = {options.dim}",
        target=f"<= 1.25 of {OUR_CLIP}" if num == TARGET_SIZE else None,
    )


def measure_errors(num: int, dim: int) -> list[Entry]:
    """Of independent rows, and of modalities that nearly agree."""
    entries = []
    for kind, noise in _KINDS.items():
        rows = draw_rows(num, dim, noise)
        methods = {name: METHODS[name] for name in ("ours", PUBLISHED)}
        errors = gradient_errors(methods, published, rows, "float32")
        entries.append(
            Entry(
                name=f"cyclip gradient error, {kind}, {num:,} of them",
                unit="relative",
                ours=errors["ours"],
                peers={PUBLISHED: errors[PUBLISHED]},
                note="against the published formula in float64",
                target="<= .00001 relative",
            )
        )
    return entries


def main() -> None:
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=(1024, 2048, 4096, 8192), help="N")
    parser.add_argument("--error-size", type=int, default=1024, help="N of the gradient errors")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--max-published", type=int, default=4096, help="largest N of the published formula")
    options = measure.parse(parser, quick={"sizes": (128, 256), "error_size": 128, "dim": 64, "rounds": 2})
    torch.set_num_threads(options.threads)
    entries = measure_errors(options.error_size, options.dim)
    entries += [measure_times(num, options) for num in options.sizes]
    measure.finish(entries, options)


if __name__ == "__main__":
    main()
