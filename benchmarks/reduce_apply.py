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

import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
from measure import Entry

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
    with measure.PeakMemory(process.pid) as peak:
        process.wait()
    if sync:
        os.sync()
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        raise SystemExit(f"{arguments} failed")
    output.unlink()
    os.sync()
    return Run(seconds, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, max(peak.by_pid.values()))


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


def entries_of(reducing: list[Run], copying: list[Run], error: float, num_rows: int) -> list[Entry]:
    """Time beside the copy's, and memory."""
    used = []
    for name, runs in (("apply", reducing), ("cp", copying)):
        user, system = (statistics.median(getattr(run, part) for run in runs) for part in ("user", "system"))
        used.append(f"{name} user {user:.2f} s, system {system:.2f} s")
    seconds, copied = ([run.seconds for run in runs] for runs in (reducing, copying))
    size = f"{num_rows:,} rows x {WIDTH}, fp16"
    note = f"{'; '.join(used)}; error at most {error:.3f} half-precision steps"
    memory = [run.memory for run in reducing]
    return [
        Entry(name=f"time, {size}", unit="s", ours=seconds, peers={"cp": copied}, note=note, target="<= 2"),
        Entry(name=f"peak memory of the process, {size}", unit="MiB", ours=memory, target="<= 1024 MiB"),
    ]


def main() -> None:
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--folder", type=Path, default=None, help="for the files; default: the system's")
    parser.add_argument("--sync", action="store_true", help="count the time until the output is on the disk")
    options = measure.parse(parser, quick={"rows": 20_000, "rounds": 1})
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_files(folder, options.rows)
        source, output, saved = folder / "in.npy", folder / "out.npy", folder / "posthoc.safetensors"
        fit = command("fit", "--image", folder / "fit.npy", "--output", saved)
        subprocess.run([*fit, "gap_reducer=posthoc", "gap_reducer.fit_split=train"], check=True)
        apply = command("apply", saved, "--image", source, "--output", output)
        subprocess.run(apply, check=True)
        error = check(folder, output, options.rows)
        output.unlink()
        os.sync()
        reducing, copying = [], []
        for _ in range(options.rounds):
            warm(source)
            copying.append(run(["cp", str(source), str(output)], output, sync=options.sync))
            warm(source)
            reducing.append(run(apply, output, sync=options.sync))
    measure.finish(entries_of(reducing, copying, error, options.rows), options)


if __name__ == "__main__":
    main()
