"""The jobs of a sweep over what captions say, and the points of its figures."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from i0t.report.imbalance_statistics import Interval, t_interval
from i0t.report.jobs import JobRow, rows_of

RMG, DISTANCE = "gap/rmg", "gap/centroid_distance"
BIAS = {"image": "object_bias/image", "text": "object_bias/text"}
ACCURACY = "zeroshot/"
OBJECT_ACCURACY, ATTRIBUTE_ACCURACY, MEAN_ACCURACY = "accuracy/object", "accuracy/attributes", "accuracy/mean"
_CAPTIONS = re.compile(r"object_attribute_(\d+)")
_OBJECT_ONLY = "object_only"
_UNFITTED = "none"


class ImbalanceJob(NamedTuple):
    """A job as this report needs it.

    Attributes:
        name: Its folder.
        k: How many attributes its captions name beside the main object.
        main_object: The factor that every caption names.
        repetition: What tells jobs of the same k and main object apart: seed, and checkpoint it started from.
        caption_bits: Information that a caption carries of the image; ``None`` where the job does not say.
        image_bits: Information in an image's factors.
        numbers: By name without split and row; also the accuracies :data:`OBJECT_ACCURACY` (of the main object),
            :data:`ATTRIBUTE_ACCURACY` (mean of the other factors) and :data:`MEAN_ACCURACY` (of all).
        intervals: 95 % bootstrap intervals over images of those that have one.
        history: Logged name to points (step, value).
    """

    name: str
    k: int
    main_object: str
    repetition: str
    caption_bits: float | None
    image_bits: float | None
    numbers: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    history: Mapping[str, Sequence[Sequence[float]]]

    @property
    def labels(self) -> list[str]:
        """The factors whose accuracy was measured."""
        return labels_of(self.numbers)


class ImbalancePoint(NamedTuple):
    """Jobs that differ in their repetition alone.

    Attributes:
        main_object: The factor that every caption names.
        k: Attributes named beside it.
        caption_bits: Of a caption.
        image_bits: Of an image.
        values: Number by name.
    """

    main_object: str
    k: int
    caption_bits: float | None
    image_bits: float | None
    values: Mapping[str, Interval]


def labels_of(numbers: Mapping[str, Any]) -> list[str]:
    """The labels among names such as ``zeroshot/digit``, not ``zeroshot/balanced/digit``."""
    names = [name.removeprefix(ACCURACY) for name in numbers if name.startswith(ACCURACY)]
    return [name for name in names if "/" not in name]


def contrast(modality: str, label: str) -> str:
    """Name of a label's contrast: mean cosine of pairs of one value less that of pairs of different values."""
    return f"object_bias/{modality}_contrast/{label}"


def imbalance_jobs(jobs: Sequence[Mapping[str, Any]]) -> tuple[list[ImbalanceJob], list[str]]:
    """Those jobs that say what their captions held, and a sentence on each of the others.

    Args:
        jobs: As :func:`i0t.report.jobs.read_jobs` reads them.

    Returns:
        The jobs in the order of main object, k and repetition; what was left out and why.

    Raises:
        ValueError: If no job can be used, or two have the same k, main object, seed and checkpoint.
    """
    found: list[ImbalanceJob] = []
    left_out: list[str] = []
    for job in jobs:
        row = next((row for row in rows_of([job]) if row.about.get("protocol") == _UNFITTED), None)
        k = _num_attributes(row)
        if row is None or k is None or RMG not in row.numbers:
            left_out.append(f"job {job['name']} has no captions of MAD, or no gap of a row that fits nothing")
            continue
        found.append(_imbalance_job(row, k))
    if not found:
        raise ValueError(
            f"none of {len(jobs)} jobs has data.captions=object_attribute_… and a gap measured without a reducer "
            "(evaluation=[gap,zeroshot,object_bias] compare=baseline)"
        )
    _check_distinct(found)
    left_out += _missing(found)
    mains = list(dict.fromkeys(job.main_object for job in found))
    return sorted(found, key=lambda job: (mains.index(job.main_object), job.k, job.repetition)), left_out


