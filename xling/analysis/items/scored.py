"""Reward scores cell by cell, from which the analyses of single items make their tables.

for cell in finished.cells: results.folder(cell.stages["score"])  # pool.npy, baseline.npy, heldout.json of RM_s on t
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from xling.analysis.matrix.across import over_columns
from xling.analysis.matrix.types import Seeds
from xling.analysis.statistics.bootstrap import Clusters, Floats, Sample, draw
from xling.analysis.statistics.intervals import Estimate, fold
from xling.analysis.tidy.finding import MOST_NAMED, Row, columns_of, is_home, some
from xling.errors import StoreError
from xling.grid.records import Ref
from xling.grid.stage import NO_SOURCE
from xling.grid.store import Store
from xling.results.plan import PlannedEntry, Results, planned_entries, read_plan
from xling.results.samples import Samples, read_samples

SCORED_BY = ("optimizer", "judge")  # axes that a score of the shared pool does not depend on
LEARNT_BY = "judge.half"  # but for this one of them: it halves what the cell's own reward model learns from


@dataclass(frozen=True, slots=True)
class Scored:
    """One finished cell under one seed."""

    axes: dict[str, str]
    seeds: Seeds
    judge: Ref
    stages: dict[str, Ref]

    @property
    def shared_pool(self) -> bool:
        """The responses are the target's own samples (or recorded), not those of a policy trained for the cell."""
        return self.stages["pool"].kind != "aligned"

    @property
    def label(self) -> str:
        return "/".join(self.seeds)


@dataclass(frozen=True, slots=True)
class Finished:
    """The finished cells of trained reward models with a source, and sentences on the others."""

    results: Results
    cells: list[Scored]
    holes: tuple[str, ...]


def finished_cells(store: Store, name: str, wanted: Callable[[PlannedEntry], bool] = lambda entry: True) -> Finished:
    """Neither references nor shuffled labels. ConfigError: no such grid; StoreError: its plan cannot be read."""
    plan = read_plan(store.grid_folder(name))
    results = Results(store, plan)
    cells, holes = [], []
    for entry in planned_entries(plan, results):
        if entry.axes["source_lang"] == NO_SOURCE or entry.axes["rm_backbone"].startswith("shuffled_"):
            continue
        if not wanted(entry):
            continue
        for cell in entry.cells:
            if cell.status == "done" and {"score", "pool", "baseline", "reward"} <= cell.stages.keys():
                cells.append(Scored(entry.axes, cell.seeds, cell.judge, cell.stages))
        if not all(cell.status == "done" for cell in entry.cells):
            holes.append(f"{entry.axes['source_lang']} -> {entry.axes['target_lang']}")
    return Finished(results, cells, tuple([f"Not finished: {some(holes)}."] if holes else []))


def without(axes: Mapping[str, str], *groups: str) -> dict[str, str]:
    """The axes but those of some groups (`optimizer` and `optimizer.n`); LEARNT_BY stays."""
    return {axis: value for axis, value in axes.items() if axis == LEARNT_BY or axis.split(".")[0] not in groups}


def once(cells: Iterable[Scored], *groups: str) -> list[Scored]:
    """One cell for all that differ in axes of `groups` alone; those on a shared pool are preferred."""
    found: dict[tuple[Any, ...], Scored] = {}
    for cell in sorted(cells, key=lambda cell: not cell.shared_pool):
        found.setdefault((*sorted(without(cell.axes, *groups).items()), cell.seeds), cell)
    return list(found.values())


def long_table(parts: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]]) -> pd.DataFrame:
    """Rows of all parts: what is the same in a part as categories, then its columns, which have one length."""
    if not parts:
        return pd.DataFrame()
    lengths = [len(next(iter(columns.values()))) for _, columns in parts]
    table: dict[str, Any] = {}
    for name in dict.fromkeys(name for same, _ in parts for name in same):
        values = [same.get(name, "") for same, _ in parts]
        known = {value: code for code, value in enumerate(sorted(set(values)))}
        codes = np.repeat(np.array([known[value] for value in values], dtype=np.int32), lengths)
        table[name] = pd.Categorical.from_codes(codes, list(known))
    for name in parts[0][1]:
        arrays = [np.asarray(columns[name]) for _, columns in parts]
        table[name] = _categories(arrays) if arrays[0].dtype == object else np.concatenate(arrays)
    return pd.DataFrame(table)


