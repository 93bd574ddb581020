"""Sources of variance of a win rate (source, target, or the pair), and measures that go with a high one.

Decomposition, a two-way additive fit:

    win_rate[s, t] = mean + source[s] + target[t] + pair[s, t] + sampling error

by least squares over the cells that are there, effects summing to zero. A component's variance is the mean square of
its effects (of its residuals for the pair) minus what sampling error alone would give, which is its expectation over
the normal errors; below zero it is called zero. The home effect is the coefficient of an indicator of s = t added to
the same fit. Searle, Casella and McCulloch 1992 (variance components by the method of moments).

A small share of the pair does not mean that all targets rank the sources alike: where targets differ most it is small
whatever the sources do. So the same order is counted: of two sources and two targets to both of which they are foreign,
how often both targets order them alike, a tie of one target half; that is (1 + tau) / 2, tau the mean of Kendall's tau
over pairs of targets, each counting by its pairs of sources.

Correlations of win rates with the reward model's accuracy and with the distance from SFT_t (paper, section 6) are over
the cells that are there: languages are fixed, and intervals say how far the numbers of these very cells may be off, not
what other languages would show. Noise takes a correlation towards 0, and they are for the correlation as measured with
so many prompts.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xling.analysis.statistics.bootstrap import Floats, Ints
from xling.analysis.statistics.draws import DIGITS, NONE, centred, kendall, pearson, percentile, spanning, spearman
from xling.analysis.tidy.entries import EVERY, Entries, Square
from xling.analysis.tidy.finding import Finding, Row, spread, with_ends
from xling.config.common import is_foreign

COMPONENTS = ("source", "target", "pair")
SAME_ORDER, TWICE = "same order", "same order, one target twice"
_MOST_DRAWN = 100  # draws of the same order where there are many sources and targets
_MANY = 1000  # cells
_MOST_ERROR = 90.0  # percent of the variance; beyond that nothing is left to share out
_FEWEST = 3  # sources of a target that a correlation is over


@dataclass(frozen=True)
class Fit:
    """A linear map from the cells that are there, in row order, to effects; `square` says which those are."""

    square: Square
    there: Floats  # (S, T) bool
    effects: Floats  # (1 + S + T, cells)
    home: Floats | None  # (cells,): of the home effect

    @property
    def sources(self) -> slice:
        return slice(1, 1 + len(self.square.sources))

    @property
    def targets(self) -> slice:
        return slice(1 + len(self.square.sources), None)

    def mean_squares(self, cells: Floats) -> Floats:
        """(..., 3) of source, target and pair; cells: (..., cells)."""
        effects = cells @ self.effects.T
        sources, targets = effects[..., self.sources], effects[..., self.targets]
        row, column = np.nonzero(self.there)
        parts = (sources, targets, cells - effects[..., :1] - sources[..., row] - targets[..., column])
        return np.stack([(part**2).mean(axis=-1) for part in parts], axis=-1)


def fitted(square: Square) -> Fit | str:
    """The fit of a panel, or a sentence on why there is none."""
    there = ~np.isnan(square.value)
    if min(there.any(axis=1).sum(), there.any(axis=0).sum()) < 2:
        return "one source or one target only: nothing to decompose."
    rows, columns = there.any(axis=1), there.any(axis=0)
    if not (rows.all() and columns.all()):
        return fitted(_part(square, np.flatnonzero(rows), np.flatnonzero(columns)))
    design = _design(there)
    if np.linalg.matrix_rank(design) < sum(there.shape) - 1:
        return "holes split the matrix into parts that share no source and no target: nothing to decompose."
    if there.sum() < sum(there.shape):
        return "no more cells than effects: nothing is left for the pair."
    inverse = np.linalg.pinv(design)
    return Fit(square, there, _codes(there.shape) @ inverse, _home(square, there, design, np.asarray(inverse)))


def _part(square: Square, rows: Ints, columns: Ints) -> Square:
    both = np.ix_(rows, columns)
    sources, targets = [square.sources[s] for s in rows], [square.targets[t] for t in columns]
    errors, normal = (drawn[:, rows][:, :, columns] for drawn in (square.errors, square.normal))
    return Square(sources, targets, square.value[both], errors, normal)


def _design(there: Floats) -> Floats:
    """(cells, S + T - 1): mean, sources and targets in sum-to-zero coding."""
    sources, targets = np.nonzero(there)
    size, width = there.shape
    left = np.vstack([np.eye(size - 1), -np.ones(size - 1)])[sources]
    right = np.vstack([np.eye(width - 1), -np.ones(width - 1)])[targets]
    return np.hstack([np.ones((len(sources), 1)), left, right])


def _codes(shape: tuple[int, ...]) -> Floats:
    """(1 + S + T, S + T - 1): from the coefficients of the coding to all effects."""
    size, width = shape
    codes = np.zeros((1 + size + width, size + width - 1))
    codes[0, 0] = 1
    codes[1 : 1 + size, 1:size] = np.vstack([np.eye(size - 1), -np.ones(size - 1)])
    codes[1 + size :, size:] = np.vstack([np.eye(width - 1), -np.ones(width - 1)])
    return codes


def _home(square: Square, there: Floats, design: Floats, inverse: Floats) -> Floats | None:
    """The home indicator, residualised on sources and targets; None where nothing of it is left."""
    sources, targets = np.nonzero(there)
    places = zip(sources, targets, strict=True)
    at_home = np.array([float(square.sources[s] == square.targets[t]) for s, t in places])
    own = at_home - design @ (inverse @ at_home)
    scale = float(own @ own)
    return own / scale if scale > 1e-9 else None


def decomposition(entries: Entries) -> Finding:
    """Shares of the variance between cells that are the source's, the target's and the pair's."""
    return entries.finding(
        "decomposition",
        "What decides a cell: its source, its target, or the pair",
        ["component", "sd", *spread("share"), "cells"],
        _components,
        "Two-way additive fit by least squares over the cells that are there. sd: standard deviation of the effects, "
        "points; share: of the variance between cells without sampling error, percent (error: of the variance as "
        "measured). pair: what is left. Corrected for sampling error; with two seeds the intervals are too narrow (75 "
        f"to 90 in 100 hold). {SAME_ORDER}: of two sources and two targets, all of them abroad, percent that both "
        "targets order alike, ties half (100: one ranking for all; 50: none), as measured with so many prompts; one "
        "target twice: what it would reach with itself on other prompts, beside which to read it. Draws: "
        f"{entries.how}.",
        compact=("", "component", "share"),
    )


