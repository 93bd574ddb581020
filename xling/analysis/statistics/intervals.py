"""The one statistics path: every interval in the program is made here, and none leaves its scale.

One seed: percentile bootstrap over prompts, by cluster (prompts that share a document or a fact are drawn
together), a score being the macro-average over its datasets. All cells of a column share the draws, so that
the difference of two cells is paired by prompt. Where a share has fewer than FEW effective wins or losses, the
bootstrap sees too little of them (of 20 wins in 20 prompts it says 100 to 100): there the interval is Wilson's, at the
effective sample size, with Student's t. And where fewer than FEW_APART documents are not ties (of paired differences:
not equal), one more of either sign is counted (Bonett and Price 2012).

Several seeds: an interval over new seeds and new prompts, which are crossed. With V_p the variance over prompts of the
mean over seeds, V_s that of the seeds' means, and V_e what both hold because other responses are judged under each seed
(`spread_of`), the half-width is

    sqrt(z^2 (V_p - V_e) + t^2 V_m), at least z sqrt(V_p)       z: t with G - 1, t: with S - 1 + w degrees of freedom

of S seeds and G clusters. Two seeds say next to nothing about how seeds spread, so that V_s is moderated (Smyth 2004):
V_m is the mean of V_s, which counts S - 1 times, and of a prior spread V_0 = V_e + V_p / 2, which counts
w = 1 / (2 + 2 V_s / 3 V_0) times: it fades where the seeds spread far more. Then the half-width is put on the scale as
Wilson's interval is (`within`). tests/analysis/test_coverage.py measures the coverage of all of these.

What is the same in every resample under all seeds, as of a reward model that is fitted in closed form, has its interval
over prompts. And where seeds only split the same recorded ratings anew, seeds and prompts are drawn together (the
pigeonhole bootstrap, Owen 2007).

    clusters = draw([(groups, datasets)])[0]
    sample = resample(clusters, wins, span=SHARE)        # wins: (prompts, cells) in percent
    estimates = fold([sample])                           # one seed -> bootstrap, more -> seeds and prompts
    paired = fold([difference(sample, [0, 1], [2, 2])])  # cell 0 - cell 2, cell 1 - cell 2

Efron and Tibshirani 1993 (percentile interval), Cameron, Gelbach and Miller 2008 (clusters), Dean and Pagano 2015
(Wilson's interval of clustered samples).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from msgspec import Struct, structs
from scipy.special import stdtridf, stdtrit

from xling.analysis.statistics.bootstrap import (
    RESAMPLES,
    SEED,
    Average,
    Bools,
    Floats,
    Ints,
    Sample,
    ends_of,
    select,
)

LEVEL = 0.95
FEW = 10.0  # effective wins or losses
FEW_APART = 5  # clusters that are no ties, or on which two cells differ
PRIOR = 0.5  # degrees of freedom of the prior spread of seeds, where the seeds spread less than that
_NORMAL = 1.959963984540054
_FADES = 3.0  # prior spreads of seeds at which the prior counts half
_SAME = 1e-18  # a variance of nothing but rounding
MOST_FREEDOM = 1e6  # a t that is normal
_COUNTED = 2.0  # effective wins or losses with which a share's own design effect counts half, against 1


class Estimate(Struct, frozen=True):
    """A number with its 95 % interval, in the unit of its table (percent, points or tokens)."""

    value: float
    low: float | None  # None: fewer than two clusters
    high: float | None
    se: float | None
    n: int  # distinct prompts (or rated items, or pairs)
    clusters: int
    seeds: int  # 1: over prompts; more: over seeds and prompts
    crossed: bool = False  # several seeds, and still a bootstrap over prompts, drawn together with the seeds
    freedom: float | None = None  # of the t that makes `se` the half-width; None: clusters - 1, or seeds - 1
    seed_se: float | None = None  # the part of `se` that more seeds would narrow; None: nothing, or all with seeds

    @property
    def between(self) -> float:
        """The variance that more seeds would narrow, and more prompts would not."""
        if self.seed_se is not None:
            return self.seed_se**2
        return 0.0 if self.seeds == 1 or self.crossed else (self.se or 0.0) ** 2

    @property
    def over_prompts(self) -> bool:
        """More prompts would narrow the interval rather than more seeds."""
        return 2 * self.between <= (self.se or 0.0) ** 2

    def above(self, level: float) -> bool:
        """The whole interval lies above `level`."""
        return self.low is not None and self.low > level

    def below(self, level: float) -> bool:
        """The whole interval lies below `level`."""
        return self.high is not None and self.high < level

    def contains(self, level: float) -> bool:
        """`level` lies in the interval."""
        return self.low is not None and self.high is not None and self.low <= level <= self.high


# --- estimating -------------------------------------------------------------------------------------------


def fold(samples: Sequence[Sample]) -> list[Estimate | None]:
    """One estimate a quantity: over prompts where one seed has it, over seeds and prompts where several do."""
    points = by_label(samples)
    if len(points) > 1 and all(point.crossed for point in points):
        return _over_both(points)
    values = np.stack([point.means for point in points])  # (P, K)
    if len(points) == 1:
        return _of_one(points[0])
    present = told_apart(points, values)
    counts, kept = (~np.isnan(values)).sum(axis=0).tolist(), present.sum(axis=0)
    found: list[Estimate | None] = [None] * values.shape[1]
    if (kept > 1).any():
        for k, estimate in _over_seeds(points, values, present, kept > 1):
            found[k] = estimate
    for number, point in enumerate(points):
        alone = np.flatnonzero((kept == 1) & present[number])
        for k, one in zip(alone.tolist(), _of_one(select(point, alone.tolist())) if len(alone) else [], strict=True):
            equal = one is not None and counts[k] > 1
            found[k] = structs.replace(one, seeds=counts[k], crossed=True) if one is not None and equal else one
    return found


def on_these_prompts(samples: Sequence[Sample]) -> list[Estimate | None]:
    """Of each quantity that several seeds have on the same prompts: for new seeds and these very prompts.

    Student's t of the seeds' means, put on the scale; it says nothing of other prompts, which `fold` does. Where seeds
    agree to the last digit, they are taken for as many verdicts as there are clusters under all of them.
    """
    points = by_label(samples)
    if len(points) < 2 or any(point.crossed or point.fresh for point in points):
        return [None] * len(points[0].means) if points else []
    values = np.stack([point.means for point in points])  # (P, K)
    present = told_apart(points, values)
    counts, seeds = counted(points, present), present.sum(axis=0)
    found: list[Estimate | None] = [None] * values.shape[1]
    places = np.flatnonzero((seeds > 1) & (counts[1] > 1))
    if not len(places):
        return found
    parts, there, count = values[:, places], present[:, places], seeds[places]
    value = np.where(there, parts, 0.0).sum(axis=0) / count
    se = np.sqrt((np.where(there, parts - value, 0.0) ** 2).sum(axis=0) / (count - 1) / count)
    t = stdtrit(count - 1.0, (1 + LEVEL) / 2)
    span = None if points[0].span is None else points[0].span[:, places]
    least = np.where(se > 0, 0.0, t**2 / (count * counts[1, places]))
    low, high = (within(value, t * se, side, span, least) for side in (-1.0, 1.0))
    rows = np.stack([value, low, high, se]).T.tolist()
    for k, (v, a, b, e), number in zip(places.tolist(), rows, count.tolist(), strict=True):
        n, groups = counts[:, k].tolist()
        found[k] = Estimate(v, a, b, e, n, groups, number, freedom=number - 1.0, seed_se=e)
    return found


def told_apart(points: Sequence[Sample], values: Floats) -> Bools:
    """(P, K) which seeds have a quantity. One that all seeds resample alike counts once: no seed decides it.

    values: (P, K) means of the points. A reward model fitted in closed form decides the same under every seed.
    """
    present: Bools = ~np.isnan(values)
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
    mean = Average()
    for sample in samples:
        mean.add(sample)
    return replace(mean.sample(), present=_most([sample.present for sample in samples]))


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
    found = _of_one(replace(points[0], means=np.where(seeds > 0, value, np.nan), resamples=resamples))
    return [
        None if one is None else structs.replace(one, seeds=int(count), crossed=True)
        for one, count in zip(found, seeds, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Spread:
    """Variances of a quantity's mean over S seeds, each (K,)."""

    prompts: Floats  # over prompts: V_p
    seeds: Floats  # between seeds, moderated: V_m
    shared: Floats  # the part of `prompts` that no number of seeds would narrow: V_p - V_e
    freedom: Floats  # of `seeds`

    @property
    def total(self) -> Floats:
        return np.maximum(self.prompts, self.shared + self.seeds)

    def half(self, clusters: Floats) -> Floats:
        """Half-widths of 95 % before they are put on the scale."""
        normal, t = _t(clusters), stdtrit(self.freedom, (1 + LEVEL) / 2)
        both = normal**2 * self.shared + t**2 * self.seeds
        return np.asarray(np.sqrt(np.maximum(normal**2 * self.prompts, both)))


