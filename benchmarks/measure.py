"""What the benchmarks share: alternating rounds, peak memory, medians and ranges, and the JSON that they all write.

A claim is a ratio of two things measured alternately in one process, round by round: absolute times differ by half
between two runs on a machine that others use too. `run.py` reads the JSON and writes `RESULTS.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import re
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

_TARGET = re.compile(r"^(<=|>=) (\d*\.?\d+)(?: of (.+)| (\S+))?$")
_POLL_SECONDS = 0.01
_PAGE_MIB = 4 / 1024
_SMALL = 1e-4


@dataclass(frozen=True, kw_only=True)
class Target:
    """What an issue asks of a measurement.

    Attributes:
        text: As it was written.
        at_most: Whether less is better.
        bound: Of the ratio to ``peer``, or of our own median.
        peer: ``None``: the bound is one of our own median.
    """

    text: str
    at_most: bool
    bound: float
    peer: str | None

    def is_met(self, value: float) -> bool:
        """Whether a median keeps to the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One measurement of this project beside its peers.

    A name with ``N = 1,024`` in it is one point of a curve over N, with the entries that are called the same but for
    the number.

    Attributes:
        name: What was measured, at what size.
        unit: Of all numbers: ``s``, ``MiB``, ``images/s`` …
        ours: A number per round.
        peers: Name to a number per round, taken in turn with ours; or one number, for all rounds.
        note: A sentence for the reader.
        target: ``"<= .6"`` bounds the median ratio to the first peer, ``"<= .6 of <peer>"`` to another one,
            ``"<= 10 s"`` (the unit) our own median; several are separated by ``"; "``.

    Raises:
        ValueError: If numbers are missing, not finite or not positive, or a target cannot be read.
    """

    name: str
    unit: str
    ours: Sequence[float]
    peers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    note: str = ""
    target: str | None = None

    def __post_init__(self) -> None:
        for who, values in (("ours", self.ours), *self.peers.items()):
            if len(values) == 0 or not all(math.isfinite(value) and value > 0 for value in values):
                raise ValueError(f"{self.name}: {who} has {list(values)}; every round must have a positive number")
            if who != "ours" and len(values) not in (1, len(self.ours)):
                raise ValueError(f"{self.name}: {len(values)} rounds of {who} beside {len(self.ours)} of ours")
        for target in self.targets():
            if target.peer is not None and target.peer not in self.peers:
                raise ValueError(f"{self.name}: the target {target.text!r} is of no peer; peers: {list(self.peers)}")

    def ratios(self, peer: str) -> list[float]:
        """Ours divided by a peer's, round by round."""
        theirs = self.peers[peer]
        repeated = list(theirs) * len(self.ours) if len(theirs) == 1 else theirs
        return [own / other for own, other in zip(self.ours, repeated, strict=True)]

    def targets(self) -> list[Target]:
        """The targets, read.

        Raises:
            ValueError: If one cannot be.
        """
        return [self._read(text.strip()) for text in (self.target or "").split(";") if text.strip()]

    def measured(self, target: Target) -> float:
        """The median that a target bounds."""
        return statistics.median(self.ours if target.peer is None else self.ratios(target.peer))

    def _read(self, text: str) -> Target:
        found = _TARGET.match(text)
        if found is None or (found[4] is not None and found[4] != self.unit):
            raise ValueError(f"{self.name}: {text!r} is no target: '<= .6', '>= 20 of <peer>' or '<= 10 {self.unit}'")
        peer = found[3] or (None if found[4] is not None else next(iter(self.peers), None))
        if peer is None and found[4] is None:
            raise ValueError(f"{self.name}: the target {text!r} bounds a ratio, but there is no peer")
        return Target(text=text, at_most=found[1] == "<=", bound=float(found[2]), peer=peer)


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The options of every script; add its own, then call :func:`parse`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="how often everything is measured, in turn")
    made.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the numbers of every round")
    made.add_argument("--quick", action="store_true", help="a few seconds at small sizes: does it run at all?")
    return made


