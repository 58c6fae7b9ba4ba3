"""The page of results: what `run.py` keeps of every benchmark, and the Markdown that is made of it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from measure import Entry, number, spread

from i0t.runs import write_atomically

DATA_FILE = "results.json"
PAGE_FILE = "RESULTS.md"
_LIBRARIES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "pytorch-lightning",
    "torchmetrics",
    "clip-benchmark",
    "webdataset",
    "scikit-image",
    "scikit-learn",
    "numpy",
    "pillow",
)
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_SIZE = re.compile(r"\bN ?= ?([\d,]*\d)")
_INTRODUCTION = """# Benchmarks

This project beside its peers: medians (and ranges) over rounds in which all are measured in turn, in one process, or
memory as the growth of the peak resident set in a process of each one's own. **ours / peer** is the ratio of each
round, then median and range; absolute numbers hold for this machine alone. Written by `make bench`
(`python benchmarks/run.py`), which repeats single sections by name; all rounds are in [results.json](results.json).
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What a benchmark found, and where.

    Attributes:
        title: Heading.
        command: That repeats it.
        date: UTC.
        commit: Of the project.
        machine: Processor, memory, threads and versions.
        load: Of the machine in the minute before, in processes.
        seconds: That it took.
        entries: Its numbers; none if it has never run to its end.
        failure: Of a later run that did not, in a line.
    """

    title: str
    command: str
    date: str = ""
    commit: str = ""
    machine: str = ""
    load: float = 0.0
    seconds: float = 0.0
    entries: Sequence[Entry] = ()
    failure: str | None = None

    def with_failure(self, failure: str) -> Section:
        """The same numbers under a newer error."""
        return replace(self, failure=failure)


def now() -> str:
    """Date and minute, UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")


def commit(folder: Path) -> str:
    """Short hash of the checkout, with ``+`` where files differ from it; ``unknown`` outside of one."""
    try:
        head = _git(folder, "rev-parse", "--short", "HEAD")
        # The page itself is written between two benchmarks.
        others = [line for line in _git(folder, "status", "--porcelain").splitlines() if not line.endswith(_OWN_FILES)]
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}{'+' if others else ''}"


_OWN_FILES = (f"benchmarks/{DATA_FILE}", f"benchmarks/{PAGE_FILE}")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip()


def describe_machine() -> str:
    """Processor, cores, memory, threads, system and versions, in two lines."""
    cpu = Path("/proc/cpuinfo").read_text()
    names = re.findall(r"model name\s*: (.*)", cpu)
    flags = set(re.findall(r"flags\s*: (.*)", cpu)[0].split()) if "flags" in cpu else set()
    total = re.findall(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    import torch  # only now: a page can be written without

    hardware = [
        f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        " ".join(flag for flag in _CPU_FLAGS if flag in flags) or "no vector extensions known",
        f"{int(total[0]) / 2**20:.0f} GiB" if total else "memory unknown",
        f"{torch.get_num_threads()} threads",
        "no GPU used",
    ]
    found = [f"{name} {version}" for name in _LIBRARIES if (version := _version(name)) is not None]
    system = f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}"
    return f"{', '.join(hardware)}\n{', '.join([system, *found])}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def load_sections(folder: Path) -> dict[str, Section]:
    """What earlier runs left in a folder, by name."""
    path = folder / DATA_FILE
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Section(**{**section, "entries": [Entry(**entry) for entry in section["entries"]]})
        for name, section in content.items()
    }


def save(sections: Mapping[str, Section], folder: Path) -> None:
    """Writes the numbers and the page, each whole or not at all."""
    content = {name: asdict(section) for name, section in sections.items()}
    write_atomically(folder / DATA_FILE, json.dumps(content, indent=1) + "\n")
    write_atomically(folder / PAGE_FILE, page(sections))


def page(sections: Mapping[str, Section]) -> str:
    """The Markdown of all sections."""
    machines = list(dict.fromkeys(section.machine for section in sections.values() if section.machine))
    blocks = [_INTRODUCTION]
    for place, machine in enumerate(machines, 1):
        label = "Machine" if len(machines) == 1 else f"Machine {place}"
        blocks.append("**{}:** {}.\n".format(label, machine.replace("\n", ".\n")))
    blocks += [_targets_table(sections), _scaling_table(sections)]
    for name, section in sections.items():
        where = machines.index(section.machine) + 1 if len(machines) > 1 and section.machine else None
        blocks.append(_section(name, section, where))
    return "\n".join(block for block in blocks if block)


