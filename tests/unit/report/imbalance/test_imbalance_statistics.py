"""Tests and intervals against SciPy, against enumeration, and by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from i0t.report.holm import holm
from i0t.report.imbalance_statistics import (
    NO_INTERVAL,
    OVER_IMAGES,
    OVER_SEEDS,
    t_interval,
    t_test_above,
    trend_test,
)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_interval_is_scipy_s(count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = t_interval(values, alone=(9.0, 9.0))
    assert found[:3] == pytest.approx((np.mean(values), expected.low, expected.high))
    assert found[3:] == (count, OVER_SEEDS)


def test_the_interval_of_one_value_is_the_one_that_stands_in_or_none():
    assert t_interval([0.5], alone=(0.4, 0.7)) == (0.5, 0.4, 0.7, 1, OVER_IMAGES)
    assert t_interval([0.5]) == (0.5, None, None, 1, NO_INTERVAL)
    with pytest.raises(ValueError, match="one value at least"):
        t_interval([])


def test_the_t_test_by_hand():
    # mean 2, sd 1, n 3: t = (2 - 1) sqrt(3), and with 2 degrees of freedom P(T > t) = 1/2 - t / (2 sqrt(2 + t^2)).
    t = math.sqrt(3)
    assert t_test_above([1.0, 2.0, 3.0], 1.0).p_value == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)))
    assert t_test_above([-1.0, -2.0, -3.0], -1.0).p_value == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)))
    assert t_test_above([0.3, 0.3]) == (0.0, 0.0)
    assert t_test_above([0.0, 0.0]).p_value == 1.0
    with pytest.raises(ValueError, match="two at least, got 1"):
        t_test_above([1.0])


@pytest.mark.parametrize(("blocks", "length"), [(2, 3), (3, 5), (4, 4)])
def test_the_trend_test_is_page_s_as_scipy_has_it(blocks, length):
    for seed in range(4):
        data = np.random.default_rng(seed).normal(size=(blocks, length)) + 0.3 * np.arange(length)
        expected = stats.page_trend_test(data, method="exact").pvalue
        assert trend_test(data.tolist()).p_value == pytest.approx(expected, rel=1e-9)


def test_the_trend_test_is_exact_with_ties_and_blocks_of_any_length():
    blocks = [[1.0, 1.0, 2.0], [0.3, 0.1, 0.5, 0.5], [2.0, 1.0]]

    def page_l(orders):
        return sum((i + 1) * r for block in orders for i, r in enumerate(stats.rankdata(block)))

    every = [page_l(orders) for orders in itertools.product(*(itertools.permutations(block) for block in blocks))]
    share = sum(value >= page_l(blocks) for value in every) / len(every)
    assert trend_test(blocks).p_value == pytest.approx(share, rel=1e-12)
    assert trend_test(blocks).least == pytest.approx(1 / (6 * 24 * 2))


def test_known_trends():
    rising = [[1.0, 2.0, 3.0, 4.0, 5.0]]
    assert trend_test(rising) == (pytest.approx(1 / 120), pytest.approx(1 / 120))
    assert trend_test(rising * 3).p_value == pytest.approx(1 / 120**3)
    assert trend_test([[5.0, 4.0, 3.0, 2.0, 1.0]]).p_value == 1.0
    assert trend_test([[7.0, 7.0, 7.0]]).p_value == 1.0
    for wrong in ([], [[1.0]], [[1.0, 2.0], [1.0]]):
        with pytest.raises(ValueError, match="two ordered values in every block"):
            trend_test(wrong)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
