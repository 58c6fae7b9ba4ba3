"""The claims on what changes with the number of captioned attributes: gap, accuracy, object bias."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from i0t.report.imbalance_claims import Claim, ClaimTest
from i0t.report.imbalance_points import (
    ACCURACY,
    BIAS,
    DISTANCE,
    MEAN_ACCURACY,
    OBJECT_ACCURACY,
    RMG,
    ImbalanceJob,
)
from i0t.report.imbalance_statistics import t_interval, trend_test

FIRST_K = 1  # one word per image (k = 0) leaves as many different texts as the main object has values
OUTSIDE = (
    "k = 0 is outside the claims: a caption of one word leaves the text side as many points as the main object has "
    "values"
)


def trend_claims(jobs: Sequence[ImbalanceJob]) -> list[Claim]:
    """The claims (a) gap, (b) accuracy and (c) object bias against k."""
    gaps = [("RMG", RMG), ("centroid distance", DISTANCE)]
    biases = [(f"MOAD of {modality}s", name) for modality, name in BIAS.items()]
    labels = list(dict.fromkeys(label for job in jobs for label in job.labels))
    return [
        Claim(
            name="gap_falls",
            statement="The more attributes captions name, the smaller the modality gap.",
            criterion="RMG and centroid distance both fall with k.",
            tests=tuple(_trend(jobs, measure, name, rises=False) for measure, name in gaps),
            notes=_at_zero(jobs, gaps),
        ),
        Claim(
            name="accuracy_rises",
            statement="The more attributes captions name, the higher the accuracy.",
            criterion="The mean accuracy over all factors rises with k.",
            tests=(
                _trend(jobs, "mean accuracy", MEAN_ACCURACY, rises=True),
                _trend(jobs, "accuracy of the main object", OBJECT_ACCURACY, rises=True, decides=False),
                *(_attribute_trend(jobs, label) for label in labels if any(job.main_object != label for job in jobs)),
            ),
            notes=_at_zero(jobs, [("mean accuracy", MEAN_ACCURACY)]),
        ),
        Claim(
            name="bias_falls",
            statement="The more attributes captions name, the smaller the object bias.",
            criterion="MOAD of images and MOAD of texts both fall with k.",
            tests=tuple(_trend(jobs, measure, name, rises=False) for measure, name in biases),
            notes=_at_zero(jobs, biases),
        ),
    ]


def _attribute_trend(jobs: Sequence[ImbalanceJob], label: str) -> ClaimTest:
    others = [job for job in jobs if job.main_object != label]
    return _trend(others, f"accuracy of {label} as an attribute", ACCURACY + label, rises=True, decides=False)


def seed_blocks(jobs: Sequence[ImbalanceJob], name: str) -> dict[str, dict[int, float]]:
    """Repetition to k to the mean over main objects, for k from 1 on.

    Runs of one seed begin alike whatever their main object, so a seed is one block. A main object that lacks a k that
    another has (a job failed) is left out of that seed: means over other main objects at every k would not compare.

    Args:
        jobs: Any.
        name: Of the number; jobs without it are left out.
    """
    tables: dict[str, dict[str, dict[int, float]]] = {}
    for job in jobs:
        value = job.numbers.get(name)
        if job.k >= FIRST_K and value is not None and value == value:
            tables.setdefault(job.repetition, {}).setdefault(job.main_object, {})[job.k] = value
    blocks = {}
    for repetition, mains in tables.items():
        most = max(map(set, mains.values()), key=len)
        whole = [table for table in mains.values() if set(table) == most]
        blocks[repetition] = {k: statistics.fmean(table[k] for table in whole) for k in sorted(most)}
    return blocks


def _trend(jobs: Sequence[ImbalanceJob], measure: str, name: str, *, rises: bool, decides: bool = True) -> ClaimTest:
    """Page's test over the repetitions, and the difference between the last and the first k."""
    verb = "rises" if rises else "falls"
    method = "Page's trend test over k from 1 on, exact, k permuted within each seed"
    blocks = {key: block for key, block in seed_blocks(jobs, name).items() if len(block) >= 2}
    if not blocks:
        reason = f"it needs jobs of one seed with two values of k from {FIRST_K} on that have {name}"
        return ClaimTest(measure=f"{measure} {verb}", method=method, effect="", decides=decides, reason=reason)
    ends = {(min(block), max(block)) for block in blocks.values()}
    whole = (min(first for first, _ in ends), max(last for _, last in ends))
    differences = [block[whole[1]] - block[whole[0]] for block in blocks.values() if {*whole} <= set(block)]
    sign = 1.0 if rises else -1.0
    return ClaimTest(
        measure=f"{measure} {verb}",
        method=f"{method} ({len(blocks)} {'seed' if len(blocks) == 1 else 'seeds'})",
        effect=f"k = {whole[1]} minus k = {whole[0]}",
        estimate=t_interval(differences) if differences else None,
        result=trend_test([[sign * block[k] for k in sorted(block)] for block in blocks.values()]),
        decides=decides,
    )


def _at_zero(jobs: Sequence[ImbalanceJob], measures: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """What k = 0 and k = 1 give, side by side."""
    told = []
    for measure, name in measures:
        means = {
            k: statistics.fmean(values)
            for k in (0, FIRST_K)
            if (values := [job.numbers[name] for job in jobs if job.k == k and name in job.numbers])
        }
        if len(means) == 2:
            told.append(f"{measure} {means[0]:.3f} at k = 0 and {means[FIRST_K]:.3f} at k = {FIRST_K}")
    return (f"{OUTSIDE}; beside them: {', '.join(told)}.",) if told else ()
