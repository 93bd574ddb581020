"""The one statistics path: every interval in the program is made here.

One seed: percentile bootstrap over prompts, by cluster (prompts that share a document or a fact are drawn
together), a score being the macro-average over its datasets. All cells of a column share the draws, so that
the difference of two cells is paired by prompt. Several seeds: the seeds are the points, the interval is
Student's t.

    clusters = draw([(groups, datasets)])[0]
    sample = resample(clusters, wins)                    # wins: (prompts, cells)
    estimates = fold([sample])                           # one seed -> bootstrap, more -> t
    paired = fold([difference(sample, [0, 1], [2, 2])])  # cell 0 - cell 2, cell 1 - cell 2

Efron and Tibshirani 1993 (percentile interval), Cameron, Gelbach and Miller 2008 (clusters).
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from scipy.special import stdtr, stdtrit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RESAMPLES = 2000
LEVEL = 0.95
SEED = 8191  # fixed, so that the same records give the same bytes
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


@dataclass(frozen=True, slots=True)
class Clusters:
    """The prompts of one column, arranged for resampling. R rows are the (dataset, group) pairs, in order."""

    order: Ints  # (N,) prompts sorted by row
    starts: Ints  # (R,) where each row begins in `order`
    counts: Floats  # (R,) prompts a row
    dataset: Ints  # (R,)
    weights: npt.NDArray[np.uint8]  # (RESAMPLES, R) how often each row's group was drawn
    groups: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One seed's numbers for K quantities: means (K,), their resamples (RESAMPLES, K); NaN where missing."""

    means: Floats
    resamples: Floats
    prompts: int
    clusters: int
    label: str = ""  # which seed; samples with one label are averaged before they count as a point
    fresh: bool = False  # a data seed: other labels have other prompts


# --- drawing ----------------------------------------------------------------------------------------------


def draw(columns: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[Clusters]:
    """Resampling weights for columns given as (group of each prompt, dataset of each prompt).

    Columns that share a group share one draw: where the prompts of several languages are parallel, they are
    resampled together and a mean over languages gets the right interval. Groups are drawn within strata (the
    set of datasets a group occurs in), since datasets are fixed, not sampled.
    """
    universes = _universes([groups for groups, _ in columns])
    weights: dict[int, tuple[dict[str, int], npt.NDArray[np.uint8]]] = {}
    arranged: dict[tuple[tuple[str, ...], tuple[str, ...]], Clusters] = {}
    for (groups, datasets), universe in zip(columns, universes, strict=True):
        if universe not in weights:
            members = [column for column, u in zip(columns, universes, strict=True) if u == universe]
            weights[universe] = _weights(members)
        layout = (tuple(groups), tuple(datasets))
        if layout not in arranged:
            arranged[layout] = _arrange(groups, datasets, *weights[universe])
    return [arranged[tuple(groups), tuple(datasets)] for groups, datasets in columns]


def _universes(columns: Sequence[Sequence[str]]) -> list[int]:
    """Number the connected components of columns that share groups."""
    components: list[tuple[set[str], list[int]]] = []
    for position, groups in enumerate(columns):
        names, members = set(groups), [position]
        apart = []
        for component in components:
            if component[0].isdisjoint(names):
                apart.append(component)
            else:
                names |= component[0]
                members += component[1]
        components = [*apart, (names, members)]
    number = {member: min(members) for _, members in components for member in members}
    return [number[position] for position in range(len(columns))]


def _weights(
    columns: Sequence[tuple[Sequence[str], Sequence[str]]],
) -> tuple[dict[str, int], npt.NDArray[np.uint8]]:
    """Draw every stratum's groups with replacement; (groups -> column of the weights, weights)."""
    occurs: dict[str, set[str]] = {}
    for groups, datasets in columns:
        for group, dataset in set(zip(groups, datasets, strict=True)):
            occurs.setdefault(group, set()).add(dataset)
    strata: dict[tuple[str, ...], list[str]] = {}
    for group in sorted(occurs):
        strata.setdefault(tuple(sorted(occurs[group])), []).append(group)
    names = [name for stratum in sorted(strata) for name in strata[stratum]]
    digest = hashlib.sha256("\n".join(names).encode()).digest()
    random = np.random.Generator(np.random.PCG64([SEED, int.from_bytes(digest[:8], "big")]))
    blocks = [_multinomial(random, len(strata[stratum])) for stratum in sorted(strata)]
    return {name: column for column, name in enumerate(names)}, np.hstack(blocks)


def _multinomial(random: np.random.Generator, size: int) -> npt.NDArray[np.uint8]:
    """(RESAMPLES, size) multinomial counts of `size` draws from `size` equal cells."""
    picks = random.integers(0, size, size=(RESAMPLES, size))
    picks += size * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(picks.ravel(), minlength=RESAMPLES * size).reshape(RESAMPLES, size)
    return np.minimum(counts, 255).astype(np.uint8)


def _arrange(
    groups: Sequence[str],
    datasets: Sequence[str],
    index: dict[str, int],
    drawn: npt.NDArray[np.uint8],
) -> Clusters:
    rows, row_of_prompt = np.unique(
        np.array([f"{dataset}\0{group}" for dataset, group in zip(datasets, groups, strict=True)]),
        return_inverse=True,
    )
    names = [str(row).split("\0", 1) for row in rows]
    known = sorted({dataset for dataset, _ in names})
    counts = np.bincount(row_of_prompt, minlength=len(rows))
    return Clusters(
        order=np.argsort(row_of_prompt, kind="stable"),
        starts=np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64),
        counts=counts.astype(np.float64),
        dataset=np.array([known.index(dataset) for dataset, _ in names], dtype=np.int64),
        weights=drawn[:, [index[group] for _, group in names]],
        groups=len({group for _, group in names}),
    )


