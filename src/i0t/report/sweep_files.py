"""What is written over the jobs of a sweep: ``summary.csv``, ``seeds.csv`` and one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from i0t.report.sweep_jobs import SweepJob
from i0t.report.sweep_page import GENERATOR, render_sweep_page
from i0t.report.sweep_seeds import Job, SeedSummary, seeds_csv, seeds_text, summarize_seeds, summary_csv
from i0t.report.whole_files import write_whole

SUMMARY_FILE, SEEDS_FILE = "summary.csv", "seeds.csv"
PAGE_FILE = "report.html"
# Where the folder has a page of another kind: that of a study over the same jobs, or of a run.
SECOND_PAGE_FILE = "jobs.html"
_MOST_LINES = 40  # of means over seeds that are printed; beyond, the page and seeds.csv have them
_HEAD_BYTES = 2_000  # the generator is named at the beginning of a page


class SweepFiles(NamedTuple):
    """What was written.

    Attributes:
        num_jobs: How many jobs it is about.
        summary: The table of every job.
        seeds: That of means and standard deviations over seeds; ``None`` where no jobs differ in their seed alone.
        page: The page.
        spreads: What ``seeds`` holds.
    """

    num_jobs: int
    summary: Path
    seeds: Path | None
    page: Path
    spreads: tuple[SeedSummary, ...]


def write_sweep(jobs: Sequence[SweepJob], folder: Path, *, title: str) -> SweepFiles:
    """Writes the tables and the page, each whole or not at all, once all of them are made.

    The page is ``report.html``. Where a page of that name is there which this function did not write (some sweeps end
    with a study of their own, a single run has its own page), that one stays, and the page over the jobs is
    ``jobs.html`` and links to it.

    Args:
        jobs: Of the sweep, at least one.
        folder: Where to; it is made if it is missing.
        title: Heading of the page.
    """
    assert jobs
    summary = summary_csv([_summary_row(job) for job in jobs])
    seeds = tuple(summarize_seeds([Job(job.name, job.overrides, job.numbers) for job in jobs]))
    page = page_path(folder)
    other = folder / PAGE_FILE if page.name != PAGE_FILE else None
    html = render_sweep_page(jobs, seeds, folder=folder, title=title, study=other)
    return SweepFiles(
        num_jobs=len(jobs),
        summary=write_whole(folder / SUMMARY_FILE, summary),
        seeds=write_whole(folder / SEEDS_FILE, seeds_csv(seeds)) if seeds else None,
        page=write_whole(page, html),
        spreads=seeds,
    )


def page_path(folder: Path) -> Path:
    """Where the page over the jobs goes, such that no page of another kind is lost; see :func:`write_sweep`."""
    path = folder / PAGE_FILE
    if not path.exists():
        return path
    with path.open("rb") as file:
        return path if GENERATOR.encode() in file.read(_HEAD_BYTES) else folder / SECOND_PAGE_FILE


def told(files: SweepFiles) -> str:
    """What to say of the files; the last line says where the page is."""
    lines = [f"summary of {files.num_jobs} job{'s' if files.num_jobs > 1 else ''}: {files.summary}"]
    if files.seeds is not None:
        text = seeds_text(files.spreads)
        lines += [
            text if text.count("\n") < _MOST_LINES else "",
            f"mean and standard deviation over seeds: {files.seeds}",
        ]
    return "\n".join([*filter(None, lines), f"report over the jobs: {files.page}"])


def _summary_row(job: SweepJob) -> dict[str, Any]:
    rows = job.metrics.get("rows", {}).items()
    protocols = {f"protocol of {row}": about["protocol"] for row, about in rows if about.get("protocol")}
    return {
        "job": job.name,
        "status": job.status,
        **job.overrides,
        **job.numbers,
        **protocols,
        **({"reason": job.reason} if job.reason else {}),
    }