def _components(panel: Entries) -> Iterator[Row | str]:
    yield from panel.holes()
    fit = fitted(panel.square())
    if isinstance(fit, str):
        yield fit
        return
    cells = fit.square.value[fit.there]
    normal = fit.square.normal[:, fit.there].astype(np.float64)
    drawn = fit.square.errors[:, fit.there].astype(np.float64)
    measured, error = fit.mean_squares(cells), fit.mean_squares(normal).mean(axis=0)
    variance = np.maximum(measured - error, 0.0)
    size = np.abs(normal).sum(axis=1)
    scale = np.abs(drawn).sum(axis=1) / np.where(size > 0, size, 1.0)  # the t's tail in each draw
    draws = np.maximum(fit.mean_squares(cells + drawn) - error * (1 + scale[:, None] ** 2), 0.0)
    total = float(measured.sum())
    part = min(100.0, 100 * float(error.sum()) / total) if total > 0 else math.nan
    shares, shares_drawn = _percent(variance), _percent(draws)
    if not part < _MOST_ERROR:
        shares = np.full(len(COMPONENTS), math.nan)
    for k, name in enumerate(COMPONENTS):
        ends = NONE if math.isnan(shares[k]) else spanning(float(shares[k]), shares_drawn[:, k])
        row: Row = {"component": name, "sd": math.sqrt(variance[k]) if np.isfinite(variance[k]) else math.nan}
        yield row | with_ends("share", shares[k], ends) | {"cells": len(cells)}
    yield {"component": "error", "sd": math.sqrt(error.sum()), "share": part, "cells": len(cells)}
    if math.isnan(shares[0]):
        yield "its cells differ hardly more than by sampling error: no shares."
    yield from _same_order(fit.square)


def _same_order(square: Square) -> Iterator[Row]:
    """How often two targets order two sources alike, and one target twice."""
    abroad = np.array([[is_foreign(source, target) for target in square.targets] for source in square.sources])
    value = np.where(abroad, square.value, np.nan)
    told = np.asarray(np.round(value, DIGITS), dtype=np.float64)
    alike, pairs = _ordered_alike(told)
    if not pairs:
        return
    errors = square.errors[: _MOST_DRAWN if value.size > _MANY else None]
    drawn, _ = _ordered_alike(value + errors)
    again = _ordered_again(told, value + math.sqrt(2) * errors[:_MOST_DRAWN])
    share, draws = 100 * float(alike) / float(pairs), 100 * drawn / float(pairs)
    cells = int((~np.isnan(value)).sum())
    yield {"component": SAME_ORDER} | with_ends("share", share, centred(share, draws, 0, 100)) | {"cells": cells}
    yield {"component": TWICE, "share": 100 * again, "cells": cells}


