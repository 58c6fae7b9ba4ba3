"""MAD at the size of MNIST: images per second, bytes on disk and peak memory of generating and of drawing an epoch.

    python benchmarks/mad_full_size.py --root <folder with MNIST's t10k files> [--digits 60000 --workers 2]

The training digits are the test digits and copies of them moved by a pixel, written as IDX files into a temporary
folder, as only the size matters here. Memory is the high-water mark that Linux keeps (VmHWM); it counts the pages of
the file that a process writes to, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import os
import resource
import struct
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
from measure import PeakMemory, memory_of

from i0t.data.mad_generator import NUM_VARIANTS, MadImages, generate, load_source
from i0t.data.mad_generator.idx import read_idx

MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1))
FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def write_mnist(root: Path, folder: Path, num_digits: int) -> None:
    """IDX files of so many training digits, and the test files as they are."""
    images, labels = (read_idx(next(root.glob(f"{stem}*"))) for stem in FILES)
    copies = [np.roll(images, move, axis=(1, 2)) for move in MOVES[: -(-num_digits // len(images))]]
    training = np.concatenate(copies)[:num_digits], np.tile(labels, len(copies))[:num_digits]
    if len(training[0]) < num_digits:
        raise SystemExit(f"--digits={num_digits}: there are {len(training[0])} at most")
    for arrays, prefix in ((training, "train"), ((images, labels), "t10k")):
        for array, stem in zip(arrays, FILES, strict=True):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / stem.replace("t10k", prefix)).write_bytes(head + array.tobytes())


def measure_generation(folder: Path, num_workers: int) -> MadImages:
    """Generates the training split and prints what it took."""
    load_source("mnist", "train", root=folder, val_digits=0)
    before = memory_of("VmHWM")
    of_this_process_before = time.process_time()
    start = time.perf_counter()
    with PeakMemory() as peak:
        made = generate(
            folder / "cache", "mnist", "train", root=folder, val_digits=0, num_workers=num_workers, progress=False
        )
    seconds = time.perf_counter() - start
    of_cores = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    core_seconds = sum(used.ru_utime + used.ru_stime for used in of_cores) - of_this_process_before
    num_images = len(made.labels) * NUM_VARIANTS
    size = sum(path.stat().st_size for path in made.folder.iterdir())
    of_children = [megabytes for pid, megabytes in peak.by_pid.items() if pid != os.getpid()]
    children = ", ".join(f"{megabytes:,.0f}" for megabytes in sorted(of_children)) or "none"
    print(f"generated      {num_images:,} images in {seconds:,.1f} s, {num_images / seconds:,.0f} images/s")
    print(f"on one core    {num_images / core_seconds:,.0f} images per second of processor time, {num_workers} workers")
    print(f"disk           {size:,} bytes, {size / len(made.labels):,.0f} per digit")
    print(f"peak memory    {memory_of('VmHWM'):,.0f} MB ({before:,.0f} before), children {children}")
    return made


def measure_draw(made: MadImages, variants: str) -> None:
    """Draws an epoch and prints what it took."""
    from i0t.data.mad_split import MadSplit  # only now, as torch would stand in the numbers above

    split = MadSplit(made, num_attributes=2, main_object="digit", variants=variants)
    start = time.perf_counter()
    split.draw(0, 0)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    split.draw(0, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"epoch ({variants})    {len(split):,} samples drawn in {seconds:.3f} s, {peak / 1e6:,.0f} MB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with t10k-images-idx3-ubyte[.gz] and labels")
    parser.add_argument("--digits", type=int, default=60_000, help="training digits, six times the test digits at most")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that render; 0: this one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_mnist(arguments.root, Path(folder), arguments.digits)
        made = measure_generation(Path(folder), arguments.workers)
        for variants in ("all", "one"):
            measure_draw(made, variants)


if __name__ == "__main__":
    main()
