"""The command ``i0t-report FOLDER …``: tables and one page over any runs, finished or not.

Starts without torch: it reads nothing but what the runs left in their folders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from i0t.command_line import Parser, one_line_errors, say
from i0t.progress import counted

PROG = "i0t-report"
DEFAULT_OUTPUT = "i0t_report"
EPILOG = """examples:
  i0t-report outputs/mad/multirun_2025-01-31_12-00-00    into that folder
  i0t-report outputs/mad                                 all runs and multiruns below it
  i0t-report outputs/a outputs/b --output comparison     comparison/report.html, summary.csv, seeds.csv

Runs that failed, were killed or are torn are listed with the reason. The page is report.html, or jobs.html where the
folder has a report.html of another kind.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """``i0t-report``; exits with 2 and one line if there is no run in any of the folders.

    Args:
        arguments: Of the command line; ``None`` for those of this process.
    """
    options = _parser().parse_args(arguments)
    with one_line_errors(PROG):
        _run(options.folders, options.output, options.title)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        PROG,
        description="Writes summary.csv, seeds.csv and one self-contained page over the runs below folders.",
        epilog=EPILOG,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of a run, a multirun, or of several")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"where to (default: FOLDER, if it is one that holds runs; else {DEFAULT_OUTPUT} here)",
    )
    parser.add_argument("--title", help="heading of the page (default: the folders)")
    return parser


def _run(folders: Sequence[Path], output: Path | None, title: str | None) -> None:
    from i0t.report.sweep_files import told, write_sweep  # Bokeh takes a second: not for --help or a wrong folder
    from i0t.report.sweep_jobs import DAMAGED, read_runs

    found = _find(folders)
    if output is None:
        output = output_of(folders)
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; name a folder")
    jobs = read_runs(found, watched=lambda runs: counted(runs, "reading runs"))
    for job in jobs:
        if job.status == DAMAGED:
            _note(f"{job.folder}: {job.reason}")
    heading = title or ", ".join(str(folder) if folder.name == "" else folder.name for folder in folders)
    say(told(write_sweep(jobs, output, title=heading)))


def _find(folders: Iterable[Path]) -> list[Path]:
    """The runs below all folders; says which folder has none.

    Raises:
        ValueError: If there is no run at all.
    """
    from i0t.report.sweep_jobs import find_runs

    found = []
    for folder in folders:
        runs = find_runs(folder) if folder.is_dir() else []
        if not runs:
            _note(f"{folder}: {'no run in this folder' if folder.is_dir() else 'there is no such folder'}")
        found += runs
    if not found:
        raise ValueError("no run was found: a run is a folder with metrics.json, config.yaml or .hydra")
    return found


def output_of(folders: Sequence[Path]) -> Path:
    """Where the page goes by itself: into the folder, if it is the only one and no single run; else to one here."""
    from i0t.report.sweep_jobs import is_run

    return folders[0] if len(folders) == 1 and not is_run(folders[0]) else Path(DEFAULT_OUTPUT)


def _note(text: str) -> None:
    sys.stderr.write(f"{PROG}: {' '.join(text.split())}\n")