def _differences(value: Floats) -> Iterator[Floats]:
    """Signs (..., later sources, T) of each source's values (..., S, T) minus those after it; NaN where one is."""
    for s in range(value.shape[-2] - 1):
        yield np.sign(value[..., s : s + 1, :] - value[..., s + 1 :, :])


def _ordered_alike(value: Floats) -> tuple[Floats, Floats]:
    """(...,) comparisons of two sources by two targets that agree, ties of one half, and how many there are."""
    alike, pairs = np.zeros(value.shape[:-2]), np.zeros(value.shape[:-2])
    for signs in _differences(value):
        better, worse, level = ((signs == sign).sum(axis=-1) for sign in (1, -1, 0))
        same = sum(count * (count - 1) / 2 for count in (better, worse, level))
        alike += (same + level * (better + worse) / 2).sum(axis=-1)
        there = better + worse + level
        pairs += (there * (there - 1) / 2).sum(axis=-1)
    return alike, pairs


def _ordered_again(value: Floats, drawn: Floats) -> float:
    """Mean share of pairs of sources that a target orders in a draw as in its values."""
    apart, count = 0.0, 0
    for one, other in zip(_differences(value), _differences(drawn), strict=True):
        differing = np.abs(one - other)
        apart, count = apart + float(np.nansum(differing)), count + int((~np.isnan(differing)).sum())
    return 1 - apart / 2 / count


def _percent(variance: Floats) -> Floats:
    """(..., 3); where nothing is left but error, no share at all."""
    total = variance.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(total > 0, 100 * variance / np.where(total > 0, total, 1), 0.0))


def effects(entries: Entries) -> Finding:
    """How many points a source, a target and being at home add, over the mean of the matrix."""
    return entries.finding(
        "effects",
        "What each source and target adds, in points",
        ["kind", "of", *spread("effect")],
        _effects,
        "Of the same fit. mean: of the matrix, percent; source and target: over that mean, summing to zero; home: what "
        f"source = target adds to both. Draws: {entries.how}.",
        compact=("kind", "of", "effect"),
    )


def _effects(panel: Entries) -> Iterator[Row | str]:
    fit = fitted(panel.square())
    if isinstance(fit, str):
        yield fit
        return
    cells, errors = fit.square.value[fit.there], fit.square.errors[:, fit.there].astype(np.float64)
    sources, targets = ([("source", s) for s in fit.square.sources], [("target", t) for t in fit.square.targets])
    names = [("mean", EVERY), *sources, *targets]
    maps = [*zip(names, fit.effects, strict=True)] + ([] if fit.home is None else [(("home", EVERY), fit.home)])
    for (kind, lang), weights in maps:
        value = float(weights @ cells)
        yield {"kind": kind, "of": lang} | with_ends("effect", value, percentile(value + errors @ weights))


# --- correlations -------------------------------------------------------------------------------------------

SAME_JUDGEMENTS = (
    "of recorded responses accuracy and win rate are made of the same people's ratings (of two systems a document and "
    "without ties the win rate is 25 + accuracy / 2), so that they go together by construction."
)


def accuracy_vs_win(entries: Entries) -> Finding:
    """Kendall's tau of reward-model accuracy and win rate over the sources of a target, and its mean over targets."""
    return entries.finding(
        "accuracy_vs_win",
        "Does a more accurate reward model win more: Kendall's tau",
        ["target_lang", "n", *spread("tau")],
        _taus,
        "tau-b over the sources of a target, home included; `all` is the mean over targets (n counts targets). 1: the "
        "same order, 0: no relation, -1: the opposite one. Intervals: tau of these very cells as measured with so many "
        "prompts, accuracies and win rates drawn independently; not what other languages or sources would show, and "
        f"with three sources a tau has few values. Draws: {entries.how}. Paper, section 6.1.",
        compact=("", "target_lang", "tau"),
    )


