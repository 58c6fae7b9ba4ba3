"""The final table of a run: one row per gap reducer, and beside every number what it was fitted on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from rich.table import Table

from i0t.report.table_formats import latex_table, markdown_table, rich_table

if TYPE_CHECKING:  # it brings torch, which the page over many runs starts without
    from i0t.evaluation.results import RowResult

MISSING = "\N{EN DASH}"
ROW_HEADER = "gap reducer"
PROTOCOL_HEADER = "fitted on"

_HEADLINE = MappingProxyType(
    {
        "gap/centroid_distance": "CD",
        "gap/linear_separability": "LS",
        "gap/rmg": "RMG",
        "retrieval/i2t_r1": "I→T R@1",
        "retrieval/t2i_r1": "T→I R@1",
        "retrieval_1_caption/i2t_r1": "I→T R@1 1\N{NO-BREAK SPACE}cap.",
        "retrieval_1_caption/t2i_r1": "T→I R@1 1\N{NO-BREAK SPACE}cap.",
    }
)
_CAPTIONS = MappingProxyType(
    {
        "caption_correlation/tau_c": "τ_c",
        "caption_correlation/tau_b": "τ_b",
        "caption_preference/mean": "preferred",
        "caption_score/mean": "score",
        "caption_score/tau_c": "score τ_c",
        "caption_score/tau_b": "score τ_b",
    }
)
_OBJECT_BIAS = MappingProxyType({"object_bias/image": "MOAD image", "object_bias/text": "MOAD text"})

_MEANINGS = MappingProxyType(
    {
        "gap/centroid_distance": "centroid distance: from the mean image to the mean text embedding; "
        "0 is no gap, 2 the most",
        "gap/linear_separability": "linear separability: how well a linear classifier tells images from texts; "
        "0.5 is guessing, and less comes of means taken of the measured data themselves",
        "gap/rmg": "relative modality gap: distance between matched image and text, against distances inside a "
        "modality; 0 is no gap",
        "retrieval/i2t_r1": "share of images whose nearest text is a true one",
        "retrieval/t2i_r1": "share of texts whose nearest image is a true one",
        "retrieval_1_caption/i2t_r1": "I→T R@1 where only the first caption of every image is there",
        "retrieval_1_caption/t2i_r1": "T→I R@1 where only the first caption of every image is there",
        "caption_correlation/tau_c": "Kendall's tau-c of caption scores and human ratings",
        "caption_correlation/tau_b": "Kendall's tau-b of caption scores and human ratings",
        "caption_preference/mean": "share of pairs of captions whose preferred one scores higher, mean over kinds",
        "caption_score/mean": "mean score of the captions",
        "caption_score/tau_c": "Kendall's tau-c of the scores and the ratings in the file",
        "caption_score/tau_b": "Kendall's tau-b of the scores and the ratings in the file",
    }
)
_ZERO_SHOT_MEANING = "zero-shot accuracy: share of images whose label is named by the nearest prompt"
_OBJECT_BIAS_MEANING = "object bias of one modality's embeddings; above 0 the object outweighs its attributes"


def default_columns(rows: Sequence[RowResult]) -> dict[str, str]:
    """The headline columns for which at least one row has a number.

    Args:
        rows: The rows of the comparison.

    Returns:
        Metric key to header: gap, retrieval, one column per zero-shot label in order of appearance, caption scores,
        object bias.
    """
    return default_headers(key for row in rows for key in row.metrics)


def default_headers(keys: Iterable[str]) -> dict[str, str]:
    """The headline columns among the given metric keys, in reading order; see :func:`default_columns`."""
    present = dict.fromkeys(keys)
    labels = [key for key in present if key.startswith("zeroshot/") and key.count("/") == 1]
    zero_shot = {key: f"0-shot {key.removeprefix('zeroshot/')}" for key in labels}
    return {
        key: header for key, header in {**_HEADLINE, **zero_shot, **_CAPTIONS, **_OBJECT_BIAS}.items() if key in present
    }


def format_number(key: str, value: float | None) -> str:
    """A number as tables show it: gap measures with four decimals as in the papers, counts with none, others three."""
    if value is None:
        return MISSING
    if key.rsplit("/", 1)[-1].startswith("num_"):
        return f"{value:g}"
    return f"{value:.{4 if key.startswith('gap/') else 3}f}"


def describe_protocol(row: RowResult) -> str:
    """What the row's reducer was fitted on, e.g. ``inductive: coco train, 512 images``."""
    if row.protocol == "none":
        return f"{MISSING} (nothing fitted)"
    if row.fit_samples == 0:
        return f"{row.protocol}: {row.fit_split}, trained with the towers"
    data = row.fit_split if row.fit_data is None else f"{row.fit_data} {row.fit_split}"
    return f"{row.protocol}: {data}, {row.fit_samples:,} images"


