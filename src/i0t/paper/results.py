"""A table of the paper filled with what runs measured: one line per row and column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from i0t.paper.finished_runs import FinishedRun
from i0t.paper.matching import Measured, as_published, measured
from i0t.paper.published import Column, PublishedRow, Table

NO_VARIANT = "No run of the variants with the paper's local negatives (names that end in _published)."


@dataclass(frozen=True, kw_only=True)
class Line:
    """A number of the paper and what stands beside it.

    Attributes:
        row: Of the table.
        column: Of the table.
        published: Printed in the paper; NaN where it prints NaN; ``None``: not known.
        ours: From runs with our losses, or of public weights.
        as_published: From runs with the losses as the paper's code has them.
    """

    row: PublishedRow
    column: Column
    published: float | None
    ours: Measured
    as_published: Measured

    def difference(self, cell: Measured) -> float | None:
        """Measured minus published; ``None`` where either is missing or not a number."""
        if cell.mean is None or self.published is None:
            return None
        difference = cell.mean - self.published
        return difference if difference == difference else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of the line, the published number first."""
        cells = (self.ours, self.as_published)
        told = [text for cell in cells for text in (*cell.deviations, *cell.remarks)]
        return tuple(dict.fromkeys([*self.row.notes[self.column.header], *told]))


@dataclass(frozen=True, kw_only=True)
class FilledTable:
    """A table of the paper with its lines.

    Attributes:
        table: As published.
        lines: Row by row.
    """

    table: Table
    lines: tuple[Line, ...]

    @property
    def has_variant(self) -> bool:
        """Whether there is a run with the paper's local negatives."""
        return any(line.as_published.is_run for line in self.lines)

    @property
    def folders(self) -> set[Path]:
        """Of the runs whose numbers stand in the table."""
        return {folder for line in self.lines for cell in (line.ours, line.as_published) for folder in cell.folders}

    @property
    def general_notes(self) -> tuple[str, ...]:
        """What holds for the whole table."""
        trained = any(row.model.trained_as is not None for row in self.table.rows)
        return (*self.table.notes, NO_VARIANT) if trained and not self.has_variant else self.table.notes

    def numbered_notes(self) -> dict[str, str]:
        """Text of a note to its mark, ``a``, ``b``, …, in order of appearance."""
        texts = dict.fromkeys(text for line in self.lines for text in line.notes)
        return {text: _mark(number) for number, text in enumerate(texts)}


def fill(table: Table, runs: Sequence[FinishedRun]) -> FilledTable:
    """Fills a table.

    Args:
        table: Of the paper.
        runs: All that were collected.

    Returns:
        A line for every number that the paper prints; for all columns of a row whose numbers are not known.
    """
    lines = []
    for row in table.rows:
        variant = as_published(row.model)
        for column in table.columns:
            if row.published is not None and column.header not in row.published:
                continue
            lines.append(
                Line(
                    row=row,
                    column=column,
                    published=None if row.published is None else row.published[column.header],
                    ours=measured(row, row.model, column.measure, runs),
                    as_published=Measured() if variant is None else measured(row, variant, column.measure, runs),
                )
            )
    return FilledTable(table=table, lines=tuple(lines))


def _mark(number: int) -> str:
    """``a`` to ``z``, then ``aa`` to ``zz``, and so on.

    Example:
        >>> [_mark(number) for number in (0, 25, 26, 51)]
        ['a', 'z', 'aa', 'zz']
    """
    return "abcdefghijklmnopqrstuvwxyz"[number % 26] * (number // 26 + 1)
