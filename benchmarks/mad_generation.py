"""Rate of the MAD generator beside a plain scikit-image implementation of the same definitions.

    python benchmarks/mad_generation.py [--digits 40 --rounds 5 --workers 2]

Both render the same digits alternately in one process, and all 24 variants must agree in every bit. The reference
renders a few of the digits per round, because it is so slow. Then the parallel rate of a whole split is measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import mad_reference
import measure
import numpy as np
from measure import Entry

from i0t.data.mad_generator import (
    NUM_VARIANTS,
    Draws,
    MorphologyParameters,
    draw,
    generate,
    load_source,
    render_variants,
)

Render = Callable[[np.ndarray, Draws, MorphologyParameters], np.ndarray]
PARAMETERS = MorphologyParameters()


def images_per_second(render: Render, digits: list[np.ndarray], draws: list[Draws]) -> tuple[float, list[np.ndarray]]:
    start = time.perf_counter()
    images = [render(digit, drawn, PARAMETERS) for digit, drawn in zip(digits, draws, strict=True)]
    return len(digits) * NUM_VARIANTS / (time.perf_counter() - start), images


def compare(num_digits: int, rounds: int, reference_digits: int) -> Entry:
    """Rates of both, of images that agree in every bit."""
    source = load_source("digits", "train")
    digits = list(source.images[:num_digits])
    draws = [draw(0, int(index), PARAMETERS) for index in source.indices[:num_digits]]
    render_variants(digits[0], draws[0], PARAMETERS)  # tables are built once per process
    ours, theirs, checked = [], [], 0
    for number in range(rounds):
        rate, fast = images_per_second(render_variants, digits, draws)
        chosen = [
            (number * reference_digits + offset) % num_digits for offset in range(min(reference_digits, num_digits))
        ]
        slow_rate, slow = images_per_second(
            mad_reference.render_variants, [digits[row] for row in chosen], [draws[row] for row in chosen]
        )
        for row, images in zip(chosen, slow, strict=True):
            if not np.array_equal(fast[row], images):
                raise SystemExit(f"digit {row}: the two implementations differ")
            checked += NUM_VARIANTS
        ours.append(rate)
        theirs.append(slow_rate)
    return Entry(
        name="images of MAD, one process",
        unit="images/s",
        ours=ours,
        peers={"scikit-image, the same operations": theirs},
        note=f"{checked:,} of {checked:,} images compared are equal in every bit; a plain implementation does 25 to 40",
        target=">= 25",
    )


def parallel(num_workers: int) -> Entry:
    """The rate of all three splits with several processes."""
    total, seconds = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "val", "test"):
            start = time.perf_counter()
            total += (
                generate(folder, split=split, num_workers=num_workers, progress=False).images.shape[0] * NUM_VARIANTS
            )
            seconds += time.perf_counter() - start
    name = f"images of MAD, {num_workers} processes, written to disk"
    return Entry(name=name, unit="images/s", ours=[total / seconds], note=f"{total:,} images in {seconds:.1f} s")


def main() -> None:
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--digits", type=int, default=40, help="digits that this project renders per round")
    parser.add_argument("--reference-digits", type=int, default=4, help="digits that the reference renders per round")
    parser.add_argument("--workers", type=int, default=2, help="processes for the parallel rate; 0 leaves it out")
    arguments = measure.parse(parser, quick={"digits": 4, "reference_digits": 1, "rounds": 2, "workers": 0})
    entries = [compare(arguments.digits, arguments.rounds, arguments.reference_digits)]
    if arguments.workers:
        entries.append(parallel(arguments.workers))
    measure.finish(entries, arguments)


if __name__ == "__main__":
    main()