def _targets_table(sections: Mapping[str, Section]) -> str:
    """Every target with its verdict."""
    rows = []
    for name, section in sections.items():
        for entry in section.entries:
            for target in entry.targets():
                measured = entry.measured(target)
                what = f"{number(measured)} {'of ' + target.peer if target.peer else entry.unit}"
                verdict = "yes" if target.is_met(measured) else "**no**"
                rows.append(f"| [{section.title}](#{name}) | {entry.name} | {target.text} | {what} | {verdict} |")
    failures = [f"**[{s.title}](#{name}) did not run:** see there.\n" for name, s in sections.items() if s.failure]
    if not rows:
        return "\n".join(failures)
    met = sum(row.endswith("| yes |") for row in rows)
    head = ["## Targets", "", f"{met} of {len(rows)} met.", "", *failures]
    return "\n".join(
        [*head, "| benchmark | what | target | measured | met |", "| :-- | :-- | :-- | :-- | :-- |", *rows, ""]
    )


def _scaling_table(sections: Mapping[str, Section]) -> str:
    """Every curve over N with the power of N that fits it best."""
    curves: dict[tuple[str, str, str], dict[int, Entry]] = {}
    for name, section in sections.items():
        for entry in section.entries:
            found = _SIZE.search(entry.name)
            if found is not None:
                key = (name, _SIZE.sub("N", entry.name).strip(" ,:"), entry.unit)
                curves.setdefault(key, {})[int(found[1].replace(",", ""))] = entry
    rows = []
    for (name, family, unit), points in curves.items():
        if len(points) < 2:
            continue
        peers = [peer for peer in next(iter(points.values())).peers if all(peer in e.peers for e in points.values())]
        for who in ("this project", *peers):
            values = {n: e.ours if who == "this project" else e.peers[who] for n, e in sorted(points.items())}
            medians = {n: statistics.median(v) for n, v in values.items()}
            curve = ", ".join(f"{n:,}: {number(m)}" for n, m in medians.items())
            what = f"[{sections[name].title}](#{name}): {family} [{unit}]"
            rows.append(f"| {what} | {who} | {curve} | {fitted_power(medians):.2f} |")
    if not rows:
        return ""
    head = "## Growth with N\n\nThe power p of the N^p that fits best (least squares of the logarithms).\n"
    return "\n".join([head, "| what | whose | N: median | p |", "| :-- | :-- | :-- | --: |", *rows, ""])


def fitted_power(medians: Mapping[int, float]) -> float:
    """The slope of log(value) over log(N)."""
    return statistics.linear_regression([math.log(n) for n in medians], [math.log(v) for v in medians.values()]).slope


def _section(name: str, section: Section, machine: int | None) -> str:
    """Heading, provenance and rows of one benchmark."""
    lines = [f'<a id="{name}"></a>', f"## {section.title}", "", f"`{section.command}`", ""]
    if section.failure:
        lines += [f"**Failed** on {section.failure}.", ""]
    if not section.entries:
        return "\n".join([*lines, "No numbers yet.", ""])
    where = "" if machine is None else f", machine {machine}"
    kept = "The rows are of an earlier run: " if section.failure else ""
    took = f"{section.seconds:.0f} s, load before it {section.load:.1f}"
    lines.append(f"{kept}{section.date} UTC, commit {section.commit}{where}; {took}.")
    lines += ["", "| what | unit | ours | peer | peer's | ours / peer |", "| :-- | :-- | :-- | :-- | :-- | :-- |"]
    for entry in section.entries:
        lines += _rows(entry)
    notes: dict[str, list[str]] = {}
    for entry in section.entries:
        if entry.note:
            notes.setdefault(entry.note, []).append(entry.name)
    shared = len(notes) == 1 and len(next(iter(notes.values()))) == len(section.entries)
    lines += ["", *(f"- {note if shared else f'{_some(names)}: {note}'}" for note, names in notes.items()), ""]
    return "\n".join(lines)


def _some(names: Sequence[str]) -> str:
    return "; ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def _rows(entry: Entry) -> list[str]:
    """A row per peer, or one without any."""
    first = f"| {entry.name} | {entry.unit} | {spread(entry.ours)} |"
    if not entry.peers:
        return [f"{first} | | |"]
    rows = [f" {peer} | {spread(theirs)} | {spread(entry.ratios(peer))} |" for peer, theirs in entry.peers.items()]
    return [f"{first}{rows[0]}", *(f"| | | |{row}" for row in rows[1:])]
