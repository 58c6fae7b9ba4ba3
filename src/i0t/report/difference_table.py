"""The table of differences: every row of a comparison against its baseline, with interval and significance."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from rich.table import Table

from i0t.evaluation.results import Difference
from i0t.report.table import MISSING, default_headers, format_number
from i0t.report.table_formats import latex_table, markdown_table, rich_table

SIGNIFICANT = "*"
EXPLANATION = (
    "Each number is the row's minus the baseline's on the same images, in brackets its 95 % paired bootstrap interval; "
    f"{SIGNIFICANT} marks p < .05 (two-sided, not corrected for the number of comparisons)."
)


class DifferenceTable:
    """Differences of a comparison, a row per reducer and a column per number.

    Args:
        differences: What :func:`i0t.evaluation.compare.compare_rows` found.
        columns: Metric key to header, in order; by default the headline numbers that occur.

    Example:
        >>> found = Difference("gap/rmg", "posthoc", "none", -0.2, -0.25, -0.15, 0.002)
        >>> print(DifferenceTable([found]).to_markdown())
        | gap reducer | RMG | compared with |
        | :-- | --: | :-- |
        | posthoc | -0.2000* [-0.2500, -0.1500] | none |
    """

    def __init__(self, differences: Sequence[Difference], columns: Mapping[str, str] | None = None) -> None:
        self.differences = tuple(differences)
        self.columns = dict(default_headers(d.metric for d in differences) if columns is None else columns)

    def headers(self) -> list[str]:
        """The header of every column, first and last included."""
        return ["gap reducer", *self.columns.values(), "compared with"]

    def cells(self) -> list[list[str]]:
        """The text of every cell, row by row."""
        found = {(d.row, d.metric): d for d in self.differences}
        rows = dict.fromkeys((d.row, d.baseline) for d in self.differences)
        return [
            [row, *(format_difference(found.get((row, key))) for key in self.columns), baseline]
            for row, baseline in rows
        ]

    def to_rich(self, width: int | None = None) -> Table:
        """The table for a terminal of the given width (by default the current one's)."""
        return rich_table(self.headers(), self.cells(), width)

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown."""
        return markdown_table(self.headers(), self.cells())

    def to_latex(self) -> str:
        """The table as a ``tabular`` of the LaTeX package booktabs."""
        return latex_table(self.headers(), self.cells())

    def to_csv(self) -> str:
        """Every difference, headline or not, one a line, in full precision."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(Difference._fields)
        writer.writerows(self.differences)
        return text.getvalue()


def format_difference(difference: Difference | None) -> str:
    """A difference as the table shows it, e.g. ``+0.0123* [0.0050, 0.0200]``."""
    if difference is None:
        return MISSING
    value, low, high = (
        format_number(difference.metric, number) for number in (difference.value, difference.low, difference.high)
    )
    sign = "" if value.startswith("-") else "+"
    return f"{sign}{value}{SIGNIFICANT if difference.significant else ''} [{low}, {high}]"
