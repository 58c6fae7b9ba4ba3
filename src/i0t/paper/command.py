"""The command ``i0t-tables [FOLDER …]``: collects finished runs and prints the tables of the I0T paper.

Starts without torch: it reads nothing but the runs' ``metrics.json``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from i0t.command_line import Parser, one_line_errors
from i0t.paper.finished_runs import FinishedRun, LeftOut, collect
from i0t.paper.published import TABLE_NUMBERS, PublishedRow, Table, load_table
from i0t.paper.rendering import TEXT_WIDTH, as_csv, as_latex, as_markdown, as_text
from i0t.paper.results import FilledTable, fill

PROG = "i0t-tables"
DEFAULT_FOLDERS = ("outputs", "multirun")
EPILOG = """examples:
  i0t-tables                                   every table, from the runs below outputs and multirun
  i0t-tables --table 2 --table 3 outputs/mine
  i0t-tables --format md --output tables       tables/table_1.md …
  i0t-tables --experiment-names                which runs fill which rows
"""

_ENDINGS = MappingProxyType({"text": ".txt", "md": ".md", "csv": ".csv", "tex": ".tex"})
_WRITERS: Mapping[str, Callable[[FilledTable], str]] = MappingProxyType(
    {"text": as_text, "md": as_markdown, "csv": lambda filled: as_csv([filled]), "tex": as_latex}
)


def main(arguments: Sequence[str] | None = None) -> None:
    """``i0t-tables``; exits with 2 and one line if the input is wrong.

    Args:
        arguments: Of the command line; ``None`` for those of this process.
    """
    options = _parser().parse_args(arguments)
    tables = [load_table(number) for number in sorted(set(options.table or TABLE_NUMBERS))]
    if options.experiment_names:
        _say("\n".join(line for table in tables for line in experiment_names(table)) + "\n")
        return
    with one_line_errors(PROG):
        runs, left_out = collect(options.folders or _default_folders())
        filled = [fill(table, runs) for table in tables]
        _tell(runs, left_out, filled)
        if options.output is None:
            _print(filled, options.format)
        else:
            _write(filled, options.format, options.output)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        PROG,
        description="Prints the tables of the I0T paper (arXiv 2412.14384): published, measured, difference.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="of runs, at any depth (default: outputs multirun)"
    )
    parser.add_argument(
        "--table", type=int, action="append", choices=TABLE_NUMBERS, help="one table; may be repeated (default: all)"
    )
    parser.add_argument("--format", choices=tuple(_ENDINGS), default="text", help="default: text")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write table_<n> files there instead of printing")
    parser.add_argument("--experiment-names", action="store_true", help="print which runs fill which rows, and leave")
    return parser


def _default_folders() -> list[Path]:
    """Those of the usual places that are there: nothing was run where none is."""
    return [Path(name) for name in DEFAULT_FOLDERS if Path(name).is_dir()]


def experiment_names(table: Table) -> list[str]:
    """Which runs fill the rows of a table, a line each."""
    measures = [column.measure for column in table.columns]
    data = ", ".join(dict.fromkeys(f"{measure.data} {measure.split}" for measure in measures))
    return [f"Table {table.number}, measured on {data}", *(f"  {_filled_by(row)}" for row in table.rows)]


def _filled_by(row: PublishedRow) -> str:
    model, reducer = row.model, row.reducer
    of = f"name={model.trained_as}" if model.trained_as else f"{model.architecture[0]} pretrained={model.pretrained[0]}"
    seeds = f" seed={' or '.join(map(str, model.seeds))}" if model.seeds else ""
    settings = {} if reducer.own else {"fit_split": reducer.fit_split, "fit_samples": reducer.fit_samples}
    given = {name: value for name, value in {**settings, **reducer.settings}.items() if value is not None}
    shown = "as trained" if reducer.own else " ".join(f"{name}={value}" for name, value in given.items())
    return f"{row.name:<16} {of}{seeds}, row {reducer.kind} {shown}".rstrip()


def _tell(runs: Sequence[FinishedRun], left_out: Sequence[LeftOut], filled: Sequence[FilledTable]) -> None:
    """What was read and what was not, apart from the tables themselves."""
    for one in left_out:
        _note(f"left out {one.folder}: {one.reason}")
    used = {folder for table in filled for folder in table.folders}
    _note(f"{len(runs):,} finished runs, {len(used):,} of them in the tables, {len(left_out):,} left out")


def _print(filled: Sequence[FilledTable], form: str) -> None:
    if form == "csv":
        _say(as_csv(filled))
        return
    width = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else TEXT_WIDTH
    texts = [as_text(table, width=width) if form == "text" else _WRITERS[form](table) for table in filled]
    _say("\n".join(texts))


def _write(filled: Sequence[FilledTable], form: str, folder: Path) -> None:
    """Writes one file per table, each whole or not at all."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for table in filled:
        path = folder / f"table_{table.table.number}{_ENDINGS[form]}"
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            aside.write_text(_WRITERS[form](table), encoding="utf-8")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        _note(f"wrote {path}")


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    sys.stderr.write(f"{PROG}: {' '.join(text.split())}\n")
