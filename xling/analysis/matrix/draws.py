"""What a grid's fold leaves for analyses: errors of every entry that can be drawn jointly, so that any statistic of a
matrix (a rank, a correlation, a share of variance) gets an interval, and differences stay paired.

An error is a draw from the sampling distribution of an entry's estimate around it. As in intervals.py:

one seed        the bootstrap over prompts (resample minus mean); a column's entries share the draws of its prompts.
                Where it sees too little (of 20 wins in 20 prompts nothing), two halves of normal errors in its order,
                each as wide as its side of the interval
several seeds   the bootstrap over prompts of the mean over seeds, plus the sum over seeds of
                z_s (m_s - m) / sqrt(S (S - 1)), z_s standard normal and the same for all entries, scaled to the entry's
                standard error. Times sqrt(f / chi2_f), f the degrees of freedom of its interval, and put on the scale
                as that is: an entry has the very interval that the matrix shows, a paired difference nearly
split ratings   the pigeonhole bootstrap over seeds and prompts, as its interval

    draws = Draws(); matrix = fold_grid(store, name, draws)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri, ndtri

from xling.analysis.matrix.fold import FoldedColumn
from xling.analysis.statistics.bootstrap import RESAMPLES, SEED, SHARE, Floats, Sample, select
from xling.analysis.statistics.intervals import (
    LEVEL,
    MOST_FREEDOM,
    by_label,
    counted,
    few_ends,
    freedom_of,
    over_seeds_and_prompts,
    spread_of,
    told_apart,
    within,
)

Small = npt.NDArray[np.float32]
Place = tuple[tuple[str, str], ...]  # all axes of an entry but the seeds
NORMAL = np.inf  # degrees of freedom of what is no t
SPANS = {"win": SHARE, "kl": np.array([0.0, np.inf]), "accuracy": SHARE}  # the ends of each measure's scale


def place_of(axes: dict[str, str]) -> Place:
    """What names an entry: an empty axis is one that it does not have."""
    return tuple(sorted((axis, value) for axis, value in axes.items() if value))


@dataclass(slots=True)
class Draws:
    """Errors of the entries of all panels, collected column by column: references and shuffled labels have none."""

    errors: dict[str, dict[Place, Small]] = field(default_factory=dict)  # win, kl, accuracy -> (RESAMPLES,)
    freedom: dict[str, dict[Place, float]] = field(default_factory=dict)
    # covariance over the prompts of one seed, and how many those are (with several data seeds: the mean)
    prompts: list[tuple[list[Place], Floats, float]] = field(default_factory=list)
    # of the same columns with several seeds: covariance of the mean over seeds, over prompts and between seeds; seeds
    seeds: list[tuple[Floats, Floats, int] | None] = field(default_factory=list)

    def add(self, column: FoldedColumn) -> None:
        """Take over what a column's analyses need."""
        members = [number for panel in column.groups.panels.values() for number in panel]
        places = [place_of(column.entries[number].axes) for number in members]
        of_accuracy = range(len(members))
        for measure, samples, numbers in (
            ("win", column.wins, members),
            ("kl", column.kl, members),
            ("accuracy", column.hits, of_accuracy),
        ):
            if samples:
                self._take(measure, places, numbers, samples)
        if column.wins and members and column.wins[0].clusters > 1:
            each = [np.cov(sample.resamples[:, members], rowvar=False) for sample in column.wins]
            count = float(np.mean([sample.prompts for sample in column.wins]))
            self.prompts.append((places, np.mean(each, axis=0).reshape(len(members), len(members)), count))
            self.seeds.append(_covariances(column.wins, members))

    def _take(self, measure: str, places: Sequence[Place], members: Sequence[int], samples: Sequence[Sample]) -> None:
        errors, freedom = errors_of(samples)
        for place, number in zip(places, members, strict=True):
            if not np.isnan(errors[0, number]):
                self.errors.setdefault(measure, {})[place] = errors[:, number].astype(np.float32)
                self.freedom.setdefault(measure, {})[place] = float(freedom[number])


def errors_of(samples: Sequence[Sample]) -> tuple[Floats, Floats]:
    """(RESAMPLES, K) errors and their (K,) degrees of freedom; NaN where there is no interval to be had."""
    points = by_label(samples)
    values = np.stack([point.means for point in points])  # (P, K)
    errors, freedom = np.full((RESAMPLES, values.shape[1]), np.nan), np.full(values.shape[1], NORMAL)
    if len(points) > 1 and all(point.crossed for point in points):
        value, resamples = over_seeds_and_prompts(points)
        return (resamples - value if points[0].clusters > 1 else errors), freedom
    present = told_apart(points, values)
    seeds = present.sum(axis=0)
    for point, there in zip(points, present, strict=True):
        alone = there & (seeds == 1)
        if point.clusters > 1 and alone.any():
            errors[:, alone] = point.resamples[:, alone] - point.means[alone]
            singles = np.flatnonzero(alone).tolist()
            few, low, high = few_ends(select(point, singles))
            for number in np.flatnonzero(few).tolist():
                place, value = singles[number], point.means[singles[number]]
                if point.paired and value == 0 and not errors[:, place].any():
                    continue  # two that are equal on every prompt: nothing tells them apart
                errors[:, place] = _two_halves(errors[:, place], value - low[number], high[number] - value)
    several = seeds > 1
    if several.any():
        places = np.flatnonzero(several).tolist()
        part, there = values[:, places], present[:, places]
        clusters = counted(points, present)[1][places].astype(np.float64)
        spread = spread_of([select(point, places) for point in points], part, there, clusters)
        se = np.sqrt(spread.total)
        centre = np.where(there, part, 0.0).sum(axis=0) / seeds[places]
        between = np.where(there, part - centre, 0.0) / np.sqrt(seeds[places] * (seeds[places] - 1))
        found = np.stack([_normal(point.label) for point in points], axis=1) @ between
        for point, has in zip(points, there, strict=True):
            found += np.where(has, point.resamples[:, places] - point.means[places], 0.0) / seeds[places]
        size = found.std(axis=0, ddof=1)
        errors[:, places] = found * np.divide(se, size, out=np.zeros_like(se), where=size > 0)
        errors[:, np.array(places)[clusters < 2]] = np.nan  # of a single document
        freedom[places] = np.maximum(freedom_of(spread.half(clusters), se), 1.0)
    return errors, freedom


def _covariances(samples: Sequence[Sample], members: Sequence[int]) -> tuple[Floats, Floats, int] | None:
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
