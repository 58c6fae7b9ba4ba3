"""The report of a sweep over captions: numbers, tables, figures and one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from i0t.report.imbalance_bias import bias_claims
from i0t.report.imbalance_claims import MULTIPLICITY, Claim, judge
from i0t.report.imbalance_closing import closing_claim
from i0t.report.imbalance_figures import imbalance_panels
from i0t.report.imbalance_points import ImbalanceJob, imbalance_jobs, imbalance_points
from i0t.report.imbalance_tables import (
    CLAIM_HEADER,
    Study,
    claim_line,
    interval_sentence,
    point_headers,
    point_lines,
    to_csv,
    to_json,
    to_markdown,
)
from i0t.report.imbalance_trends import FIRST_K, OUTSIDE, trend_claims
from i0t.report.panel import Panel
from i0t.report.templates import html_template
from i0t.report.thumbnails import data_uri
from i0t.report.whole_files import write_whole

STEM = "information_imbalance"
_HEADINGS = {
    "gap_by": ("The gap", "How far apart images and texts are on the test split; 0 is no gap."),
    "object_bias_by": (
        "Object bias",
        "MOAD: by how much embeddings cluster by the factor that is always captioned rather than by the others; 0 is "
        "no bias.",
    ),
    "accuracy_by": (
        "Accuracy",
        "Zero-shot accuracy on the test split: of the factor that is always captioned, of all factors in the mean, and "
        "of every factor.",
    ),
    "contrast_by": (
        "What embeddings cluster by",
        "Contrast of each factor: mean cosine of pairs with the same value less that of pairs with different values. "
        "Solid: images; dashed: texts.",
    ),
    "gap_by_step": (
        "The gap while training",
        "On the validation split, from before the first step; mean over seeds, for the most "
        "captioned attributes (solid) and the fewest (dashed).",
    ),
}


def write_information_imbalance(
    jobs: Sequence[Mapping[str, Any]], folder: Path, *, unfinished: Sequence[str] = ()
) -> list[Path]:
    """Writes ``information_imbalance.json``, ``.csv`` and ``.md``, the figures and ``report.html``.

    Everything is computed and drawn before the first file is written, and each file is whole or not there.

    Args:
        jobs: As :func:`i0t.report.jobs.read_jobs` reads them.
        folder: Where to; figures go into its ``figures``.
        unfinished: A sentence on every job that left no numbers.

    Returns:
        The files.

    Raises:
        ValueError: If no job can be used, or jobs differ in more than captions, main object, seed and checkpoint.
    """
    study = study_of(jobs, unfinished=unfinished)
    panels = imbalance_panels(study.jobs, study.points)
    contents = {"json": to_json(study), "csv": to_csv(study.points), "md": to_markdown(study)}
    page = render_page(study, panels)
    files = [write_whole(folder / f"{STEM}.{ending}", content) for ending, content in contents.items()]
    files += [write_whole(folder / "figures" / panel.file, panel.png) for panel in panels]
    return [*files, write_whole(folder / "report.html", page)]


def study_of(jobs: Sequence[Mapping[str, Any]], *, unfinished: Sequence[str] = ()) -> Study:
    """What the jobs say, with judged claims; see :func:`write_information_imbalance`."""
    found, unusable = imbalance_jobs(jobs)
    return Study(found, imbalance_points(found), claims_of(found), [*unfinished, *unusable])


def claims_of(jobs: Sequence[ImbalanceJob]) -> list[Claim]:
    """All claims, judged together."""
    return judge([*trend_claims(jobs), *bias_claims(jobs), closing_claim(jobs)])


def render_page(study: Study, panels: Sequence[Panel]) -> str:
    """The page as HTML that needs no network and no other file."""
    return html_template("imbalance_page.html.j2").render(
        summary=_summary(study.jobs),
        trend_sentence=_trend_sentence(study.jobs),
        claims=study.claims,
        claim_header=CLAIM_HEADER,
        claim_line=claim_line,
        multiplicity=MULTIPLICITY,
        sections=_sections(panels),
        intervals=interval_sentence(study.points),
        point_header=point_headers(study.points),
        point_lines=point_lines(study.points),
        left_out=study.left_out,
    )


def _summary(jobs: Sequence[ImbalanceJob]) -> str:
    ks = ", ".join(map(str, sorted({job.k for job in jobs})))
    mains = ", ".join(dict.fromkeys(job.main_object for job in jobs))
    count = len({job.repetition for job in jobs})
    return f"{len(jobs)} runs: k = {ks}; {count} {'seed' if count == 1 else 'seeds'}; always captioned: {mains}"


def _trend_sentence(jobs: Sequence[ImbalanceJob]) -> str:
    """What cannot be seen in these jobs, or what k = 0 is."""
    ks = sorted({job.k for job in jobs})
    if len(ks) == 1:
        return f"All runs have k = {ks[0]}, so nothing can be said of how numbers change with k."
    return f"{OUTSIDE}; it is drawn hollow and shaded." if ks[0] < FIRST_K else ""


def _sections(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Headings with their figures, in the order of the figures."""
    sections: dict[str, dict[str, Any]] = {}
    for panel in panels:
        stem = panel.file.removesuffix(".png")
        key = stem if stem in _HEADINGS else stem.rpartition("_")[0]
        heading, explanation = _HEADINGS[key]
        section = sections.setdefault(key, {"heading": heading, "explanation": explanation, "panels": []})
        section["panels"].append({"alt": panel.alt, "uri": data_uri("image/png", panel.png)})
    return list(sections.values())
