"""What goes with a high win rate: the reward model's accuracy, the distance from SFT_t. Paper, section 6.

Correlations are over the cells that are there: languages are fixed, and intervals say how far the numbers of these very
cells may be off, not what other languages would show. Noise takes a correlation towards 0, and they are for the
correlation as measured with so many prompts.
"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from xling.analysis.matrix.names import values_of
from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.statistics.draws import centred, kendall, pearson, spearman
from xling.analysis.tidy.entries import EVERY, Entries, Row
from xling.analysis.tidy.finding import Finding

_FEWEST = 3  # sources of a target that a correlation is over


def accuracy_vs_win(entries: Entries) -> Finding:
    """Kendall's tau of reward-model accuracy and win rate over the sources of a target, and its mean over targets."""
    rows: list[Row] = []
    left_out: list[str] = []
    for axes, panel in entries.panels():
        if panel.table["accuracy"].isna().all():
            left_out.append(f"{values_of(axes)}: its reward models have no accuracy on held-out preferences.")
            continue
        left_out += panel.holes(values_of(axes))
        values: list[float] = []
        draws: list[Floats] = []
        for target, right, win in _columns(panel, "accuracy", left_out, values_of(axes)):
            tau, drawn = float(kendall(right[0], win[0])), kendall(right[1], win[1])
            if math.isnan(tau):
                left_out.append(f"{values_of(axes)}: target {target}: all accuracies or all win rates are the same.")
                continue
            told = ~(np.isnan(right[1]).any(axis=1) | np.isnan(win[1]).any(axis=1))
            drawn = np.where(told & np.isnan(drawn), 0.0, drawn)  # all accuracies level in this draw: no order
            values, draws = [*values, tau], [*draws, drawn]
            rows.append(dict(axes) | _row(target, len(right[0]), {"tau": tau}, {"tau": drawn}))
        if values:
            mean, drawn = float(np.mean(values)), np.mean(draws, axis=0)
            rows.append(dict(axes) | _row(EVERY, len(values), {"tau": mean}, {"tau": drawn}))
    return Finding(
        "accuracy_vs_win",
        "Does a more accurate reward model win more: Kendall's tau",
        pd.DataFrame(rows, columns=[*entries.axes, "target_lang", "n", "tau", "tau_low", "tau_high"]),
        "tau-b over the sources of a target, home included; `all` is the mean over targets (n counts targets). 1: the "
        "same order, 0: no relation, -1: the opposite one. Intervals: tau of these very cells as measured with so many "
        "prompts, accuracies and win rates drawn independently; not what other languages or sources would show, and "
        f"with three sources a tau has few values. Draws: {entries.how}. Paper, section 6.1.",
        tuple(left_out),
        compact=("", "target_lang", "tau"),
    )


def kl_vs_win(entries: Entries) -> Finding:
    """Correlation of the divergence from SFT_t and the win rate over a panel's cells, and within its targets."""
    rows: list[Row] = []
    left_out: list[str] = []
    for axes, panel in entries.panels():
        if panel.table["kl"].isna().all():
            bound = panel.table["kl_bound"].dropna()
            known = f"; its bound is {bound.iloc[0]:.2f} nats in every cell" if len(bound) else ""
            left_out.append(f"{values_of(axes)}: no divergence was measured{known}.")
            continue
        left_out += panel.holes(values_of(axes))
        columns = list(_columns(panel, "kl", left_out, values_of(axes)))
        found, drawn = _correlations(columns)
        if not found:
            left_out.append(f"{values_of(axes)}: fewer than {_FEWEST} cells, or constant ones: nothing to correlate.")
            continue
        rows.append(dict(axes) | _row(EVERY, sum(len(kl[0]) for _, kl, _ in columns), found, drawn))
    numbers = [f"{name}{end}" for name in ("pearson", "spearman", "within") for end in ("", "_low", "_high")]
    return Finding(
        "kl_vs_win",
        "Does a policy that went further from SFT win more",
        pd.DataFrame(rows, columns=[*entries.axes, "target_lang", "n", *numbers]),
        "Correlations of KL(policy, SFT) and win rate over all n cells (Pearson, Spearman), and within targets "
        "(Pearson after taking each target's means away: targets differ in both). Intervals: of these very cells as "
        "measured with so many prompts (the paper's KL as exact), not what other languages would show: no test of a "
        f"relation. Draws: {entries.how}. Paper, section 6.2.",
        tuple(left_out),
    )


_Side = tuple[Floats, Floats]  # (n,) values and (draws, n)


def _columns(panel: Entries, measure: str, left_out: list[str], title: str) -> Iterator[tuple[str, _Side, _Side]]:
    """Targets with a measure and win rates over the sources that have both."""
    one, win = panel.square(measure), panel.square()
    few = []
    for t, target in enumerate(win.targets):
        there = np.flatnonzero(~np.isnan(one.value[:, t]) & ~np.isnan(win.value[:, t]))
        if len(there) < _FEWEST:
            few.append(target)
            continue
        sides = [
            (square.value[there, t], (square.value[there, t] + square.errors[:, there, t]).astype(np.float64))
            for square in (one, win)
        ]
        yield target, sides[0], sides[1]
    if few:
        left_out.append(f"{title}: {', '.join(few)}: fewer than {_FEWEST} sources with both numbers.")


def _correlations(columns: list[tuple[str, _Side, _Side]]) -> tuple[dict[str, float], dict[str, Floats]]:
    """Values and draws of each coefficient; empty where there is none."""
    if not columns:
        return {}, {}
    values, draws = (_coefficients([(kl[i], win[i]) for _, kl, win in columns]) for i in (0, 1))
    found = {name: float(value) for name, value in values.items()}
    return ({}, {}) if all(math.isnan(value) for value in found.values()) else (found, draws)


def _coefficients(columns: list[tuple[Floats, Floats]]) -> dict[str, Floats]:
    """Of targets' (..., n) divergences and win rates: over all of them, and within."""
    kl, win = (np.concatenate(side, axis=-1) for side in zip(*columns, strict=True))
    apart = [[side - side.mean(axis=-1, keepdims=True) for side in column] for column in columns]
    within = [np.concatenate(side, axis=-1) for side in zip(*apart, strict=True)]
    return {"pearson": pearson(kl, win), "spearman": spearman(kl, win), "within": pearson(within[0], within[1])}


def _row(target: str, n: int, values: dict[str, float], draws: dict[str, Floats]) -> Row:
    row: Row = {"target_lang": target, "n": n}
    for name, value in values.items():
        row[name] = value
        row[f"{name}_low"], row[f"{name}_high"] = centred(value, draws[name], -1, 1)
    return row
