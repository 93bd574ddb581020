"""The one statistics path: every interval in the program is made here.

One seed: percentile bootstrap over prompts, by cluster (prompts that share a document or a fact are drawn
together), a score being the macro-average over its datasets. All cells of a column share the draws, so that
the difference of two cells is paired by prompt. Several seeds: the seeds are the points, the interval is
Student's t. But where seeds only split the same recorded ratings anew, prompts are what varies: then seeds and
prompts are drawn together (the pigeonhole bootstrap, Owen 2007). What is the same in every resample under all seeds, as
of a reward model that is fitted in closed form, gets that too, which is its bootstrap over prompts: a t-interval would
have no width.

    clusters = draw([(groups, datasets)])[0]
    sample = resample(clusters, wins)                    # wins: (prompts, cells)
    estimates = fold([sample])                           # one seed -> bootstrap, more -> t
    paired = fold([difference(sample, [0, 1], [2, 2])])  # cell 0 - cell 2, cell 1 - cell 2

Efron and Tibshirani 1993 (percentile interval), Cameron, Gelbach and Miller 2008 (clusters).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from msgspec import Struct, structs
from scipy.special import stdtr, stdtrit

from xling.analysis.drawing import RESAMPLES as RESAMPLES
from xling.analysis.drawing import SEED as SEED
from xling.analysis.drawing import Clusters as Clusters
from xling.analysis.drawing import Floats as Floats
from xling.analysis.drawing import Ints
from xling.analysis.drawing import draw as draw
from xling.analysis.resampling import Sample as Sample
from xling.analysis.resampling import cluster_sums as cluster_sums
from xling.analysis.resampling import difference as difference
from xling.analysis.resampling import resample as resample
from xling.analysis.resampling import select as select

LEVEL = 0.95
MOST_PROMPTS = 100_000  # beyond this, "how many more prompts" is no longer advice
MOST_SEEDS = 1_000
_NORMAL = 1.959963984540054


class Estimate(Struct, frozen=True):
    """A number with its 95 % interval, in the unit of its table (percent, points or tokens)."""

    value: float
    low: float | None  # None: fewer than two clusters
    high: float | None
    se: float | None
    n: int  # distinct prompts (or rated items, or pairs)
    clusters: int
    seeds: int  # 1: bootstrap over prompts; more: t over seeds
    crossed: bool = False  # several seeds, and still a bootstrap over prompts, drawn together with the seeds

    @property
    def over_prompts(self) -> bool:
        """More prompts would narrow the interval, not more seeds."""
        return self.seeds == 1 or self.crossed

    def above(self, level: float) -> bool:
        """The whole interval lies above `level`."""
        return self.low is not None and self.low > level

    def below(self, level: float) -> bool:
        """The whole interval lies below `level`."""
        return self.high is not None and self.high < level

    def contains(self, level: float) -> bool:
        """`level` lies in the interval."""
        return self.low is not None and self.high is not None and self.low <= level <= self.high


class Difference(Struct, frozen=True):
    """A paired difference, whether 0 is excluded, and what it would take to exclude it."""

    estimate: Estimate
    settled: bool  # the 95 % interval excludes 0, not corrected for the number of comparisons
    p: float | None  # two-sided, t with clusters - 1 (or seeds - 1) degrees of freedom
    p_holm: float | None = None  # the same after Holm's correction within its table
    more: int | None = None  # prompts or seeds that would settle it; None: settled, or absurdly many
    more_unit: str = "prompts"

    @property
    def identical(self) -> bool:
        """Equal in every resample: no number of prompts would tell the two apart."""
        return self.estimate.value == 0 and self.estimate.se == 0


# --- estimating -------------------------------------------------------------------------------------------


def fold(samples: Sequence[Sample]) -> list[Estimate | None]:
    """One estimate a quantity: bootstrap where one seed has it, t over seeds where several do, else None."""
    points = by_label(samples)
    if len(points) > 1 and all(point.crossed for point in points):
        return _over_both(points)
    values = np.stack([point.means for point in points])  # (P, K)
    present = told_apart(points, values)
    several: list[Estimate | None] = [None] * values.shape[1]
    if len(points) > 1:
        several = [_over_seeds(points, values, present, k) for k in range(values.shape[1])]
    if not any(estimate is None for estimate in several):
        return several
    bounds = [_quantiles(point.resamples) if point.clusters > 1 else None for point in points]
    if len(points) == 1:
        return _of_one(points[0], bounds[0])
    found = [
        estimate if estimate is not None else _over_prompts(points, bounds, present, k)
        for k, estimate in enumerate(several)
    ]
    counts, kept = (~np.isnan(values)).sum(axis=0).tolist(), present.sum(axis=0).tolist()
    return [
        structs.replace(one, seeds=counts[k], crossed=True) if one is not None and kept[k] < counts[k] else one
        for k, one in enumerate(found)
    ]


def told_apart(points: Sequence[Sample], values: Floats) -> npt.NDArray[np.bool_]:
    """(P, K) which seeds have a quantity. One that all seeds resample alike counts once: no seed decides it.

    values: (P, K) means of the points. A reward model fitted in closed form decides the same under every seed.
    """
    present: npt.NDArray[np.bool_] = ~np.isnan(values)
    if len(points) == 1:
        return present
    for k in np.flatnonzero((values == values[0]).all(axis=0)):
        first = points[0].resamples[:, k]
        varied = len(first) > 0 and (first != first[0]).any()  # else there is nothing to tell: 100 % under every seed
        if varied and all(np.array_equal(point.resamples[:, k], first) for point in points[1:]):
            present[1:, k] = False
    return present


def by_label(samples: Sequence[Sample]) -> list[Sample]:
    """One sample a seed: those with one label averaged."""
    labels = list(dict.fromkeys(sample.label for sample in samples))
    if len(labels) == len(samples):
        return list(samples)
    return [_average([sample for sample in samples if sample.label == label]) for label in labels]


def _average(samples: Sequence[Sample]) -> Sample:
    """The mean over samples of the quantities that are there."""
    present = np.sum([~np.isnan(sample.means) for sample in samples], axis=0)
    with np.errstate(invalid="ignore"):
        means = np.nansum([sample.means for sample in samples], axis=0) / present
        resamples = np.nansum([sample.resamples for sample in samples], axis=0) / present
    return replace(samples[0], means=means, resamples=resamples, present=_most([s.present for s in samples]))


def _most(present: Sequence[tuple[Ints, Ints] | None]) -> tuple[Ints, Ints] | None:
    known = [counts for counts in present if counts is not None]
    if len(known) < len(present):
        return None
    return np.max([prompts for prompts, _ in known], axis=0), np.max([clusters for _, clusters in known], axis=0)


def over_seeds_and_prompts(points: Sequence[Sample]) -> tuple[Floats, Floats]:
    """(K,) means over seeds and (RESAMPLES, K): each draws as many seeds as there are, and takes the mean of their
    resamples of the prompts."""
    means = np.stack([point.means for point in points])  # (P, K)
    present = ~np.isnan(means)
    random = np.random.Generator(np.random.PCG64([SEED, len(points)]))
    drawn = random.multinomial(len(points), np.full(len(points), 1 / len(points)), size=RESAMPLES)
    counts = drawn @ present  # (RESAMPLES, K)
    resamples = sum(
        weight[:, None] * np.nan_to_num(point.resamples) for weight, point in zip(drawn.T, points, strict=True)
    )
    value = np.where(present, means, 0.0).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
    return value, np.where(counts > 0, resamples / np.maximum(counts, 1), value)


def _over_both(points: Sequence[Sample]) -> list[Estimate | None]:
    value, resamples = over_seeds_and_prompts(points)
    seeds = np.sum([~np.isnan(point.means) for point in points], axis=0)
    low, high, se = _quantiles(resamples)
    first, several = points[0], points[0].clusters > 1
    return [
        Estimate(
            float(value[k]),
            float(low[k]) if several else None,
            float(high[k]) if several else None,
            float(se[k]) if several else None,
            *first.counts(k),
            int(seeds[k]),
            crossed=True,
        )
        if seeds[k]
        else None
        for k in range(len(value))
    ]


def _over_seeds(points: Sequence[Sample], values: Floats, present: npt.NDArray[np.bool_], k: int) -> Estimate | None:
    where = [int(i) for i in np.flatnonzero(present[:, k])]
    if len(where) < 2:
        return None
    mean = float(values[where, k].mean())
    se = float(values[where, k].std(ddof=1) / math.sqrt(len(where)))
    half = float(stdtrit(len(where) - 1, (1 + LEVEL) / 2)) * se
    prompts = [points[i].counts(k)[0] for i in where]
    n = sum(prompts) if points[0].fresh else max(prompts)
    return Estimate(mean, mean - half, mean + half, se, n, points[where[0]].counts(k)[1], len(where))


def _of_one(point: Sample, bound: tuple[Floats, Floats, Floats] | None) -> list[Estimate | None]:
    """As `_over_prompts` of all quantities of the only seed, which big grids have many of."""
    values = point.means.tolist()
    if bound is None:
        return [None if v != v else Estimate(v, None, None, None, *point.counts(k), 1) for k, v in enumerate(values)]
    rows = enumerate(zip(values, *(side.tolist() for side in bound), strict=True))
    return [
        None
        if value != value
        else Estimate(value, low, high, se, *counts, 1)
        if (counts := point.counts(k))[1] > 1
        else Estimate(value, None, None, None, *counts, 1)
        for k, (value, low, high, se) in rows
    ]


def _over_prompts(
    points: Sequence[Sample],
    bounds: Sequence[tuple[Floats, Floats, Floats] | None],
    present: npt.NDArray[np.bool_],
    k: int,
) -> Estimate | None:
    if not present[:, k].any():
        return None
    seed = int(np.argmax(present[:, k]))
    point, bound = points[seed], bounds[seed]
    value = float(point.means[k])
    prompts, clusters = point.counts(k)
    if bound is None or clusters < 2:
        return Estimate(value, None, None, None, prompts, clusters, 1)
    low, high, se = (float(side[k]) for side in bound)
    return Estimate(value, low, high, se, prompts, clusters, 1)


def _quantiles(resamples: Floats) -> tuple[Floats, Floats, Floats]:
    """(low, high, standard deviation) of each column, quantiles by linear interpolation."""
    columns = np.array(resamples.T, order="C")
    deviation = columns.std(axis=1, ddof=1)
    tail = (1 - LEVEL) / 2 * (RESAMPLES - 1)
    below, above = math.floor(tail), math.floor(RESAMPLES - 1 - tail)
    columns.sort(axis=1)  # numpy's vectorised sort takes a quarter of the time of its partition
    part = tail - below
    low = columns[:, below] * (1 - part) + columns[:, below + 1] * part
    high = columns[:, above] * part + columns[:, above + 1] * (1 - part)
    return low, high, deviation


# --- deciding ---------------------------------------------------------------------------------------------


def judged(estimate: Estimate) -> Difference:
    """What a paired difference says: settled or not, p, and what would settle it."""
    settled = estimate.above(0) or estimate.below(0)
    unit = "prompts" if estimate.over_prompts else "seeds"
    more = None if settled else _more(estimate)
    return Difference(estimate, settled, _p_value(estimate), None, more, unit)


def _p_value(estimate: Estimate) -> float | None:
    freedom = (estimate.clusters if estimate.over_prompts else estimate.seeds) - 1
    if estimate.se is None or freedom < 1:
        return None
    if estimate.se == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return min(1.0, 2 * float(stdtr(freedom, -abs(estimate.value) / estimate.se)))


def _more(estimate: Estimate) -> int | None:
    """Prompts or seeds to add until the 95 % half-width is below the difference seen; None: absurdly many.

    Prompts: half-width 1.96 sd / sqrt(G) with sd the per-cluster deviation of the paired difference, prompts
    growing in proportion to clusters. Seeds: Student's t with the observed deviation.
    """
    if estimate.se is None or estimate.value == 0:
        return None
    if estimate.over_prompts:
        factor = (_NORMAL * estimate.se / abs(estimate.value)) ** 2
        more = max(1, math.ceil(estimate.n * (factor - 1)))
        return more if more <= MOST_PROMPTS else None
    deviation = estimate.se * math.sqrt(estimate.seeds)
    for seeds in range(estimate.seeds + 1, MOST_SEEDS):
        if float(stdtrit(seeds - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(seeds) < abs(estimate.value):
            return seeds - estimate.seeds
    return None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): reject where the result is at most 0.05."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
