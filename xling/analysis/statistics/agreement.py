"""Krippendorff's alpha: how far several people's ratings of the same responses agree beyond chance.

    alpha([("doc 1", [4, 5]), ("doc 1", [2, 2, 3]), ("doc 2", [5, 5])])    # 1: all agree; 0: as by chance

After K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011): 1 - D_o / D_e over all pairs of ratings of one
response (each response's pairs weighted by 1 / (m - 1), m its ratings) against all pairs of ratings whatever. Who rated
is not asked, and any number of ratings may be missing. Two ratings differ by

    ordinal   the square of the ratings that lie between them, the halves of both included: up to MOST different values,
              as stars and marks have. Of two values it is the nominal alpha
    interval  the square of their difference: more values, as scores of 0 to 100 and sums of errors

Intervals are by t with groups - 1 degrees of freedom and the standard deviation of a bootstrap over groups (documents),
since responses of one document are not independent; cut at 1. Simulated, of 10 to 100 groups, they hold the truth in 91
to 98 % of runs; percentiles of the same draws do in 88 to 97 %. Where all agree, no resample says how many documents
would not: of n of which none does a share of 1 - 0.025^(1/n) may, and alpha is that much lower if these are rated as by
chance (Hanley and Lippman-Hand 1983, "If nothing goes wrong, is everything all right?").
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.special import stdtrit

from xling.analysis.statistics.bootstrap import RESAMPLES, SEED, Floats
from xling.analysis.statistics.intervals import LEVEL

MOST = 20  # different values of an ordinal scale
BLOCK = 100  # resamples at once
Measure = Literal["ordinal", "interval"]


class Agreement(Struct, frozen=True):
    """Alpha with its 95 % interval; None where it cannot be had: all ratings are one, or there is one document."""

    measure: Measure
    value: float | None
    low: float | None
    high: float | None
    responses: int  # that were rated more than once
    ratings: int  # of these
    groups: int


def alpha(rated: Sequence[tuple[str, Sequence[float]]]) -> Agreement | None:
    """Of (group, ratings) of each response; None if none was rated twice."""
    several = [(group, list(ratings)) for group, ratings in rated if len(ratings) > 1]
    if not several:
        return None
    values = np.unique([rating for _, ratings in several for rating in ratings])
    measure: Measure = "ordinal" if len(values) <= MOST else "interval"
    names = {group: number for number, group in enumerate(sorted({group for group, _ in several}))}
    of = np.array([names[group] for group, _ in several])
    sums = _ordinal(several, of, values) if measure == "ordinal" else _interval(several, of)
    computed = _of_coincidences if measure == "ordinal" else _of_moments
    value = float(computed(np.ones((1, len(names))), sums)[0])
    random, cells = np.random.default_rng(SEED), np.full(len(names), 1 / len(names))
    blocks = (random.multinomial(len(names), cells, size=BLOCK).astype(float) for _ in range(0, RESAMPLES, BLOCK))
    resampled = np.concatenate([computed(block, sums) for block in blocks])
    known = resampled[~np.isnan(resampled)]  # a resample whose ratings are all one says nothing
    count = sum(len(ratings) for _, ratings in several)
    if np.isnan(value) or len(names) < 2:
        return Agreement(measure, None if np.isnan(value) else value, None, None, len(several), count, len(names))
    half = float(stdtrit(len(names) - 1, (1 + LEVEL) / 2) * known.std(ddof=1))
    if known.std() < 1e-12:  # all agree
        half = 1 - ((1 - LEVEL) / 2) ** (1 / len(names))
    ends = max(value - half, -1.0), min(value + half, 1.0)
    return Agreement(measure, value, *ends, len(several), count, len(names))


def _interval(several: Sequence[tuple[str, list[float]]], of: npt.NDArray[np.int64]) -> Floats:
    """(groups, 4): pairs' squared differences within responses, and the number, sum and sum of squares of ratings."""
    every = np.array([rating for _, ratings in several for rating in ratings])
    middle = every.mean()  # far from 0 squares lose digits
    reach = np.abs(every - middle).max() or 1.0  # whatever the unit is
    found = np.zeros((of.max() + 1, 4))
    for group, (_, ratings) in zip(of, several, strict=True):
        own = (np.array(ratings) - middle) / reach
        m, total, squares = len(own), own.sum(), (own**2).sum()
        found[group] += (2 * (m * squares - total**2) / (m - 1), m, total, squares)
    return found


def _of_moments(weights: Floats, sums: Floats) -> Floats:
    """(draws,) alphas of (draws, groups) weights."""
    within, n, total, squares = (weights @ sums).T
    return _alpha(within, 2 * (n * squares - total**2) / (n - 1))


def _ordinal(
    several: Sequence[tuple[str, list[float]]], of: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> Floats:
    """(groups, values * values) coincidences: pairs of ratings of one response, each weighted by 1 / (m - 1)."""
    found = np.zeros((of.max() + 1, len(values), len(values)))
    for group, (_, ratings) in zip(of, several, strict=True):
        counts = np.bincount(np.searchsorted(values, ratings), minlength=len(values)).astype(float)
        found[group] += (np.outer(counts, counts) - np.diag(counts)) / (len(ratings) - 1)
    return found.reshape(len(found), -1)


def _of_coincidences(weights: Floats, sums: Floats) -> Floats:
    size = round(sums.shape[1] ** 0.5)
    pairs = (weights @ sums).reshape(-1, size, size)
    counts = pairs.sum(axis=2)
    ranks = counts.cumsum(axis=1) - counts / 2
    squares = (ranks[:, :, None] - ranks[:, None, :]) ** 2
    n = counts.sum(axis=1)
    chance = np.einsum("dc,dk,dck->d", counts, counts, squares)
    return _alpha((pairs * squares).sum(axis=(1, 2)), chance / (n - 1))


def _alpha(observed: Floats, expected: Floats) -> Floats:
    """NaN where all ratings are the same."""
    there = expected > 1e-9
    return np.where(there, 1 - observed / np.where(there, expected, 1.0), np.nan)