def spread_of(points: Sequence[Sample], values: Floats, present: Bools, clusters: Floats) -> Spread:
    """Of K quantities that at least two of P seeds have. values, present: (P, K); clusters: (K,) drawn ones."""
    seeds = present.sum(axis=0)
    mean: Floats = np.zeros_like(points[0].resamples)
    each = np.zeros(values.shape[1])
    for point, there in zip(points, present, strict=True):
        drawn = np.where(there, point.resamples, 0.0)
        mean += drawn
        each += drawn.var(axis=0, ddof=1)
    small = clusters / np.maximum(clusters - 1, 1)  # a bootstrap's variance is that of n - 1 in n
    prompts, each = small * (mean / seeds).var(axis=0, ddof=1), small * each / seeds
    within = np.clip((each - prompts) / (seeds - 1), 0.0, prompts)  # V_e
    centre = np.where(present, values, 0.0).sum(axis=0) / seeds
    raw = (np.where(present, values - centre, 0.0) ** 2).sum(axis=0) / (seeds - 1) / seeds
    between, freedom = moderated(raw, prompts, within, seeds)
    return Spread(prompts, between, prompts - within, freedom)


def moderated(raw: Floats, prompts: Floats, within: Floats, seeds: Ints | int) -> tuple[Floats, Floats]:
    """V_m and its degrees of freedom, of V_s, V_p and V_e."""
    prior = within + prompts / 2
    weight = PRIOR / (1 + np.divide(raw, _FADES * prior, out=np.full_like(raw, np.inf), where=prior > 0))
    freedom = seeds - 1 + weight
    return ((seeds - 1) * raw + weight * prior) / freedom, freedom