def parse(made: argparse.ArgumentParser, *, quick: Mapping[str, Any]) -> argparse.Namespace:
    """The arguments; with ``--quick``, those not given are the quick ones."""
    if made.parse_known_args()[0].quick:
        made.set_defaults(**quick)
    return made.parse_args()


def seconds_of(method: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    method()
    return time.perf_counter() - start


def alternate(
    methods: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = 1, timed: bool = True
) -> dict[str, list[float]]:
    """Measures all methods in turn, round by round; every second round the other way round.

    Args:
        methods: By name.
        rounds: How many numbers each gets.
        warm_up: Calls of each before the first round.
        timed: Take the seconds of each call; else the calls return their own numbers, such as rates.
    """
    for _ in range(warm_up):
        for method in methods.values():
            method()
    numbers: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(rounds):
        order = list(methods.items())
        for name, method in order if number % 2 == 0 else reversed(order):
            numbers[name].append(seconds_of(method) if timed else float(method()))  # type: ignore[arg-type]
    return numbers


def memory_of(kind: str, pid: int | str = "self") -> float:
    """MiB that a process has (``VmRSS``) or has had at most (``VmHWM``), as Linux knows it; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(rf"{kind}:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


class Growth(NamedTuple):
    """What a call took in a process of its own.

    Attributes:
        mib: By which the resident set peaked above what it was; a page at least, so that ratios are defined.
        seconds: Duration.
    """

    mib: float
    seconds: float


def peak_growth(prepare: Callable[..., Callable[[], object]], *arguments: Any) -> Growth:
    """Memory and time of a call in a process of its own.

    Args:
        prepare: A function of a module, run in the new process: makes the inputs, warms up what loads on first use,
            and returns the call that is measured.
        *arguments: Of ``prepare``; they are pickled.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_growth, prepare, arguments).result()


def _peak_growth(prepare: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> Growth:
    call = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
    before, start = memory_of("VmRSS"), time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    grown = memory_of("VmHWM") - before
    del result  # kept until here: what a call returns counts
    return Growth(max(grown, _PAGE_MIB), seconds)


class PeakMemory:
    """Peak MiB of a running process and of its descendants, looked at until the block ends.

    Attributes:
        by_pid: High-water mark of each process.
    """

    def __init__(self, pid: int | None = None) -> None:
        self.by_pid: dict[int, float] = {}
        self._root = os.getpid() if pid is None else pid

    def __enter__(self) -> PeakMemory:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            for pid in self._pids():
                self.by_pid[pid] = memory_of("VmHWM", pid) or self.by_pid.get(pid, 0.0)

    def _pids(self) -> list[int]:
        found, waiting = [], [self._root]
        while waiting:
            found.append(pid := waiting.pop())
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    waiting += [int(child) for child in task.read_text().split()]
        return found


def number(value: float, digits: int = 3) -> str:
    """A number with so many digits that count: 12,345, 123, 1.23, 0.0123, 1.23e-07."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    if abs(value) < _SMALL:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} to {number(max(values))})"


def finish(entries: Sequence[Entry], options: argparse.Namespace) -> None:
    """Prints the numbers, and writes them where ``--json`` says: whole or not at all."""
    for entry in entries:
        print(f"{entry.name} [{entry.unit}]\n  {'this project':34} {spread(entry.ours)}")
        for peer, theirs in entry.peers.items():
            print(f"  {peer:34} {spread(theirs):34} ours / it: {spread(entry.ratios(peer))}")
        for target in entry.targets():
            verdict = "met" if target.is_met(entry.measured(target)) else "NOT met"
            print(f"  target {target.text}: {verdict}")
        if entry.note:
            print(f"  {entry.note}")
    if options.json is not None:
        aside = options.json.with_name(f".{options.json.name}.{os.getpid()}")
        aside.write_text(json.dumps([asdict(entry) for entry in entries], indent=1), encoding="utf-8")
        aside.replace(options.json)


def load(path: Path) -> list[Entry]:
    """Reads what a script wrote with ``--json``.

    Raises:
        ValueError: If it is not a list of entries.
    """
    return [Entry(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
