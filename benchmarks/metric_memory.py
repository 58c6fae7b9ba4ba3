"""Memory and time of every metric at two sizes: does memory grow with the rows, or with their square?

    python benchmarks/metric_memory.py                          # 10,000 and 100,000 rows, D = 512; about 10 minutes
    python benchmarks/metric_memory.py --only dunn_index --quadratic-width 512
    python benchmarks/metric_memory.py --rows 5000 20000        # other sizes

Every measurement is a process of its own. It makes the features, runs the metric once on a few rows (imports and
threads), has the kernel forget the peak so far, and then counts by how much the resident set peaks above what it was.
A metric whose blocks have a fixed size stays flat; one that sums per row or per class grows tenfold for ten times the
rows; a matrix over all pairs would grow a hundredfold. Metrics that compare all pairs of rows need the square of the
rows in *time*, and are measured on narrower rows (`--quadratic-width`), which changes nothing of what is asked here.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from i0t.metrics import functional as F

NUM_RESAMPLES = 1000
NUM_CLASSES = 100
WARM_UP_ROWS = 400
CHUNK = 5000  # a multiple of the number of classes


class Features(NamedTuple):
    """N images and N texts, one of each in a pair, in classes."""

    image: Tensor  # (N, D)
    text: Tensor  # (N, D)
    labels: Tensor  # (N,)
    factors: Tensor  # (N, 5)
    prompts: Tensor  # (C, D)

    @property
    def pairs(self) -> Tensor:
        """Every image with its class prompt, ``(N, 2)``."""
        return torch.stack([torch.arange(len(self.labels)), self.labels], dim=1)

    @property
    def redraws(self) -> F.Redraws:
        """Resamples over the images."""
        rows = torch.arange(len(self.image))
        return F.redraw_set(
            len(rows), len(rows), image_of_text=rows, has_pairs=True, num_resamples=NUM_RESAMPLES
        ).with_original()


LINEAR: dict[str, Callable[[Features], object]] = {
    "mean_activations": lambda f: F.mean_activations(f.image),
    "centroid_distance": lambda f: F.centroid_distance(f.image, f.text),
    "unbiased_centroid_distance": lambda f: F.unbiased_centroid_distance(f.image, f.text),
    "instance_distance": lambda f: F.instance_distance(f.image, f.text),
    "alignment": lambda f: F.alignment(f.image, f.text),
    "relative_modality_gap": lambda f: F.relative_modality_gap(f.image, f.text),
    "relative_modality_gap (class prompts)": lambda f: F.relative_modality_gap(f.image, f.prompts, pairs=f.pairs),
    "calibration_shift": lambda f: F.calibration_shift(f.image, f.text.mean(0), num_fit=100),
    "centroid_noise": lambda f: F.centroid_noise(f.image, f.text, torch.arange(len(f.image))),
    "linear_separability (logreg)": lambda f: F.linear_separability(f.image, f.text),
    "linear_separability (ols)": lambda f: F.linear_separability(f.image, f.text, method="ols"),
    "zero_shot_ranks": lambda f: F.zero_shot_ranks(f.image, f.prompts[:, None], f.labels),
    "label_contrast": lambda f: F.label_contrast(f.image, f.labels),
    "object_bias": lambda f: F.object_bias(f.image, f.labels, f.factors),
    "object_bias (upper triangle)": lambda f: F.object_bias(f.image, f.labels, f.factors, cross="upper_triangle"),
    "neighborhood_distance": lambda f: F.neighborhood_distance(f.image, f.prompts, f.labels),
    "neighbors_kept (2,000 queries)": lambda f: F.neighbors_kept(f.image, f.text, torch.arange(len(f.image))[:2000]),
    "gap_measures (resampled)": lambda f: F.gap_measures(f.image, f.text, F.make_pairing(f.image, f.text), f.redraws),
    "object_bias (resampled)": lambda f: F.resampled_object_bias(
        f.image, f.labels, f.factors, torch.arange(len(f.image)), f.redraws.image_counts
    ),
    "neighborhood_distance (resampled)": lambda f: F.resampled_neighborhood_distances(
        f.image, f.prompts, f.labels, torch.arange(len(f.image)), f.redraws.image_counts
    ),
}
QUADRATIC: dict[str, Callable[[Features], object]] = {
    "uniformity": lambda f: F.uniformity(f.image),
    "logit_entropy": lambda f: F.logit_entropy(f.image, f.text, 100.0),
    "dunn_index": lambda f: F.dunn_index(f.image, f.labels),
    "retrieval_recall": lambda f: F.retrieval_recall(f.image, f.text),
}


def drawn_rows(num_rows: int, centres: Tensor, generator: torch.Generator) -> Tensor:
    """Unit rows around the centres ``(CHUNK, D)``; a chunk is drawn, the others are it with turned dimensions."""
    width = centres.shape[1]
    rows = torch.empty(num_rows, width)
    chunk = torch.randn(len(centres), width, generator=generator).add_(centres, alpha=width**0.5)
    chunk /= chunk.norm(dim=1, keepdim=True)
    for number, start in enumerate(range(0, num_rows, CHUNK)):
        rows[start : start + CHUNK] = chunk[: num_rows - start].roll(number, dims=1)
    return rows


def make_features(num_rows: int, width: int) -> Features:
    generator = torch.Generator().manual_seed(0)
    prompts = normalize(torch.randn(NUM_CLASSES, width, generator=generator), dim=1)
    labels = torch.arange(num_rows) % NUM_CLASSES
    image, text = (drawn_rows(num_rows, prompts[labels[:CHUNK]], generator) for _ in range(2))
    return Features(image, text, labels, torch.randint(0, 4, (num_rows, 5), generator=generator), prompts)


def status(field: str) -> float:
    """MiB of this process, by a field of the kernel's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(name: str, num_rows: int, width: int) -> None:
    """Prints peak MiB above the features, and seconds."""
    metric = (LINEAR | QUADRATIC)[name]
    features = make_features(num_rows, width)
    metric(make_features(WARM_UP_ROWS, width))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = status("VmRSS"), time.perf_counter()
    metric(features)
    print(json.dumps({"mib": status("VmHWM") - before, "seconds": time.perf_counter() - started}))


def measured(name: str, num_rows: int, width: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, str(num_rows), str(width)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {key: float(value) for key, value in json.loads(done.stdout).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=(10_000, 100_000))
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--quadratic-width", type=int, default=64)
    parser.add_argument("--only", nargs="*", default=None, help="names of metrics")
    parser.add_argument("--measure", nargs=3, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        name, num_rows, width = options.measure
        return measure(name, int(num_rows), int(width))
    few, many = options.rows
    print(f"| metric | width | MiB at {few:,} | MiB at {many:,} | ratio | seconds at {few:,} | at {many:,} |")
    print("| :-- | --: | --: | --: | --: | --: | --: |")
    for name in options.only or [*LINEAR, *QUADRATIC]:
        width = options.quadratic_width if name in QUADRATIC else options.width
        small, large = measured(name, few, width), measured(name, many, width)
        ratio = large["mib"] / max(small["mib"], 0.1)
        print(
            f"| {name} | {width} | {small['mib']:.1f} | {large['mib']:.1f} | {ratio:.1f} | {small['seconds']:.2f} | "
            f"{large['seconds']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