@dataclass(frozen=True, slots=True)
class Ends:
    """Of quantities that several seeds have, each (K,)."""

    value: Floats
    low: Floats
    high: Floats
    se: Floats
    freedom: Floats  # of the t that makes `se` the half-width
    few: Bools  # too few wins, losses or documents apart for the variances to tell
    seed_se: Floats
    counts: Ints  # (2, K) prompts and clusters


def over_seeds(points: Sequence[Sample], values: Floats, present: Bools) -> Ends:
    """values, present: (P, K), every quantity there under at least two seeds."""
    counts = counted(points, present)
    clusters = counts[1].astype(np.float64)
    value = np.where(present, values, 0.0).sum(axis=0) / present.sum(axis=0)
    spread = spread_of(points, values, present, clusters)
    half, variance, span = spread.half(clusters), spread.total, points[0].span
    few, least = np.zeros(len(value), dtype=np.bool_), np.zeros_like(value)
    if span is not None:
        paired, apart = points[0].paired, _clusters_apart(points, present)
        few, _, floor = _few_apart(value, spread.prompts, clusters, span, apart, paired)
        more = np.where(few, np.maximum(floor - spread.prompts, 0.0), 0.0)
        half = np.sqrt(half**2 + _t(clusters) ** 2 * more)
        variance = np.where(paired & (value == 0) & (variance == 0), 0.0, variance + more)
        if not paired:
            seldom, least = _few(value, spread.prompts, clusters, span)
            few |= seldom
    low, high = (within(value, half, side, span, least) for side in (-1.0, 1.0))
    se = np.sqrt(variance)
    return Ends(value, low, high, se, freedom_of(half, se), few, np.sqrt(spread.seeds), counts)


