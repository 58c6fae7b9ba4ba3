"""The tiled contrastive loss beside open_clip's ``ClipLoss``, forward and backward: time, peak memory and errors.

    python benchmarks/contrastive_loss.py
    python benchmarks/contrastive_loss.py --sizes 1024 4096 --rounds 5 --threads 2

Each in float32 and under bfloat16 autocast. Times are taken in turn in one process, memory in a process of each one's
own. Errors are those of the gradients of the same float32 rows, relative to float64, of independent rows and of pairs
that belong together, at scale 100. Where open_clip's N x N matrices would exceed ``--max-gib``, it is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import measure
import torch
from measure import Entry
from open_clip import ClipLoss as OpenClipLoss
from torch import Tensor
from torch.nn.functional import normalize

from i0t.losses.clip import ClipLoss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
PEER = "open_clip"
PRECISIONS = ("float32", "bfloat16")
PEER_BYTES = 17  # of open_clip's logits, their softmax and their gradients, per N^2: measured
_LONG_STEPS_FROM = 32768
# What the ratio to open_clip should be: from which N on, and at which N.
TIME_TARGETS = {"float32": "<= .6", "bfloat16": "<= .65"}
TARGETS_FROM = 4096
MEMORY_TARGETS = {8192: "<= .1429", 32768: "<= .0333"}
# Why no method is within 1e-6 there.
_ROUNDING = "; pairs are nearly certain: the gradient is a small difference, its error that of float32's logits"
_KINDS = {"independent rows": None, "pairs of cosine .74": 0.9}


def ours(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """This project's, as training calls it."""
    loss: Tensor = ClipLoss()(image, text, scale)["loss"]
    return loss


METHODS: dict[str, Loss] = {"ours": ours, PEER: OpenClipLoss()}


def draw_rows(num: int, dim: int, noise: float | None = None) -> tuple[Tensor, Tensor]:
    """Unit rows: independent, or texts at the given noise around their images."""
    generator = torch.Generator().manual_seed(0)
    image, text = (normalize(torch.randn(num, dim, generator=generator), dim=1) for _ in range(2))
    return image, text if noise is None else normalize(image + noise * text, dim=1)


def step(loss: Loss, image: Tensor, text: Tensor, precision: str) -> list[Tensor]:
    """Gradients of fresh leaves."""
    leaves = [image.clone().requires_grad_(), text.clone().requires_grad_()]
    leaves.append(torch.tensor(100.0, dtype=image.dtype, requires_grad=True))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        value = loss(*leaves)
    value.backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def prepare(name: str, num: int, dim: int, threads: int) -> Callable[[], object]:
    """In a process of its own."""
    torch.set_num_threads(threads)
    step(METHODS[name], *draw_rows(16, dim), "float32")  # what loads on first use is not measured
    return partial(step, METHODS[name], *draw_rows(num, dim), "float32")


def peer_fits(num: int, max_gib: float) -> bool:
    """Whether open_clip's matrices do."""
    return PEER_BYTES * num**2 < max_gib * 2**30


def measure_times(num: int, options: argparse.Namespace) -> list[Entry]:
    """An entry per precision, and ours in bfloat16 against open_clip's float32."""
    rows = draw_rows(num, options.dim)
    calls = {f"ours {precision}": partial(step, ours, *rows, precision) for precision in PRECISIONS}
    if peer_fits(num, options.max_gib):
        for precision in PRECISIONS:
            if precision == "float32" or num <= options.max_bfloat16:
                calls[f"{PEER} {precision}"] = partial(step, METHODS[PEER], *rows, precision)
    for method in METHODS.values():
        step(method, *draw_rows(600, options.dim), "float32")
    # A step that takes minutes averages noise within it.
    rounds = options.rounds if num < _LONG_STEPS_FROM else 1
    times = measure.alternate(calls, rounds=rounds, warm_up=0)
    note = f"{options.threads} threads, D = {options.dim}"
    entries = []
    for precision in PRECISIONS:
        theirs = times.get(f"{PEER} {precision}")
        entries.append(
            Entry(
                name=f"loss step in {precision}, N = {num:,}",
                unit="s",
                ours=times[f"ours {precision}"],
                peers={PEER: theirs} if theirs else {},
                note=note if theirs else f"{note}; open_clip not run: --max-gib, --max-bfloat16",
                target=TIME_TARGETS[precision] if theirs and num >= TARGETS_FROM else None,
            )
        )
    if f"{PEER} float32" in times:
        entries.append(
            Entry(
                name=f"loss step, ours in bfloat16, open_clip in float32, N = {num:,}",
                unit="s",
                ours=times["ours bfloat16"],
                peers={f"{PEER} in float32": times[f"{PEER} float32"]},
                note=note,
                target="<= .25" if num >= TARGETS_FROM else None,
            )
        )
    return entries


