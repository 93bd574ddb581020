"""The bootstrap over prompts: which prompts a resample holds, and the averages over prompts of every resample.

Columns that share documents or facts share one draw, fixed for given names. intervals.py makes intervals of the
averages.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RESAMPLES = 2000
SEED = 8191  # fixed, so that the same records give the same bytes
MANY = 64  # quantities: with fewer there is nothing to gain
HUGE = 1024  # quantities of a column: with more (forty sources) all are drawn in single precision
SOME = 512  # quantities that are looked at together: fresh memory for more takes as long as the work on them
UNIT = 64.0
_MANY_VALUES = 1000  # fewer are sorted
_LEVEL = 1e-9  # sums closer than this are level
SHARE = np.array([0.0, 100.0])  # the scale of shares in percent
POINTS = np.array([-100.0, 100.0])  # of their differences
ONE = np.array([-1.0, 1.0])  # of correlations, kappa and alpha

# --- drawing prompts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drawn:
    """Which of the groups that were drawn together R rows belong to."""

    name: int  # of the draw: a digest of its groups
    size: int  # how many groups it has
    rows: Ints  # (R,) places among them


@dataclass(frozen=True, slots=True)
class Clusters:
    """The prompts of one column, arranged for resampling. R rows are the (dataset, group) pairs, in order."""

    order: Ints  # (N,) prompts sorted by row
    starts: Ints  # (R,) where each row begins in `order`
    counts: Floats  # (R,) prompts a row
    dataset: Ints  # (R,)
    weights: npt.NDArray[np.uint8]  # (RESAMPLES, R) how often each row's group was drawn
    groups: int
    drawn: "Drawn"


def draw(columns: Sequence[tuple[Sequence[str], Sequence[str]]]) -> list[Clusters]:
    """Resampling weights for columns given as (group of each prompt, dataset of each prompt).

    Columns that share a group share one draw: where the prompts of several languages are parallel, they are
    resampled together and a mean over languages gets the right interval. Groups are drawn within strata (the
    set of datasets a group occurs in), since datasets are fixed, not sampled.
    """
    universes = _universes([groups for groups, _ in columns])
    weights: dict[int, tuple[dict[str, int], npt.NDArray[np.uint8], int]] = {}
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
) -> tuple[dict[str, int], npt.NDArray[np.uint8], int]:
    """Draw every stratum's groups with replacement; (groups -> column of the weights, weights, a digest of both)."""
    occurs: dict[str, set[str]] = {}
    for groups, datasets in columns:
        for group, dataset in set(zip(groups, datasets, strict=True)):
            occurs.setdefault(group, set()).add(dataset)
    strata: dict[tuple[str, ...], list[str]] = {}
    for group in sorted(occurs):
        strata.setdefault(tuple(sorted(occurs[group])), []).append(group)
    names = [name for stratum in sorted(strata) for name in strata[stratum]]
    digest = int.from_bytes(hashlib.sha256("\n".join(names).encode()).digest()[:8], "big")
    random = np.random.Generator(np.random.PCG64([SEED, digest]))
    blocks = [_multinomial(random, len(strata[stratum])) for stratum in sorted(strata)]
    return {name: column for column, name in enumerate(names)}, np.hstack(blocks), digest


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
    digest: int,
) -> Clusters:
    clusters = list(zip(datasets, groups, strict=True))
    names = sorted(set(clusters))
    number = {name: row for row, name in enumerate(names)}
    row_of_prompt = np.array([number[cluster] for cluster in clusters], dtype=np.int64)
    known = sorted({dataset for dataset, _ in names})
    counts = np.bincount(row_of_prompt, minlength=len(names))
    places = [index[group] for _, group in names]
    return Clusters(
        order=np.argsort(row_of_prompt, kind="stable"),
        starts=np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64),
        counts=counts.astype(np.float64),
        dataset=np.array([known.index(dataset) for dataset, _ in names], dtype=np.int64),
        weights=drawn[:, places],
        groups=len(set(places)),
        drawn=Drawn(digest, len(index), np.array(places, dtype=np.int64)),
    )


