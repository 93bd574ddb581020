"""Joint draws of the errors of many estimates, statistics over all draws at once, and the intervals that these give.

So any statistic of a matrix (a rank, a correlation, a share of variance) gets an interval, and differences stay paired.
An error is a draw from the sampling distribution of an estimate around it. As in intervals.py:

one seed        the bootstrap over prompts (resample minus mean); a column's entries share the draws of its prompts.
                Where it sees too little (of 20 wins in 20 prompts nothing), two halves of normal errors in its order,
                each as wide as its side of the interval
several seeds   the bootstrap over prompts of the mean over seeds, plus the sum over seeds of
                z_s (m_s - m) / sqrt(S (S - 1)), z_s standard normal and the same for all entries, scaled to the entry's
                standard error. Times sqrt(f / chi2_f), f the degrees of freedom of its interval, and put on the scale
                as that is: an entry has the very interval that the matrix shows, a paired difference nearly
split ratings   the pigeonhole bootstrap over seeds and prompts, as its interval

Arrays of statistics are (..., n): the statistic is over the last axis. Three intervals, all of 95 %:

percentile  of what is linear in the entries: a difference, a mean, an effect
spanning    of counts and shares of variance: the percentile interval, widened where needed to hold the estimate
centred     of correlations, agreements and regrets, which noise moves to one side: the draws, twice as noisy as the
            estimate, are shifted to have their mean on it. It is an interval for the statistic as measured with so many
            prompts and seeds (its expectation over repeated measurements), not for one without noise.

tests/analysis/test_coverage.py measures how often they hold what they should.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri, ndtr, ndtri

from xling.analysis.statistics.bootstrap import RESAMPLES, SEED, Bools, Floats, Sample, ends_of, select
from xling.analysis.statistics.decisions import ALPHA
from xling.analysis.statistics.intervals import (
    LEVEL,
    MOST_FREEDOM,
    by_label,
    few_ends,
    over_seeds,
    over_seeds_and_prompts,
    told_apart,
    within,
)

Small = npt.NDArray[np.float32]
NORMAL = np.inf  # degrees of freedom of what is no t
_NOTHING = 1e-9  # a standard error of nothing but rounding
DIGITS = 2  # numbers that matrix.csv shows alike share a rank

Interval = tuple[float, float]
NONE: Interval = (math.nan, math.nan)


# --- errors -----------------------------------------------------------------------------------------------


def errors_of(samples: Sequence[Sample]) -> tuple[Floats, Floats]:
    """(RESAMPLES, K) errors and their (K,) degrees of freedom; NaN where there is no interval to be had."""
    points = by_label(samples)
    values = np.stack([point.means for point in points])  # (P, K)
    errors, freedom = np.full((RESAMPLES, values.shape[1]), np.nan), np.full(values.shape[1], NORMAL)
    if len(points) > 1 and all(point.crossed for point in points):
        value, resamples = over_seeds_and_prompts(points)
        return (resamples - value if points[0].clusters > 1 else errors), freedom
    present = told_apart(points, values)
    seeds, paired = present.sum(axis=0), points[0].paired
    for point, there in zip(points, present, strict=True):
        alone = there & (seeds == 1)
        if point.clusters > 1 and alone.any():
            errors[:, alone] = point.resamples[:, alone] - point.means[alone]
            singles = np.flatnonzero(alone).tolist()
            few, low, high = few_ends(select(point, singles))
            for number in np.flatnonzero(few).tolist():
                place, value = singles[number], point.means[singles[number]]
                if paired and value == 0 and not errors[:, place].any():
                    continue  # two that are equal on every prompt: nothing tells them apart
                errors[:, place] = _two_halves(errors[:, place], value - low[number], high[number] - value)
    several = seeds > 1
    if several.any():
        places = np.flatnonzero(several).tolist()
        part, there = values[:, places], present[:, places]
        ends = over_seeds([select(point, places) for point in points], part, there)
        found = _joint([select(point, places) for point in points], part, there)
        size = found.std(axis=0, ddof=1)
        found *= np.divide(ends.se, size, out=np.zeros_like(size), where=size > 0)
        told = ends.few & ((ends.se > 0) | (not paired))  # two that are equal on every prompt: nothing tells them apart
        for number in np.flatnonzero(told).tolist():
            value, low, high = ends.value[number], ends.low[number], ends.high[number]
            found[:, number] = _two_halves(found[:, number], value - low, high - value)
        found[:, ends.counts[1] < 2] = np.nan  # of a single document
        errors[:, places], freedom[places] = found, np.where(told, NORMAL, np.maximum(ends.freedom, 1.0))
    return errors, freedom


def _joint(points: Sequence[Sample], values: Floats, present: Bools) -> Floats:
    """(RESAMPLES, K) errors over prompts and seeds, before they have the size of the intervals. present: (P, K)"""
    seeds = np.maximum(present.sum(axis=0), 1)
    found = _over_prompts(points, present)
    if len(points) > 1:
        centre = np.where(present, values, 0.0).sum(axis=0) / seeds
        between = np.where(present, values - centre, 0.0) / np.sqrt(seeds * np.maximum(seeds - 1, 1))
        found += np.stack([_normal(point.label) for point in points], axis=1) @ between
    return found


def _over_prompts(points: Sequence[Sample], present: Bools) -> Floats:
    seeds = np.maximum(present.sum(axis=0), 1)
    found: Floats = np.zeros_like(points[0].resamples)
    for point, has in zip(points, present, strict=True):
        found += np.where(has, point.resamples - point.means, 0.0) / seeds
    return found


def _unrelated(points: Sequence[Sample], values: Floats, present: Bools) -> Floats:
    """As `_joint`, but that what seeds do to a source has nothing to do with what they do to another, and is as large.

    Of S seeds the sources' own deviations lie in S - 1 dimensions, in which K of them look like fewer comparisons than
    they are: of six equal sources some was then called worse in 9 % of columns of three seeds and in 13 % of five.
    """
    seeds = present.sum(axis=0)
    found = _over_prompts(points, present)
    if (several := seeds > 1).any():
        variance = np.var(values[:, several], axis=0, ddof=1, where=present[:, several]) / seeds[several]
        random = np.random.Generator(np.random.PCG64([SEED, *values.shape]))
        found += math.sqrt(variance.mean()) * random.standard_normal(found.shape)
    return found


def covariances(samples: Sequence[Sample], members: Sequence[int]) -> tuple[Floats, Floats, int] | None:
    """Of a column's means over seeds, over prompts and between seeds; None where an entry lacks a seed."""
    points = by_label(samples)
    values = np.stack([point.means for point in points])[:, members]  # (S, K)
    if len(points) < 2 or np.isnan(values).any():
        return None
    mean = np.mean([point.resamples[:, members] for point in points], axis=0)
    over_prompts, between = (np.cov(rows, rowvar=False).reshape(len(members), -1) for rows in (mean, values))
    return over_prompts, between / len(points), len(points)


