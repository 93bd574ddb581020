"""Statistics of a matrix over many draws of it at once, and the intervals that these draws give.

Arrays are (..., n): the statistic is over the last axis. Three intervals, all of 95 %:

percentile  of what is linear in the entries: a difference, a mean, an effect
spanning    of counts and shares of variance: the percentile interval, widened where needed to hold the estimate
centred     of correlations, agreements and regrets, which noise moves to one side: the draws, twice as noisy as the
            estimate, are shifted to have their mean on it. It is an interval for the statistic as measured with so many
            prompts and seeds (its expectation over repeated measurements), not for one without noise.

tests/analysis/test_coverage.py measures how often they hold what they should.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.statistics.intervals import LEVEL

DIGITS = 2  # numbers that matrix.csv shows alike share a rank

Interval = tuple[float, float]
NONE: Interval = (math.nan, math.nan)


def percentile(draws: Floats) -> Interval:
    """The central 95 % of (draws,); NaN where there are none."""
    ordered = np.sort(draws)  # a tenth of the time of np.quantile, which big matrices ask for ten thousands of times
    if not len(draws) or np.isnan(ordered[-1]):
        return NONE
    return _at(ordered, (1 - LEVEL) / 2), _at(ordered, (1 + LEVEL) / 2)


def _at(ordered: Floats, share: float) -> float:
    """A quantile of sorted values, by linear interpolation."""
    place = share * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2) if len(ordered) > 1 else 0
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    return low + (high - low) * (place - below)


def spanning(value: float, draws: Floats) -> Interval:
    """The percentile interval of (draws,), and the estimate always in it."""
    low, high = percentile(draws)
    return min(low, value), max(high, value)


def centred(value: float, draws: Floats, lowest: float = -math.inf, highest: float = math.inf) -> Interval:
    """The percentile interval of (draws,) moved by estimate minus mean of the draws, within the statistic's range.

    The mean is of the draws held within that interval: with two seeds the tails are those of a Cauchy distribution.
    """
    low, high = percentile(draws)
    if math.isnan(low):
        return NONE
    move = value - float(np.clip(draws, low, high).mean())
    return max(lowest, min(low + move, value)), min(highest, max(high + move, value))


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
