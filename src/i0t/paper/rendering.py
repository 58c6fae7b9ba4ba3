"""Filled tables for terminals, Markdown, LaTeX and programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from i0t.paper.matching import Measured
from i0t.paper.results import FilledTable, Line
from i0t.report.table_formats import latex_table, markdown_table

TEXT_WIDTH = 100
_UNLIMITED = 10_000  # rich cuts what it measures to the width it is given
NOT_RUN = "not run"
MEASURED = "measured"
NOT_MEASURED = "not measured"
NOT_KNOWN = "not known"
DEVIATES = "*"
LEGEND = (
    "measured: mean ± sample standard deviation over seeds (number of seeds); difference: the number to its left - "
    f"published; {DEVIATES}: not quite the paper's protocol, see the notes of the line."
)
VARIANT_LEGEND = "as published: the same of runs with the paper's local negatives (names that end in _published)."
_HEADERS = ("row", "column", "published", "measured", "difference")
_VARIANT_HEADERS = ("as published", "difference")
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)
_CSV_CELL = ("measured", "sd", "num_seeds", "difference", "status", "on_protocol", "runs")


def as_text(filled: FilledTable, *, width: int = TEXT_WIDTH) -> str:
    """The table for a terminal, with its notes below.

    Args:
        filled: The table.
        width: Columns of the terminal; cells wrap where they must.
    """
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(Text(_heading(filled)), "", sep="\n")
    whole = _drawn(filled, break_numbers=False)
    needed = Measurement.get(console, console.options.update(width=_UNLIMITED), whole).minimum
    console.print(whole if needed <= width else _drawn(filled, break_numbers=True))
    console.print()
    for note in _notes(filled):
        console.print(Text(note))
    written = console.file
    assert isinstance(written, io.StringIO)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _drawn(filled: FilledTable, *, break_numbers: bool) -> RichTable:
    headers, cells = _cells(filled)
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for position, header in enumerate(headers):
        is_number = 1 < position < len(headers) - 1
        whole = is_number and not break_numbers
        drawn.add_column(Text(header), justify="right" if is_number else "left", no_wrap=whole)
    above = ""
    for line in cells:
        drawn.add_row(*(Text(text) for text in ("" if line[0] == above else line[0], *line[1:])))
        above = line[0]
    return drawn


def as_markdown(filled: FilledTable) -> str:
    """The table in GitHub's Markdown, with its notes as a list."""
    notes = "\n".join(f"- {note}" for note in _notes(filled))
    return f"## {_heading(filled)}\n\n{markdown_table(*_cells(filled))}\n\n{notes}\n"


def as_latex(filled: FilledTable) -> str:
    """The table as a ``tabular`` of booktabs, with its notes as paragraphs below."""
    notes = "\n".join(rf"\par\noindent\footnotesize {_escape_latex(note)}" for note in _notes(filled))
    return f"% {_heading(filled)}\n{latex_table(*_cells(filled))}\n{notes}\n"


def as_csv(tables: Sequence[FilledTable]) -> str:
    """Tables for programs: a line per published number, in full precision; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    of_variant = [f"as_published_{name}" for name in _CSV_CELL]
    writer.writerow(["table", "row", "column", "published", *_CSV_CELL, *of_variant, "notes"])
    for filled in tables:
        for line in filled.lines:
            published = "" if line.published is None else repr(float(line.published))
            name = [filled.table.number, line.row.name, line.column.header]
            numbers = [*_csv_cell(line, line.ours), *_csv_cell(line, line.as_published)]
            writer.writerow([*name, published, *numbers, "; ".join(line.notes)])
    return text.getvalue()


def _heading(filled: FilledTable) -> str:
    return f"Table {filled.table.number}: {filled.table.title}"


def _cells(filled: FilledTable) -> tuple[list[str], list[list[str]]]:
    """Headers, and the texts of every line."""
    marks = filled.numbered_notes()
    headers = [*_HEADERS, *(_VARIANT_HEADERS if filled.has_variant else ()), "notes"]
    cells = []
    for line in filled.lines:
        shown = [line.ours, *([line.as_published] if filled.has_variant else [])]
        numbers = [text for cell in shown for text in (_measured(line, cell), _difference(line, cell))]
        notes = " ".join(marks[note] for note in line.notes)
        cells.append([line.row.name, line.column.header, _published(line), *numbers, notes])
    return headers, cells


def _notes(filled: FilledTable) -> list[str]:
    numbered = [f"{mark}: {text}" for text, mark in filled.numbered_notes().items()]
    return [LEGEND, *([VARIANT_LEGEND] if filled.has_variant else []), *filled.general_notes, *numbered]


def _number(line: Line, value: float) -> str:
    return f"{value:.{line.column.decimals}f}" if value == value else "NaN"


def _published(line: Line) -> str:
    return NOT_KNOWN if line.published is None else _number(line, line.published)


def _measured(line: Line, cell: Measured) -> str:
    if cell.mean is None:
        if cell is line.as_published and line.row.model.trained_as is None:
            return ""  # public weights have no variant
        return NOT_MEASURED if cell.is_run else NOT_RUN
    spread = "" if cell.std is None else f" ± {_number(line, cell.std)}"
    return f"{_number(line, cell.mean)}{spread}{DEVIATES if cell.deviations else ''} ({len(cell.values)})"


def _difference(line: Line, cell: Measured) -> str:
    difference = line.difference(cell)
    if difference is None:
        return ""
    decimals = line.column.decimals
    return f"{round(difference, decimals) + 0.0:+.{decimals}f}"  # + 0.0: no -0.0


def _csv_cell(line: Line, cell: Measured) -> list[str]:
    if cell is line.as_published and line.row.model.trained_as is None:
        return [""] * len(_CSV_CELL)
    if cell.mean is None:
        return ["", "", "0", "", NOT_MEASURED if cell.is_run else NOT_RUN, "", ""]
    numbers = ["" if value is None else repr(value) for value in (cell.std, line.difference(cell))]
    folders = " ".join(folder.as_posix() for folder in cell.folders)
    on_protocol = "no" if cell.deviations else "yes"
    return [repr(cell.mean), numbers[0], str(len(cell.values)), numbers[1], MEASURED, on_protocol, folders]


def _escape_latex(text: str) -> str:
    r"""Text outside a table, for LaTeX.

    Example:
        >>> print(_escape_latex("I0T_post: 30 % <s>"))
        I0T\_post: 30 \% \textless{}s\textgreater{}
    """
    return text.translate(_LATEX)