def _categories(arrays: Sequence[npt.NDArray[Any]]) -> pd.Categorical:
    """Texts one after the other as categories; an array that many parts share is looked at once."""
    known: dict[str, int] = {}
    codes: dict[int, npt.NDArray[np.int32]] = {}
    for array in arrays:
        if id(array) not in codes:
            codes[id(array)] = np.array([known.setdefault(text, len(known)) for text in array.tolist()], dtype=np.int32)
    return pd.Categorical.from_codes(np.concatenate([codes[id(array)] for array in arrays]), list(known))


def samples_of(results: Results, samples: Ref) -> list[Samples]:
    """The samples in a folder. StoreError if it is gone."""
    folder = results.folder(samples)
    if not (folder / "samples.jsonl").exists():
        raise StoreError(f"samples.jsonl is missing from the finished stage {samples.kind}/{samples.key[:12]}.")
    return read_samples(folder)


def prompts_of(results: Results, samples: Ref) -> pd.DataFrame:
    """`prompt`, `group` and `dataset` of a samples folder, a row a prompt. StoreError if it is gone."""
    rows = [(one.prompt, one.group, one.dataset) for one in samples_of(results, samples)]
    return pd.DataFrame(rows, columns=["prompt", "group", "dataset"])


def readable(cells: Iterable[Scored], read: Callable[[Scored], Any]) -> tuple[list[tuple[Scored, Any]], list[str]]:
    """Results of `read` by cell, without None; and a sentence for each cell whose files do not fit."""
    found, misfits = [], []
    for cell in cells:
        try:
            made = read(cell)
        except StoreError as error:
            misfits.append(f"{cell.axes['source_lang']} -> {cell.axes['target_lang']}: {error}")
            continue
        if made is not None:
            found.append((cell, made))
    rest = len(misfits) - MOST_NAMED
    return found, misfits[:MOST_NAMED] + ([f"{rest} more cells cannot be read."] if rest > 0 else [])


def table_of(
    cells: Iterable[Scored], read: Callable[[Scored], Mapping[str, Any] | None], *groups: str
) -> tuple[pd.DataFrame, list[str]]:
    """A row an item of every cell: its axes but those of `groups`, `seed`, then what `read` gives; and the misfits."""
    found, misfits = readable(cells, read)
    parts = [({**without(cell.axes, *groups), "seed": cell.label}, columns) for cell, columns in found]
    return long_table(parts), misfits


# --- panel by panel -----------------------------------------------------------------------------------------


def by_panel(
    table: pd.DataFrame, inner: Sequence[str], rows_of: Callable[[pd.DataFrame], Sequence[Iterable[Row]]]
) -> list[pd.DataFrame]:
    """Tables with the rows that `rows_of` makes of each panel, behind its axes: all columns but the `inner` ones."""
    panel = [name for name in table.columns if name not in inner]
    found: list[list[Row]] = [[], []]
    for shared, part in table.groupby(panel, observed=True, sort=True) if len(table) else ():
        axes = dict(zip(panel, shared, strict=True))
        for rows, own in zip(found, rows_of(part), strict=False):
            rows += [axes | row for row in own]
    return [pd.DataFrame(rows) for rows in found]


@dataclass(frozen=True, slots=True)
class Column:
    """A target's items under one seed (of one dataset, where these stand apart), with a value of each source."""

    target: str
    seed: str  # as a cell's label; once drawn, that of its point
    sources: list[str]
    values: Floats  # (items, sources), or (items, sources, values) where an item has several
    items: pd.DataFrame
    dataset: str = ""

    def members(self, belongs: Callable[[str, str], bool]) -> list[int]:
        """Places of the sources that belong to the target's home, or abroad (is_home, is_foreign)."""
        return [number for number, source in enumerate(self.sources) if belongs(source, self.target)]


def columns_in(
    part: pd.DataFrame,
    value: str | list[str],
    same: Sequence[str],
    noun: str,
    misfits: list[str],
    apart: Sequence[str] = (),
) -> list[Column]:
    """A panel's columns, by target, seed and the axes `apart`: sources share their items.

    value: its name; of several the columns' values are (items, sources, values).
    same: what has to agree with the first source, item by item; one where it does not is a misfit.
    """
    made = []
    for (target, seed, *rest), rows in part.groupby(["target_lang", "seed", *apart], observed=True, sort=True):
        first, sources, values = None, [], []
        for source, own in rows.groupby("source_lang", observed=True, sort=True):
            items = own[list(same)].reset_index(drop=True)
            first = items if first is None else first
            if items.equals(first):
                sources.append(str(source))
                values.append(own[value].to_numpy(dtype=np.float64))
            else:
                where = " ".join(map(str, (target, *rest))).strip()
                misfits.append(f"{source} -> {where}: its {noun} are not those of the others.")
        assert first is not None
        made.append(Column(str(target), str(seed), sources, np.stack(values, axis=1), first, *map(str, rest)))
    return made


