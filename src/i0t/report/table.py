"""The final table of a run: one row per gap reducer, and beside every number what it was fitted on."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from i0t.evaluation.results import RowResult

MISSING = "\N{EN DASH}"
ROW_HEADER = "gap reducer"
PROTOCOL_HEADER = "fitted on"
_UNLIMITED = 10_000  # rich cuts what it measures to the width it is given

_HEADLINE = MappingProxyType(
    {
        "gap/centroid_distance": "CD",
        "gap/linear_separability": "LS",
        "gap/rmg": "RMG",
        "retrieval/i2t_r1": "I→T R@1",
        "retrieval/t2i_r1": "T→I R@1",
    }
)
_OBJECT_BIAS = MappingProxyType({"object_bias/image": "MOAD image", "object_bias/text": "MOAD text"})

_MEANINGS = MappingProxyType(
    {
        "gap/centroid_distance": "centroid distance: from the mean image to the mean text embedding; "
        "0 is no gap, 2 the most",
        "gap/linear_separability": "linear separability: how well a linear classifier tells images from texts; "
        "0.5 is guessing",
        "gap/rmg": "relative modality gap: distance between matched image and text, against distances inside a "
        "modality; 0 is no gap",
        "retrieval/i2t_r1": "share of images whose nearest text is a true one",
        "retrieval/t2i_r1": "share of texts whose nearest image is a true one",
    }
)
_ZERO_SHOT_MEANING = "zero-shot accuracy: share of images whose label is named by the nearest prompt"
_OBJECT_BIAS_MEANING = "object bias of one modality's embeddings; above 0 the object outweighs its attributes"


def default_columns(rows: Sequence[RowResult]) -> dict[str, str]:
    """The headline columns for which at least one row has a number.

    Args:
        rows: The rows of the comparison.

    Returns:
        Metric key to header: gap, retrieval, one column per zero-shot label in order of appearance, object bias.
    """
    present = dict.fromkeys(key for row in rows for key in row.metrics)
    labels = [key for key in present if key.startswith("zeroshot/") and key.count("/") == 1]
    zero_shot = {key: f"0-shot {key.removeprefix('zeroshot/')}" for key in labels}
    return {key: header for key, header in {**_HEADLINE, **zero_shot, **_OBJECT_BIAS}.items() if key in present}


def format_number(key: str, value: float | None) -> str:
    """A number as the table shows it: gap measures with four decimals as in the papers, the others with three."""
    if value is None:
        return MISSING
    return f"{value:.{4 if key.startswith('gap/') else 3}f}"


def describe_protocol(row: RowResult) -> str:
    """What the row's reducer was fitted on, e.g. ``inductive: train, 30,192 images``."""
    if row.protocol == "none":
        return f"{MISSING} (nothing fitted)"
    if row.fit_samples == 0:
        return f"{row.protocol}: {row.fit_split}, trained with the towers"
    return f"{row.protocol}: {row.fit_split}, {row.fit_samples:,} images"


class ResultTable:
    """Rows of a comparison in the order given, with chosen metrics as columns.

    Args:
        rows: The rows.
        columns: Metric key to header, in order; by default :func:`default_columns`.

    Example:
        >>> import torch
        >>> row = RowResult(name="none", reducer="i0t.NoReduction", fit_split=None, fit_samples=0, protocol="none",
        ...     metrics={"gap/rmg": 0.5}, intervals={}, image_features=torch.eye(2), text_features=torch.eye(2))
        >>> print(ResultTable([row]).to_markdown())
        | gap reducer | RMG | fitted on |
        | :-- | --: | :-- |
        | none | 0.5000 | – (nothing fitted) |
    """

    def __init__(self, rows: Sequence[RowResult], columns: Mapping[str, str] | None = None) -> None:
        self.rows = tuple(rows)
        self.columns = dict(default_columns(rows) if columns is None else columns)

    def headers(self) -> list[str]:
        """The header of every column, first and last included."""
        return [ROW_HEADER, *self.columns.values(), PROTOCOL_HEADER]

    def cells(self) -> list[list[str]]:
        """The text of every cell, row by row."""
        return [
            [
                row.name,
                *(format_number(key, row.metrics.get(key)) for key in self.columns),
                describe_protocol(row),
            ]
            for row in self.rows
        ]

    def legend(self) -> dict[str, str]:
        """What the columns say, for columns this module knows: header, or first word of a family, to its meaning."""
        meanings = {}
        for key, header in self.columns.items():
            if key.startswith("zeroshot/"):
                meanings[header.split(" ")[0]] = _ZERO_SHOT_MEANING
            elif key in _OBJECT_BIAS:
                meanings[header.split(" ")[0]] = _OBJECT_BIAS_MEANING
            elif key in _MEANINGS:
                meanings[header] = _MEANINGS[key]
        return meanings

    def to_rich(self, width: int | None = None) -> Table:
        """The table for a terminal.

        Where the wide form would have to break numbers, metrics become rows and reducers columns.

        Args:
            width: Columns of the terminal; by default those of the current one.

        Returns:
            A renderable; print it with :class:`rich.console.Console`.
        """
        console = Console(width=width)
        wide = self._wide()
        needed = Measurement.get(console, console.options.update(width=_UNLIMITED), wide).minimum
        return wide if needed <= console.width else self._transposed()

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown."""
        alignment = [":--", *["--:"] * len(self.columns), ":--"]
        lines = [self.headers(), alignment, *self.cells()]
        return "\n".join("| " + " | ".join(_escape_markdown(cell) for cell in line) + " |" for line in lines)

    def to_csv(self) -> str:
        """The table for programs: metric keys as headers, full precision, an empty cell where a number is missing."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", *self.columns, "protocol", "fit_split", "fit_samples"])
        for row in self.rows:
            numbers = [repr(float(row.metrics[key])) if key in row.metrics else "" for key in self.columns]
            writer.writerow([row.name, *numbers, row.protocol, row.fit_split or "", row.fit_samples])
        return text.getvalue()

    def _wide(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column(ROW_HEADER.replace(" ", "\n"))
        for header in self.columns.values():
            table.add_column(Text(header.replace(" ", "\n", 1)), justify="right", no_wrap=True)
        table.add_column(PROTOCOL_HEADER, min_width=17)
        for cells in self.cells():
            table.add_row(*(Text(cell) for cell in cells))
        return table

    def _transposed(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column("", no_wrap=True)
        for row in self.rows:
            table.add_column(Text(row.name), justify="right", overflow="fold")
        for header, *values in list(zip(self.headers(), *self.cells(), strict=True))[1:]:
            table.add_row(Text(header), *(Text(value) for value in values))
        return table


def _escape_markdown(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
