"""The claim that with full information the gap closes, however large it was at first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from i0t.report.imbalance_claims import Claim, ClaimTest
from i0t.report.imbalance_points import ImbalanceJob
from i0t.report.imbalance_statistics import t_interval, t_test_above

LOGGED = {"centroid distance": "val/centroid_distance", "RMG": "val/rmg"}
CLOSED_SHARE = 0.25
_SEVERE, _MODERATE = 0.63, 0.19  # classes of the centroid distance: I0T, arXiv 2412.14384, section 3.1


def closing_claim(jobs: Sequence[ImbalanceJob]) -> Claim:
    """Compares the gap before the first step with that at the end, on the validation split.

    Args:
        jobs: Those whose captions name every factor are tested; those with k = 1 are compared with them.
    """
    full = [job for job in jobs if job.k == len(job.labels) - 1]
    starts = [start for job in full if (start := _ends(job, LOGGED["centroid distance"])[0]) is not None]
    tests: list[ClaimTest] = []
    for measure, name in LOGGED.items():
        tests += [_closed(full, measure, name, starts), _less_than_with_one(jobs, full, measure, name)]
    return Claim(
        name="gap_closes",
        statement="With full information the gap closes, even from a large initial gap.",
        criterion=f"Where captions name every factor, less than {CLOSED_SHARE:.0%} of the gap before the first step is "
        "left at the end, by centroid distance and by RMG (validation split). An initial centroid distance below "
        f"{_MODERATE:g}, low by the classes of I0T (arXiv 2412.14384, section 3.1), would be no test.",
        tests=tuple(tests),
        notes=_notes(full, starts),
    )


def _ends(job: ImbalanceJob, name: str) -> tuple[float | None, float | None]:
    """The logged value before the first step, and that at the end; ``None`` where it is missing or not finite."""
    points = job.history.get(name, ())
    if not points:
        return None, None
    (first, start), (last, end) = points[0], points[-1]
    return (
        start if first == 0 and math.isfinite(start) else None,
        end if last > 0 and math.isfinite(end) else None,
    )


def _shares(jobs: Sequence[ImbalanceJob], name: str) -> Mapping[str, float]:
    """Repetition to the share of the initial gap that is left, mean over main objects."""
    found: dict[str, list[float]] = {}
    for job in jobs:
        start, end = _ends(job, name)
        if start is not None and end is not None and start > 0:
            found.setdefault(job.repetition, []).append(end / start)
    return {repetition: statistics.fmean(values) for repetition, values in found.items()}


def _closed(full: Sequence[ImbalanceJob], measure: str, name: str, starts: Sequence[float]) -> ClaimTest:
    shares = list(_shares(full, name).values())
    what, effect = f"{measure} closes", "share of the initial gap that is left"
    method = f"one-sided t-test over seeds that less than {CLOSED_SHARE:.0%} is left"
    estimate = t_interval(shares) if shares else None
    if not full:
        reason = "it needs jobs whose captions name every factor"
    elif not shares or not starts:
        reason = f"it needs {name} before the first step in history.json: validate_first=true"
    elif statistics.fmean(starts) < _MODERATE:
        reason = f"the initial gap is not large: centroid distance {statistics.fmean(starts):.3f}"
    elif len(shares) < 2:
        reason = "a t-test needs two seeds or more"
    else:
        result = t_test_above([-share for share in shares], -CLOSED_SHARE)
        return ClaimTest(
            measure=what, method=f"{method} ({len(shares)} seeds)", effect=effect, estimate=estimate, result=result
        )
    return ClaimTest(measure=what, method=method, effect=effect, estimate=estimate, reason=reason)


def _less_than_with_one(
    jobs: Sequence[ImbalanceJob], full: Sequence[ImbalanceJob], measure: str, name: str
) -> ClaimTest:
    """Whether less is left than where captions name a single attribute; beside the claim."""
    one, every = _shares([job for job in jobs if job.k == 1], name), _shares(full, name)
    differences = [one[repetition] - every[repetition] for repetition in every if repetition in one]
    what = f"less {measure} is left than with one attribute"
    method, effect = "one-sided paired t-test over seeds", "share left at k = 1 minus share left with every factor"
    if len(differences) < 2:
        reason = f"it needs two seeds or more with jobs of k = 1 and of every factor, both with {name} at step 0"
        return ClaimTest(
            measure=what,
            method=method,
            effect=effect,
            decides=False,
            reason=reason,
            estimate=t_interval(differences) if differences else None,
        )
    return ClaimTest(
        measure=what,
        method=f"{method} ({len(differences)} seeds)",
        effect=effect,
        decides=False,
        estimate=t_interval(differences),
        result=t_test_above(differences),
    )


def _notes(full: Sequence[ImbalanceJob], starts: Sequence[float]) -> tuple[str, ...]:
    """The two ends in numbers, and how large the first is by the classes of I0T."""
    if not starts:
        return ()
    told = []
    for measure, name in LOGGED.items():
        both = [(a, b) for job in full for a, b in [_ends(job, name)] if a is not None and b is not None]
        if both:
            first, last = (statistics.fmean(values) for values in zip(*both, strict=True))
            told.append(f"{measure} from {first:.3f} to {last:.3f}")
    mean = statistics.fmean(starts)
    size = "severe" if mean >= _SEVERE else "moderate" if mean >= _MODERATE else "low"
    return (f"{', '.join(told)}; the initial gap is {size} by the classes of I0T.",) if told else ()
