"""Whether a difference is there: what is settled, its p, and how many more prompts or seeds would settle it.

    found = judged(estimate)  # of intervals.fold
    found.settled, found.p, found.more, found.more_unit

"Would settle" means a power of 80 % at 5 % two-sided, if the difference is as large as it looks.
"""

import math
from collections.abc import Sequence
from typing import overload

from msgspec import Struct
from scipy.special import nctdtr, ndtri, stdtr, stdtrit

from xling.analysis.statistics.intervals import LEVEL, MOST_FREEDOM, Estimate

ALPHA = 0.05
POWER = 0.8
MOST_PROMPTS = 100_000  # beyond this, "how many more prompts" is no longer advice
MOST_SEEDS = 1_000


class Difference(Struct, frozen=True):
    """A paired difference, whether 0 is excluded, and what it would take to exclude it."""

    estimate: Estimate
    settled: bool  # the 95 % interval excludes 0; to a column's best: p_best is below 0.05
    p: float | None  # two-sided, below 0.05 where the interval excludes 0 and nowhere else
    p_holm: float | None = None  # the same after Holm's correction within its table
    more: int | None = None  # prompts or seeds that would settle it (80 % power); None: settled, or absurdly many
    more_unit: str = "prompts"
    p_best: float | None = None  # to a column's best: for the choice of the best, among all sources of the target

    @property
    def unknown(self) -> bool:
        """Without an interval: there is a single document."""
        return self.estimate.se is None

    @property
    def level(self) -> bool:
        """The mean difference is 0, though not that of every prompt."""
        return self.estimate.value == 0 and not self.identical and not self.unknown

    @property
    def absurd(self) -> bool:
        """So small, if it is as large as it looks, that settling it would take absurdly many prompts or seeds."""
        return not (self.settled or self.more is not None or self.identical or self.level or self.unknown)

    @property
    def identical(self) -> bool:
        """Equal on every prompt under every seed: nothing seen tells the two apart."""
        return self.estimate.value == 0 and self.estimate.se == 0


@overload
def judged(estimate: Estimate, alpha: float = ...) -> Difference: ...
@overload
def judged(estimate: Estimate | None, alpha: float = ...) -> Difference | None: ...
def judged(estimate: Estimate | None, alpha: float = ALPHA) -> Difference | None:
    """Of a paired difference: whether it is settled, its p, and what would settle it. None of None.

    alpha: the p at which it is: 0.05 for a difference by itself, that of draws.worse_than_best to the best of several.
    """
    if estimate is None:
        return None
    p = _p_value(estimate)
    settled = p is not None and p < alpha
    more, unit = (None, "prompts") if settled else _more(estimate, alpha)
    return Difference(estimate, settled, p, None, more, unit)


def _p_value(estimate: Estimate) -> float | None:
    """Two-sided, by Student's t; its standard error is that of the interval's half towards 0, so that both agree."""
    freedom = (estimate.clusters if estimate.over_prompts else estimate.seeds) - 1.0
    freedom = freedom if estimate.freedom is None else estimate.freedom
    if estimate.low is None or estimate.high is None or freedom <= 0:
        return None
    if estimate.value == 0:
        return 1.0
    half = estimate.value - estimate.low if estimate.value > 0 else estimate.high - estimate.value
    if half <= 0:
        return 0.0
    limit = float(stdtrit(freedom, (1 + LEVEL) / 2))
    p = 2 * float(stdtr(freedom, -abs(estimate.value) * limit / half))
    return min(p, math.nextafter(ALPHA, 0)) if half < abs(estimate.value) else min(1.0, max(p, ALPHA))


def cautious_p(estimate: Estimate) -> float:
    """Of a difference among many, far out where percentiles do not tell: the larger of its p and that of Student's t.

    1 where there is none.
    """
    p = _p_value(estimate)
    if p is None or not estimate.se:
        return 1.0 if p is None else p
    by_prompts = estimate.freedom is None and estimate.over_prompts
    freedom = estimate.freedom or (estimate.clusters if by_prompts else estimate.seeds) - 1.0
    small = estimate.clusters / (estimate.clusters - 1) if by_prompts else 1.0  # a bootstrap's variance is n - 1 in n
    return max(p, 2 * float(stdtr(freedom, -abs(estimate.value) / estimate.se / math.sqrt(small))))


def _more(estimate: Estimate, alpha: float) -> tuple[int | None, str]:
    """Prompts or seeds to add for a power of 80 %, if the difference is as large as it looks, and which of the two.

    It is those that more of the standard error comes from, or the others where these alone would not do.
    None: absurdly many.
    """
    first = "prompts" if estimate.over_prompts else "seeds"
    if estimate.se is None or estimate.value == 0:
        return None, first
    points, seeds = abs(estimate.value), estimate.between
    prompts = max(estimate.se**2 - seeds, 0.0)
    for unit in dict.fromkeys((first, *(("prompts", "seeds") if seeds else ()))):
        if unit == "prompts":
            needed, have = prompts_needed(estimate.n * prompts, points, seeds, alpha), estimate.n
        else:
            needed, have = seeds_needed(math.sqrt(estimate.seeds * seeds), points, prompts, alpha), estimate.seeds
        if have < needed <= have + (MOST_PROMPTS if unit == "prompts" else MOST_SEEDS):  # not of NaN
            return int(needed) - have, unit
    return None, first


def prompts_needed(variance: float, points: float, fixed: float = 0.0, alpha: float = ALPHA) -> float:
    """Of a paired difference with this variance a prompt, at least 2; NaN where no number would do.

    n = (z_.975 + z_.8)^2 v / d^2 at alpha = 0.05; fixed: variance of the difference that no prompts narrow, which
    (d / z)^2 has to pay.
    """
    if points <= 0 or math.isnan(variance):
        return math.nan
    room = points**2 / float(ndtri(1 - alpha / 2) + ndtri(POWER)) ** 2 - fixed
    return float(max(2, math.ceil(variance / room))) if room > 0 else math.nan


def seeds_needed(deviation: float, points: float, fixed: float = 0.0, alpha: float = ALPHA) -> float:
    """Of a paired t-test over seeds; NaN where the deviation is not known, or more than MOST_SEEDS are needed.

    fixed: variance of the difference that no seeds narrow, as of the prompts; degrees of freedom are Satterthwaite's.
    """
    if points <= 0 or math.isnan(deviation):
        return math.nan
    if deviation == 0 and fixed == 0:
        return 2.0
    for seeds in range(2, MOST_SEEDS + 1):
        variance = deviation**2 / seeds
        error = math.sqrt(variance + fixed)
        freedom = (seeds - 1) * min((error**2 / variance) ** 2, MOST_FREEDOM) if variance else MOST_FREEDOM
        limit, shift = float(stdtrit(freedom, 1 - alpha / 2)), points / error
        reached = 1 - float(nctdtr(freedom, shift, limit)) + float(nctdtr(freedom, shift, -limit))
        if reached >= POWER:
            return float(seeds)
    return math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): reject where the result is at most 0.05."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
