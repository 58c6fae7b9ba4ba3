"""What a claim on information imbalance is, and how tests become verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from i0t.report.holm import holm
from i0t.report.imbalance_statistics import Interval, OneSided

HOLDS, FAILS, UNTESTED = "holds", "does not hold", "not tested"
LEVEL = 0.05
MULTIPLICITY = (
    f"A test holds if its one-sided p stays below {LEVEL:g} after Holm's adjustment; those that decide a claim are one "
    "family over the whole page, those beside them another. A claim holds if all its deciding tests hold; it does not "
    "hold if one of them does not, that is, if these runs do not show it at this level: see the estimate. Not tested: "
    "jobs or numbers are missing, or even the most extreme outcome of so few jobs could not have come below the level."
)


@dataclass(frozen=True, kw_only=True)
class ClaimTest:
    """One test of a claim.

    Attributes:
        measure: What is tested, in words.
        method: The test and what it is over, in words.
        effect: What the estimate is, in words.
        estimate: The effect with its interval over repetitions; ``None`` where it cannot be estimated.
        result: p and the least possible p; ``None`` where there is no test.
        decides: Whether the claim's verdict hangs on it.
        adjusted_p: p after Holm's adjustment; set by :func:`judge`.
        verdict: :data:`HOLDS`, :data:`FAILS` or :data:`UNTESTED`; set by :func:`judge`.
        reason: Why it is not tested.
    """

    measure: str
    method: str
    effect: str
    estimate: Interval | None = None
    result: OneSided | None = None
    decides: bool = True
    adjusted_p: float | None = None
    verdict: str = UNTESTED
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper and its tests.

    Attributes:
        name: Short, for files.
        statement: The claim, in words.
        criterion: When it holds, in words.
        tests: Of it.
        notes: Sentences with numbers beside the tests.
        verdict: Of the deciding tests together; set by :func:`judge`.
    """

    name: str
    statement: str
    criterion: str
    tests: tuple[ClaimTest, ...]
    notes: tuple[str, ...] = ()
    verdict: str = UNTESTED


def judge(claims: Sequence[Claim]) -> list[Claim]:
    """The claims with p-values adjusted over all of them, and their verdicts.

    A test that could not have held whatever its data were (its least possible p, with the p-values of the others as
    they are, stays above the level after the adjustment) is not tested, rather than failed.

    Args:
        claims: With the results of their tests.
    """
    adjusted: dict[int, tuple[float, float]] = {}
    for decides in (True, False):
        family = [test for claim in claims for test in claim.tests if test.result and test.decides is decides]
        adjusted |= _adjusted(family)
    judged = []
    for claim in claims:
        tests = tuple(_judge_test(test, *adjusted[id(test)]) if test.result else test for test in claim.tests)
        judged.append(replace(claim, tests=tests, verdict=_together(tests)))
    return judged


def _adjusted(family: Sequence[ClaimTest]) -> dict[int, tuple[float, float]]:
    """Test (by its identity) to its adjusted p, and to what that could have been at best."""
    results = [test.result for test in family if test.result is not None]
    p_values = [result.p_value for result in results]
    best = [holm([*p_values[:i], result.least, *p_values[i + 1 :]])[i] for i, result in enumerate(results)]
    return {id(test): (p, least) for test, p, least in zip(family, holm(p_values), best, strict=True)}


def _judge_test(test: ClaimTest, adjusted: float, best: float) -> ClaimTest:
    assert test.result is not None
    if best >= LEVEL:
        reason = f"too few jobs: the least possible p is {test.result.least:.2g}, {best:.2g} after adjustment"
        return replace(test, adjusted_p=adjusted, verdict=UNTESTED, reason=reason)
    return replace(test, adjusted_p=adjusted, verdict=HOLDS if adjusted < LEVEL else FAILS)


def _together(tests: Sequence[ClaimTest]) -> str:
    verdicts = {test.verdict for test in tests if test.decides}
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts == {HOLDS} else UNTESTED