def drawn(columns: Sequence[Column], group: str = "group") -> tuple[list[tuple[Column, Clusters]], bool]:
    """Columns with their resampling, `seed` being what counts as one point of an interval over seeds; and whether
    prompts are fresh. That is the data seed (of `task.seed/seed`) where there are several, as in the matrix."""
    datasets = [
        one.items["dataset"].tolist() if "dataset" in one.items else [one.dataset] * len(one.items) for one in columns
    ]
    clusters = draw([(one.items[group].tolist(), names) for one, names in zip(columns, datasets, strict=True)])
    data = [column.seed.partition("/")[0] for column in columns]
    fresh = len(set(data)) > 1
    labelled = [replace(one, seed=seed) for one, seed in zip(columns, data, strict=True)] if fresh else list(columns)
    return list(zip(labelled, clusters, strict=True)), fresh


# --- measures of reward models ------------------------------------------------------------------------------

Measured = tuple[Column, Sample]  # measures of the column's sources, a measure after the other


def by_model(measured: Sequence[Measured], measures: Sequence[str]) -> list[Row]:
    """A row a reward model and target, folded over seeds."""
    rows: list[Row] = []
    for target in dict.fromkeys(column.target for column, _ in measured):
        own = [(column.sources, sample) for column, sample in measured if column.target == target]
        sources = sorted({source for there, _ in own for source in there})
        estimates = fold([_wide(sample, there, sources) for there, sample in own])
        for number, source in enumerate(sources):
            row: Row = {"source_lang": source, "target_lang": target, "home": is_home(source, target)}
            rows.append(row | _row(measures, estimates[number :: len(sources)]))
    return rows


def over_models(
    measured: Sequence[Measured], measures: Sequence[str], groups: Mapping[str, Callable[[str, str], bool]]
) -> list[Row]:
    """A row a group of reward models that has any: means over a target's, then over targets.

    groups: which reward models belong, by source and target, by the name of the group.
    """
    rows: list[Row] = []
    for models, belongs in groups.items():
        own = [(column, sample, members) for column, sample in measured if (members := column.members(belongs))]
        if own:
            fitted = {(column.target, column.sources[member]) for column, _, members in own for member in members}
            row: Row = {"models": models, "reward_models": len(fitted), "targets": len({one for one, _ in fitted})}
            means = [_mean(sample, len(measures), members) for _, sample, members in own]
            rows.append(row | _row(measures, over_columns(means)))
    return rows


def _row(measures: Sequence[str], estimates: Sequence[Estimate | None]) -> Row:
    row: Row = {}
    for name, estimate in zip(measures, estimates, strict=True):
        row |= columns_of(name, estimate)
    first = estimates[0]
    return row | {"n": first.n if first else 0}


def _wide(sample: Sample, there: Sequence[str], sources: Sequence[str]) -> Sample:
    """The measures of `there` in the order of `sources`; NaN for those it lacks."""
    measures, wide = len(sample.means) // len(there), len(sources)
    places = [wide * measure + sources.index(source) for measure in range(measures) for source in there]
    means = np.full(measures * wide, np.nan)
    resamples = np.full((len(sample.resamples), measures * wide), np.nan)
    means[places], resamples[:, places] = sample.means, sample.resamples
    span = None if sample.span is None else np.repeat(_ends(sample.span, measures), wide, axis=1)
    return replace(sample, means=means, resamples=resamples, present=None, span=span)


def _mean(sample: Sample, measures: int, members: Sequence[int]) -> Sample:
    """Each measure's mean over some of the sources."""
    means, resamples = (
        values.reshape(len(values), measures, -1)[:, :, members].mean(axis=2)
        for values in (sample.means[None], sample.resamples)
    )
    span = None if sample.span is None else _ends(sample.span, measures)
    return replace(sample, means=means[0], resamples=resamples, span=span)


def _ends(span: Floats, measures: int) -> Floats:
    """(2, measures), for all sources of a measure have one scale."""
    return span.reshape(2, measures, -1)[:, :, 0]