def _taus(panel: Entries) -> Iterator[Row | str]:
    if panel.table["accuracy"].isna().all():
        yield "its reward models have no accuracy on held-out preferences."
        return
    if "pairwise" in panel.table and panel.table["pairwise"].notna().any():
        yield SAME_JUDGEMENTS
        return
    yield from panel.holes()
    values: list[float] = []
    draws: list[Floats] = []
    columns, few = _columns(panel, "accuracy")
    for target, right, win in columns:
        tau, drawn = float(kendall(right[0], win[0])), kendall(right[1], win[1])
        if math.isnan(tau):
            yield f"target {target}: all accuracies or all win rates are the same."
            continue
        known = ~(np.isnan(right[1]).any(axis=1) | np.isnan(win[1]).any(axis=1))
        drawn = np.where(known & np.isnan(drawn), 0.0, drawn)  # all accuracies level in this draw: no order
        values, draws = [*values, tau], [*draws, drawn]
        yield {"target_lang": target, "n": len(right[0])} | _correlation("tau", tau, drawn)
    yield from few
    if values:
        mean = _correlation("tau", float(np.mean(values)), np.mean(draws, axis=0))
        yield {"target_lang": EVERY, "n": len(values)} | mean


def kl_vs_win(entries: Entries) -> Finding:
    """Correlation of the divergence from SFT_t and the win rate over a panel's cells, and within its targets."""
    return entries.finding(
        "kl_vs_win",
        "Does a policy that went further from SFT win more",
        ["target_lang", "n", *spread("pearson", "spearman", "pearson_within")],
        _with_divergence,
        "Correlations of KL(policy, SFT) and win rate over all n cells (Pearson, Spearman), and within targets "
        "(Pearson after taking each target's means away: targets differ in both). Intervals: of these very cells as "
        "measured with so many prompts (the paper's KL as exact), not what other languages would show: no test of a "
        f"relation. Draws: {entries.how}. Paper, section 6.2.",
    )


def _with_divergence(panel: Entries) -> Iterator[Row | str]:
    if panel.table["kl"].isna().all():
        bound = panel.table["kl_bound"].dropna()
        known = f"; its bound is {bound.iloc[0]:.2f} nats in every cell" if len(bound) else ""
        yield f"no divergence was measured{known}."
        return
    yield from panel.holes()
    columns, few = _columns(panel, "kl")
    yield from few
    values, draws = (_coefficients([(kl[i], win[i]) for _, kl, win in columns]) for i in (0, 1))
    if all(math.isnan(value) for value in values.values()):
        yield f"fewer than {_FEWEST} cells, or constant ones: nothing to correlate."
        return
    row: Row = {"target_lang": EVERY, "n": sum(len(kl[0]) for _, kl, _ in columns)}
    for name, value in values.items():
        row |= _correlation(name, float(value), draws[name])
    yield row


def _correlation(name: str, value: float, draws: Floats) -> Row:
    return with_ends(name, value, centred(value, draws, -1, 1))


_Side = tuple[Floats, Floats]  # (n,) values and (draws, n)


def _columns(panel: Entries, measure: str) -> tuple[list[tuple[str, _Side, _Side]], list[str]]:
    """Targets with a measure and win rates over the sources that have both; a sentence on those with too few."""
    squares = panel.square(measure), panel.square()
    found, few = [], []
    for t, target in enumerate(squares[1].targets):
        there = np.flatnonzero(~np.isnan(squares[0].value[:, t]) & ~np.isnan(squares[1].value[:, t]))
        if len(there) < _FEWEST:
            few.append(target)
            continue
        one, win = (
            (square.value[there, t], (square.value[there, t] + square.errors[:, there, t]).astype(np.float64))
            for square in squares
        )
        found.append((target, one, win))
    return found, [f"{', '.join(few)}: fewer than {_FEWEST} sources with both numbers."] if few else []


def _coefficients(columns: Sequence[tuple[Floats, Floats]]) -> dict[str, Floats]:
    """Of targets' (..., n) divergences and win rates: over all of them, and within; nothing of no target."""
    if not columns:
        return {}
    kl, win = (np.concatenate(side, axis=-1) for side in zip(*columns, strict=True))
    apart = [[side - side.mean(axis=-1, keepdims=True) for side in column] for column in columns]
    within = [np.concatenate(side, axis=-1) for side in zip(*apart, strict=True)]
    return {"pearson": pearson(kl, win), "spearman": spearman(kl, win), "pearson_within": pearson(within[0], within[1])}