def format_interval(key: str, interval: tuple[float, float] | None) -> str:
    """A 95 % interval as the tables show it, e.g. ``[0.880, 0.970]``; empty where there is none."""
    return f"[{format_number(key, interval[0])}, {format_number(key, interval[1])}]" if interval else ""


class ResultTable:
    """Rows of a comparison in the order given, with chosen metrics as columns.

    Args:
        rows: The rows.
        columns: Metric key to header, in order; by default :func:`default_columns`.
        with_intervals: Put the 95 % bootstrap interval behind every number that has one.

    Example:
        >>> import torch
        >>> from i0t.evaluation.results import RowResult
        >>> row = RowResult(name="none", reducer="i0t.NoReduction", fit_split=None, fit_samples=0, protocol="none",
        ...     metrics={"gap/rmg": 0.5}, intervals={}, image_features=torch.eye(2), text_features=torch.eye(2))
        >>> print(ResultTable([row]).to_markdown())
        | gap reducer | RMG | fitted on |
        | :-- | --: | :-- |
        | none | 0.5000 | – (nothing fitted) |
    """

    def __init__(
        self, rows: Sequence[RowResult], columns: Mapping[str, str] | None = None, *, with_intervals: bool = False
    ) -> None:
        self.rows = tuple(rows)
        self.with_intervals = with_intervals
        self.columns = dict(default_columns(rows) if columns is None else columns)

    def headers(self) -> list[str]:
        """The header of every column, first and last included."""
        return [ROW_HEADER, *self.columns.values(), PROTOCOL_HEADER]

    def cells(self) -> list[list[str]]:
        """The text of every cell, row by row."""
        return [
            [
                row.name,
                *(self._cell(row, key) for key in self.columns),
                describe_protocol(row),
            ]
            for row in self.rows
        ]

    def _cell(self, row: RowResult, key: str) -> str:
        number = format_number(key, row.metrics.get(key))
        interval = format_interval(key, row.intervals.get(key)) if self.with_intervals else ""
        return f"{number} {interval}".rstrip()

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
        return rich_table(self.headers(), self.cells(), width)

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown."""
        return markdown_table(self.headers(), self.cells())

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        return self.to_markdown()

    def to_latex(self) -> str:
        """The table as a ``tabular`` of the LaTeX package booktabs."""
        return latex_table(self.headers(), self.cells())

    def to_csv(self) -> str:
        """The table for programs: metric keys as headers, full precision, an empty cell where a number is missing.

        With intervals, each number is followed by its ``…_low`` and ``…_high``.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        suffixes = ("", "_low", "_high") if self.with_intervals else ("",)
        keys = [key + suffix for key in self.columns for suffix in suffixes]
        writer.writerow(["row", *keys, "protocol", "fit_data", "fit_split", "fit_samples"])
        for row in self.rows:
            about = [row.protocol, row.fit_data or "", row.fit_split or "", row.fit_samples]
            writer.writerow([row.name, *(self._csv_numbers(row)), *about])
        return text.getvalue()

    def _csv_numbers(self, row: RowResult) -> list[str]:
        cells = []
        for key in self.columns:
            numbers: list[float | None] = [row.metrics.get(key)]
            if self.with_intervals:
                numbers += row.intervals.get(key, (None, None))
            cells += ["" if number is None else repr(float(number)) for number in numbers]
        return cells
