"""Win rates at equal length: what a judge would prefer if responses were as long as the baseline's.

One logistic regression of a prompt's win share for all trained cells of a block (one judge, one optimizer):

    logit P(win) = a[cell, dataset] + b tanh(d / s)

d: the response's length minus the baseline's, tokens; s: the standard deviation of d over the trained cells. Fitted to
win shares in 0..1 by quasi-likelihood (McCullagh and Nelder 1989, section 9), with a weak normal prior on b (standard
deviation 10), which keeps b finite where length alone decides. A cell's win rate at equal length is its mean over
datasets of 1 / (1 + exp(-a)): the prediction with the length term at 0. A cell that wins (or loses) everything stays
as it is: no length explains it. References and reward models on shuffled labels are given the slope of the trained
cells and have their own a, so that no trained cell's number depends on which of them are asked for; where there is
nothing else, they make the slope.

It is not AlpacaEval 2's length-controlled win rate, from which it has the idea and tanh (Dubois et al. 2024, arXiv
2404.04475, section 3). That one has a slope for each model and a term for how hard an instruction is, estimated from
the models of its leaderboard. Here the slope is what the judge makes of length, so that all cells that it judges share
it, and a cell of fifty prompts has a number.

Each seed has its own fit. Resamples take one Newton step from it with the resampled weights (the one-step bootstrap of
generalised linear models, Moulton and Zeger 1991), so that intervals come from the draws of the one statistics path.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from xling.analysis.matrix.column import Column
from xling.analysis.matrix.types import PERCENT, Seeds
from xling.analysis.statistics.bootstrap import (
    RESAMPLES,
    SHARE,
    Bools,
    Clusters,
    Floats,
    Ints,
    Sample,
    apart_from_the_middle,
    cluster_sums,
    weighted,
)
from xling.analysis.statistics.intervals import Estimate, fold

PRIOR_PRECISION = 0.01  # of the slope: a standard deviation of 10
MOST_STEPS = 100
CHUNK = 64  # groups looked at together
CLOSE = 1e-10  # Newton steps below this are the end
LEAST_CURVATURE = 1e-12
MOST_STEP = 4.0  # of a log-odds in one step: far from the maximum a full step may overshoot


@dataclass(frozen=True, slots=True)
class Lengths:
    """One column under one seed: E cells on N prompts."""

    target: str
    clusters: Clusters
    wins: Floats  # (N, E) in 0..1; NaN: not judged
    longer: Floats  # (N, E) length minus the baseline's, tokens
    trained: Bools  # (E,) cells that the slope is fitted to
    label: str
    fresh: bool
    crossed: bool


@dataclass(frozen=True, slots=True)
class _Group:
    """One cell on one dataset; `column` and `cell` say whose."""

    column: int
    cell: int
    rows: Ints  # (n,) prompts
    wins: Floats  # (n,)
    term: Floats  # (n,) tanh of the standardised difference
    trained: bool


def lengths_of(column: Column, seeds: Seeds, clusters: Clusters, trained: Collection[int]) -> Lengths:
    """Lengths of a column's records under one seed; `trained`: entries that are neither references nor shuffled."""
    wins = np.full((len(column.layouts[seeds].prompts), len(column.entries)), np.nan)
    longer = np.full_like(wins, np.nan)
    for number, found in enumerate(column.records):
        record = found.get(seeds)
        own, other = (record.items.column(name) if record else None for name in ("length", "baseline_length"))
        if record and own is not None and other is not None and not column.own_judge(number, seeds):
            wins[:, number], longer[:, number] = np.array(record.items.win, dtype=np.float64), own - other
    makes = np.array([number in trained for number in range(len(column.entries))], dtype=np.bool_)
    about = (column.label(seeds), column.fresh, column.recorded)
    return Lengths(column.target, clusters, wins, longer, makes, *about)


Found = dict[str, list[Estimate | None]]


def at_equal_length(seeds: Sequence[Sequence[Lengths]]) -> tuple[Found, Estimate | None]:
    """Win rates at equal length in percent of each target's cells, and the slope b.

    seeds: for each seed the block's columns; a target has the same cells under every seed.
    """
    cells: dict[str, list[Sample]] = {}
    slopes = []
    for columns in seeds:
        samples, slope = _fit(columns)
        slopes.append(slope)
        for column, sample in zip(columns, samples, strict=True):
            cells.setdefault(column.target, []).append(sample)
    return {target: fold(samples) for target, samples in cells.items()}, fold(slopes)[0] if slopes else None