def _over_seeds(
    points: Sequence[Sample], values: Floats, present: Bools, several: Bools
) -> Iterator[tuple[int, Estimate]]:
    """(place, estimate) of each quantity that several seeds have."""
    places = np.flatnonzero(several)
    parts = [select(point, places.tolist()) for point in points]
    ends = over_seeds(parts, values[:, places], present[:, places])
    rows = zip(
        places.tolist(),
        ends.value.tolist(),
        zip(ends.low.tolist(), ends.high.tolist(), ends.se.tolist(), strict=True),
        ends.counts.T.tolist(),
        present[:, places].sum(axis=0).tolist(),
        zip(ends.freedom.tolist(), ends.seed_se.tolist(), strict=True),
        strict=True,
    )
    for place, value, (low, high, se), (prompts, drawn), seeds, spread in rows:
        if drawn < 2:  # seeds say nothing of other documents
            yield place, Estimate(value, None, None, None, prompts, drawn, seeds)
        else:
            yield place, Estimate(value, low, high, se, prompts, drawn, seeds, False, *spread)


def counted(points: Sequence[Sample], present: Bools) -> Ints:
    """(2, K) prompts and clusters behind each quantity: those of all seeds where each has its own."""
    counts = np.array([[point.counts(k) for k in range(present.shape[1])] for point in points])  # (P, K, 2)
    there = np.where(present[:, :, None], counts, 0)
    return np.asarray((there.sum(axis=0) if points[0].fresh else there.max(axis=0)).T)


def freedom_of(half: Floats, se: Floats) -> Floats:
    """Degrees of freedom with which Student's t makes half-widths of standard errors."""
    ratio = np.divide(half, se, out=np.full_like(se, _NORMAL), where=se > 0)
    found = stdtridf((1 + LEVEL) / 2, np.maximum(ratio, _NORMAL * 1.0001))
    return np.asarray(np.where(ratio > _NORMAL * 1.0001, np.minimum(found, MOST_FREEDOM), MOST_FREEDOM))


def _of_one(point: Sample) -> list[Estimate | None]:
    """Over prompts: of one seed, or of resamples that have the seeds in them."""
    values = point.means.tolist()
    if point.clusters < 2:
        return [None if v != v else Estimate(v, None, None, None, *point.counts(k), 1) for k, v in enumerate(values)]
    low, high, se = _quantiles(point.resamples)
    if point.span is not None:
        low, high, se = _with_few(point, low, high, se)
    rows = enumerate(zip(values, low.tolist(), high.tolist(), se.tolist(), strict=True))
    return [
        None
        if value != value
        else Estimate(value, lowest, highest, error, *counts, 1)
        if (counts := point.counts(k))[1] > 1
        else Estimate(value, None, None, None, *counts, 1)
        for k, (value, lowest, highest, error) in rows
    ]


BLOCK = 64  # columns that stay in a processor's cache


