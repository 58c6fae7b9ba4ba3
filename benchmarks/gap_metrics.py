"""Time of the gap metrics over the number of rows, beside their definitions written out in plain PyTorch.

    python benchmarks/gap_metrics.py [--sizes 1000 2000 4000 8000 --dim 512 --rounds 5]

The plain forms are what a notebook would have: full N x N matrices for the relative modality gap, uniformity and
entropy. Both must agree to 1e-4. Ours sum in float64 and check that rows are unit vectors, which the plain ones do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import measure
import torch
from measure import Entry
from torch import Tensor
from torch.nn.functional import normalize, pdist

from i0t.metrics import functional as F

SCALE = 100.0
TOLERANCE = 1e-4
PLAIN = "plain PyTorch"
Metric = Callable[[Tensor, Tensor], Tensor]


def plain_relative_modality_gap(image: Tensor, text: Tensor) -> Tensor:
    off_diagonal = ~torch.eye(len(image), dtype=torch.bool)
    spread = [(1 - (rows @ rows.T)[off_diagonal].mean()) / 2 for rows in (image, text)]
    matched = (1 - (image * text).sum(1).mean()) / 2
    return matched / (matched + (spread[0] + spread[1]) / 2)


def plain_entropy(image: Tensor, text: Tensor) -> Tensor:
    logits = (SCALE * image @ text.T).log_softmax(dim=1)
    return -(logits.exp() * logits).sum(1).mean()


METRICS: Mapping[str, tuple[Metric, Metric]] = {
    "centroid distance": (F.centroid_distance, lambda x, y: (x.mean(0) - y.mean(0)).norm()),
    "instance distance": (F.instance_distance, lambda x, y: (x - y).norm(dim=1).mean()),
    "alignment": (F.alignment, lambda x, y: (x - y).norm(dim=1).square().mean()),
    "relative modality gap": (F.relative_modality_gap, plain_relative_modality_gap),
    "uniformity": (lambda x, y: F.uniformity(x), lambda x, y: pdist(x).square().mul(-2).exp().mean().log()),
    "logit entropy": (lambda x, y: F.logit_entropy(x, y, SCALE), plain_entropy),
}


def draw_pairs(num_rows: int, dim: int) -> tuple[Tensor, Tensor]:
    """Unit rows of two cones, row i with row i."""
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(num_rows, dim, generator=generator)
    noise = torch.randn(num_rows, dim, generator=generator)
    return normalize(content + 0.5, dim=1), normalize(content + noise - 0.5, dim=1)


def compare(name: str, num_rows: int, dim: int, rounds: int) -> Entry:
    ours, plain = METRICS[name]
    image, text = draw_pairs(num_rows, dim)
    values = [float(metric(image, text)) for metric in (ours, plain)]
    if not abs(values[0] - values[1]) <= TOLERANCE * abs(values[1]):
        raise SystemExit(f"{name}: {values[0]} of this project, {values[1]} by its definition")
    times = measure.alternate({"ours": partial(ours, image, text), PLAIN: partial(plain, image, text)}, rounds=rounds)
    note = f"width {dim}, {torch.get_num_threads()} threads; equal to {TOLERANCE:g}"
    return Entry(name=f"{name}, N = {num_rows:,}", unit="s", ours=times["ours"], peers={PLAIN: times[PLAIN]}, note=note)


def main() -> None:
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=(1000, 2000, 4000, 8000), help="rows of a modality")
    parser.add_argument("--dim", type=int, default=512)
    options = measure.parse(parser, quick={"sizes": (50, 100), "dim": 16, "rounds": 2})
    entries = [compare(name, size, options.dim, options.rounds) for name in METRICS for size in options.sizes]
    measure.finish(entries, options)


if __name__ == "__main__":
    main()
