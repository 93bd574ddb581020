"""Sides of a comparison: a grid, some of its panels, or a table of the paper, as entries with their prompts.

NAME                          a grid, all of its panels
NAME:judge=llm,optimizer=ppo  those panels of it
paper                         of the paper the table that suits a panel best: task, then optimizer, then judge
paper:TABLE                   that table
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import Seeds
from xling.analysis.paper.published import NAME as PAPER
from xling.analysis.paper.published import TABLES, Published, paper_entries
from xling.analysis.tidy.entries import Draws, Entries, Place, grid_entries, place_of
from xling.errors import ConfigError, StoreError, did_you_mean
from xling.grid.records import chosen_grid
from xling.grid.store import Store
from xling.results.items import Items, read_items, read_json
from xling.results.plan import PlannedEntry, Results, SeedCell, planned_entries, read_plan

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
                    found[cell.seeds] = ((*_data(self.results, cell), *map(tuple, _layout(items))), items)
        return found


def _layout(items: Items) -> tuple[list[str], list[str], list[str]]:
    return items.prompt, items.group, items.dataset


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