def _quantiles(resamples: Floats) -> tuple[Floats, Floats, Floats]:
    """(low, high, standard deviation) of each column, quantiles by linear interpolation."""
    tail = (1 - LEVEL) / 2 * (RESAMPLES - 1)
    below, above = math.floor(tail), math.floor(RESAMPLES - 1 - tail)
    ends, deviation = np.full((resamples.shape[1], 4), np.nan), np.empty(resamples.shape[1])
    for at in range(0, resamples.shape[1], BLOCK):
        columns = np.array(resamples[:, at : at + BLOCK].T, order="C")
        deviation[at : at + BLOCK] = columns.std(axis=1, ddof=1)
        same = deviation[at : at + BLOCK] == 0  # as where all responses are in the language
        ends[at : at + BLOCK][same] = columns[same, :1]
        for number in np.flatnonzero(~same & ~np.isnan(deviation[at : at + BLOCK])).tolist():
            ends[at + number] = ends_of(columns[number], below, above)
    part = tail - below
    low = ends[:, 0] * (1 - part) + ends[:, 1] * part
    high = ends[:, 2] * part + ends[:, 3] * (1 - part)
    return low, high, deviation


# --- near the ends of a scale -----------------------------------------------------------------------------


def within(
    value: Floats, half: Floats, side: Floats | float, span: Floats | None, least: Floats | float = 0.0
) -> Floats:
    """value + side * half on the scale: an end of Wilson's interval, which never leaves it; side: -1 or 1.

    On a scale from a to b the variance of an estimate of x is taken to go with (x - a)(b - x), as that of a share does:
    the end is the x with |value - x| = half sqrt((x - a)(b - x) / ((value - a)(b - value))). With one end only it is
    cut there. span: (2, K) or (2, 1); least: what t^2 / n is at least, where a half-width says too little.
    """
    plain = np.asarray(value + side * half)
    if span is None:
        return plain
    share, width = _share(value, span)
    spread = np.broadcast_to(share * (1 - share), plain.shape)
    size = np.divide((half / width) ** 2, spread, out=np.zeros(plain.shape), where=spread > 0)
    wilson = _wilson(share, np.maximum(size, least), side)
    bounded = np.isfinite(span).all(axis=0)
    ends = np.where(bounded, np.where(bounded, span[0], 0.0) + width * wilson, plain)
    return np.asarray(np.clip(ends, np.minimum(span[0], value), np.maximum(span[1], value)))


def _wilson(share: Floats, size: Floats, side: Floats | float) -> Floats:
    """An end of Wilson's interval (1927) of shares 0 to 1; size: t^2 / n."""
    root = np.sqrt(size * share * (1 - share) + size**2 / 4)
    return np.asarray(np.clip((share + size / 2 + side * root) / (1 + size), 0.0, 1.0))


def _share(value: Floats, span: Floats) -> tuple[Floats, Floats]:
    """Where values stand between the ends, 0 to 1, and how far these are apart; 0.5 and 1 where one is not finite."""
    known = np.isfinite(span).all(axis=0)
    low, width = np.where(known, span[0], 0.0), np.where(known, span[1] - np.where(known, span[0], 0.0), 1.0)
    return np.where(known, np.clip((value - low) / width, 0.0, 1.0), 0.5), width


def _few(value: Floats, variance: Floats, clusters: Floats, span: Floats) -> tuple[Bools, Floats]:
    """(K,) where wins or losses are few, and t^2 / n there at the effective n, else 0.

    n is the number of clusters over the design effect, which few wins tell badly: it is drawn towards 1.
    """
    share, width = _share(value, span)
    spread, variance = share * (1 - share), variance / width**2
    seen = np.full_like(spread, 0.0)  # effective wins or losses, whichever are fewer
    np.divide(spread * np.minimum(share, 1 - share), variance, out=seen, where=variance > 0)
    few = np.isfinite(span).all(axis=0) & (seen < FEW)
    design = np.divide(clusters * variance, spread, out=np.ones_like(spread), where=(variance > 0) & (spread > 0))
    effective = clusters * (seen + _COUNTED) / (seen * design + _COUNTED)
    return few, np.where(few, _t(clusters) ** 2 / effective, 0.0)