def _num_attributes(row: JobRow | None) -> int | None:
    captions = None if row is None else row.value_of("data.captions")
    match = _CAPTIONS.fullmatch(str(captions))
    return 0 if captions == _OBJECT_ONLY else int(match[1]) if match else None


def _imbalance_job(row: JobRow, k: int) -> ImbalanceJob:
    main, about = str(row.value_of("data.main_object")), row.job["metrics"].get("data", {})
    checkpoint = row.value_of("ckpt_path")
    seed = f"seed {row.value_of('seed')}"
    return ImbalanceJob(
        name=str(row.job["name"]),
        k=k,
        main_object=main,
        repetition=seed if checkpoint is None else f"{seed} from {checkpoint}",
        caption_bits=about.get("caption_bits"),
        image_bits=about.get("image_bits"),
        numbers={**row.numbers, **_accuracies(row.numbers, main)},
        intervals=row.intervals,
        history=row.job.get("history", {}),
    )


def _accuracies(numbers: Mapping[str, float], main: str) -> dict[str, float]:
    accuracy = {label: numbers[ACCURACY + label] for label in labels_of(numbers)}
    others = [value for label, value in accuracy.items() if label != main]
    found = {}
    if main in accuracy:
        found[OBJECT_ACCURACY] = accuracy[main]
    if others:
        found[ATTRIBUTE_ACCURACY] = statistics.fmean(others)
    if main in accuracy and others:
        found[MEAN_ACCURACY] = statistics.fmean(accuracy.values())
    return found


def _check_distinct(jobs: Sequence[ImbalanceJob]) -> None:
    seen: dict[tuple[str, int, str], str] = {}
    for job in jobs:
        other = seen.setdefault((job.main_object, job.k, job.repetition), job.name)
        if other != job.name:
            raise ValueError(
                f"jobs {other} and {job.name} have the same k={job.k}, main object {job.main_object} and "
                f"{job.repetition}, so something else varies too: sweep it in a multirun of its own"
            )


def _missing(jobs: Sequence[ImbalanceJob]) -> list[str]:
    """One sentence on the cells of the grid of main objects, k and repetitions that have no job."""
    present = {(job.main_object, job.k, job.repetition) for job in jobs}
    axes = [list(dict.fromkeys(axis)) for axis in zip(*sorted(present), strict=True)]
    absent = [
        f"{main} k={k} {repetition}"
        for main, k, repetition in itertools.product(*axes)
        if (main, k, repetition) not in present
    ]
    return [f"without numbers, of every main object, k and seed: {'; '.join(absent)}"] if absent else []


def imbalance_points(jobs: Sequence[ImbalanceJob]) -> list[ImbalancePoint]:
    """One point per main object and k, with 95 % intervals: t over repetitions; of a single job, its bootstrap.

    Args:
        jobs: From :func:`imbalance_jobs`.
    """
    groups: dict[tuple[str, int], list[ImbalanceJob]] = {}
    for job in jobs:
        groups.setdefault((job.main_object, job.k), []).append(job)
    return [_point(members) for members in groups.values()]


def _point(jobs: Sequence[ImbalanceJob]) -> ImbalancePoint:
    first, values = jobs[0], {}
    for name in dict.fromkeys(name for job in jobs for name in job.numbers):
        having = [job for job in jobs if job.numbers.get(name, float("nan")) == job.numbers.get(name)]
        if having:
            alone = having[0].intervals.get(name)
            if name == OBJECT_ACCURACY:
                alone = having[0].intervals.get(ACCURACY + first.main_object)
            values[name] = t_interval([job.numbers[name] for job in having], alone=alone)
    return ImbalancePoint(first.main_object, first.k, first.caption_bits, first.image_bits, values)
