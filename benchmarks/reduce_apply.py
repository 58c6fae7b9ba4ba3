"""`i0t-reduce apply` beside copying the same file: time, processor time and memory, in alternation.

    python benchmarks/reduce_apply.py                     # 500,000 x 512 in half precision, 0.5 GB
    python benchmarks/reduce_apply.py --rows 5000000      # the full figure: two files of 5.1 GB for a while

Both commands run as processes of their own, so that start-up and imports count. Memory is the largest resident set of
the process as the system saw it (`VmHWM`, looked up every 10 ms; pages of mapped files included). Before each run the
input is read once, so that it comes from the page cache if it fits; after each the output is removed and the disk
waited for, outside the time (with `--sync` inside it). User and system seconds are those of all cores together: where
they add up to less than the time, the process waited, and where those of the copy vary, the machine does.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

WIDTH = 512
FIT_ROWS = 10_000
CHUNK = 100_000


def make_files(folder: Path, num_rows: int) -> None:
    """Rows around a mean, as the features of one modality are."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal(WIDTH, dtype=np.float32)
    chunk = (rng.standard_normal((CHUNK, WIDTH), dtype=np.float32) + mean).astype(np.float16)
    np.save(folder / "fit.npy", chunk[:FIT_ROWS])
    rows = np.lib.format.open_memmap(folder / "in.npy", "w+", np.float16, (num_rows, WIDTH))
    for start in range(0, num_rows, CHUNK):
        rows[start : start + CHUNK] = np.roll(chunk, start % WIDTH, axis=0)[: num_rows - start]
    rows.flush()


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from i0t.reduce import main; main()", *map(str, arguments)]


@dataclasses.dataclass
class Run:
    """Seconds and MiB of one run."""

    seconds: float
    user: float
    system: float
    memory: float


def run(arguments: list[str], output: Path, *, sync: bool) -> Run:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    memory = 0.0
    while process.poll() is None:
        memory = max(memory, peak_memory(process.pid))
        time.sleep(0.01)
    if sync:
        os.sync()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise SystemExit(f"{arguments} failed")
    output.unlink()
    os.sync()
    return Run(seconds, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, memory)


def peak_memory(pid: int) -> float:
    """MiB; 0 for a process that has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def warm(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(2**24):
            pass


def check(folder: Path, output: Path, num_rows: int) -> float:
    """Largest difference from the plain formula in float64, on some rows, as a share of a half-precision step."""
    rows = np.random.default_rng(1).choice(num_rows, 1000)
    x = np.load(folder / "in.npy", mmap_mode="r")[rows].astype(np.float64)
    found = np.load(output, mmap_mode="r")[rows]
    fit = np.load(folder / "fit.npy").astype(np.float64)
    mean = (fit / np.linalg.norm(fit, axis=1, keepdims=True)).mean(0)
    expected = x / np.linalg.norm(x, axis=1, keepdims=True) - mean
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    return float((np.abs(found - expected) / np.spacing(np.abs(expected).astype(np.float16))).max())


def report(name: str, runs: list[Run]) -> None:
    seconds = [run.seconds for run in runs]
    user, system = (statistics.median(getattr(run, part) for run in runs) for part in ("user", "system"))
    print(
        f"{name:<18} {statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), "
        f"user {user:.2f} s, system {system:.2f} s, {max(run.memory for run in runs):.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="for the files; default: the system's")
    parser.add_argument("--sync", action="store_true", help="count the time until the output is on the disk")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_files(folder, options.rows)
        source, output, saved = folder / "in.npy", folder / "out.npy", folder / "posthoc.safetensors"
        fit = command("fit", "--image", folder / "fit.npy", "--output", saved)
        subprocess.run([*fit, "gap_reducer=posthoc", "gap_reducer.fit_split=train"], check=True)
        apply = command("apply", saved, "--image", source, "--output", output)
        subprocess.run(apply, check=True)
        print(f"largest error: {check(folder, output, options.rows):.3f} half-precision steps")
        output.unlink()
        os.sync()
        reducing, copying = [], []
        for _ in range(options.rounds):
            warm(source)
            copying.append(run(["cp", str(source), str(output)], output, sync=options.sync))
            warm(source)
            reducing.append(run(apply, output, sync=options.sync))
        report("cp", copying)
        report("i0t-reduce apply", reducing)
        ratios = [ours.seconds / theirs.seconds for ours, theirs in zip(reducing, copying, strict=True)]
        print(f"ratio of times     {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
