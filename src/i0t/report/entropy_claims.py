"""What the runs of an entropy study say of the claims of Two Effects, One Trigger (arXiv 2404.07983), by stated tests.

The paper: captions that say less need a matching of higher entropy. A learnt temperature rises to it; where it is
frozen, the model gets there with a larger modality gap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from i0t.report.entropy_curves import EntropyCurves, Estimate, estimate

# Choices of this study, for the paper shows curves and states no thresholds.
ENTROPY_MARGIN = 0.1  # entropies within so much of each other are alike
GROWTH_FACTOR = 2.0  # a gap that grows so many times as much grows far more

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
_GAPS = {"centroid_distance": "centroid distance", "rmg": "RMG"}


class Claim(NamedTuple):
    """A claim, how it was tested, and what came of it.

    Attributes:
        statement: The claim.
        test: The number that is tested and the rule.
        value: The number, over the pairs of runs.
        verdict: ``holds``, ``does not hold`` or ``undecided``.
    """

    statement: str
    test: str
    value: Estimate
    verdict: str


def entropy_claims(curves: EntropyCurves) -> list[Claim]:
    """The premise and the paper's claims, each with the pairs of runs as the sample.

    A claim holds if the whole 95 % interval over pairs fulfils the rule, does not hold if none of the interval does,
    and is undecided otherwise. A single pair has no interval: its number alone is judged.
    """
    return [_premise(curves), _entropies_alike(curves), *(_gap_grows(curves, name) for name in _GAPS)]


def _premise(curves: EntropyCurves) -> Claim:
    change = np.minimum(_change(curves.learnt["logit_entropy"]), _change(curves.frozen["logit_entropy"]))
    value = estimate(change)
    return Claim(
        "Premise: with captions that say less, the logit entropy rises.",
        "The smaller of the two runs' changes from start to end, in nats, is above 0.",
        value,
        _above_zero(value),
    )


def _entropies_alike(curves: EntropyCurves) -> Claim:
    learnt, frozen = curves.learnt["logit_entropy"][:, -1], curves.frozen["logit_entropy"][:, -1]
    value = estimate((frozen - learnt) / learnt)
    return Claim(
        "With the temperature learnt and frozen, the logit entropy ends alike.",
        f"(frozen - learnt) / learnt at the last step lies within ± {ENTROPY_MARGIN:g}.",
        value,
        _within(value, ENTROPY_MARGIN),
    )


def _gap_grows(curves: EntropyCurves, name: str) -> Claim:
    learnt, frozen = _change(curves.learnt[name]), _change(curves.frozen[name])
    value = estimate(frozen - GROWTH_FACTOR * np.maximum(learnt, 0.0))
    return Claim(
        f"With the temperature frozen, the gap ({_GAPS[name]}) grows far more.",
        f"Its growth with the temperature frozen, minus {GROWTH_FACTOR:g} times its growth (at least 0) with the "
        "temperature learnt, is above 0.",
        value,
        _above_zero(value),
    )


def _change(values: np.ndarray) -> np.ndarray:
    change: np.ndarray = values[:, -1] - values[:, 0]
    return change


def _above_zero(value: Estimate) -> str:
    low, high = _bounds(value)
    if low > 0:
        return HOLDS
    return FAILS if high <= 0 else UNDECIDED


def _within(value: Estimate, margin: float) -> str:
    low, high = _bounds(value)
    if -margin <= low and high <= margin:
        return HOLDS
    return FAILS if low > margin or high < -margin else UNDECIDED


def _bounds(value: Estimate) -> tuple[float, float]:
    if value.low is None or value.high is None:
        return value.mean, value.mean
    return value.low, value.high
