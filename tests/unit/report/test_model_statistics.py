import itertools
import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from i0t.report.holm import holm
from i0t.report.model_statistics import kendall_tau_b, partial_tau_of, tau_of


def naive_tau(x, y):
    """Concordant less discordant pairs over the geometric mean of the pairs untied in either."""
    surplus = untied_x = untied_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        a, b = (int(v[i] > v[j]) - int(v[i] < v[j]) for v in (x, y))
        surplus, untied_x, untied_y = surplus + a * b, untied_x + a * a, untied_y + b * b
    return surplus / math.sqrt(untied_x * untied_y)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [3, 1000])
def test_tau_is_scipys_and_the_naive_one_with_and_without_ties(seed, levels):
    generator = np.random.default_rng(seed)
    x, y = generator.integers(levels, size=(2, 17)).astype(float)
    expected = naive_tau(x, y)
    assert float(kendall_tau_b(x, y)) == pytest.approx(expected, abs=1e-12)
    assert kendalltau(x, y).statistic == pytest.approx(expected, abs=1e-12)
    many = generator.integers(levels, size=(5, 17)).astype(float)
    assert kendall_tau_b(many, y) == pytest.approx([naive_tau(row, y) for row in many], abs=1e-12)
    assert np.isnan(kendall_tau_b(np.ones((2, 17)), y)).all()


def test_the_p_value_of_few_models_is_that_of_all_orders():
    x, y = [1.0, 2.0, 2.0, 4.0, 5.0, 3.5], [0.3, 0.1, 0.4, 0.9, 0.4, 0.8]
    found = tau_of(x, y)
    everywhere = [naive_tau(x, order) for order in itertools.permutations(y)]
    above = sum(tau >= found.value - 1e-9 for tau in everywhere) / len(everywhere)
    below = sum(tau <= found.value + 1e-9 for tau in everywhere) / len(everywhere)
    assert found.p_value == pytest.approx(min(1.0, 2 * min(above, below)), abs=1e-12)
    assert (found.num_models, found.low, found.high) == (6, None, None)
    perfect = tau_of([1, 2, 3, 4], [4, 3, 2, 1])
    assert perfect.value == -1
    assert perfect.p_value == pytest.approx(2 / 24)


def test_the_p_value_of_many_models_is_seeded_and_never_zero():
    x = np.arange(12.0)
    found = tau_of(x, x, seed=1)
    assert found.value == 1
    assert found.p_value == pytest.approx(2 / 10_000)  # the observed order is one of 10,000, on both sides
    noisy = x + np.random.default_rng(0).normal(size=12) * 6
    assert tau_of(x, noisy, seed=1) == tau_of(x, noisy, seed=1)
    assert tau_of(x, noisy, seed=1).p_value != tau_of(x, noisy, seed=2).p_value
    assert tau_of(x, noisy).p_value == pytest.approx(kendalltau(x, noisy, method="exact").pvalue, abs=0.02)


