"""`xling compare GRID OTHER`: two matrices cell by cell, and whether they rank the sources alike.

Two cells are paired where both have been judged on the same prompts of the same data (prompt ids, data digest and data
seed are equal, and so are the seeds of training): then differences are taken prompt by prompt (and seed by seed) before
anything is drawn. Else the draws of the two are independent of each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xling.analysis.matrix.types import PERCENT, Seeds
from xling.analysis.paper.sides import Match, Side, matches, read_side
from xling.analysis.statistics.bootstrap import POINTS, Clusters, Floats, Sample, draw, resample
from xling.analysis.statistics.draws import (
    centred,
    errors_of,
    kendall,
    p_two_sided,
    pearson,
    percentile,
    spearman,
    with_tails,
)
from xling.analysis.tidy.entries import EVERY, PLACE, Entries
from xling.analysis.tidy.finding import Finding, Row
from xling.errors import ConfigError
from xling.grid.store import Store
from xling.results.items import Items

_FEWEST = 3


@dataclass(frozen=True)
class Cell:
    """One source and target on both sides."""

    place: tuple[str, str]
    left: float
    right: float
    left_draws: Floats
    right_draws: Floats  # independent of the left's
    draws: Floats  # of the difference
    paired: bool


def compare(store: Store, left: str, right: str) -> list[Finding]:
    """Findings compare_means, compare_cells and compare_ranks. ConfigError: nothing of the two can be compared."""
    sides = read_side(store, left), read_side(store, right)
    found, left_out = matches(*sides)
    if not found:
        raise ConfigError(f"'{left}' and '{right}' cannot be compared as they are. {' '.join(left_out)}")
    every = [
        Pair(sides[0].named(match.left[0]), sides[1].named(match.right[0]), match, _cells(match, *sides))
        for match in found
    ]
    left_out += [f"{pair.left}: no source and target in common with {pair.right}." for pair in every if not pair.cells]
    compared = [pair for pair in every if pair.cells]
    if not compared:
        langs = [sorted(set(side.entries.table["source_lang"])) for side in sides]
        raise ConfigError(
            f"'{left}' and '{right}' have nothing in common to compare: sources {', '.join(langs[0])} and "
            f"{', '.join(langs[1])}. {' '.join(left_out)}"
        )
    for pair in compared:
        left_out += pair.match.left[1].holes(f"left, {pair.left}") + pair.match.right[1].holes(f"right, {pair.right}")
    return [_means(compared, tuple(left_out)), _by_cell(compared), _ranks(compared)]


@dataclass(frozen=True)
class Pair:
    """Two panels by name, and the cells that both have."""

    left: str
    right: str
    match: Match
    cells: list[Cell]

    @property
    def names(self) -> Row:
        return {"left": self.left, "right": self.right}


# --- cells ------------------------------------------------------------------------------------------------


def _cells(match: Match, left: Side, right: Side) -> list[Cell]:
    """The cells that both have."""
    mine, theirs = (_rows(panel) for _, panel in (match.left, match.right))
    drawn: dict[tuple[object, ...], Clusters] = {}
    return [
        _cell(place, (match.left, mine[place]), (match.right, theirs[place]), left, right, drawn)
        for place in mine
        if place in theirs
    ]


def _rows(panel: Entries) -> dict[tuple[str, str], int]:
    there = panel.table[~panel.table["win_rate"].isna()]
    return {(row.source_lang, row.target_lang): int(row.Index) for row in there.itertuples()}


_At = tuple[tuple[dict[str, str], Entries], int]


def _cell(
    place: tuple[str, str], one: _At, other: _At, left: Side, right: Side, drawn: dict[tuple[object, ...], Clusters]
) -> Cell:
    values = [float(panel.table["win_rate"].iloc[row]) for (_, panel), row in (one, other)]
    errors = [panel.errors["win"][:, row].astype(np.float64) for (_, panel), row in (one, other)]
    axes = [{**axes, **dict(zip(PLACE, place, strict=True))} for (axes, _), _ in (one, other)]
    paired = _paired(left.items(axes[0]), right.items(axes[1]), values[0] - values[1], drawn)
    backwards = errors[1][::-1]  # draws of seeds are the same on both sides, where they are not paired
    difference = values[0] - values[1] + (errors[0] - backwards if paired is None else paired)
    return Cell(
        place, values[0], values[1], values[0] + errors[0], values[1] + backwards, difference, paired is not None
    )


_Known = dict[Seeds, tuple[tuple[object, ...], Items]]


def _paired(left: _Known, right: _Known, value: float, drawn: dict[tuple[object, ...], Clusters]) -> Floats | None:
    """(draws,) errors of the difference `value` prompt by prompt; None where the two are on other prompts or seeds."""
    if not left or set(left) != set(right) or any(left[seeds][0] != right[seeds][0] for seeds in left):
        return None
    samples: list[Sample] = []
    for seeds, (layout, items) in sorted(left.items(), key=lambda found: found[0]):
        if layout not in drawn:
            drawn[layout] = draw([(items.group, items.dataset)])[0]
        both = [np.array(one.win, dtype=np.float64) for one in (items, right[seeds][1])]
        fresh = len({data for data, _ in left}) > 1
        label = seeds[0] if fresh else seeds[1]
        samples.append(
            resample(drawn[layout], PERCENT * (both[0] - both[1])[:, None], label, fresh, span=POINTS, paired=True)
        )
    errors, freedom = errors_of(samples)
    return None if np.isnan(errors).any() else with_tails(value, errors[:, 0], float(freedom[0]), POINTS)


def _by_cell(compared: Sequence[Pair]) -> Finding:
    rows: list[Row] = []
    for pair in compared:
        for cell in pair.cells:
            low, high = percentile(cell.draws)
            row: Row = {"source_lang": cell.place[0], "target_lang": cell.place[1], "win_left": cell.left}
            row |= {"win_right": cell.right, "difference": cell.left - cell.right, "difference_low": low}
            row |= {
                "difference_high": high,
                "p": p_two_sided(cell.draws),
                "pairing": "paired" if cell.paired else "apart",
            }
            rows.append(pair.names | row)
    return Finding(
        "compare_cells",
        "Left minus right, cell by cell",
        pd.DataFrame(rows),
        "Points. pairing: paired where both were judged on the same prompts of the same data with the same seeds: "
        "differences are taken prompt by prompt; apart: the draws of the two are independent. p: two-sided, from the "
        "draws, not corrected for the number of cells.",
        compact=("source_lang", "target_lang", "difference"),
    )


def _means(compared: Sequence[Pair], left_out: tuple[str, ...]) -> Finding:
    rows: list[Row] = []
    for pair in compared:
        cells = pair.cells
        left, right = (np.array([getattr(cell, side) for cell in cells]) for side in ("left", "right"))
        ends = np.array([percentile(cell.draws) for cell in cells])
        low, high = percentile(np.mean([cell.draws for cell in cells], axis=0))
        row: Row = {"cells": len(cells), "paired": sum(cell.paired for cell in cells), "mean_left": left.mean()}
        row |= {"mean_right": right.mean(), "difference": float((left - right).mean()), "difference_low": low}
        row |= {"difference_high": high, "settled_above": int((ends[:, 0] > 0).sum())}
        row |= {"settled_below": int((ends[:, 1] < 0).sum())}
        rows.append(pair.names | row | _correlated(cells, "pearson"))
    return Finding(
        "compare_means",
        "Left against right over the cells that both have",
        pd.DataFrame(rows),
        "Mean win rates, percent; difference: left minus right, points; settled: cells whose own 95 % interval "
        "excludes 0, not corrected for their number; pearson: of both win rates over all cells, as measured, each "
        "side's noise drawn by itself; not what other languages would show. "
        f"What differs: {'; '.join(_differing(pair) for pair in compared)}.",
        left_out,
    )


def _differing(pair: Pair) -> str:
    return f"{pair.left} / {pair.right}: {pair.match.differs or 'nothing'}"


_COEFFICIENTS = {"pearson": pearson, "kendall": kendall, "spearman": spearman}


def _correlated(cells: Sequence[Cell], *names: str) -> Row:
    """Coefficients over cells with their intervals; NaN where there are too few or constant ones."""
    row: Row = {}
    for name in names:
        value, low, high = math.nan, math.nan, math.nan
        if len(cells) >= _FEWEST:
            value, drawn = _coefficient(name, cells)
            low, high = centred(value, drawn, -1, 1)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def _coefficient(name: str, cells: Sequence[Cell]) -> tuple[float, Floats]:
    """Its value over cells, and its (draws,)."""
    of = _COEFFICIENTS[name]
    left, right = (np.array([getattr(cell, side) for cell in cells]) for side in ("left", "right"))
    drawn = (np.stack([getattr(cell, f"{side}_draws") for cell in cells], axis=1) for side in ("left", "right"))
    return float(of(left, right)), of(*drawn)


def _ranks(compared: Sequence[Pair]) -> Finding:
    rows: list[Row] = []
    left_out: list[str] = []
    for pair in compared:
        columns: dict[str, list[Cell]] = {}
        for cell in sorted(pair.cells, key=lambda cell: cell.place[1]):
            columns.setdefault(cell.place[1], []).append(cell)
        few = [target for target, own in columns.items() if len(own) < _FEWEST]
        if few:
            left_out.append(f"{pair.left}: {', '.join(few)}: fewer than {_FEWEST} sources on both sides.")
        told = {t: _correlated(own, "kendall", "spearman") for t, own in columns.items() if t not in few}
        constant = [target for target, row in told.items() if math.isnan(row["kendall"])]
        if constant:
            left_out.append(f"{pair.left}: {', '.join(constant)}: all win rates of one side are the same.")
        kept = [target for target in told if target not in constant]
        rows += [pair.names | {"target_lang": t, "sources": len(columns[t])} | told[t] for t in kept]
        if kept:
            rows.append(pair.names | _mean_rank([columns[target] for target in kept]))
    numbers = [f"{name}{end}" for name in ("kendall", "spearman") for end in ("", "_low", "_high")]
    return Finding(
        "compare_ranks",
        "Do the two rank the sources of a target alike",
        pd.DataFrame(rows, columns=["left", "right", "target_lang", "sources", *numbers]),
        "Kendall's tau-b and Spearman's rho of the two win rates over the sources of a target, as measured, each "
        "side's noise drawn by itself; "
        f"`{EVERY}`: mean over targets (sources counts targets).",
        tuple(left_out),
        compact=("", "target_lang", "kendall"),
    )


def _mean_rank(columns: Sequence[list[Cell]]) -> Row:
    """Means over targets."""
    row: Row = {"target_lang": EVERY, "sources": len(columns)}
    for name in ("kendall", "spearman"):
        found = [_coefficient(name, cells) for cells in columns]
        value = float(np.mean([one for one, _ in found]))
        low, high = centred(value, np.mean([drawn for _, drawn in found], axis=0), -1, 1)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row
