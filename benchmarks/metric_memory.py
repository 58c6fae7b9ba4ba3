"""Memory and time of every metric at two sizes: does memory grow with the rows, or with their square?

    python benchmarks/metric_memory.py                          # 10,000 and 100,000 rows, D = 512; 10 to 15 minutes
    python benchmarks/metric_memory.py --quadratic-rows 4000 40000      # the slow ones smaller: 6 minutes
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

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import measure
import torch
from measure import Entry
from torch import Tensor
from torch.nn.functional import normalize

from i0t.analysis.ideal_words import IdealWords, class_means, ideal_words, nearest_compositions, nearest_words
from i0t.metrics import functional as F
from i0t.metrics.functional.dimensions import mean_differences

NUM_RESAMPLES = 1000
NUM_CLASSES = 100
NUM_ATTRIBUTES = NUM_OBJECTS = 10  # whose compositions are the classes
WARM_UP_ROWS = 400
LINEAR_UP_TO = 1.5  # times the ratio of the rows: allocators round, and a small set's blocks may not be full
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


def words_of(features: Features) -> IdealWords:
    """Ideal words of the texts, whose classes are compositions of an attribute and an object."""
    return ideal_words(
        features.text,
        features.labels // NUM_OBJECTS,
        features.labels % NUM_OBJECTS,
        num_attributes=NUM_ATTRIBUTES,
        num_objects=NUM_OBJECTS,
    )


LINEAR: dict[str, Callable[[Features], object]] = {
    "mean_activations": lambda f: F.mean_activations(f.image),
    "centroid_distance": lambda f: F.centroid_distance(f.image, f.text),
    "unbiased_centroid_distance": lambda f: F.unbiased_centroid_distance(f.image, f.text),
    "instance_distance": lambda f: F.instance_distance(f.image, f.text),
    "alignment": lambda f: F.alignment(f.image, f.text),
    "relative_modality_gap": lambda f: F.relative_modality_gap(f.image, f.text),
    "relative_modality_gap (class prompts)": lambda f: F.relative_modality_gap(f.image, f.prompts, pairs=f.pairs),
    "mean_differences (resampled)": lambda f: mean_differences(f.image, f.text, f.redraws),
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
    "ideal_words": lambda f: words_of(f),
    "nearest_words": lambda f: nearest_words(f.image, words_of(f).words.classes(), normalized=False),
    "nearest_compositions": lambda f: nearest_compositions(
        f.image, words_of(f).words, words_of(f).compositions, normalized=True
    ),
    "class_means (ideal images)": lambda f: class_means(f.image, f.labels, NUM_CLASSES),
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


def prepare(name: str, num_rows: int, width: int) -> Callable[[], object]:
    """A metric that has run once on few rows, with its features."""
    metric, features = (LINEAR | QUADRATIC)[name], make_features(num_rows, width)
    metric(make_features(WARM_UP_ROWS, width))
    return partial(metric, features)


def compare(name: str, rows: Sequence[int], width: int, rounds: int) -> Entry:
    """Peak growth with many rows beside that with few; what is less than a MiB counts as one."""
    grown = [[measure.peak_growth(prepare, name, num_rows, width) for _ in range(rounds)] for num_rows in rows]
    few, many = ([max(1.0, growth.mib) for growth in growths] for growths in grown)
    took = [statistics.median(growth.seconds for growth in growths) for growths in grown]
    return Entry(
        name=f"{name}, {rows[1]:,} rows x {width}",
        unit="MiB",
        ours=many,
        peers={f"{rows[0]:,} rows": few},
        note=f"{measure.number(took[0])} s with few rows, {measure.number(took[1])} s with many",
        target=f"<= {LINEAR_UP_TO * rows[1] / rows[0]:.1f}",
    )


def main() -> None:
    parser = measure.parser(__doc__, rounds=1)
    parser.add_argument("--rows", type=int, nargs=2, default=(10_000, 100_000))
    parser.add_argument("--quadratic-rows", type=int, nargs=2, default=(10_000, 100_000), help="of the quadratic ones")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--quadratic-width", type=int, default=64)
    parser.add_argument("--only", nargs="*", default=None, help="names of metrics")
    quick = {"rows": (500, 1000), "width": 32, "only": ["mean_differences (resampled)", "ideal_words"]}
    options = measure.parse(parser, quick=quick)
    unknown = set(options.only or ()) - set(LINEAR | QUADRATIC)
    if unknown:
        parser.error(f"no metric is called {', '.join(unknown)}; there are {', '.join(LINEAR | QUADRATIC)}")
    entries = []
    for name in options.only or [*LINEAR, *QUADRATIC]:
        slow = name in QUADRATIC
        rows, width = (options.quadratic_rows, options.quadratic_width) if slow else (options.rows, options.width)
        print(name, flush=True)
        entries.append(compare(name, rows, width, options.rounds))
    measure.finish(entries, options)


if __name__ == "__main__":
    main()
