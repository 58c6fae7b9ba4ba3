"""What a sweep over captions found, as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from i0t.report.detail_table import Cell
from i0t.report.imbalance_claims import MULTIPLICITY, Claim, ClaimTest
from i0t.report.imbalance_points import (
    ACCURACY,
    BIAS,
    DISTANCE,
    MEAN_ACCURACY,
    RMG,
    ImbalanceJob,
    ImbalancePoint,
    labels_of,
)
from i0t.report.imbalance_statistics import OVER_IMAGES, OVER_SEEDS, Interval
from i0t.report.table_formats import markdown_table

CLAIM_HEADER = ("test", "decides", "effect", "estimate [95 %]", "p", "p (Holm)", "verdict", "method, or why not tested")
_COLUMNS: Mapping[str, str] = {
    RMG: "RMG",
    DISTANCE: "CD",
    BIAS["image"]: "MOAD image",
    BIAS["text"]: "MOAD text",
    MEAN_ACCURACY: "mean accuracy",
}
_SENTENCES = {
    OVER_SEEDS: "t distribution over {count} seeds",
    OVER_IMAGES: "bootstrap over the test images of the one job (it says nothing of other seeds)",
}


class Study(NamedTuple):
    """Everything that is written of a sweep.

    Attributes:
        jobs: That were read.
        points: Per main object and k.
        claims: Judged.
        left_out: A sentence on every job that was not used.
    """

    jobs: Sequence[ImbalanceJob]
    points: Sequence[ImbalancePoint]
    claims: Sequence[Claim]
    left_out: Sequence[str]


def columns_of(points: Sequence[ImbalancePoint]) -> dict[str, str]:
    """Number to header of the main table: gap, bias, mean accuracy, then every label that was measured."""
    present = dict.fromkeys(name for point in points for name in point.values)
    labels = {ACCURACY + label: label for label in labels_of(present)}
    return {name: header for name, header in {**_COLUMNS, **labels}.items() if name in present}


def interval_sentence(points: Sequence[ImbalancePoint]) -> str:
    """What the 95 % intervals are; where both kinds stand side by side, both."""
    shown = [point.values[name] for point in points for name in columns_of(points) if name in point.values]
    told = []
    for source, sentence in _SENTENCES.items():
        counts = sorted({value.num_values for value in shown if value.source == source})
        if counts:
            told.append(sentence.format(count=" or ".join(map(str, counts))))
    return f"95 % intervals: {'; '.join(told)}." if told else "Single jobs without intervals."


def point_headers(points: Sequence[ImbalancePoint]) -> list[str]:
    """Of the main table."""
    return ["main object", "k", "bits", *columns_of(points).values(), "jobs"]


def point_lines(points: Sequence[ImbalancePoint]) -> list[list[str]]:
    """Of the main table: one per main object and k."""
    return [
        [
            point.main_object,
            str(point.k),
            "" if point.caption_bits is None else f"{point.caption_bits:.2f}",
            *(format_interval(point.values.get(name)) for name in columns_of(points)),
            str(max(value.num_values for value in point.values.values())),
        ]
        for point in points
    ]


def format_interval(value: Interval | None) -> str:
    """A mean with its ends.

    Example:
        >>> format_interval(Interval(0.25, 0.2, 0.3, 3, OVER_SEEDS)), format_interval(None)
        ('0.250 [0.200, 0.300]', '')
    """
    if value is None:
        return ""
    ends = "" if value.low is None or value.high is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.mean:.3f}{ends}"


def claim_line(test: ClaimTest) -> list[str]:
    """Of a claim's table, see :data:`CLAIM_HEADER`."""
    return [
        test.measure,
        "yes" if test.decides else "no",
        test.effect,
        format_interval(test.estimate),
        format_p(None if test.result is None else test.result.p_value),
        format_p(test.adjusted_p),
        test.verdict,
        test.reason or test.method,
    ]


def format_p(p_value: float | None) -> str:
    """A p-value with two digits, never zero.

    Example:
        >>> [format_p(p) for p in (None, 0.04312, 2.3e-7, 0.0)]
        ['', '0.043', '2.3e-07', '< 1e-15']
    """
    if p_value is None:
        return ""
    return "< 1e-15" if p_value < 1e-15 else f"{p_value:.2g}"


def to_markdown(study: Study) -> str:
    """The verdicts, the tests and the numbers."""
    parts = ["# Information imbalance", "## Claims"]
    parts += [f"- **{claim.verdict}**: {claim.statement}" for claim in study.claims]
    for claim in study.claims:
        lines = [claim_line(test) for test in claim.tests]
        parts += [f"\n### {claim.statement}\n", f"**{claim.verdict}**. {claim.criterion}\n"]
        parts += [markdown_table(CLAIM_HEADER, lines), *(f"\n{note}" for note in claim.notes)]
    parts += [f"\n{MULTIPLICITY}", "\n## Numbers\n"]
    parts += [markdown_table(point_headers(study.points), point_lines(study.points))]
    parts += [f"\n{interval_sentence(study.points)}", *(f"\nLeft out: {sentence}." for sentence in study.left_out)]
    return "\n".join(parts) + "\n"


def to_csv(points: Sequence[ImbalancePoint]) -> str:
    """One line per main object, k and number, in full precision."""
    header = ("main_object", "k", "caption_bits", "image_bits", "number", "mean", "low", "high", "jobs", "interval")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for point in points:
        place: list[Cell] = [point.main_object, point.k, point.caption_bits, point.image_bits]
        writer.writerows([*place, name, *value] for name, value in point.values.items())
    return text.getvalue()


def to_json(study: Study) -> str:
    """Claims with every test, points, jobs and what was left out."""
    content = {
        "claims": [_claim_json(claim) for claim in study.claims],
        "multiplicity": MULTIPLICITY,
        "intervals": interval_sentence(study.points),
        "points": [
            {**point._asdict(), "values": {name: value._asdict() for name, value in point.values.items()}}
            for point in study.points
        ],
        "jobs": [
            {"name": job.name, "k": job.k, "main_object": job.main_object, "repetition": job.repetition}
            for job in study.jobs
        ],
        "left_out": list(study.left_out),
    }
    return json.dumps(content, indent=2) + "\n"


def _claim_json(claim: Claim) -> dict[str, Any]:
    return {
        "name": claim.name,
        "statement": claim.statement,
        "criterion": claim.criterion,
        "verdict": claim.verdict,
        "notes": list(claim.notes),
        "tests": [
            {
                "measure": test.measure,
                "decides": test.decides,
                "verdict": test.verdict,
                "method": test.method,
                "effect": test.effect,
                "estimate": None if test.estimate is None else test.estimate._asdict(),
                "p_value": None if test.result is None else test.result.p_value,
                "least_p": None if test.result is None else test.result.least,
                "adjusted_p": test.adjusted_p,
                "reason": test.reason,
            }
            for test in claim.tests
        ],
    }