def _clusters_apart(points: Sequence[Sample], present: Bools) -> Ints | None:
    """(K,) clusters that are not in the middle of the scale under some seed; those of all seeds where each has its own.

    Of the seed with most of them, where rows are the same.
    """
    known = [point.apart.sum(axis=0) for point in points if point.apart is not None]
    if len(known) < len(points):
        return None
    there = np.where(present, known, 0)
    return np.asarray(there.sum(axis=0) if points[0].fresh else there.max(axis=0))


def _few_apart(
    value: Floats, variance: Floats, clusters: Floats, span: Floats, apart: Ints | None, paired: bool = True
) -> tuple[Bools, Floats, Floats]:
    """(K,) where few clusters are not in the middle of the scale, and the mean and its variance with one more at
    either end; and where paired differences are the same in all clusters."""
    bounded = np.isfinite(span).all(axis=0)
    middle = np.where(bounded, span, 0.0).sum(axis=0) / 2
    unit = np.where(bounded, span[1] - middle, 1.0)
    away = (value - middle) / unit
    squares = clusters * (clusters * variance / unit**2 + away**2)
    centre = away * clusters / (clusters + 2)
    least = ((squares + 2) / (clusters + 2) - centre**2) / (clusters + 2)
    few = bounded & (squares == 0 if apart is None else apart < FEW_APART) & (np.abs(away) < 0.5)
    # Of five differences of -50 the bootstrap says -50 to -50: one of 0 and one of twice as much are counted then.
    same = bounded & paired & ~few & (variance < _SAME * unit**2) & (np.abs(away) <= 0.5)
    centre = np.where(same, away, centre)
    least = np.where(same, 2 * (away / (clusters + 2)) ** 2, least)
    return few | same, middle + unit * centre, unit**2 * least


def few_ends(point: Sample) -> tuple[Bools, Floats, Floats]:
    """(K,) where a bootstrap sees too little of one seed's quantities, and the ends of their intervals."""
    low, high, se = _quantiles(point.resamples)
    if point.span is None:
        return np.zeros(len(se), dtype=np.bool_), low, high
    least, most, _ = _with_few(point, low, high, se)
    few = (least != np.maximum(low, point.span[0])) | (most != np.minimum(high, point.span[1]))
    return few, least, most


def _t(clusters: Floats) -> Floats:
    return np.asarray(stdtrit(np.maximum(clusters - 1, 1), (1 + LEVEL) / 2))


def _with_few(point: Sample, low: Floats, high: Floats, se: Floats) -> tuple[Floats, Floats, Floats]:
    """Percentile intervals and standard errors, but where there is too little for a bootstrap."""
    value, span = point.means, point.span
    assert span is not None
    clusters = np.full(len(se), float(point.clusters)) if point.present is None else np.maximum(point.present[1], 1.0)
    low, high = np.maximum(low, span[0]), np.minimum(high, span[1])  # resamples of an AUC are linear, and may leave it
    few, size = _few(value, se**2, clusters, span)
    if point.paired:  # a difference is like a share near its ends only
        few &= np.abs(value) > span[1] / 2
    ends = (within(value, np.zeros_like(value), side, span, size) for side in (-1.0, 1.0))
    low, high = (np.where(few, end, known) for end, known in zip(ends, (low, high), strict=True))
    apart = None if point.apart is None else point.apart.sum(axis=0)
    few, centre, least = _few_apart(value, se**2, clusters, span, apart, point.paired)
    half = _t(clusters) * np.sqrt(least)
    low = np.where(few, np.clip(centre - half, span[0], value), low)
    high = np.where(few, np.clip(centre + half, value, span[1]), high)
    return low, high, np.where(few & point.paired & ((se > 0) | (value != 0)), np.sqrt(least), se)