@pytest.mark.parametrize(
    ("x", "y"),
    [([], []), ([1.0], [2.0]), ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), ([1.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
)
def test_too_few_models_or_a_constant_give_no_number(x, y):
    found = tau_of(x, y)
    assert found == (len(x), None, None, None, None)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # The tau of a bivariate normal is 2/pi arcsin(rho).
    generator, rho, covered = np.random.default_rng(3), 0.6, 0
    truth = 2 / math.pi * math.asin(rho)
    for seed in range(12):
        x, noise = generator.normal(size=(2, 25))
        found = tau_of(x, rho * x + math.sqrt(1 - rho**2) * noise, seed=seed)
        covered += found.low <= truth <= found.high
        assert found.low < found.value < found.high
    assert covered >= 9
    assert tau_of(np.arange(9.0), np.arange(9.0)[::-1]).low is None
    assert tau_of(np.arange(10.0), np.arange(10.0)[::-1]).low == -1


def naive_residuals(y, columns):
    """Solves the normal equations by Gauss-Jordan elimination."""
    rows = [[1.0, *values] for values in zip(*columns, strict=True)]
    size = len(rows[0])
    system = [
        [sum(r[i] * r[j] for r in rows) for j in range(size)] + [sum(r[i] * v for r, v in zip(rows, y, strict=True))]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(system[k][i]))
        system[i], system[pivot] = system[pivot], system[i]
        system[i] = [v / system[i][i] for v in system[i]]
        for k in range(size):
            if k != i:
                system[k] = [a - system[k][i] * b for a, b in zip(system[k], system[i], strict=True)]
    beta = [line[-1] for line in system]
    return [v - sum(b * r for b, r in zip(beta, row, strict=True)) for v, row in zip(y, rows, strict=True)]


def test_partial_tau_is_the_tau_of_residuals():
    generator = np.random.default_rng(5)
    covariates = generator.normal(size=(2, 14))
    x, y = generator.normal(size=(2, 14)) + covariates.sum(axis=0)
    expected = naive_tau(naive_residuals(x, covariates), naive_residuals(y, covariates))
    found = partial_tau_of(x, y, covariates)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.num_models == 14
    # A constant covariate, and one that repeats another, take nothing away.
    more = [*covariates, np.full(14, 7.0), 3 * covariates[0] - 2]
    assert partial_tau_of(x, y, more).value == pytest.approx(expected, abs=1e-12)
    assert partial_tau_of(x * 1e-6, y * 1e6, covariates).value == pytest.approx(expected, abs=1e-12)


def test_partial_tau_frees_of_a_common_cause_and_keeps_what_is_beside_it():
    generator = np.random.default_rng(6)
    cause, a, b = generator.normal(size=(3, 60))
    plain, partial = tau_of(cause + 0.3 * a, cause + 0.3 * b), partial_tau_of(cause + 0.3 * a, cause + 0.3 * b, [cause])
    assert plain.value > 0.6
    assert plain.p_value < 0.001
    assert abs(partial.value) < 0.2
    assert partial.p_value > 0.05
    beside = partial_tau_of(cause + a, -5 * cause + a + 0.1 * b, [cause])
    assert beside.value > 0.8
    assert beside.p_value < 0.001


def test_partial_tau_needs_degrees_of_freedom_and_something_left():
    generator = np.random.default_rng(7)
    covariates = generator.normal(size=(3, 7))
    x, y = generator.normal(size=(2, 7))
    assert partial_tau_of(x, y, covariates).value is None  # 7 models less 4 columns
    assert partial_tau_of(x, y, covariates[:2]).value is not None
    assert partial_tau_of(covariates[0] * 2 + 1, y, covariates[:2]).value is None  # nothing is left of x


@pytest.mark.slow
def test_the_partial_test_holds_its_level_for_few_models():
    generator, num_sets, rejected = np.random.default_rng(8), 200, 0
    for seed in range(num_sets):
        covariates = generator.normal(size=(3, 9))
        x, y = generator.normal(size=(2, 9)) + covariates.sum(axis=0)
        rejected += partial_tau_of(x, y, covariates, seed=seed).p_value <= 0.05
    assert rejected / num_sets < 0.05 + 3 * math.sqrt(0.05 * 0.95 / num_sets)


def naive_holm(p_values):
    """The smallest level at which the step-down procedure rejects."""
    adjusted = []
    for p in p_values:
        smaller = [q for q in p_values if q <= p]
        steps = [q * sum(r >= q for r in p_values) for q in smaller]
        adjusted.append(min(1.0, max(steps)))
    return adjusted


def test_holm():
    p_values = [0.001, 0.2, 0.04, 0.013, 0.6]
    assert holm(p_values) == pytest.approx(naive_holm(p_values))
    assert holm([0.01, 0.02]) == pytest.approx([0.02, 0.02])
    assert holm([None, 0.5, 0.9]) == [None, 1.0, 1.0]
    assert holm([]) == []