# --- averages and their resamples --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One seed's numbers for K quantities: means (K,), their resamples (RESAMPLES, K); NaN where missing."""

    means: Floats
    resamples: Floats
    prompts: int
    clusters: int
    label: str = ""  # which seed; samples with one label are averaged before they count as a point
    fresh: bool = False  # a data seed: other labels have other prompts
    crossed: bool = False  # labels share prompts and draws, and split the same recorded ratings
    present: tuple[Ints, Ints] | None = None  # (prompts (K,), clusters (K,)) where some quantities lack some prompts
    span: Floats | None = None  # (2, K) the least and the greatest that a quantity can be; None: whatever
    paired: bool = False  # differences of two quantities of the same prompts
    sums: Floats | None = None  # (R, K) of each row of the clusters, of which differences are made
    apart: Bools | None = None  # (R, K) rows that are not in the middle of the scale: no ties, differences but 0
    drawn: Drawn | None = None  # of these rows

    def counts(self, k: int) -> tuple[int, int]:
        """Prompts and clusters behind quantity k."""
        if self.present is None:
            return self.prompts, self.clusters
        return int(self.present[0][k]), int(self.present[1][k])


def resample(
    clusters: Clusters,
    values: Floats,
    label: str = "",
    fresh: bool = False,
    crossed: bool = False,
    shares: Floats | None = None,
    span: Floats | None = None,
    paired: bool = False,
    single: bool = False,
) -> Sample:
    """Averages over datasets of (N, K) per-prompt values, and their cluster bootstrap.

    A quantity that is NaN for some prompts is the average of the others (a resample without any of them takes the
    average itself); one that is NaN for all prompts of a dataset is missing.
    shares: (datasets,) weights that sum to 1, datasets in the order of their names; None: equal ones.
    span: (2,) or (2, K) the scale's ends; paired: the values are differences already; single: as of `weighted`.
    """
    datasets = int(clusters.dataset.max()) + 1
    scale = np.full(datasets, 1 / datasets) if shares is None else shares
    ends = None if span is None else np.broadcast_to(span.reshape(2, -1), (2, values.shape[1]))
    there, present = ~np.isnan(values), None
    if (there.any(axis=0) & ~there.all(axis=0)).any() or not _covered(clusters):
        means, resamples, present, sums, counts = _with_gaps(clusters, values, there, scale)
    else:
        sums, counts = cluster_sums(clusters, values), clusters.counts[:, None]
        means, resamples = _averages(clusters, sums, scale, single)
    about = (len(values), clusters.groups, label, fresh, crossed, present, ends, paired, sums)
    return Sample(means, resamples, *about, apart_from_the_middle(sums, counts, ends), clusters.drawn)


def _averages(clusters: Clusters, sums: Floats, scale: Floats, single: bool) -> tuple[Floats, Floats]:
    """(K,) averages over datasets and (RESAMPLES, K) of (R, K) sums, where no prompt is missing."""
    means = np.zeros(sums.shape[1])
    averaged: Floats | None = None
    for dataset, share in enumerate(scale):
        if share == 0:
            continue
        rows: Bools | slice = clusters.dataset == dataset if len(scale) > 1 else slice(None)  # without copies
        weights = clusters.weights[:, rows]
        drawn = weighted(weights, sums[rows], single)  # the largest array of a big column: changed in place
        if share != 1:
            drawn *= share
        drawn /= (weights.astype(np.float64) @ clusters.counts[rows])[:, None]
        averaged = drawn if averaged is None else np.add(averaged, drawn, out=averaged)
        means += share * sums[rows].sum(axis=0) / clusters.counts[rows].sum()
    return means, np.zeros((RESAMPLES, sums.shape[1])) if averaged is None else averaged


def apart_from_the_middle(sums: Floats, counts: Floats, ends: Floats | None) -> Bools | None:
    """(R, K) whether sums are not those of as many prompts in the middle of the scale; None without a scale."""
    if ends is None:
        return None
    bounded = np.isfinite(ends).all(axis=0)
    middle = np.where(bounded, ends, 0.0).sum(axis=0) / 2
    away = sums.T - middle[:, None] * counts.T  # quantity by quantity, as in `weighted`
    return np.asarray(np.abs(away, out=away) > _LEVEL).T


