"""What a grid's fold leaves for analyses: errors of every entry that can be drawn jointly, so that any statistic of a
matrix (a rank, a correlation, a share of variance) gets an interval, and differences stay paired.

An error is a draw from the sampling distribution of an entry's estimate around it. As in intervals.py:

one seed        the bootstrap over prompts (resample minus mean); a column's entries share the draws of its prompts
several seeds   sum over seeds of z_s (m_s - m) / sqrt(S (S - 1)), z_s standard normal and the same for all entries: the
                covariance of the means over S seeds. Times sqrt(f / chi2_f), f = S - 1, that is a multivariate t, so
                that an entry and a paired difference have the very t-intervals that the matrix shows
split ratings   the pigeonhole bootstrap over seeds and prompts, as its interval

    draws = Draws(); matrix = fold_grid(store, name, draws)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xling.analysis.drawing import RESAMPLES, SEED, Floats
from xling.analysis.fold import FoldedColumn
from xling.analysis.intervals import by_label, over_seeds_and_prompts, told_apart
from xling.analysis.resampling import Sample

Small = npt.NDArray[np.float32]
Place = tuple[tuple[str, str], ...]  # all axes of an entry but the seeds
NORMAL = np.inf  # degrees of freedom of what is no t


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
    several = seeds > 1
    if several.any():
        part = np.where(present, values, 0.0)[:, several]
        centred = np.where(present[:, several], part - part.sum(axis=0) / seeds[several], 0.0)
        normal = np.stack([_normal(point.label) for point in points], axis=1)
        errors[:, several] = normal @ (centred / np.sqrt(seeds[several] * (seeds[several] - 1)))
        freedom[several] = seeds[several] - 1
    return errors, freedom


def _normal(label: str) -> Floats:
    """(RESAMPLES,) of a seed, the same wherever it occurs: rows of the matrix are paired by it."""
    digest = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.PCG64([SEED, digest])).standard_normal(RESAMPLES)


def tails(freedom: float) -> Floats:
    """(RESAMPLES,) sqrt(f / chi2_f): what turns normal errors into t ones; ones for the bootstrap."""
    if not np.isfinite(freedom):
        return np.ones(RESAMPLES)
    random = np.random.Generator(np.random.PCG64([SEED, int(freedom)]))
    return np.asarray(np.sqrt(freedom / random.chisquare(freedom, RESAMPLES)))
