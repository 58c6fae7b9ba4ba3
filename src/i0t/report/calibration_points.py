"""What a centring reducer leaves behind by the size of its calibration set: measured, and as theory has it.

n images the means were fitted on, N images that were measured, c mean matched cosine after the reduction, CD the
centroid distance and CD_u its unbiased form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from i0t.report.jobs import JobRow, Spread, rows_of, spread_of

DISTANCE = "gap/centroid_distance"
UNBIASED = "gap/centroid_distance_unbiased"
_EXPECTED = "gap/centroid_distance_expected"
_UNBIASED_EXPECTED = "gap/centroid_distance_unbiased_expected"
_COSINE = "gap/matched_cosine"
_INDUCTIVE = "inductive"


class Theory(NamedTuple):
    """The centroid distance that centring leaves by chance.

    Fitted on n images and measured on N *others*, CD² = a (1/n + 1/N) and CD_u² = a / n. Where the n are among the N
    (transductive), CD² = a (1/n - 1/N), which is nothing at n = N but for what normalising brings back.

    Attributes:
        spread: a. 2 (1 - c) with one caption per image; of rows that bring their own expectation (several captions,
            groups of images) what follows from that.
        num_test: N; ``None`` where the run does not say.
        among: Whether the calibration images are among those measured.
    """

    spread: float
    num_test: int | None
    among: bool

    def distance(self, num_fit: float) -> float | None:
        """CD for n images, feature units; ``None`` where N is not known or n is beyond it."""
        if self.num_test is None:
            return None
        noise = 1 / num_fit + (-1 if self.among else 1) / self.num_test
        return math.sqrt(self.spread * noise) if noise >= 0 else None

    def unbiased(self, num_fit: float) -> float | None:
        """CD_u for n images; ``None`` where the data were seen, so that it estimates nothing."""
        return None if self.among else math.sqrt(self.spread / num_fit)


class CalibrationPoint(NamedTuple):
    """One size of the calibration set, over the jobs that differ in their seed alone."""

    num_fit: int
    num_jobs: int
    distance: Spread
    unbiased: Spread | None
    cosine: float
    theory: Theory


class CalibrationSeries(NamedTuple):
    """The points of one kind of calibration data, by ascending n; ``theory`` is that of its points on average."""

    label: str
    points: tuple[CalibrationPoint, ...]
    theory: Theory


def calibration_series(jobs: Sequence[Mapping[str, Any]]) -> list[CalibrationSeries]:
    """The rows whose calibration size the jobs vary, or all fitted rows where none is varied.

    Args:
        jobs: As :func:`i0t.report.jobs.read_jobs` reads them.

    Returns:
        One series per row, protocol, calibration data set and whatever else the jobs override.

    Raises:
        ValueError: If no row has what is needed.
    """
    fitted = [r for r in rows_of(jobs) if r.about.get("fit_samples") and {DISTANCE, _COSINE} <= set(r.numbers)]
    if not fitted:
        raise ValueError(
            f"none of {len(jobs)} jobs has a fitted row with {DISTANCE} and {_COSINE}: "
            "run them with evaluation=gap on paired data and a reducer such as gap_reducer=posthoc"
        )
    sizes: dict[str, set[int]] = {}
    for row in fitted:
        sizes.setdefault(row.name, set()).add(row.about["fit_samples"])
    varied = {name for name, found in sizes.items() if len(found) > 1} or set(sizes)
    groups: dict[tuple[Any, ...], list[JobRow]] = {}
    for row in fitted:
        if row.name in varied:
            about = (row.about["protocol"], row.about.get("fit_data"), _theory(row).num_test)
            groups.setdefault((row.identity(without=("seed", "fit_samples")), *about), []).append(row)
    labels = _labels(list(groups))
    return [_series(label, rows) for label, rows in zip(labels, groups.values(), strict=True)]


def _series(label: str, rows: Sequence[JobRow]) -> CalibrationSeries:
    by_size: dict[int, list[JobRow]] = {}
    for row in rows:
        by_size.setdefault(row.about["fit_samples"], []).append(row)
    points = tuple(_point(size, by_size[size]) for size in sorted(by_size))
    return CalibrationSeries(label, points, _mean_theory([point.theory for point in points]))


def _point(num_fit: int, rows: Sequence[JobRow]) -> CalibrationPoint:
    distance = spread_of(rows, lambda row: row.numbers[DISTANCE], DISTANCE)
    cosine = spread_of(rows, lambda row: row.numbers[_COSINE])
    assert distance is not None
    assert cosine is not None
    unbiased = spread_of(rows, lambda row: row.numbers.get(UNBIASED), UNBIASED)
    theory = _mean_theory([_theory(row) for row in rows])
    return CalibrationPoint(num_fit, len(rows), distance, unbiased, cosine.mean, theory)


def _theory(row: JobRow) -> Theory:
    """From the row's own expectation where it has one, else from its mean matched cosine."""
    num_fit, numbers = row.about["fit_samples"], row.numbers
    among = row.about["protocol"] != _INDUCTIVE
    said = row.job["metrics"].get("data", {}).get("num_images")
    num_test = said if isinstance(said, int) else None
    if not among and {_EXPECTED, _UNBIASED_EXPECTED} <= set(numbers):
        square, unbiased_square = numbers[_EXPECTED] ** 2, numbers[_UNBIASED_EXPECTED] ** 2
        if square > unbiased_square > 0:
            following = round(num_fit / (square / unbiased_square - 1))  # their ratio is 1 + n/N
            return Theory(unbiased_square * num_fit, num_test or following, among)
    return Theory(max(0.0, 2 * (1 - numbers[_COSINE])), num_test, among)


def _mean_theory(theories: Sequence[Theory]) -> Theory:
    return theories[0]._replace(spread=sum(theory.spread for theory in theories) / len(theories))


def _labels(keys: Sequence[tuple[Any, ...]]) -> list[str]:
    """Names of the series, with those overrides that tell them apart."""
    common = set.intersection(*(set(key[0]) for key in keys))
    labels = []
    for identity, protocol, fit_data, num_test in keys:
        row = dict(identity)["row"]
        others = [f"{key}={value}" for key, value in identity if key != "row" and (key, value) not in common]
        where = [protocol, *([f"fitted on {fit_data}"] if fit_data else []), *others]
        measured = [] if num_test is None else [f"N = {num_test:,}"]
        labels.append(f"{row} ({', '.join([*where, *measured])})")
    return labels
