"""The sections of a report on what evaluations found beside their numbers, whichever evaluation it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from i0t.evaluation.results import RowResult
from i0t.report.detail_figures import draw_details
from i0t.report.detail_table import DetailTable, details_by_name
from i0t.report.panel import Panel
from i0t.report.style import png_bytes

_SHOWN_LINES = 10


@dataclass(frozen=True)
class DetailSection:
    """A detail of all rows.

    Attributes:
        heading: Its title.
        explanation: What was measured, where the detail has the name of an evaluation; else empty.
        panel: All rows side by side.
        headers: Of the table.
        are_words: Of every column, whether it holds words rather than numbers.
        lines: The first lines of every row.
        sentence: What the lines are, and where the others stand.
    """

    heading: str
    explanation: str
    panel: Panel
    headers: list[str]
    are_words: list[bool]
    lines: list[list[str]]
    sentence: str


def detail_sections(rows: Sequence[RowResult]) -> list[DetailSection]:
    """A section for each detail that a row has.

    Raises:
        ValueError: If rows have tables with other columns under one name.
    """
    protocols = {prefix: sentence for row in rows for prefix, sentence in row.protocols.items()}
    sections = []
    for name, details in details_by_name(rows).items():
        title = next(iter(details.values())).title
        table = DetailTable(details)
        alt = f"{title}: {', '.join(details)}"
        file = f"{name}.csv"
        cut = table.is_cut(_SHOWN_LINES)
        sections.append(
            DetailSection(
                heading=title,
                explanation=_sentence(protocols.get(name, "")),
                panel=Panel(f"{name}.png", png_bytes(draw_details(details)), alt, wide=len(details) > 1),
                headers=table.headers(),
                are_words=table.are_words(),
                lines=table.cells(first=_SHOWN_LINES),
                sentence=table.cut_sentence(_SHOWN_LINES, file) if cut else f"Also in {file}.",
            )
        )
    return sections


def _sentence(text: str) -> str:
    """A protocol as a sentence of its own."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""
