"""Statistics of a matrix over many draws of it at once, and the intervals that these draws give.

Arrays are (..., n): the statistic is over the last axis. A percentile interval is right for what is linear in the
entries. Ranks, correlations and counts are not: noise lowers an agreement, so that draws around an estimate lie below
it on average. Their intervals are bias-corrected percentiles (Efron 1981: z0 from the share of draws below the
estimate, ties half); where nearly all draws lie on one side, z0 is held within 1.5 and the interval reaches to the
estimate.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from xling.analysis.drawing import Floats
from xling.analysis.intervals import LEVEL

_MOST_BIAS = 1.5
DIGITS = 2  # numbers that matrix.csv shows alike share a rank

Interval = tuple[float, float]
NONE: Interval = (math.nan, math.nan)


def percentile(draws: Floats) -> Interval:
    """The central 95 % of (draws,); NaN where there are none."""
    if not len(draws) or np.isnan(draws).any():
        return NONE
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def corrected(value: float, draws: Floats) -> Interval:
    """The bias-corrected 95 % interval of a statistic that is not linear; NaN where a draw has none."""
    if not len(draws) or math.isnan(value) or np.isnan(draws).any():
        return NONE
    below = float((draws < value - 1e-12).mean() + 0.5 * (np.abs(draws - value) <= 1e-12).mean())
    bias = float(np.clip(ndtri(below), -_MOST_BIAS, _MOST_BIAS))
    half = float(ndtri((1 + LEVEL) / 2))
    low, high = np.quantile(draws, [float(ndtr(2 * bias - half)), float(ndtr(2 * bias + half))])
    return min(float(low), value), max(float(high), value)


def p_two_sided(draws: Floats) -> float:
    """Twice the share of (draws,) on the far side of 0, ties half; at least 1 over their number."""
    if not len(draws) or np.isnan(draws).any():
        return math.nan
    above = float((draws > 0).mean() + 0.5 * (draws == 0).mean())
    return min(1.0, max(2 * min(above, 1 - above), 1 / len(draws)))


# --- ranks ------------------------------------------------------------------------------------------------


def ranks(values: Floats, digits: int | None = None) -> Floats:
    """1 for the largest; equal ones (after rounding) share the best of their ranks: 1, 2, 2, 4."""
    told = values if digits is None else np.round(values, digits)
    return np.asarray(rankdata(-told, method="min", axis=-1), dtype=np.float64)


def best_shares(draws: Floats) -> Floats:
    """(n,) share of (draws, n) in which each is the largest; ties share."""
    top = draws >= draws.max(axis=-1, keepdims=True)
    return np.asarray((top / top.sum(axis=-1, keepdims=True)).mean(axis=0))


def pair_signs(values: Floats, digits: int | None = None) -> Floats:
    """(..., pairs) signs of the differences of all pairs of the last axis."""
    told = values if digits is None else np.round(values, digits)
    left, right = pairs_of(values.shape[-1])
    return np.asarray(np.sign(told[..., left] - told[..., right]))


def pairs_of(count: int) -> tuple[Sequence[int], Sequence[int]]:
    """Places of the first and of the second of every pair."""
    pairs = list(itertools.combinations(range(count), 2))
    return [i for i, _ in pairs], [j for _, j in pairs]


# --- correlations -----------------------------------------------------------------------------------------


def kendall(left: Floats, right: Floats) -> Floats:
    """(...,) tau-b: pairs in the same order minus pairs in opposite order, over sqrt of the untied pairs of each.

    NaN where one side is constant.
    """
    a, b = pair_signs(left), pair_signs(right)
    untied = np.abs(a).sum(axis=-1) * np.abs(b).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(untied > 0, (a * b).sum(axis=-1) / np.sqrt(untied), np.nan))


def pearson(left: Floats, right: Floats) -> Floats:
    """(...,) correlation; NaN where one side is constant."""
    a = left - left.mean(axis=-1, keepdims=True)
    b = right - right.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(scale > 1e-12, (a * b).sum(axis=-1) / scale, np.nan))


def spearman(left: Floats, right: Floats) -> Floats:
    """(...,) Pearson's correlation of the ranks, ties averaged."""
    return pearson(*(np.asarray(rankdata(side, axis=-1), dtype=np.float64) for side in (left, right)))
