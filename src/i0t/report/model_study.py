"""Gap, object bias and performance over the models of a multirun: numbers, tables, figures and one page.

``python -m i0t.report.model_study FOLDER`` writes them again from the jobs in a folder, whatever command made these.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from i0t.report.jobs import read_jobs, unfinished_jobs
from i0t.report.model_correlations import (
    BIAS,
    CARRYING,
    DIMENSIONS,
    GAP,
    OBJECT,
    WIDTH,
    Correlation,
    Question,
    correlations,
    measured,
    questions,
    sign_shares,
)
from i0t.report.model_figures import draw_questions
from i0t.report.model_points import MIN_RECALL, StudiedModel, data_sets, studied_models
from i0t.report.model_tables import METHOD, Section, csv_lines, model_table, sections
from i0t.report.style import png_bytes
from i0t.report.table_formats import markdown_table
from i0t.report.templates import html_template
from i0t.report.thumbnails import data_uri
from i0t.report.whole_files import write_whole

STEM = "gap_vs_performance"
TITLE = "Gap, object bias and performance over models"
FIGURES = {
    GAP: f"{STEM}.png",
    OBJECT: "object_and_attribute.png",
    BIAS: "object_bias_vs_attribute.png",
    DIMENSIONS: "dimensions_vs_width.png",
}
EXIT_USER_ERROR = 2


def write_model_study(
    jobs: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    min_recall: float = MIN_RECALL,
    seed: int = 0,
) -> list[Path]:
    """Writes ``gap_vs_performance.json``, ``.csv``, ``.md``, figures and ``report.html``, each whole or not at all.

    Args:
        jobs: As :func:`i0t.report.jobs.read_jobs` reads them, one per model and data set.
        folder: Where to; jobs in it that left no numbers are named on the page.
        min_recall: See :func:`i0t.report.model_points.studied_models`.
        seed: Of permutations and resamples.

    Returns:
        The files.

    Raises:
        ValueError: If no job measured a model of open_clip.
    """
    models = studied_models(jobs, min_recall=min_recall)
    found = correlations(models, seed=seed)
    missing = unfinished_jobs(folder)
    figures = _figures(models, found)
    parts = sections(models, found)
    contents: dict[str, str | bytes] = {
        f"{STEM}.json": _json(models, found, missing),
        f"{STEM}.csv": _csv(models),
        f"{STEM}.md": _markdown(models, parts, missing),
        **{FIGURES[family]: png for family, png in figures.items()},
        "report.html": _page(models, parts, missing, figures),
    }
    return [write_whole(folder / name, content) for name, content in contents.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m i0t.report.model_study``; leaves with 2 and one line if the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m i0t.report.model_study", description=TITLE)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a multirun: a folder per job")
    parser.add_argument(
        "--min-recall", type=float, default=MIN_RECALL, help="models below this R@1 do not count (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of permutations and resamples (default: 0)")
    options = parser.parse_args(arguments)
    try:
        files = write_model_study(
            read_jobs(options.folder), options.folder, min_recall=options.min_recall, seed=options.seed
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"model_study: error: {error}\n")
        raise SystemExit(EXIT_USER_ERROR) from error
    sys.stdout.writelines(f"{file}\n" for file in files)


def _figures(models: Sequence[StudiedModel], found: Sequence[Correlation]) -> dict[str, bytes]:
    asked = questions(models)
    panels = {family: [one for one in asked if one.family == family] for family in (GAP, OBJECT, BIAS)}
    panels[DIMENSIONS] = [
        Question(DIMENSIONS, WIDTH, measured(data, key))
        for data in data_sets(models)
        for key in CARRYING
        if any(model.number(data, key) is not None for model in models)
    ]
    drawn = {family: draw_questions(models, shown, found) for family, shown in panels.items()}
    return {family: png_bytes(figure) for family, figure in drawn.items() if figure is not None}


def _json(models: Sequence[StudiedModel], found: Sequence[Correlation], missing: Sequence[str]) -> str:
    def correlation(one: Correlation) -> dict[str, Any]:
        partial = None if one.partial is None else one.partial._asdict()
        return {**asdict(one), "tau": one.tau._asdict(), "partial": partial}

    def model(one: StudiedModel) -> dict[str, Any]:
        return {
            **{"name": one.name, "architecture": one.architecture, "pretrained": one.tag, "left_out": one.left_out},
            **{"training": one.training._asdict(), "shape": one.shape._asdict()},
            "numbers": {data: dict(numbers) for data, numbers in one.numbers.items()},
        }

    content = {
        "models": [model(one) for one in models],
        "correlations": [correlation(one) for one in found],
        "sign_shares": [share._asdict() for share in sign_shares(found)],
        "jobs_without_numbers": list(missing),
        "method": METHOD,
    }
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _csv(models: Sequence[StudiedModel]) -> str:
    header, lines = csv_lines(models)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()


def _summary(models: Sequence[StudiedModel], missing: Sequence[str]) -> list[str]:
    """What was studied, and what is not in it."""
    left_out = sum(model.left_out is not None for model in models)
    unknown = sum(model.training.num_pairs is None for model in models)
    lines = [
        f"{len(models)} models on {', '.join(data_sets(models))}; {left_out} of them do not count in correlations."
    ]
    if unknown:
        lines.append(f"Of {unknown} the number of training pairs is unknown: they are in no partial τ and in no group.")
    if missing:
        lines.append(f"{len(missing)} jobs left no numbers:")
    return [*lines, *missing]


def _markdown(models: Sequence[StudiedModel], parts: Sequence[Section], missing: Sequence[str]) -> str:
    blocks = [f"# {TITLE}", *_summary(models, missing), METHOD]
    for part in parts:
        blocks += [f"## {part.heading}", *part.sentences]
        if part.family in FIGURES:
            blocks.append(f"![{part.heading}]({FIGURES[part.family]})")
        for caption, header, lines in part.tables:
            blocks += [f"### {caption}", markdown_table(header, lines)]
    blocks += ["## Models", markdown_table(*model_table(models))]
    return "\n\n".join(blocks) + "\n"


def _page(
    models: Sequence[StudiedModel], parts: Sequence[Section], missing: Sequence[str], figures: Mapping[str, bytes]
) -> str:
    header, lines = model_table(models)
    return html_template("model_page.html.j2").render(
        title=TITLE,
        summary=_summary(models, missing),
        method=METHOD,
        parts=parts,
        figures={family: data_uri("image/png", png) for family, png in figures.items()},
        header=header,
        lines=lines,
    )


if __name__ == "__main__":
    main()
