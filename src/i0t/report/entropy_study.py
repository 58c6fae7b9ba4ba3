"""The entropy study of Two Effects, One Trigger over the jobs of a multirun: curves, a table and verdicts.

``python -m i0t.report.entropy_study <folder>`` writes it over a folder of single runs.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i0t.report.detail_table import format_cell
from i0t.report.entropy_claims import Claim, entropy_claims
from i0t.report.entropy_curves import QUANTITIES, EntropyCurves, Estimate, entropy_curves, estimate
from i0t.report.entropy_figure import draw_entropy_study
from i0t.report.jobs import read_jobs, unfinished_jobs
from i0t.report.style import png_bytes
from i0t.report.table_formats import markdown_table
from i0t.report.whole_files import write_whole

STEM = "entropy_study"
_COLUMNS = ("start", "end", "change")
_DIFFERENCE = "frozen - learnt"


def write_entropy_study(
    jobs: Sequence[Mapping[str, Any]], folder: Path, *, unfinished: Sequence[str] = ()
) -> list[Path]:
    """Writes ``entropy_study.json``, ``.csv``, ``.md`` and ``.png``, each whole or not at all.

    Args:
        jobs: As :func:`i0t.report.jobs.read_jobs` reads them: runs from one checkpoint, with ``freeze_temperature``
            ``false`` and ``true``, repeated over seeds or not.
        folder: Where to.
        unfinished: A sentence on every job that left no numbers.

    Returns:
        The files.

    Raises:
        ValueError: If no two jobs make a pair, or they have no curves.
    """
    curves = entropy_curves(jobs, unfinished=unfinished)
    claims = entropy_claims(curves)
    lines = table_lines(curves)
    contents: dict[str, str | bytes] = {
        "json": json.dumps(_content(curves, claims, lines), indent=2, allow_nan=False) + "\n",
        "csv": _csv(lines),
        "md": _markdown(curves, claims, lines),
        "png": png_bytes(draw_entropy_study(curves)),
    }
    return [write_whole(folder / f"{STEM}.{ending}", content) for ending, content in contents.items()]


def table_lines(curves: EntropyCurves) -> list[dict[str, Any]]:
    """Start, end and change of every quantity, learnt, frozen, and their difference within pairs.

    Returns:
        A line each: ``quantity``, ``temperature``, ``runs``, and ``start``, ``end``, ``change`` with ``… low`` and
        ``… high`` of the 95 % interval over runs (``None`` for a single one).
    """
    lines = []
    for name in QUANTITIES:
        learnt, frozen = curves.learnt[name], curves.frozen[name]
        for temperature, values in (("learnt", learnt), ("frozen", frozen), (_DIFFERENCE, frozen - learnt)):
            line: dict[str, Any] = {"quantity": name, "temperature": temperature, "runs": len(curves.repeats)}
            columns = (values[:, 0], values[:, -1], values[:, -1] - values[:, 0])
            for column, numbers in zip(_COLUMNS, columns, strict=True):
                found = estimate(numbers)
                line |= {column: found.mean, f"{column} low": found.low, f"{column} high": found.high}
            lines.append(line)
    return lines


def claims_text(claims: Sequence[Claim]) -> str:
    """A line per claim: the verdict and the number it rests on."""
    return "\n".join(f"{c.verdict}: {c.statement} ({_with_interval(c.value)})" for c in claims)


def _content(curves: EntropyCurves, claims: Sequence[Claim], lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def plain(arm: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {name: values.tolist() for name, values in arm.items()}

    return {
        "claims": [{**c._asdict(), "value": c.value._asdict()} for c in claims],
        "table": list(lines),
        "repeats": list(curves.repeats),
        "left_out": list(curves.left_out),
        "steps": curves.steps.tolist(),
        "curves": {"learnt": plain(curves.learnt), "frozen": plain(curves.frozen)},
    }


def _markdown(curves: EntropyCurves, claims: Sequence[Claim], lines: Sequence[Mapping[str, Any]]) -> str:
    first, last = int(curves.steps[0]), int(curves.steps[-1])
    header = ["quantity", "temperature", f"start (step {first})", f"end (step {last:,})", "change"]
    rows = [
        [
            str(line["quantity"]).replace("_", " "),
            str(line["temperature"]),
            *(_with_interval(Estimate(line[c], line[f"{c} low"], line[f"{c} high"])) for c in _COLUMNS),
        ]
        for line in lines
    ]
    verdicts = [[c.statement, c.test, _with_interval(c.value), c.verdict] for c in claims]
    parts = [
        markdown_table(["claim", "test", "value", "verdict"], verdicts),
        markdown_table(header, rows),
        f"{_sample(curves)} Entropy in nats, image to text over the whole validation split; temperature is one over "
        "the logit scale. A claim holds if its whole interval fulfils the rule, does not hold if none of it does.",
        *(["Left out: " + "; ".join(curves.left_out) + "."] if curves.left_out else []),
    ]
    return "\n\n".join(parts) + "\n"


def _sample(curves: EntropyCurves) -> str:
    count = len(curves.repeats)
    if count == 1:
        return "One pair of runs: no intervals, and verdicts on its numbers alone."
    return f"Brackets: 95 % intervals of the mean over {count} pairs of runs (Student's t)."


def _with_interval(value: Estimate) -> str:
    if value.low is None or value.high is None:
        return format_cell(value.mean)
    return f"{format_cell(value.mean)} [{format_cell(value.low)}, {format_cell(value.high)}]"


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Writes the study over a folder of runs; returns the exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m i0t.report.entropy_study <folder that holds a folder per run>")  # noqa: T201
        return 0 if arguments == ["--help"] else 2
    folder = Path(arguments[0])
    try:
        files = write_entropy_study(read_jobs(folder), folder, unfinished=unfinished_jobs(folder))
    except ValueError as error:
        print(f"error: {folder}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(*files, sep="\n")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
