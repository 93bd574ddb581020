"""How many prompts, and how many seeds, tell two sources apart: 80 % power, two-sided 5 %.

Prompts: n = (z_.975 + z_.8)^2 v / d^2, v the variance over prompts of the paired difference of two sources' wins under
one seed (their draws of one column, times its prompts, so that clusters of prompts are in it), d the true difference.
That is for these very reward models: training them once more is not in it.
Seeds: the smallest k for which a t-test has that power (noncentral t), from the standard deviation of the difference
between seeds and from its variance over the grid's own prompts, which no seeds narrow. One seed tells nothing about it.
Both are the formulas by which the matrix says what would settle a difference (intervals.py).
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from xling.analysis.matrix.names import values_of
from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.statistics.draws import pairs_of
from xling.analysis.statistics.intervals import MOST_SEEDS, moderated, prompts_needed, seeds_needed
from xling.analysis.tidy.entries import EVERY, PLACE, Entries, Place, Row, place_of
from xling.analysis.tidy.finding import Finding

POINTS = (1, 2, 5)


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
                left_out.append(f"{values_of(axes)}: target {target}: fewer than two sources with an interval.")
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
        "under one seed, RM training not included; seeds: with the prompts of the grid. Empty: no number would do, or "
        f"more than {MOST_SEEDS} seeds. sd: of the paired difference, over prompts or between seeds, typical pair. "
        f"Draws: {entries.how}.",
        tuple(left_out),
        compact=("difference", "target_lang", "needed"),
    )


class _Column:
    """One target: its sources' win rates and the variances of all pairs."""

    def __init__(
        self,
        panel: Entries,
        rows: Sequence[int],
        covariance: Floats,
        n: float,
        between: tuple[Floats, Floats, int] | None,
    ):
        table = panel.table.iloc[list(rows)]
        left, right = pairs_of(len(rows))
        win = table["win_rate"].to_numpy()
        self.differences = np.abs(win[left] - win[right])
        self.best_two = float(np.diff(np.sort(win)[-2:])[0])
        self.n, self.seeds = round(n), int(table["seeds"].min())
        # variances of a difference: over prompts for one of them, and between seeds
        self.prompts = n * _of_pairs(covariance, left, right)
        self.between, self.fixed = np.full(len(left), math.nan), np.zeros(len(left))
        if between is not None:
            over_prompts, over_seeds, seeds = between
            of_mean, of_seeds = (_of_pairs(found, left, right) for found in (over_prompts, over_seeds))
            shared = np.clip((self.prompts / n - of_mean) / (seeds - 1), 0.0, of_mean)
            self.between, self.fixed = seeds * moderated(of_seeds, of_mean, shared, seeds)[0], of_mean - shared


def _of_pairs(covariance: Floats, left: Sequence[int], right: Sequence[int]) -> Floats:
    """(pairs,) variances of differences."""
    variance = np.diag(covariance)
    return np.asarray(variance[left] + variance[right] - 2 * covariance[left, right])


def _covariance(
    entries: Entries, places: dict[Place, tuple[int, int]], names: Sequence[Place]
) -> tuple[Floats, float, tuple[Floats, Floats, int] | None] | None:
    """(K, K) over the prompts of one seed, of entries by name, and how many prompts; None: not known of all.

    With them, of entries of one column with several seeds, what draws.py has of these.

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
    several = entries.seeds[known[0]] if len(known) == 1 and entries.seeds else None
    if several is not None:
        members = np.ix_(number, number)
        several = several[0][members], several[1][members], several[2]
    return found, max(entries.prompts[one][2] for one in known), several


def _needs(columns: Sequence[_Column]) -> list[Row]:
    """A row a difference and unit; over several columns the typical variance is the mean, a number seen the median."""
    prompts = float(np.mean(np.concatenate([column.prompts for column in columns])))
    between = math.sqrt(float(np.mean(np.concatenate([column.between for column in columns]))))
    fixed = float(np.mean(np.concatenate([column.fixed for column in columns])))
    asked = {f"{points} point{'s' if points > 1 else ''}": float(points) for points in POINTS}
    asked["median pair"] = float(np.median(np.concatenate([column.differences for column in columns])))
    asked["best two"] = float(np.median([column.best_two for column in columns]))
    rows: list[Row] = []
    for name, points in asked.items():
        row: Row = {"unit": "prompts", "difference": name, "points": points, "sd": math.sqrt(prompts)}
        rows.append(row | {"needed": prompts_needed(prompts, points), "have": min(c.n for c in columns)})
    for name, points in asked.items() if not math.isnan(between) else ():
        row = {"unit": "seeds", "difference": name, "points": points, "sd": between}
        rows.append(row | {"needed": seeds_needed(between, points, fixed), "have": min(c.seeds for c in columns)})
    return rows
