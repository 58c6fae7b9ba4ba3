"""report.html: one self-contained page on a run, and its figures as PNG files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import compare_rows, protocols_of
from i0t.evaluation.results import RowResult
from i0t.report.detail_sections import DetailSection, detail_sections
from i0t.report.difference_table import EXPLANATION, DifferenceTable, format_difference
from i0t.report.figure_groups import (
    FigureGroup,
    Panel,
    activation_changes,
    activation_group,
    cosine_group,
    embedding_states,
    measures_activations,
    projection_group,
    sampled_cosines,
    training_group,
)
from i0t.report.figures import Points, draw_examples
from i0t.report.interactive_page import InteractiveParts, interactive_parts
from i0t.report.interactive_points import text_name
from i0t.report.retrieval_examples import RetrievalExample, example_pairs, image_queries, text_queries
from i0t.report.style import png_bytes
from i0t.report.table import ResultTable, describe_protocol, format_interval, format_number
from i0t.report.templates import html_template
from i0t.report.thumbnails import ImageSource, picture_uri, read_image, thumbnail_uri
from i0t.report.whole_files import write_whole


def write_report(
    path: Path,
    *,
    title: str,
    rows: Sequence[RowResult],
    embeddings: EmbeddingSet,
    images: ImageSource | None,
    history: Mapping[str, Points],
    config_yaml: str,
    notes: Sequence[str],
    environment: Mapping[str, str],
    max_points: int = 1000,
) -> None:
    """Writes the page and, in the folder ``figures`` beside it, its figures.

    Everything is drawn before the first file is written, and each file is written aside and renamed, so a reader never
    sees half a page. The page needs no network and no other file; without JavaScript it shows the figures as pictures.

    Args:
        path: The page's path; its folder is made if it is missing.
        title: Heading of the page.
        rows: The comparison, in the order of the table.
        embeddings: The set the rows were measured on; captions and pairs may be missing.
        images: ``(H, W, 3)`` uint8 image of each row of the set, as a sequence or a function of the row, or ``None``.
        history: Logged name to (step, value) points; empty when nothing was trained.
        config_yaml: The run's resolved configuration.
        notes: Sentences for the reader, such as warnings of the run.
        environment: Library and machine facts by name.
        max_points: The most images, and texts, to point at; each image is read for its thumbnail.

    Raises:
        ValueError: If a row does not belong to the set, or an image is not ``(H, W, 3)`` uint8.
    """
    drawn = _draw(embeddings, rows, images=images, history=history, max_points=max_points)
    examples, example_panel = _examples(embeddings, images)
    html = html_template("page.html.j2").render(
        title=title,
        summary=_summary(embeddings),
        table=_table_context(rows),
        differences=_differences_context(rows),
        protocols=protocols_of(rows),
        warnings=_warnings(embeddings, rows),
        examples=examples,
        groups={name: _group_context(group) for name, group in drawn.groups.items()},
        details=[_detail_context(section) for section in drawn.details],
        interactive=drawn.interactive,
        retrieval=_retrieval(embeddings, rows, images),
        config_yaml=config_yaml,
        environment=environment,
        provenance={key: str(value) for key, value in embeddings.provenance.items()},
        notes=notes,
    )
    for panel in [*drawn.panels(), *([example_panel] if example_panel else [])]:
        write_whole(path.parent / "figures" / panel.file, panel.png)
    write_whole(path, html)


@dataclass(frozen=True)
class _Drawn:
    """The figures of a page, as pictures and interactive."""

    groups: dict[str, FigureGroup]
    details: list[DetailSection]
    interactive: InteractiveParts

    def panels(self) -> list[Panel]:
        """Every picture."""
        of_groups = [panel for group in self.groups.values() for panel in group.panels]
        return of_groups + [section.panel for section in self.details]


def _draw(
    embeddings: EmbeddingSet,
    rows: Sequence[RowResult],
    *,
    images: ImageSource | None,
    history: Mapping[str, Points],
    max_points: int,
) -> _Drawn:
    states = embedding_states(embeddings, rows)
    cosines = sampled_cosines(embeddings, states)
    changes = None if measures_activations(rows) else activation_changes(embeddings, states)
    groups = {
        "training": training_group(history),
        "projection": projection_group(embeddings, states),
        "activations": None if changes is None else activation_group(changes),
        "cosines": cosine_group(cosines, paired=len(embeddings.pairs) > 0),
    }
    return _Drawn(
        groups={name: group for name, group in groups.items() if group is not None},
        details=detail_sections(rows),
        interactive=interactive_parts(
            embeddings,
            rows,
            states=states,
            cosines=cosines,
            changes=changes,
            images=images,
            history=history,
            max_points=max_points,
        ),
    )


def _warnings(embeddings: EmbeddingSet, rows: Sequence[RowResult]) -> list[tuple[str, str]]:
    of_data = [("data", str(note)) for note in embeddings.provenance.get("warnings", ())]
    return [*of_data, *((row.name, note) for row in rows for note in row.notes)]


def _summary(embeddings: EmbeddingSet) -> str:
    pairs = f"{len(embeddings.pairs):,} pairs" if len(embeddings.pairs) else "no known pairs"
    return (
        f"{embeddings.num_images:,} images, {embeddings.num_texts:,} texts, {pairs}, {embeddings.dim:,} dimensions, "
        f"logit scale {embeddings.logit_scale:.4g}"
    )


def _table_context(rows: Sequence[RowResult]) -> dict[str, Any]:
    table = ResultTable(rows)
    every_key = list(dict.fromkeys(key for row in rows for key in row.metrics))
    return {
        "headers": list(table.columns.values()),
        "legend": table.legend(),
        "rows": [
            {
                "name": row.name,
                "protocol": describe_protocol(row),
                "cells": [_cell(row, key) for key in table.columns],
            }
            for row in rows
        ],
        "every_metric": [(key, [_cell(row, key) for row in rows]) for key in every_key],
        "has_intervals": any(row.intervals for row in rows),
    }


def _cell(row: RowResult, key: str) -> dict[str, str]:
    return {
        "number": format_number(key, row.metrics.get(key)),
        "interval": format_interval(key, row.intervals.get(key)),
    }


def _differences_context(rows: Sequence[RowResult]) -> dict[str, Any] | None:
    """Every row against the baseline; ``None`` where nothing can be compared."""
    differences = compare_rows(rows)
    if not differences:
        return None
    table = DifferenceTable(differences)
    names = list(dict.fromkeys(d.row for d in differences))
    found = {(d.row, d.metric): d for d in differences}
    return {
        "baseline": differences[0].baseline,
        "explanation": EXPLANATION,
        "headers": list(table.columns.values()),
        "rows": [(cells[0], cells[1:-1]) for cells in table.cells()],
        "names": names,
        "every": [
            (metric, [format_difference(found.get((name, metric))) for name in names])
            for metric in dict.fromkeys(d.metric for d in differences)
        ],
    }


def _group_context(group: FigureGroup) -> dict[str, Any]:
    return {
        "heading": group.heading,
        "explanation": group.explanation,
        "panels": [_panel_context(panel) for panel in group.panels],
    }


def _detail_context(section: DetailSection) -> dict[str, Any]:
    return {
        "name": Path(section.panel.file).stem,
        "heading": section.heading,
        "explanation": section.explanation,
        "panel": _panel_context(section.panel),
        "headers": list(zip(section.headers, section.are_words, strict=True)) if section.lines else [],
        "lines": [list(zip(line, section.are_words, strict=True)) for line in section.lines],
        "sentence": section.sentence,
    }


def _panel_context(panel: Panel) -> dict[str, Any]:
    return {"alt": panel.alt, "uri": picture_uri(panel.png), "wide": panel.wide}


def _examples(embeddings: EmbeddingSet, images: ImageSource | None) -> tuple[list[dict[str, str]], Panel | None]:
    """Cards for the page, and the same images as one figure for the folder."""
    if images is None:
        return [], None
    shown = []
    for image_row, text_row in example_pairs(embeddings):
        caption = "" if text_row is None else text_name(embeddings, text_row)
        shown.append((read_image(images, image_row), caption))
    cards = [{"uri": thumbnail_uri(image), "caption": caption} for image, caption in shown]
    return cards, Panel("examples.png", png_bytes(draw_examples(shown)), "Example images with their captions")


def _retrieval(embeddings: EmbeddingSet, rows: Sequence[RowResult], images: ImageSource | None) -> dict[str, Any] | str:
    """Retrieval examples of the first and the last row, or the reason why there are none."""
    if not rows:
        return "There is no row to retrieve with."
    if len(embeddings.pairs) == 0 and embeddings.relevant_pairs is None:
        return "The set has no pairs, so it is not known which text belongs to which image."
    if images is None and embeddings.captions is None:
        return "There are neither images nor captions to show."
    compared = rows if len(rows) < 2 else [rows[0], rows[-1]]

    def image(row: int) -> dict[str, str]:
        text = embeddings.image_ids[row] if embeddings.image_ids else f"image {row}"
        return {"uri": thumbnail_uri(read_image(images, row)) if images is not None else "", "text": text}

    def text(row: int) -> dict[str, str]:
        return {"uri": "", "text": text_name(embeddings, row)}

    def context(example: RetrievalExample, query: Any, answer: Any) -> dict[str, Any]:
        columns = [
            (
                name,
                rank,
                [{**answer(item.row), "cosine": f"{item.cosine:.2f}", "correct": item.correct} for item in items],
            )
            for (name, items), rank in zip(example.answers, example.ranks, strict=True)
        ]
        return {"query": query(example.query), "columns": columns}

    return {
        "names": [row.name for row in compared],
        "image_queries": [context(example, image, text) for example in image_queries(embeddings, compared)],
        "text_queries": [context(example, text, image) for example in text_queries(embeddings, compared)],
    }