# --- estimating -------------------------------------------------------------------------------------------


def resample(
    clusters: Clusters, values: Floats, label: str = "", fresh: bool = False, shares: Floats | None = None
) -> Sample:
    """Averages over datasets of (N, K) per-prompt values, and their cluster bootstrap.

    shares: (datasets,) weights that sum to 1, datasets in the order of their names; None: equal ones.
    """
    sums = cluster_sums(clusters, values)
    datasets = range(int(clusters.dataset.max()) + 1)
    means = np.zeros(values.shape[1])
    resamples = np.zeros((RESAMPLES, values.shape[1]))
    scale = np.full(len(datasets), 1 / len(datasets)) if shares is None else shares
    for dataset in datasets:
        if scale[dataset] == 0:
            continue
        rows = clusters.dataset == dataset
        weights = clusters.weights[:, rows].astype(np.float64)
        resamples += scale[dataset] * (weights @ sums[rows]) / (weights @ clusters.counts[rows])[:, None]
        means += scale[dataset] * sums[rows].sum(axis=0) / clusters.counts[rows].sum()
    return Sample(means, resamples, len(values), clusters.groups, label, fresh)


def cluster_sums(clusters: Clusters, values: Floats) -> Floats:
    """(R, K) sums of (N, K) per-prompt values within each row of the clusters."""
    return np.asarray(np.add.reduceat(values[clusters.order], clusters.starts, axis=0))


def difference(sample: Sample, left: Sequence[int], right: Sequence[int]) -> Sample:
    """left - right, quantity by quantity: paired, because the resamples are shared."""
    return replace(
        sample,
        means=sample.means[list(left)] - sample.means[list(right)],
        resamples=sample.resamples[:, list(left)] - sample.resamples[:, list(right)],
    )


def fold(samples: Sequence[Sample]) -> list[Estimate | None]:
    """One estimate a quantity: bootstrap where one seed has it, t over seeds where several do, else None."""
    points = _by_label(samples)
    values = np.stack([point.means for point in points])  # (P, K)
    present = ~np.isnan(values)
    several = [_over_seeds(points, values, present, k) for k in range(values.shape[1])]
    if not any(estimate is None for estimate in several):
        return several
    bounds = [_quantiles(point.resamples) if point.clusters > 1 else None for point in points]
    return [
        estimate if estimate is not None else _over_prompts(points, bounds, present, k)
        for k, estimate in enumerate(several)
    ]


def _by_label(samples: Sequence[Sample]) -> list[Sample]:
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
    return replace(samples[0], means=means, resamples=resamples)


def _over_seeds(points: Sequence[Sample], values: Floats, present: npt.NDArray[np.bool_], k: int) -> Estimate | None:
    where = [int(i) for i in np.flatnonzero(present[:, k])]
    if len(where) < 2:
        return None
    mean = float(values[where, k].mean())
    se = float(values[where, k].std(ddof=1) / math.sqrt(len(where)))
    half = float(stdtrit(len(where) - 1, (1 + LEVEL) / 2)) * se
    n = sum(points[i].prompts for i in where) if points[0].fresh else max(points[i].prompts for i in where)
    return Estimate(mean, mean - half, mean + half, se, n, points[where[0]].clusters, len(where))


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
    if bound is None:
        return Estimate(value, None, None, None, point.prompts, point.clusters, 1)
    low, high, se = (float(side[k]) for side in bound)
    return Estimate(value, low, high, se, point.prompts, point.clusters, 1)


def _quantiles(resamples: Floats) -> tuple[Floats, Floats, Floats]:
    """(low, high, standard deviation) of each column, quantiles by linear interpolation."""
    columns = np.ascontiguousarray(resamples.T)
    deviation = columns.std(axis=1, ddof=1)
    tail = (1 - LEVEL) / 2 * (RESAMPLES - 1)
    below, above = math.floor(tail), math.floor(RESAMPLES - 1 - tail)
    columns.partition([below, below + 1, above, above + 1], axis=1)
    part = tail - below
    low = columns[:, below] * (1 - part) + columns[:, below + 1] * part
    high = columns[:, above] * part + columns[:, above + 1] * (1 - part)
    return low, high, deviation


# --- deciding ---------------------------------------------------------------------------------------------


def judged(estimate: Estimate) -> Difference:
    """What a paired difference says: settled or not, p, and what would settle it."""
    settled = estimate.above(0) or estimate.below(0)
    unit = "prompts" if estimate.seeds == 1 else "seeds"
    more = None if settled else _more(estimate)
    return Difference(estimate, settled, _p_value(estimate), None, more, unit)


def _p_value(estimate: Estimate) -> float | None:
    freedom = (estimate.clusters if estimate.seeds == 1 else estimate.seeds) - 1
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
    if estimate.seeds == 1:
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
