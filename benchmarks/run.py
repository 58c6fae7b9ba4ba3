"""Runs the benchmarks, each beside its peers, and writes `benchmarks/RESULTS.md`.

    python benchmarks/run.py                    # all, in this order; about 40 minutes on two quiet cores
    python benchmarks/run.py loss retrieval     # these alone: the sections of the others stay as they are
    python benchmarks/run.py --quick --output /tmp/quick   # at small sizes: whether everything runs, no figures

Every benchmark is a process of its own. What it measured goes into `results.json`, all rounds, and `RESULTS.md` is
written from that after each: whole or not at all. One that fails, or takes too long, keeps the rows of its last good
run, if there are any, with the error above them; the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import measure
from results import Section, commit, describe_machine, load_sections, now, save

HERE = Path(__file__).resolve().parent
_LAST_LINES = 3
_INTERRUPTED = 130


class Script(NamedTuple):
    """A benchmark.

    Attributes:
        file: In this folder.
        title: Of its section.
        arguments: That fit the whole run into its time.
        minutes: After which it is stopped.
    """

    file: str
    title: str
    arguments: tuple[str, ...] = ()
    minutes: int = 12


SCRIPTS = {
    # Without bfloat16 instructions, open_clip's step in bfloat16 takes minutes from 8,192 rows on.
    "loss": Script(
        "contrastive_loss.py",
        "Contrastive loss",
        ("--memory-sizes", "2048", "8192", "32768", "--max-bfloat16", "4096"),
        minutes=30,
    ),
    "cyclip": Script("cyclip_loss.py", "Cyclic loss"),
    "training": Script("training_loop.py", "Training loop", ("--steps", "15")),
    "speed_options": Script("speed_options.py", "Speed options"),
    "grad_cache": Script("grad_cache.py", "Gradient caching"),
    "encoding": Script("encoding.py", "Encoding", ("--sizes", "16", "32", "64", "--alone", "32")),
    "retrieval": Script("retrieval.py", "Retrieval", ("--sizes", "500", "1000", "2000")),
    "gap_metrics": Script("gap_metrics.py", "Gap metrics"),
    # Metrics over all pairs of 100,000 rows would take four minutes; from fewer rows the ratio says the same.
    "metric_memory": Script("metric_memory.py", "Memory of metrics", ("--quadratic-rows", "4000", "40000"), minutes=20),
    "stage_two": Script("stage_two.py", "Stage 2 from cached embeddings", ("--pairs", "59000", "--steps", "2")),
    "cached_evaluation": Script("cached_evaluation.py", "Second evaluation, from the shell"),
    "start_up": Script("start_up.py", "Start-up of the command line"),
    "reduce_apply": Script("reduce_apply.py", "`i0t-reduce apply`"),
    "mad": Script("mad_generation.py", "Generating MAD"),
    "image_decode": Script("image_decode.py", "Reading photos"),
    "shard_stream": Script("shard_stream.py", "Reading WebDataset shards"),
}


class BenchmarkError(Exception):
    """A benchmark that did not end well; the message is one line."""


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a benchmark and the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def run_script(name: str, script: Script, *, quick: bool) -> Section:
    """Runs a benchmark and reads what it wrote.

    Raises:
        BenchmarkError: If it fails, is too slow or writes something else than entries.
    """
    flags = ("--quick",) if quick else script.arguments
    load_before, start = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "entries.json"
        command = [sys.executable, str(HERE / script.file), *flags, "--json", str(output)]
        with (Path(folder) / "errors").open("w+") as errors:
            # In a folder of its own, which takes what it leaves behind.
            process = subprocess.Popen(command, stderr=errors, text=True, start_new_session=True, cwd=folder)
            try:
                code = process.wait(60 * script.minutes)
            except subprocess.TimeoutExpired:
                raise BenchmarkError(f"not finished after {script.minutes} minutes") from None
            finally:
                stop(process)
            errors.seek(0)
            said = errors.read()
        if code != 0:
            sys.stderr.write(said)
            raise BenchmarkError(f"exit code {code}: {' / '.join(said.strip().splitlines()[-_LAST_LINES:])}")
        try:
            entries = measure.load(output)
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise BenchmarkError(f"no usable numbers: {error}") from error
    return Section(
        title=script.title,
        command=" ".join(["python", f"benchmarks/{script.file}", *flags]),
        date=now(),
        commit=commit(HERE),
        machine=describe_machine(),
        load=load_before,
        seconds=time.monotonic() - start,
        entries=entries,
    )


def failed(previous: Section | None, script: Script, reason: str) -> Section:
    """The section of a benchmark that failed, with its earlier rows."""
    message = f"{now()}, commit {commit(HERE)}: {reason}"
    if previous is None:
        return Section(title=script.title, command=f"python benchmarks/{script.file}", failure=message)
    return previous.with_failure(message)


def run_all(names: list[str], folder: Path, *, quick: bool) -> int:
    """Runs benchmarks one after the other and saves after each; returns the exit code."""
    sections, exit_code = load_sections(folder), 0
    for place, name in enumerate(names, 1):
        script = SCRIPTS[name]
        print(f"== {name} ({place} of {len(names)}): {script.title}", flush=True)
        try:
            sections[name] = run_script(name, script, quick=quick)
        except BenchmarkError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            sections[name], exit_code = failed(sections.get(name), script, str(error)), 1
        except KeyboardInterrupt:
            sections[name] = failed(sections.get(name), script, "interrupted")
            exit_code = _INTERRUPTED
        save({key: sections[key] for key in SCRIPTS if key in sections}, folder)
        if exit_code == _INTERRUPTED:
            break
    print(f"wrote {folder / 'RESULTS.md'}")
    return exit_code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(SCRIPTS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="small sizes; needs an --output of its own")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of RESULTS.md and results.json")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SCRIPTS]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(SCRIPTS)}")
    if options.quick and options.output.resolve() == HERE:
        parser.error("--quick numbers are no figures: name another folder with --output")
    options.output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the benchmark that runs ends with this one
    raise SystemExit(run_all(options.names or list(SCRIPTS), options.output, quick=options.quick))


if __name__ == "__main__":
    main()
