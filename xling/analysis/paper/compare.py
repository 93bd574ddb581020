"""`xling compare GRID OTHER`: two matrices cell by cell, and whether they rank the sources alike.

Two cells are paired where both have been judged on the same prompts of the same data (prompt ids, data digest and data
seed are equal, and so are the seeds of training): then differences are taken prompt by prompt (and seed by seed) before
anything is drawn. Else the draws of the two are independent of each other.

A side is a grid or some of it, or a table of the paper:

NAME                          a grid, all of its panels
NAME:judge=llm,optimizer=ppo  those panels of it
paper                         of the paper the table that suits a panel best: task, then optimizer, then judge
paper:TABLE                   that table
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import PERCENT, Seeds
from xling.analysis.paper.published import NAME as PAPER
from xling.analysis.paper.published import TABLES, Published, paper_entries
from xling.analysis.statistics.bootstrap import POINTS, Clusters, Floats, Sample, draw, resample
from xling.analysis.statistics.draws import (
    NONE,
    centred,
    errors_of,
    kendall,
    p_two_sided,
    pearson,
    percentile,
    spearman,
    with_tails,
)
from xling.analysis.tidy.entries import EVERY, PLACE, Draws, Entries, grid_entries
from xling.analysis.tidy.finding import Finding, Place, Row, place_of, spread, with_ends
from xling.errors import ConfigError, StoreError, did_you_mean
from xling.grid.grids import chosen_grid
from xling.grid.store import Store
from xling.results.items import Items, read_items, read_json
from xling.results.plan import PlannedEntry, Results, SeedCell, planned_entries, read_plan

_FEWEST = 3  # cells that a correlation is over
_MOST_NAMED = 6


class _Spec(msgspec.Struct, frozen=True):
    """The parts of a baseline's spec that decide its prompts."""

    task: dict[str, msgspec.Raw] = {}
    digest: str = ""


class _Sheet(msgspec.Struct, frozen=True):
    spec: _Spec


@dataclass(frozen=True)
class Side:
    """One side of a comparison; the paper's has no planned entries, and one panel a table."""

    name: str
    entries: Entries
    planned: Mapping[Place, PlannedEntry] = field(default_factory=dict)
    results: Results | None = None

    @property
    def paper(self) -> bool:
        return self.results is None

    def named(self, axes: dict[str, str]) -> str:
        """A panel by the axes that tell this side's panels apart; a table of the paper by its name."""
        if self.paper:
            key = (axes["task"], axes["judge"], axes["optimizer"])
            return next(one.name for one in TABLES.values() if (one.task, one.judge, one.optimizer) == key)
        varying = [axis for axis in self.entries.axes if self.entries.table[axis].nunique() > 1]
        told = [f"{axis}={axes[axis]}" if "." in axis else axes[axis] for axis in varying if axes.get(axis)]
        return ", ".join(told) or self.name

    def items(self, axes: dict[str, str]) -> dict[Seeds, tuple[tuple[object, ...], Items]]:
        """By seed of an entry: what names its data and prompts, and its verdicts; what cannot be read is not there."""
        entry = self.planned.get(place_of(axes))
        found = {}
        if entry is None or self.results is None:
            return {}
        for cell in entry.cells:
            if cell.status == "done":
                with contextlib.suppress(StoreError, KeyError):
                    items = read_items(self.results.folder(cell.judge))
                    layout = (tuple(items.prompt), tuple(items.group), tuple(items.dataset))
                    found[cell.seeds] = ((*_data(self.results, cell), *layout), items)
        return found


def _data(results: Results, cell: SeedCell) -> tuple[object, ...]:
    """Name, seed and digest of the data that a cell's prompts come from."""
    folder: Path = results.folder(cell.stages["baseline"])
    spec = read_json(folder / "spec.json", _Sheet).spec
    if not spec.digest:
        raise StoreError(f"{folder.name[:12]} does not say which data it is on.")
    return (*(bytes(spec.task.get(key, msgspec.Raw(b""))) for key in ("name", "seed")), spec.digest)