def _normal(label: str) -> Floats:
    """(RESAMPLES,) of a seed, the same wherever it occurs: rows of the matrix are paired by it."""
    digest = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.PCG64([SEED, digest])).standard_normal(RESAMPLES)


def _two_halves(errors: Floats, below: float, above: float) -> Floats:
    """(RESAMPLES,) errors of which 95 % lie between `-below` and `above`, in the order of the bootstrap's: what is
    paired stays so."""
    ties = np.random.Generator(np.random.PCG64([SEED, 2])).permutation(RESAMPLES)
    ranks = np.empty(RESAMPLES)
    ranks[np.lexsort((ties, errors))] = np.arange(RESAMPLES)
    normal = ndtri((ranks + 0.5) / RESAMPLES) / ndtri((1 + LEVEL) / 2)
    return np.asarray(np.where(normal < 0, normal * below, normal * above))


def tails(freedom: float) -> Floats:
    """(RESAMPLES,) sqrt(f / chi2_f): what turns normal errors into t ones; ones for the bootstrap.

    All degrees of freedom are made of the same ranks, so that entries with different ones stay paired.
    """
    if not np.isfinite(freedom):
        return np.ones(RESAMPLES)
    ranks = np.random.Generator(np.random.PCG64([SEED, 1])).permutation(RESAMPLES)
    return np.asarray(np.sqrt(freedom / chdtri(freedom, (ranks + 0.5) / RESAMPLES)))