def measure_memory(num: int, options: argparse.Namespace) -> Entry:
    """Peak memory of a step in float32."""
    rounds = options.rounds if num < _LONG_STEPS_FROM else 1
    grown = {
        name: [measure.peak_growth(prepare, name, num, options.dim, options.threads).mib for _ in range(rounds)]
        for name in METHODS
        if name == "ours" or peer_fits(num, options.max_gib)
    }
    has_peer = PEER in grown
    return Entry(
        name=f"peak memory of a loss step, N = {num:,}",
        unit="MiB",
        ours=grown["ours"],
        peers={PEER: grown[PEER]} if has_peer else {},
        note="float32" if has_peer else "float32; open_clip not run: --max-gib",
        target=MEMORY_TARGETS.get(num) if has_peer else None,
    )


def gradient_errors(
    methods: Mapping[str, Loss], reference: Loss, rows: tuple[Tensor, Tensor], precision: str
) -> dict[str, list[float]]:
    """Relative errors of the features' gradients against those of a reference in float64."""
    exact = torch.stack(step(reference, *(each.double() for each in rows), "float32")[:2])
    errors = {}
    for name, loss in methods.items():
        found = torch.stack(step(loss, *rows, precision)[:2])
        errors[name] = [float((found - exact).norm() / exact.norm())]
    return errors


def measure_errors(num: int, dim: int) -> list[Entry]:
    """Of independent rows and of pairs, in each precision."""
    entries = []
    for kind, noise in _KINDS.items():
        rows = draw_rows(num, dim, noise)
        for precision in PRECISIONS:
            errors = gradient_errors(METHODS, METHODS[PEER], rows, precision)
            within = "<= .000001 relative" if precision == "float32" and noise is None else "<= 1.05"
            entries.append(
                Entry(
                    name=f"gradient error in {precision}, {kind}, {num:,} of them",
                    unit="relative",
                    ours=errors["ours"],
                    peers={PEER: errors[PEER]},
                    note="relative to open_clip's in float64" + (_ROUNDING if noise is not None else ""),
                    target=within,
                )
            )
    return entries


def main() -> None:
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=(1024, 2048, 4096, 8192, 16384, 32768), help="N")
    parser.add_argument(
        "--memory-sizes", type=int, nargs="*", default=(1024, 2048, 4096, 8192, 16384, 32768), help="N of memory"
    )
    parser.add_argument("--error-size", type=int, default=2048, help="N of the gradient errors")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--max-gib", type=float, default=18.0, help="of open_clip's matrices; above, it is left out")
    parser.add_argument("--max-bfloat16", type=int, default=8192, help="largest N of open_clip under bfloat16 autocast")
    quick = {"sizes": (128, 256), "memory_sizes": (1024,), "error_size": 128, "dim": 64, "rounds": 2}
    options = measure.parse(parser, quick=quick)
    torch.set_num_threads(options.threads)
    entries = measure_errors(options.error_size, options.dim)
    entries += [measure_memory(num, options) for num in options.memory_sizes]
    for num in options.sizes:
        entries += measure_times(num, options)
    measure.finish(entries, options)


if __name__ == "__main__":
    main()