def read_side(store: Store, asked: str) -> Side:
    """ConfigError: no such grid, table, axis or value; with those that there are."""
    name, _, rest = asked.partition(":")
    if name == PAPER:
        return Side(PAPER, paper_entries([_table(rest)] if rest else tuple(TABLES.values())))
    name = chosen_grid(store, name)
    plan = read_plan(store.grid_folder(name))
    results, draws = Results(store, plan), Draws()
    entries = grid_entries(fold_grid(store, name, draws.add), draws)
    planned = {place_of(entry.axes): entry for entry in planned_entries(plan, results)}
    return Side(asked, _chosen(entries, rest, name), planned, results)


def _table(name: str) -> Published:
    if name not in TABLES:
        raise ConfigError(
            f"The paper has no matrix '{name}'. There are: {', '.join(TABLES)}.{did_you_mean(name, list(TABLES))}"
        )
    return TABLES[name]


def _chosen(entries: Entries, wanted: str, name: str) -> Entries:
    """The panels with the values asked for."""
    rows = np.ones(len(entries.table), dtype=np.bool_)
    for part in filter(None, wanted.split(",")):
        axis, equals, value = part.partition("=")
        if not equals or axis not in entries.axes:
            axes = ", ".join(entries.axes)
            raise ConfigError(f"'{part}' chooses nothing of '{name}'. Type AXIS=VALUE with one of the axes {axes}.")
        known = sorted(set(entries.table[axis]))
        if value not in known:
            hint = did_you_mean(value, known)
            raise ConfigError(f"'{name}' has no {axis} '{value}'. There are: {', '.join(known)}.{hint}")
        rows &= (entries.table[axis] == value).to_numpy()
    if not rows.any():
        raise ConfigError(f"'{name}' has no entries with {wanted}.")
    return entries.where(rows)


# --- which panels go together -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """A panel of each side, and what differs between them."""

    left: tuple[dict[str, str], Entries]
    right: tuple[dict[str, str], Entries]
    differs: str


def matches(left: Side, right: Side) -> tuple[list[Match], list[str]]:
    """Every panel of the left with the one on the right that it has most axes in common with; what has none."""
    found: list[Match] = []
    unsure: dict[str, list[str]] = {}
    others = list(right.entries.panels())
    for axes, panel in left.entries.panels():
        scores = [_likeness(axes, other, left, right) for other, _ in others]
        best = [number for number, score in enumerate(scores) if score == max(scores)]
        if len(best) > 1:
            alike = [right.named(others[number][0]) for number in best]
            unsure.setdefault("; ".join(alike[:_MOST_NAMED]), []).append(left.named(axes))
            continue
        other = others[best[0]]
        differing = [
            f"{axis} {axes.get(axis) or '-'} / {other[0].get(axis) or '-'}"
            for axis in dict.fromkeys([*axes, *other[0]])
            if axes.get(axis, "") != other[0].get(axis, "")
        ]
        found.append(Match((axes, panel), other, ", ".join(differing)))
    how = "paper:TABLE" if right.paper else f"{right.name}:AXIS=VALUE"
    left_out = [
        f"{', '.join(names)}: several panels of {right.name} are equally like it ({alike}); choose one with {how}."
        for alike, names in unsure.items()
    ]
    return found, left_out


_FAMILY = {"summarization": ("summarization", "seahorse"), "dialog": ("dialog", "oasst")}


def _likeness(axes: dict[str, str], other: dict[str, str], left: Side, right: Side) -> tuple[float, ...]:
    """Larger is more alike. With the paper: its task family, optimizer, judge; a model as the judge before people."""
    if not (left.paper or right.paper):
        return (sum(axes.get(axis, "") == value for axis, value in other.items()),)
    if left.paper and right.paper:
        same = [axes[axis] == other[axis] for axis in ("task", "optimizer", "judge")]
        return (*map(float, same), float(axes["judge"] != other["judge"]))
    grid, table = (other, axes) if left.paper else (axes, other)
    family = any(word in grid["task"] for word in _FAMILY[table["task"]])
    people = grid["judge"] == "human"
    judge = ("human" if people else "palm_2_l") == table["judge"]
    return float(family), float(grid["optimizer"] == table["optimizer"]), float(judge)


