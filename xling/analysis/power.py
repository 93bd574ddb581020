"""How many prompts, and how many seeds, tell two sources apart: 80 % power, two-sided 5 %.

Prompts: n = (z_.975 + z_.8)^2 v / d^2, v the variance over prompts of the paired difference of two sources' wins under
one seed (their draws of one column, times its prompts, so that clusters of prompts are in it), d the true difference.
That is for these very reward models: training them once more is not in it.
Seeds: the smallest k for which a paired t-test over k seeds has that power (noncentral t), from the standard deviation
of the difference between seeds, at the grid's own number of prompts. One seed tells nothing about it.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import nctdtr, ndtri, stdtrit

from xling.analysis.drawing import Floats
from xling.analysis.draws import Place, place_of
from xling.analysis.entries import EVERY, PLACE, Entries, Row, words
from xling.analysis.findings import Finding
from xling.analysis.intervals import MOST_SEEDS
from xling.analysis.statistics import pairs_of

POWER, LEVEL = 0.8, 0.05
POINTS = (1, 2, 5)
_COLUMNS = ("target_lang", "unit", "difference", "points", "needed", "have", "sd")


def power(entries: Entries) -> Finding:
    """Prompts and seeds needed for typical differences, and for those seen."""
    rows: list[Row] = []
    left_out: list[str] = []
    places = {
        place: (column, k) for column, (members, *_) in enumerate(entries.prompts) for k, place in enumerate(members)
    }
    for axes, panel in entries.panels():
        columns: list[_Column] = []
        win = panel.table["win_rate"].to_numpy()
        names = [place_of(axes | dict(zip(PLACE, place, strict=True))) for place in panel.table[[*PLACE]].to_numpy()]
        for target, members in panel.table.groupby("target_lang", sort=True).indices.items():
            there = [int(row) for row in members if not math.isnan(win[row])]
            covariance = _covariance(entries, places, [names[row] for row in there]) if there else None
            if covariance is None or len(there) < 2:
                left_out.append(f"{words(axes)}: target {target}: fewer than two sources with an interval.")
                continue
            column = _Column(panel, there, *covariance)
            columns.append(column)
            rows += [dict(axes) | {"target_lang": target} | row for row in _needs([column])]
        if columns:
            rows += [dict(axes) | {"target_lang": EVERY} | row for row in _needs(columns)]
            if columns[0].seeds < 2:
                left_out.append("with one seed how many seeds would be needed cannot be told.")
    return Finding(
        "power",
        "How many prompts or seeds tell two sources apart",
        pd.DataFrame(
            rows, columns=[*entries.axes, "target_lang", "unit", "difference", "points", "needed", "have", "sd"]
        ),
        "80 % power, two-sided 5 %, for a true difference of 1, 2 and 5 points, and for those seen between the sources "
        "of a target (the median pair, the best two; noise inflates them, so that these needs are too low). prompts: "
        "under one seed, RM training not included; seeds: at the prompts of the grid. Empty: no number would do, or "
        f"more than {MOST_SEEDS} seeds. sd: of the paired difference, over prompts or between seeds, typical pair. "
        f"Draws: {entries.how}.",
        tuple(left_out),
        compact=("difference", "target_lang", "needed"),
    )


class _Column:
    """One target: its sources' win rates and the variances of all pairs."""

    def __init__(self, panel: Entries, rows: Sequence[int], covariance: Floats, n: float):
        table = panel.table.iloc[list(rows)]
        left, right = pairs_of(len(rows))
        win = table["win_rate"].to_numpy()
        self.differences = np.abs(win[left] - win[right])
        self.best_two = float(np.diff(np.sort(win)[-2:])[0])
        self.n, self.seeds = round(n), int(table["seeds"].min())
        # variances of a difference: over prompts for one of them, and between seeds
        variance = np.diag(covariance)
        self.prompts = n * (variance[left] + variance[right] - 2 * covariance[left, right])
        self.between = np.full(len(left), math.nan)
        if self.seeds > 1:
            normal = panel.normal[:, list(rows)].astype(np.float64)
            self.between = self.seeds * (normal[:, left] - normal[:, right]).var(axis=0)


def _covariance(
    entries: Entries, places: dict[Place, tuple[int, int]], names: Sequence[Place]
) -> tuple[Floats, float] | None:
    """(K, K) over the prompts of one seed, of entries by name, and how many prompts; None: not known of all.

    Entries of different columns are independent.
    """
    if any(name not in places for name in names):
        return None
    column, number = (np.array(side) for side in zip(*(places[name] for name in names), strict=True))
    found = np.zeros((len(names), len(names)))
    known = sorted(set(column.tolist()))
    for one in known:
        own = np.flatnonzero(column == one)
        found[np.ix_(own, own)] = entries.prompts[one][1][np.ix_(number[own], number[own])]
    return found, max(entries.prompts[one][2] for one in known)


def _needs(columns: Sequence[_Column]) -> list[Row]:
    """A row a difference and unit; over several columns the typical variance is the mean, a number seen the median."""
    prompts = float(np.mean(np.concatenate([column.prompts for column in columns])))
    between = math.sqrt(float(np.mean(np.concatenate([column.between for column in columns]))))
    asked = {f"{points} point{'s' if points > 1 else ''}": float(points) for points in POINTS}
    asked["median pair"] = float(np.median(np.concatenate([column.differences for column in columns])))
    asked["best two"] = float(np.median([column.best_two for column in columns]))
    rows: list[Row] = []
    for name, points in asked.items():
        row: Row = {"unit": "prompts", "difference": name, "points": points, "sd": math.sqrt(prompts)}
        rows.append(row | {"needed": prompts_needed(prompts, points), "have": min(c.n for c in columns)})
    for name, points in asked.items() if not math.isnan(between) else ():
        row = {"unit": "seeds", "difference": name, "points": points, "sd": between}
        rows.append(row | {"needed": seeds_needed(between, points), "have": min(c.seeds for c in columns)})
    return rows


def prompts_needed(variance: float, points: float) -> float:
    """Of a paired difference with this variance a prompt, at least 2; NaN where no number would do."""
    if points <= 0 or math.isnan(variance):
        return math.nan
    quantiles = float(ndtri(1 - LEVEL / 2) + ndtri(POWER))
    return float(max(2, math.ceil(quantiles**2 * variance / points**2)))


def seeds_needed(deviation: float, points: float) -> float:
    """Of a paired t-test over seeds; NaN where the deviation is not known, or more than MOST_SEEDS are needed."""
    if points <= 0 or math.isnan(deviation):
        return math.nan
    if deviation == 0:
        return 2.0
    for seeds in range(2, MOST_SEEDS + 1):
        limit, shift = float(stdtrit(seeds - 1, 1 - LEVEL / 2)), points * math.sqrt(seeds) / deviation
        reached = 1 - float(nctdtr(seeds - 1, shift, limit)) + float(nctdtr(seeds - 1, shift, -limit))
        if reached >= POWER:
            return float(seeds)
    return math.nan
