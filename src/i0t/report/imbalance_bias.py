"""The claims on which factor becomes the bias: the one that every caption names, and in images more than in texts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial

from i0t.report.imbalance_claims import Claim, ClaimTest
from i0t.report.imbalance_points import BIAS, ImbalanceJob, contrast
from i0t.report.imbalance_statistics import t_interval, t_test_above
from i0t.report.imbalance_trends import FIRST_K

_METHOD = "one-sided t-test over seeds of each seed's mean over k = {ks}"
_UNEQUAL = (
    "Over k from 1 on but below the number of all attributes: there, every factor is always captioned, and none is "
    "the bias."
)


def bias_claims(jobs: Sequence[ImbalanceJob]) -> list[Claim]:
    """The three claims on caption presence and bias."""
    unequal = [job for job in jobs if FIRST_K <= job.k < _num_attributes(job)]
    mains = list(dict.fromkeys(job.main_object for job in jobs))
    return [_between(unequal, mains), _within(unequal, mains), _more_in_images(unequal, mains)]


def _num_attributes(job: ImbalanceJob) -> int:
    """How many attributes there are beside the main object, by the factors that were measured."""
    return max(len(job.labels) - 1, 0)


def _between(jobs: Sequence[ImbalanceJob], mains: Sequence[str]) -> Claim:
    """A factor's contrast where every caption names it, against the same where another factor is the main object."""
    tests = [
        _test(
            jobs,
            f"contrast of {main} in {modality}s is larger where {main} is always captioned",
            f"contrast of {main} as main object minus the mean of its contrasts under other main objects",
            partial(_advantage, main=main, name=contrast(modality, main)),
            decides=modality == "image",
            missing="it needs seeds and values of k with this and another main object",
        )
        for main in (mains if len(mains) > 1 else ())
        for modality in BIAS
    ]
    if not tests:
        tests = [
            ClaimTest(
                measure="contrast of a factor, always captioned or not",
                method="",
                effect="",
                reason=f"it needs two main objects or more, and all jobs have {', '.join(mains)}: "
                "add data.main_object=digit,color",
            )
        ]
    return Claim(
        name="captioned_factor_becomes_bias",
        statement="Whichever factor is always captioned becomes the bias.",
        criterion="Every factor's contrast in images is larger in runs whose captions always name it than in runs, at "
        f"the same k and seed, whose captions always name another. {_UNEQUAL}",
        tests=tuple(tests),
    )


def _advantage(group: Sequence[ImbalanceJob], main: str, name: str) -> float | None:
    """Of the jobs of one seed and k."""
    own = [job.numbers[name] for job in group if job.main_object == main and name in job.numbers]
    others = [job.numbers[name] for job in group if job.main_object != main and name in job.numbers]
    return statistics.fmean(own) - statistics.fmean(others) if own and others else None


def _within(jobs: Sequence[ImbalanceJob], mains: Sequence[str]) -> Claim:
    """The main object's contrast against the largest of the other factors', in the same run."""
    tests = tuple(
        _test(
            [job for job in jobs if job.main_object == main],
            f"contrast of {main} in {modality}s is the largest of its runs",
            f"contrast of {main} minus the largest contrast of another factor",
            partial(_lead, modality=modality),
            decides=modality == "image",
            missing="it needs contrasts of the main object and of another factor (evaluation=object_bias)",
        )
        for main in mains
        for modality in BIAS
    )
    return Claim(
        name="captioned_factor_leads",
        statement="In its own runs, the factor that is always captioned stands out most.",
        criterion=f"In images, its contrast is larger than that of any other factor. {_UNEQUAL}",
        tests=tests,
    )


def _lead(group: Sequence[ImbalanceJob], modality: str) -> float | None:
    """Of the one job of a main object, seed and k."""
    (job,) = group
    start = contrast(modality, "")
    found = {name.removeprefix(start): value for name, value in job.numbers.items() if name.startswith(start)}
    others = [value for label, value in found.items() if label != job.main_object]
    return found[job.main_object] - max(others) if job.main_object in found and others else None


def _more_in_images(jobs: Sequence[ImbalanceJob], mains: Sequence[str]) -> Claim:
    """MOAD of images against MOAD of texts, in the same run."""

    def test(members: Sequence[ImbalanceJob], named: str, *, decides: bool) -> ClaimTest:
        return _test(
            members,
            f"MOAD of images is above MOAD of texts{named}",
            "MOAD of images minus MOAD of texts",
            _excess,
            decides=decides,
            missing="it needs MOAD of both modalities (evaluation=object_bias)",
        )

    tests = [test(jobs, "", decides=True)]
    if len(mains) > 1:
        tests += [
            test([j for j in jobs if j.main_object == m], f" where {m} is captioned", decides=False) for m in mains
        ]
    return Claim(
        name="more_in_images",
        statement="The bias is larger in images than in texts.",
        criterion=f"MOAD of images is larger than MOAD of texts in the same run, mean over main objects. {_UNEQUAL}",
        tests=tuple(tests),
    )


def _excess(group: Sequence[ImbalanceJob]) -> float | None:
    image, text = BIAS["image"], BIAS["text"]
    differences = [j.numbers[image] - j.numbers[text] for j in group if image in j.numbers and text in j.numbers]
    return statistics.fmean(differences) if differences else None


def _test(
    jobs: Sequence[ImbalanceJob],
    measure: str,
    effect: str,
    value: Callable[[Sequence[ImbalanceJob]], float | None],
    *,
    decides: bool,
    missing: str,
) -> ClaimTest:
    """A t-test over seeds: a value per seed and k, averaged over k."""
    groups: dict[str, dict[int, list[ImbalanceJob]]] = {}
    for job in jobs:
        groups.setdefault(job.repetition, {}).setdefault(job.k, []).append(job)
    tables = {
        seed: {k: number for k, group in by_k.items() if (number := value(group)) is not None}
        for seed, by_k in groups.items()
    }
    means = [statistics.fmean(table.values()) for table in tables.values() if table]
    if not means:
        return ClaimTest(measure=measure, method="", effect=effect, decides=decides, reason=missing)
    ks = sorted({k for table in tables.values() for k in table})
    method = _METHOD.format(ks=", ".join(map(str, ks)))
    if len(means) < 2:
        return ClaimTest(
            measure=measure,
            method=method,
            effect=effect,
            estimate=t_interval(means),
            decides=decides,
            reason="a t-test needs two seeds or more",
        )
    return ClaimTest(
        measure=measure,
        method=f"{method} ({len(means)} seeds)",
        effect=effect,
        estimate=t_interval(means),
        result=t_test_above(means),
        decides=decides,
    )