# --- comparing --------------------------------------------------------------------------------------------


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
        langs = [
            f"{kind}s " + " and ".join(", ".join(sorted(set(side.entries.table[f"{kind}_lang"]))) for side in sides)
            for kind in ("source", "target")
        ]
        raise ConfigError(
            f"'{left}' and '{right}' have nothing in common to compare: {'; '.join(langs)}. {' '.join(left_out)}"
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


# --- findings -----------------------------------------------------------------------------------------------


def _by_cell(compared: Sequence[Pair]) -> Finding:
    rows: list[Row] = []
    for pair in compared:
        for cell in pair.cells:
            row: Row = {"source_lang": cell.place[0], "target_lang": cell.place[1], "win_left": cell.left}
            row |= {"win_right": cell.right}
            row |= with_ends("difference", cell.left - cell.right, percentile(cell.draws))
            row |= {"p": p_two_sided(cell.draws), "pairing": "paired" if cell.paired else "apart"}
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
        cells, (left, right) = pair.cells, _values(pair.cells)
        ends = np.array([percentile(cell.draws) for cell in cells])
        row: Row = {"cells": len(cells), "paired": sum(cell.paired for cell in cells)}
        row |= {"mean_left": left.mean(), "mean_right": right.mean()}
        drawn = np.mean([cell.draws for cell in cells], axis=0)
        row |= with_ends("difference", float((left - right).mean()), percentile(drawn))
        row |= {"settled_above": int((ends[:, 0] > 0).sum()), "settled_below": int((ends[:, 1] < 0).sum())}
        rows.append(pair.names | row | _correlated([cells], "pearson"))
    differing = [f"{pair.left} / {pair.right}: {pair.match.differs or 'nothing'}" for pair in compared]
    return Finding(
        "compare_means",
        "Left against right over the cells that both have",
        pd.DataFrame(rows),
        "Mean win rates, percent; difference: left minus right, points; settled: cells whose own 95 % interval "
        "excludes 0, not corrected for their number; pearson: of both win rates over all cells, as measured, each "
        "side's noise drawn by itself; not what other languages would show. "
        f"What differs: {'; '.join(differing)}.",
        left_out,
    )


def _values(cells: Sequence[Cell]) -> tuple[Floats, Floats]:
    return np.array([cell.left for cell in cells]), np.array([cell.right for cell in cells])


_COEFFICIENTS = {"pearson": pearson, "kendall": kendall, "spearman": spearman}


def _correlated(columns: Sequence[Sequence[Cell]], *names: str) -> Row:
    """Coefficients over cells, their means over columns, with intervals; NaN of too few cells or constant ones."""
    row: Row = {}
    for name in names:
        of = _COEFFICIENTS[name]
        values, draws = list[float](), list[Floats]()
        for cells in columns:
            if len(cells) >= _FEWEST:
                left, right = [cell.left_draws for cell in cells], [cell.right_draws for cell in cells]
                values.append(float(of(*_values(cells))))
                draws.append(of(np.stack(left, axis=1), np.stack(right, axis=1)))
        value = float(np.mean(values)) if values else math.nan
        row |= with_ends(name, value, centred(value, np.mean(draws, axis=0), -1, 1) if draws else NONE)
    return row


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
        told = {t: _correlated([own], "kendall", "spearman") for t, own in columns.items() if t not in few}
        constant = [target for target, row in told.items() if math.isnan(row["kendall"])]
        if constant:
            left_out.append(f"{pair.left}: {', '.join(constant)}: all win rates of one side are the same.")
        kept = [target for target in told if target not in constant]
        rows += [pair.names | {"target_lang": t, "sources": len(columns[t])} | told[t] for t in kept]
        if kept:
            mean = _correlated([columns[target] for target in kept], "kendall", "spearman")
            rows.append(pair.names | {"target_lang": EVERY, "sources": len(kept)} | mean)
    return Finding(
        "compare_ranks",
        "Do the two rank the sources of a target alike",
        pd.DataFrame(rows, columns=["left", "right", "target_lang", "sources", *spread("kendall", "spearman")]),
        "Kendall's tau-b and Spearman's rho of the two win rates over the sources of a target, as measured, each "
        "side's noise drawn by itself; "
        f"`{EVERY}`: mean over targets (sources counts targets).",
        tuple(left_out),
        compact=("", "target_lang", "kendall"),
    )