def _fit(columns: Sequence[Lengths]) -> tuple[list[Sample], Sample]:
    """Samples of the cells' win rates, one a column, and of the slope."""
    groups = sorted(_groups(columns), key=lambda group: not group.trained)  # those that make the slope come first
    free = [group for group in groups if 0 < group.wins.mean() < 1]
    count = sum(group.trained for group in free)
    wins, terms = [group.wins for group in free], [group.term for group in free]
    intercepts, slope = maximum(wins[:count], terms[:count])
    intercepts = np.concatenate([intercepts, maximum(wins[count:], terms[count:], slope)[0]])
    moves, slopes = _resampled(columns, free, intercepts, slope)
    fitted = {id(group): number for number, group in enumerate(free)}
    samples = []
    for number, column in enumerate(columns):
        own = [group for group in groups if group.column == number]
        places = [fitted[id(group)] for group in own if id(group) in fitted]
        drawn = expit(intercepts[places] + moves.pop(number).steps(slopes - slope)) if places else None
        samples.append(_averaged(column, own, dict(zip(places, expit(intercepts[places]), strict=True)), fitted, drawn))
    return samples, _sample(columns[0], np.array([slope]), slopes[:, None])


def _averaged(
    column: Lengths,
    groups: Sequence[_Group],
    means_of: Mapping[int, float],
    fitted: Mapping[int, int],
    drawn: Floats | None,
) -> Sample:
    """Win rates of a column's cells: means over datasets, of the fit where there is one."""
    cells = column.wins.shape[1]
    means, resamples, datasets = np.zeros(cells), np.zeros((cells, RESAMPLES)).T, np.zeros(cells)
    moved = iter(() if drawn is None else drawn.T)
    for group in groups:
        free = id(group) in fitted
        means[group.cell] += PERCENT * (means_of[fitted[id(group)]] if free else group.wins.mean())
        resamples[:, group.cell] += PERCENT * (next(moved) if free else group.wins.mean())
        datasets[group.cell] += 1
    with np.errstate(invalid="ignore"):  # a cell without any verdict is missing
        share = np.broadcast_to(SHARE[:, None], (2, cells))
        return _sample(column, means / datasets, resamples / datasets, ~np.isnan(column.wins), share)


def _sample(
    column: Lengths, means: Floats, resamples: Floats, judged: Bools | None = None, span: Floats | None = None
) -> Sample:
    clusters, present, apart = column.clusters.groups, None, None
    if judged is not None and not judged.all():
        counts = judged.sum(axis=0)
        present = counts, np.minimum(counts, clusters)
    if judged is not None and span is not None:
        sums = cluster_sums(column.clusters, np.where(judged, PERCENT * column.wins, 0.0))
        apart = apart_from_the_middle(sums, cluster_sums(column.clusters, judged.astype(np.float64)), span)
    seed = (column.label, column.fresh, column.crossed)
    about = (len(column.wins), clusters, *seed, present, span)
    return Sample(means, resamples, *about, apart=apart, drawn=column.clusters.drawn)


def _groups(columns: Sequence[Lengths]) -> list[_Group]:
    """The block's cells by dataset, without prompts that were not judged."""
    alone = not any(column.trained.any() for column in columns)
    makes = [column.trained | alone for column in columns]
    known = [~np.isnan(column.wins) & own for column, own in zip(columns, makes, strict=True)]
    differences = np.concatenate([column.longer[there] for column, there in zip(columns, known, strict=True)])
    spread = float(np.nanstd(differences)) if len(differences) else 0.0
    groups = []
    for number, column in enumerate(columns):
        dataset = dataset_of(column.clusters)
        term = np.tanh(column.longer / spread) if spread > 0 else np.zeros_like(column.longer)
        there = ~np.isnan(column.wins) & ~np.isnan(term)
        for cell in range(column.wins.shape[1]):
            for name in np.unique(dataset[there[:, cell]]):
                rows = np.flatnonzero(there[:, cell] & (dataset == name))
                own = (column.wins[rows, cell], term[rows, cell], bool(makes[number][cell]))
                groups.append(_Group(number, cell, rows, *own))
    return groups


def dataset_of(clusters: Clusters) -> Ints:
    """(N,) number of each prompt's dataset."""
    lengths = np.diff(np.append(clusters.starts, len(clusters.order)))
    out = np.empty(len(clusters.order), dtype=np.int64)
    out[clusters.order] = np.repeat(clusters.dataset, lengths)
    return out


def maximum(wins: Sequence[Floats], terms: Sequence[Floats], given: float | None = None) -> tuple[Floats, float]:
    """Intercepts, one a group, and the shared slope that maximise the penalised quasi-likelihood; or that for a given
    slope.

    Newton's method; a step that would lower the likelihood by more than rounding does is halved.
    """
    intercepts, slope = np.array([float(logit(group.mean())) for group in wins]), given or 0.0
    chunks = [(wins[at : at + CHUNK], terms[at : at + CHUNK]) for at in range(0, len(wins), CHUNK)]
    now, parts = _evaluated(chunks, intercepts, slope)
    for _ in range(MOST_STEPS if len(wins) else 0):
        steps, step = _newton(parts[:, None, :], slope, given is not None)
        least, scale = now - CLOSE * max(1.0, abs(now)), 1.0
        while True:
            moved, turned = intercepts + scale * steps[0], slope + scale * float(step[0])
            now, parts = _evaluated(chunks, moved, turned)
            if now >= least:
                break
            scale /= 2
        intercepts, slope = moved, turned
        if max(np.abs(steps).max(), abs(float(step[0]))) < CLOSE:
            break
    return intercepts, slope


