"""The tests and intervals behind the claims on information imbalance, all over training runs, not over images."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.95
OVER_SEEDS = "t over seeds"
OVER_IMAGES = "bootstrap over images of the one job"
NO_INTERVAL = ""


class Interval(NamedTuple):
    """A mean with its 95 % interval.

    Attributes:
        mean: Over repetitions.
        low: Lower end; ``None`` without an interval.
        high: Upper end.
        num_values: How many repetitions.
        source: What the interval is: :data:`OVER_SEEDS`, :data:`OVER_IMAGES` or :data:`NO_INTERVAL`.
    """

    mean: float
    low: float | None
    high: float | None
    num_values: int
    source: str


class OneSided(NamedTuple):
    """Of a one-sided test.

    Attributes:
        p_value: Of the data.
        least: The least p that as many data could have given.
    """

    p_value: float
    least: float


def t_interval(values: Sequence[float], *, alone: tuple[float, float] | None = None) -> Interval:
    """Mean and 95 % interval by Student's t distribution.

    Args:
        values: One per repetition, at least one.
        alone: The interval that stands in where there is a single repetition.

    Raises:
        ValueError: If there are no values.

    Example:
        >>> [round(x, 3) for x in t_interval([1.0, 2.0, 3.0])[:3]]
        [2.0, -0.484, 4.484]
    """
    if not values:
        raise ValueError("a mean needs one value at least, got none")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Interval(mean, None, None, 1, NO_INTERVAL) if alone is None else Interval(mean, *alone, 1, OVER_IMAGES)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values), OVER_SEEDS)


def t_test_above(values: Sequence[float], bound: float = 0.0) -> OneSided:
    """One-sided t-test that the mean over repetitions lies above a bound.

    Args:
        values: One per repetition, at least two. Equal values have no spread: p is 0 above the bound and 1 elsewhere.
        bound: The mean under the null hypothesis.

    Raises:
        ValueError: If there are fewer than two values.

    Example:
        >>> round(t_test_above([1.0, 2.0, 3.0]).p_value, 4)
        0.0371
    """
    if len(values) < 2:
        raise ValueError(f"a t-test over repetitions needs two at least, got {len(values)}")
    distance, error = statistics.fmean(values) - bound, statistics.stdev(values) / math.sqrt(len(values))
    if error == 0:
        return OneSided(float(not distance > 0), 0.0)
    return OneSided(float(stats.t.sf(distance / error, len(values) - 1)), 0.0)


def trend_test(blocks: Sequence[Sequence[float]]) -> OneSided:
    """Page's trend test, exact: do values rise along the order within every block?

    The statistic is Page's L, the sum over blocks and positions of position times mid-rank of the value in its block;
    p is the share of all orders of the values within each block whose L is as large. Unlike
    ``scipy.stats.page_trend_test`` it is exact with ties, allows blocks of different lengths (a job that failed), and
    one block alone.

    Args:
        blocks: Per block (a seed) its values in the order in which they are claimed to rise, two at least.

    Raises:
        ValueError: If there is no block or one with fewer than two values.

    Example:
        >>> trend_test([[0.1, 0.2, 0.3]]).p_value == 1 / 6
        True
    """
    if not blocks or min(map(len, blocks)) < 2:
        raise ValueError(f"a trend needs two ordered values in every block, got blocks of {[len(b) for b in blocks]}")
    # Ranks are doubled, so that mid-ranks and all sums are whole numbers and equal sums are equal.
    ranks = [[int(2 * rank) for rank in stats.rankdata(block)] for block in blocks]
    observed = sum(_page_l(block) for block in ranks)
    null = {0: 1.0}
    for block in ranks:
        counts: dict[int, int] = {}
        for order in itertools.permutations(block):
            counts[_page_l(order)] = counts.get(_page_l(order), 0) + 1
        added: dict[int, float] = {}
        for (done, share), (more, count) in itertools.product(null.items(), counts.items()):
            added[done + more] = added.get(done + more, 0.0) + share * count / math.factorial(len(block))
        null = added
    p_value = math.fsum(share for value, share in null.items() if value >= observed)
    return OneSided(min(1.0, p_value), math.prod(1 / math.factorial(len(block)) for block in blocks))


def _page_l(ranks: Sequence[int]) -> int:
    return sum(position * rank for position, rank in enumerate(ranks, start=1))
