"""How much of a matrix is the source, how much the target, and how much the pair: a two-way additive fit.

    win_rate[s, t] = mean + source[s] + target[t] + pair[s, t] + sampling error

by least squares over the cells that are there, effects summing to zero. A component's variance is the mean square of
its effects (of its residuals for the pair) minus what sampling error alone would give, which is its expectation over
the normal errors; below zero it is called zero. The home effect is the coefficient of an indicator of s = t added to
the same fit. Searle, Casella and McCulloch 1992 (variance components by the method of moments).
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xling.analysis.matrix.names import values_of
from xling.analysis.statistics.bootstrap import Floats, Ints
from xling.analysis.statistics.draws import NONE, percentile, spanning
from xling.analysis.tidy.entries import EVERY, Entries, Row, Square
from xling.analysis.tidy.finding import Finding

COMPONENTS = ("source", "target", "pair")
_MOST_ERROR = 90.0  # percent of the variance; beyond that nothing is left to share out


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
    """What the indicator of home has beyond sources and targets; None where that is nothing."""
    sources, targets = np.nonzero(there)
    places = zip(sources, targets, strict=True)
    at_home = np.array([float(square.sources[s] == square.targets[t]) for s, t in places])
    own = at_home - design @ (inverse @ at_home)
    scale = float(own @ own)
    return own / scale if scale > 1e-9 else None


# --- findings ---------------------------------------------------------------------------------------------


def decomposition(entries: Entries) -> Finding:
    """Shares of the variance between cells that are the source's, the target's and the pair's."""
    rows: list[Row] = []
    left_out: list[str] = []
    for axes, panel in entries.panels():
        left_out += panel.holes(values_of(axes))
        fit = fitted(panel.square())
        if isinstance(fit, str):
            left_out.append(f"{values_of(axes)}: {fit}")
            continue
        found = _components(fit)
        rows += [dict(axes) | row for row in found]
        if math.isnan(found[0]["share"]):
            left_out.append(f"{values_of(axes)}: its cells differ hardly more than by sampling error: no shares.")
    return Finding(
        "decomposition",
        "What decides a cell: its source, its target, or the pair",
        pd.DataFrame(rows, columns=[*entries.axes, "component", "sd", "share", "share_low", "share_high", "cells"]),
        "Two-way additive fit by least squares over the cells that are there. sd: standard deviation of the effects, "
        "points; share: of the variance between cells without sampling error, percent (error: of the variance as "
        "measured). pair: what is left. Corrected for sampling error; with two seeds the intervals are too narrow (75 "
        "to 90 in 100 hold). Draws: "
        f"{entries.how}.",
        tuple(left_out),
        compact=("", "component", "share"),
    )


def _components(fit: Fit) -> list[Row]:
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
    rows: list[Row] = []
    for k, name in enumerate(COMPONENTS):
        low, high = NONE if math.isnan(shares[k]) else spanning(float(shares[k]), shares_drawn[:, k])
        row: Row = {"component": name, "sd": math.sqrt(variance[k]) if np.isfinite(variance[k]) else math.nan}
        rows.append(row | {"share": shares[k], "share_low": low, "share_high": high, "cells": len(cells)})
    return [*rows, {"component": "error", "sd": math.sqrt(error.sum()), "share": part, "cells": len(cells)}]


def _percent(variance: Floats) -> Floats:
    """(..., 3); where nothing is left but error, no share at all."""
    total = variance.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(total > 0, 100 * variance / np.where(total > 0, total, 1), 0.0))


def effects(entries: Entries) -> Finding:
    """How many points a source, a target and being at home add, over the mean of the matrix."""
    rows: list[Row] = []
    left_out: list[str] = []
    for axes, panel in entries.panels():
        fit = fitted(panel.square())
        if isinstance(fit, str):
            left_out.append(f"{values_of(axes)}: {fit}")
            continue
        cells, errors = fit.square.value[fit.there], fit.square.errors[:, fit.there].astype(np.float64)
        names = [
            ("mean", EVERY),
            *(("source", s) for s in fit.square.sources),
            *(("target", t) for t in fit.square.targets),
        ]
        maps = [*zip(names, fit.effects, strict=True)] + ([] if fit.home is None else [(("home", EVERY), fit.home)])
        for (kind, lang), weights in maps:
            value = float(weights @ cells)
            low, high = percentile(value + errors @ weights)
            row: Row = {"kind": kind, "of": lang, "effect": value, "effect_low": low, "effect_high": high}
            rows.append(dict(axes) | row)
    return Finding(
        "effects",
        "What each source and target adds, in points",
        pd.DataFrame(rows, columns=[*entries.axes, "kind", "of", "effect", "effect_low", "effect_high"]),
        "Of the same fit. mean: of the matrix, percent; source and target: over that mean, summing to zero; home: what "
        f"source = target adds to both. Draws: {entries.how}.",
        tuple(left_out),
        compact=("kind", "of", "effect"),
    )