def weighted(weights: npt.NDArray[np.uint8], sums: Floats, single: bool = False) -> Floats:
    """(B, R) weights @ (R, K) sums. Columns of multiples of 1/64 (shares, counts, lengths) go through single precision,
    three times as fast: where no sum reaches 2**24 such units, that is exact, so that not a bit differs.

    single: so do the others, to six digits; an interval from 2,000 resamples is known to two or three. The resamples of
    a quantity are side by side in memory.
    """
    if sums.shape[1] < MANY:
        return weights.astype(np.float64) @ sums
    rows = sums.T
    if single:
        return (rows.astype(np.float32) @ weights.T.astype(np.float32)).astype(np.float64).T
    drawn = float(weights.sum(axis=1, dtype=np.int64).max())
    units = rows * UNIT
    exact = (units == np.rint(units)).all(axis=1) & (np.abs(units).max(axis=1) * drawn < 2**24)
    result = np.empty((len(rows), len(weights)))
    result[exact] = rows[exact].astype(np.float32) @ weights.T.astype(np.float32)
    result[~exact] = rows[~exact] @ weights.T.astype(np.float64)
    return result.T


def _covered(clusters: Clusters) -> bool:
    """Whether every resample holds something of every dataset; a short column drawn with longer ones may miss out."""
    return all(clusters.weights[:, clusters.dataset == d].any(axis=1).all() for d in set(clusters.dataset))


def _with_gaps(
    clusters: Clusters, values: Floats, there: npt.NDArray[np.bool_], scale: Floats
) -> tuple[Floats, Floats, tuple[Ints, Ints], Floats, Floats]:
    """(means, resamples, (prompts, clusters), sums, their counts) where prompts are missing from some quantities."""
    sums = cluster_sums(clusters, np.where(there, values, 0.0))
    counts = cluster_sums(clusters, there.astype(np.float64))
    means, resamples = np.zeros(values.shape[1]), np.zeros((RESAMPLES, values.shape[1]))
    for dataset, weight in enumerate(scale):
        if weight == 0:
            continue
        rows = clusters.dataset == dataset
        weights = clusters.weights[:, rows].astype(np.float64)
        total = counts[rows].sum(axis=0)
        mean = np.where(total > 0, sums[rows].sum(axis=0) / np.maximum(total, 1), np.nan)
        drawn = weights @ counts[rows]
        resamples += weight * np.where(drawn > 0, (weights @ sums[rows]) / np.maximum(drawn, 1), mean)
        means += weight * mean
    present = there.sum(axis=0), np.minimum((counts > 0).sum(axis=0), clusters.groups)
    return means, resamples, present, sums, counts


def cluster_sums(clusters: Clusters, values: Floats) -> Floats:
    """(R, K) sums of (N, K) per-prompt values within each row of the clusters."""
    ordered = values.T.take(clusters.order, axis=1).T
    alone = len(clusters.starts) == len(ordered)  # a prompt a row: nothing to add up
    return ordered if alone else np.asarray(np.add.reduceat(ordered, clusters.starts, axis=0))