def with_tails(value: float, errors: Floats | Small, freedom: float, span: Floats) -> Floats:
    """(draws,) normal errors of a value as t ones on its scale; the bootstrap's as they are. span: (2,)."""
    if not np.isfinite(freedom):
        return np.asarray(errors, dtype=np.float64)
    wide = errors * tails(float(f"{min(freedom, MOST_FREEDOM):.2g}"))[: len(errors)]
    ends = within(np.array([value]), np.abs(wide), np.sign(wide), span[:, None])
    return np.asarray(ends - value)


# --- the best -----------------------------------------------------------------------------------------------


def worse_than_best(samples: Sequence[Sample], members: Sequence[int], own: Floats) -> tuple[Floats, float]:
    """(K,) p that a source is worse than the best, corrected for all K and for the choice of the best on the same data,
    and the own p below which it is below 0.05.

    samples: of win rates, a seed each; members: the K among their quantities; own: (K,) two-sided p of each one's
    paired difference to the best, 1 of the best itself. Of K that are equally good, errors alone make one look best,
    and another worse than it: the most extreme of such differences, each in its own standard errors, is what own p have
    to be more extreme than (bootstrap of the maximum: Romano and Wolf 2005; the question is that of Hsu's multiple
    comparisons with the best). Those found worse are left out, and the rest is compared anew: the model confidence set
    of Hansen, Lunde and Nason 2011. With probability 95 % or more none of the truly best is called worse.
    """
    points = [select(point, members) for point in by_label(samples)]
    values = np.stack([point.means for point in points])
    errors = _unrelated(points, values, ~np.isnan(values))
    covariance = np.atleast_2d(np.cov(errors, rowvar=False))
    variance = np.diag(covariance)
    size = np.sqrt(np.maximum(variance[:, None] + variance - 2 * covariance, 0.0))
    size[size < _NOTHING] = np.inf  # equal on every prompt
    left, corrected = np.arange(len(own)), own.copy()
    while True:
        part = errors[:, left]
        gaps = (part.max(axis=1, keepdims=True) - part) / size[np.ix_(left, left)][part.argmax(axis=1)]
        extreme = np.sort(2 * ndtr(-gaps.max(axis=1)))
        share = np.searchsorted(extreme, own[left], side="right") / len(extreme)
        corrected[left] = np.maximum(own[left], share)
        kept = left[corrected[left] >= ALPHA]
        if len(kept) == len(left) or len(kept) < 2:
            return corrected, min(ALPHA, float(extreme[math.ceil(ALPHA * len(extreme)) - 1]))
        left = kept


# --- intervals --------------------------------------------------------------------------------------------


def percentile(draws: Floats) -> Interval:
    """The central 95 % of (draws,), by linear interpolation; NaN where there are none."""
    if not len(draws) or np.isnan(draws).any():
        return NONE
    if len(draws) == 1:
        return float(draws[0]), float(draws[0])
    places = [share * (len(draws) - 1) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    below, above = (min(int(place), len(draws) - 2) for place in places)
    a, b, c, d = map(float, ends_of(draws, below, above))
    return a + (b - a) * (places[0] - below), c + (d - c) * (places[1] - above)


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
    above = share_above(draws)
    return min(1.0, max(2 * min(above, 1 - above), 1 / len(draws)))


def share_above(draws: Floats) -> float:
    """Of (draws,) above 0, ties half; NaN where one is."""
    return math.nan if np.isnan(draws).any() else float((draws > 0).mean() + 0.5 * (draws == 0).mean())


# --- ranks ------------------------------------------------------------------------------------------------


def ranks(values: Floats, digits: int | None = None) -> Floats:
    """1 for the largest; equal ones (after rounding) share the best of their ranks: 1, 2, 2, 4."""
    told = values if digits is None else np.round(values, digits)
    return _ranked(-told, "min")


def _ranked(values: Floats, method: str) -> Floats:
    from scipy.stats import rankdata  # half a second to import, and folding a matrix ranks nothing

    return np.asarray(rankdata(values, method=method, axis=-1), dtype=np.float64)


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
    return pearson(*(_ranked(side, "average") for side in (left, right)))
