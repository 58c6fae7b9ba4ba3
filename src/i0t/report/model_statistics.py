"""Rank correlations over a handful or a hundred models, with tests and intervals that hold for few of them."""

# n models, K covariates, R resamples, P = n (n - 1) / 2 pairs of models.
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import permutation_test

FEWEST = 4  # models of which a correlation is a number
FEWEST_FOR_INTERVAL = 10
NUM_PERMUTATIONS = 9_999
_EXACT_UP_TO = 8  # 8! = 40,320 orders
_NUM_BOOTSTRAP = 2_000
_BLOCK = 2**22  # signs of pairs at a time
_DIGITS = 9  # of a residual, in units of the largest: what was tied stays tied


class Tau(NamedTuple):
    """Kendall's tau-b with its test.

    Attributes:
        num_models: n.
        value: In [-1, 1]; ``None`` for fewer than four models, or if one side is constant.
        p_value: Two-sided, by permutation.
        low: Lower end of the 95 % bootstrap interval over models; ``None`` for fewer than ten.
        high: Its upper end.
    """

    num_models: int
    value: float | None
    p_value: float | None
    low: float | None = None
    high: float | None = None


def kendall_tau_b(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of many pairs of vectors at once; ``scipy.stats.kendalltau`` of each.

    Args:
        x: ``(R, n)`` or ``(n,)``.
        y: ``(R, n)`` or ``(n,)``.

    Returns:
        ``(R,)`` or ``()`` float64 in [-1, 1]; NaN where a vector is constant.

    Example:
        >>> float(kendall_tau_b(np.array([1.0, 2.0, 3.0]), np.array([[1.0, 3.0, 2.0]]))[0].round(3))
        0.333
    """
    first, second = np.triu_indices(x.shape[-1], k=1)
    signs = [np.sign(v[..., first] - v[..., second]).astype(np.float32) for v in (x, y)]
    surplus = np.einsum("...p,...p->...", *signs, dtype=np.float64)
    untied = [np.square(s).sum(axis=-1, dtype=np.float64) for s in signs]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(surplus / np.sqrt(untied[0] * untied[1]), -1, 1)


def tau_of(x: Sequence[float], y: Sequence[float], *, seed: int = 0) -> Tau:
    """Tau-b of two numbers of the same models, its permutation test and its bootstrap interval.

    The p-value is two-sided (twice the smaller tail): over all n! orders up to eight models, else over 9,999 random
    ones, where the observed order counts as one of them (Phipson & Smyth 2010). The interval is the percentile
    bootstrap over models, which takes them for independent draws.

    Args:
        x: ``(n,)`` one number per model.
        y: ``(n,)`` the other.
        seed: Of random orders and resamples.
    """
    one, other = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    num = len(one)
    if num < FEWEST or _is_constant(one) or _is_constant(other):
        return Tau(num, None, None)
    value, p_value = _permuted(other, lambda drawn: kendall_tau_b(drawn, one), seed)
    return Tau(num, value, p_value, *_bootstrap_interval(one, other, seed))


def partial_tau_of(
    x: Sequence[float], y: Sequence[float], covariates: Sequence[Sequence[float]], *, seed: int = 0
) -> Tau:
    """Tau-b of what the covariates leave of both numbers: of the residuals of two least-squares fits.

    Tested by permuting the residuals of ``y`` and fitting again (Freedman & Lane 1983), so that permuted and observed
    residuals have lost the same degrees of freedom. Constant covariates are no covariates.

    Args:
        x: ``(n,)`` one number per model.
        y: ``(n,)`` the other.
        covariates: K times ``(n,)``: what both are freed of.
        seed: Of the random orders.

    Returns:
        Without interval; without value where fewer than four degrees of freedom are left.
    """
    one, other = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    num = len(one)
    design = _design(covariates, num)
    if num - design.shape[1] < FEWEST:
        return Tau(num, None, None)
    basis = np.linalg.qr(design)[0]

    def residuals(values: np.ndarray) -> np.ndarray:
        left = values - values @ basis @ basis.T
        scale = np.abs(values).max(axis=-1, keepdims=True)
        return np.round(left / np.where(scale > 0, scale, 1), _DIGITS)

    centred = [values - values.mean() for values in (one, other)]
    of_one, of_other = (residuals(values) for values in centred)
    if _is_constant(of_one) or _is_constant(of_other):
        return Tau(num, None, None)
    exact = centred[1] - centred[1] @ basis @ basis.T
    value, p_value = _permuted(exact, lambda drawn: kendall_tau_b(residuals(drawn), of_one), seed)
    return Tau(num, value, p_value)


def _is_constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _design(covariates: Sequence[Sequence[float]], num: int) -> np.ndarray:
    """``(n, 1 + K)``: ones, and the standardised covariates that add something to those before."""
    columns = [np.ones(num)]
    for values in covariates:
        column = np.asarray(values, dtype=np.float64)
        if num == 0 or _is_constant(column):
            continue
        standardised = (column - column.mean()) / column.std()
        if np.linalg.matrix_rank(np.stack([*columns, standardised], axis=1)) > len(columns):
            columns.append(standardised)
    return np.stack(columns, axis=1)


def _permuted(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int) -> tuple[float, float]:
    """The statistic of the values and its two-sided p-value over their orders."""
    num = len(values)
    count = math.factorial(num) if num <= _EXACT_UP_TO else NUM_PERMUTATIONS
    found = permutation_test(
        (values,),
        lambda drawn, axis=-1: statistic(np.moveaxis(drawn, axis, -1)),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=count,
        batch=_rows_at_once(num),
        random_state=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)


def _bootstrap_interval(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    """95 % percentile interval; resamples that are constant on one side have no tau and are left out."""
    num = len(x)
    if num < FEWEST_FOR_INTERVAL:
        return None, None
    drawn = np.random.default_rng(seed).integers(num, size=(_NUM_BOOTSTRAP, num))
    step = _rows_at_once(num)
    blocks = [drawn[start : start + step] for start in range(0, len(drawn), step)]
    taus = np.concatenate([kendall_tau_b(x[rows], y[rows]) for rows in blocks])
    low, high = np.nanquantile(taus, [0.025, 0.975])
    return float(low), float(high)


def _rows_at_once(num: int) -> int:
    return max(1, _BLOCK // max(1, num * (num - 1) // 2))