def ends_of(values: Floats, below: int, above: int) -> tuple[float, float, float, float]:
    """Of (n,) values, none of them NaN, those that sorting would put at below, below + 1, above and above + 1.

    Only the two ends are sorted; a small sample tells where they begin. That takes a third of the time of sorting all,
    and numpy's partition takes longer.
    """
    if len(values) >= _MANY_VALUES:
        few = np.sort(values[:: len(values) // 64])
        low, high = values[values <= few[6]], values[values >= few[-7]]
        between = len(values) - len(high)
        if len(low) > below + 1 and between <= above:
            low.sort()
            high.sort()
            return low[below], low[below + 1], high[above - between], high[above + 1 - between]
    ordered = np.sort(values)
    return ordered[below], ordered[below + 1], ordered[above], ordered[above + 1]


def difference(sample: Sample, left: Sequence[int], right: Sequence[int]) -> Sample:
    """left - right, quantity by quantity: paired, because the resamples are shared."""
    return replace(
        sample,
        means=sample.means[list(left)] - sample.means[list(right)],
        resamples=sample.resamples[:, list(left)] - sample.resamples[:, list(right)],
        present=sample.present
        and (
            np.minimum(sample.present[0][list(left)], sample.present[0][list(right)]),
            np.minimum(sample.present[1][list(left)], sample.present[1][list(right)]),
        ),
        span=None if sample.span is None else sample.span[:, list(left)] - sample.span[::-1, list(right)],
        paired=True,
        sums=None,
        apart=None if sample.sums is None else _differing(sample.sums, left, right),
    )


def _differing(sums: Floats, left: Sequence[int], right: Sequence[int]) -> Bools:
    """(R, K) in which rows two columns differ; pair by pair, since there may be many."""
    found = np.empty((len(sums), len(left)), dtype=np.bool_)
    for number, (a, b) in enumerate(zip(left, right, strict=True)):
        found[:, number] = np.abs(sums[:, a] - sums[:, b]) > _LEVEL
    return found


def select(sample: Sample, which: slice | Sequence[int]) -> Sample:
    """Some of the quantities, as copies, so that the rest can be freed."""
    places = which if isinstance(which, slice) else list(which)
    return replace(
        sample,
        means=sample.means[places].copy(),
        resamples=sample.resamples[:, places].copy(),
        present=sample.present and (sample.present[0][places], sample.present[1][places]),
        span=None if sample.span is None else sample.span[:, places],
        sums=None,
        apart=None if sample.apart is None else sample.apart[:, places],
    )


@dataclass(slots=True)
class Average:
    """The mean over samples of one label, as they come in: over targets, or over training seeds of the same prompts.

    Its clusters are the groups of all of them, one that several have counted once, less one for every further draw,
    whose own mean takes it (so a mean over single documents has no interval). Those apart from the middle are counted
    alike: the mean is as unsure of few of them as each sample is.
    """

    first: Sample | None = None
    totals: tuple[Floats, Floats, Ints] | None = None  # means (K,), resamples, how many have the quantity
    groups: dict[int, tuple[Bools, Bools]] = field(default_factory=dict)  # of a draw: (G,) there, (G, K) apart
    most: int = 0  # clusters of a sample, where its rows are not known
    known: bool = True

    def add(self, sample: Sample) -> None:
        there = ~np.isnan(sample.means)
        means, resamples = np.where(there, sample.means, 0.0), np.where(there, sample.resamples, 0.0)
        if self.totals is None:
            self.first, self.totals = sample, (means, resamples, there.astype(np.int64))
        else:
            for total, one in zip(self.totals, (means, resamples, there), strict=True):
                total += one
        self.most = max(self.most, sample.clusters)
        if sample.drawn is None or sample.apart is None:
            self.known = False
        elif self.known:
            drawn = sample.drawn
            nothing = np.zeros(drawn.size, dtype=np.bool_), np.zeros((drawn.size, len(means)), dtype=np.bool_)
            present, apart = self.groups.setdefault(drawn.name, nothing)
            present[drawn.rows] = True
            np.logical_or.at(apart, drawn.rows, sample.apart)

    def sample(self) -> Sample:
        """The mean of what is there, NaN of what nobody has. ValueError: nothing was added."""
        if self.first is None or self.totals is None:
            raise ValueError("a mean of no samples")
        means, resamples, counts = self.totals
        with np.errstate(invalid="ignore"):
            means, resamples = means / counts, resamples / counts
        if not self.known:
            return replace(self.first, means=means, resamples=resamples, clusters=self.most, apart=None, drawn=None)
        apart = np.concatenate([apart for _, apart in self.groups.values()])
        clusters = 1 + int(sum(there.sum() - 1 for there, _ in self.groups.values()))
        return replace(self.first, means=means, resamples=resamples, clusters=clusters, apart=apart, drawn=None)
