"""The details of a comparison's rows as one table: what every row's evaluation found, under the row's name."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from i0t.evaluation.results import Detail, RowResult
from i0t.report.table_formats import markdown_table

Cell: TypeAlias = str | int | float | None
_ROW = "row"


def details_by_name(rows: Sequence[RowResult]) -> dict[str, dict[str, Detail]]:
    """Name of a detail to row name to that row's detail, both in order of appearance.

    Raises:
        ValueError: If rows have tables with other columns under one name.
    """
    found: dict[str, dict[str, Detail]] = {}
    for row in rows:
        for name, detail in row.details.items():
            found.setdefault(name, {})[row.name] = detail
    for name, details in found.items():
        headers = {detail.header() for detail in details.values()}
        if len(headers) > 1:
            raise ValueError(f"rows have different columns for the detail {name!r}: {sorted(headers)}")
    return found


class DetailTable:
    """One detail of all rows: the row's name, then the columns of the detail.

    Args:
        details: Row name to detail, all with the same columns.
    """

    def __init__(self, details: Mapping[str, Detail]) -> None:
        self._header = next(iter(details.values())).header()
        self._lines: dict[str, list[tuple[Cell, ...]]] = {name: detail.lines() for name, detail in details.items()}

    @property
    def num_lines(self) -> int:
        """Of all rows together."""
        return sum(map(len, self._lines.values()))

    def headers(self) -> list[str]:
        """The header of every column."""
        return [_ROW, *self._header]

    def are_words(self) -> list[bool]:
        """Of every column, whether it holds words rather than numbers."""
        lines = [(row, *line) for row, lines in self._lines.items() for line in lines]
        return [any(isinstance(cell, str) for cell in column) for column in zip(*lines, strict=True)]

    def cells(self, *, first: int | None = None) -> list[list[str]]:
        """The text of every cell, of the first lines of each row or of all."""
        return [[row, *map(format_cell, line)] for row, lines in self._lines.items() for line in lines[:first]]

    def is_cut(self, first: int) -> bool:
        """Whether a row has more lines than that."""
        return any(len(lines) > first for lines in self._lines.values())

    def to_csv(self) -> str:
        """Every line, in full precision, an empty cell where there is no value."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.headers())
        for row, lines in self._lines.items():
            writer.writerows([row, *line] for line in lines)
        return text.getvalue()

    def to_markdown(self, *, first: int, csv_file: str) -> str:
        """The first lines of each row in GitHub's Markdown; where that is not all, a sentence says where all are."""
        table = markdown_table(self.headers(), self.cells(first=first))
        return f"{table}\n\n{self.cut_sentence(first, csv_file)}" if self.is_cut(first) else table

    def cut_sentence(self, first: int, csv_file: str) -> str:
        """What is shown of the table and where the rest is."""
        return f"The first {first:,} lines of each row; all {self.num_lines:,} lines stand in {csv_file}."


def format_cell(value: Cell) -> str:
    """A cell for people: four significant digits, nothing for what is missing.

    Example:
        >>> [format_cell(value) for value in (None, "a", 12345, -0.62195773, 1234.5678)]
        ['', 'a', '12345', '-0.622', '1235']
    """
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