def _evaluated(
    chunks: Sequence[tuple[Sequence[Floats], Sequence[Floats]]], intercepts: Floats, slope: float
) -> tuple[float, Floats]:
    """The penalised quasi-likelihood, and (5, groups) sums of `_terms`; chunk by chunk, so that arrays stay short."""
    total, parts, begin = -0.5 * PRIOR_PRECISION * slope**2, np.empty((5, len(intercepts))), 0
    for wins, terms in chunks:
        sizes = [len(group) for group in wins]
        y, z = np.concatenate(wins), np.concatenate(terms)
        intercept = np.repeat(intercepts[begin : begin + len(sizes)], sizes)
        odds = intercept + slope * z
        total += float((y * odds - np.logaddexp(0, odds)).sum())
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        parts[:, begin : begin + len(sizes)] = np.add.reduceat(_terms(y, z, intercept, slope), starts, axis=1)
        begin += len(sizes)
    return total, parts


def _terms(wins: Floats, term: Floats, intercept: float | Floats, slope: float) -> Floats:
    """(5, n) residual, residual x term, weight, weight x term, weight x term squared; summed over groups."""
    p = expit(intercept + slope * term)
    residual, weight = wins - p, p * (1 - p)
    return np.stack([residual, residual * term, weight, weight * term, weight * term**2])


def _newton(parts: Floats, slope: float, held: bool = False) -> tuple[Floats, Floats]:
    """One Newton step for (5, B, G) sums of G groups: (B, G) of the intercepts, (B,) of the slope, 0 if it is held.

    The Hessian is an arrow: each intercept meets only itself and the slope, so that the slope's step comes from the
    Schur complement and each intercept's from its own row.
    """
    residual, residual_term, weight, weight_term, weight_term2 = parts
    weight = np.maximum(weight, LEAST_CURVATURE)
    curvature = PRIOR_PRECISION + (weight_term2 - weight_term**2 / weight).sum(axis=1)
    gradient = (residual_term - residual * weight_term / weight).sum(axis=1) - PRIOR_PRECISION * slope
    step = np.zeros(len(curvature)) if held else np.clip(gradient / curvature, -MOST_STEP, MOST_STEP)
    steps = (residual - weight_term * step[:, None]) / weight
    return np.clip(steps, -MOST_STEP, MOST_STEP), step


@dataclass(frozen=True, slots=True)
class _Moves:
    """How a column's intercepts move with the slope: what is left of its sums, so that a big block fits in memory."""

    alone: Floats  # (RESAMPLES, groups) steps of the intercepts if the slope stays
    coupled: Floats  # (RESAMPLES, groups) what a step of the slope takes from them

    def steps(self, step: Floats) -> Floats:
        """(RESAMPLES, groups) for (RESAMPLES,) steps of the slope."""
        return np.clip(self.alone - self.coupled * step[:, None], -MOST_STEP, MOST_STEP)


def _resampled(
    columns: Sequence[Lengths], groups: Sequence[_Group], intercepts: Floats, slope: float
) -> tuple[dict[int, _Moves], Floats]:
    """One Newton step from the fit in every resample (as `_newton`): moves by column, and (RESAMPLES,) slopes.

    groups: those that make the slope first.
    """
    moves: dict[int, _Moves] = {}
    members_of: dict[int, list[int]] = {}
    for place, group in enumerate(groups):
        members_of.setdefault(group.column, []).append(place)
    curvature, gradient = np.full(RESAMPLES, PRIOR_PRECISION), np.full(RESAMPLES, -PRIOR_PRECISION * slope)
    for number, members in members_of.items():
        column, count, making = columns[number], len(members), sum(groups[place].trained for place in members)
        values = np.zeros((3 * count + 2, len(column.wins)))  # what only sums over groups need is summed here
        for at, place in enumerate(members):
            rows = groups[place].rows
            residual, residual_term, weight, weight_term, weight_term2 = _terms(
                groups[place].wins, groups[place].term, intercepts[place], slope
            )
            for which, term in enumerate((residual, weight, weight_term)):
                values[which * count + at, rows] = term
            if at < making:
                values[-2, rows] += weight_term2
                values[-1, rows] += residual_term
        drawn = weighted(column.clusters.weights, cluster_sums(column.clusters, values.T)).T
        residual, weight, weight_term = drawn[:-2].reshape(3, count, RESAMPLES)
        weight = np.maximum(weight, LEAST_CURVATURE)
        moves[number] = _Moves((residual / weight).T, (weight_term / weight).T)
        residual, weight, weight_term = residual[:making], weight[:making], weight_term[:making]
        curvature += drawn[-2] - (weight_term**2 / weight).sum(axis=0)
        gradient += drawn[-1] - (residual * weight_term / weight).sum(axis=0)
    return moves, slope + np.clip(gradient / curvature, -MOST_STEP, MOST_STEP)
