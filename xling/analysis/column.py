"""One column of the matrix: all cells of a target language, which share prompts and opponents.

Everything that can be paired by prompt is computed here: win rates, curves, differences to home, to the best
source, to the untrained likelihoods and to the shuffled band, means over sources, floor and ceiling.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xling.analysis.intervals import Clusters, Estimate, Floats, Sample, difference, draw, fold, resample
from xling.analysis.plan import PlannedEntry, Results
from xling.analysis.records import Items, Pairs, Record, bounds, read_items, read_record
from xling.errors import StoreError

Seeds = tuple[str, str]  # task.seed, seed
PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Layout:
    """The prompts of a column under one seed."""

    prompts: list[str]
    groups: list[str]
    datasets: list[str]

    def holds(self, items: Items) -> bool:
        return (items.prompt, items.group, items.dataset) == (self.prompts, self.groups, self.datasets)


@dataclass(frozen=True, slots=True)
class Column:
    """The entries of one target and their records, one dictionary of seeds an entry."""

    target: str
    entries: list[PlannedEntry]
    records: list[dict[Seeds, Record]]
    layouts: dict[Seeds, Layout]

    @property
    def recorded(self) -> bool:
        """Seeds split the same people's ratings, so that prompts are what an interval has to be over."""
        return any(record.pairs is not None for found in self.records for record in found.values())


@dataclass(frozen=True, slots=True)
class Quantities:
    """Where each quantity stands among a sample's K; entries are numbered as in the column."""

    entries: int
    curve_length: int
    averages: list[list[int]]  # entries whose mean is a quantity of its own: column means, bands
    panels: int

    def share(self, entry: int) -> int:
        return self.entries + entry

    def curve(self, entry: int) -> slice:
        start = 2 * self.entries + entry * self.curve_length
        return slice(start, start + self.curve_length)

    def average(self, number: int) -> int:
        return (2 + self.curve_length) * self.entries + number

    def floor(self, panel: int) -> int:
        """Its ceiling is the next one."""
        return self.average(len(self.averages)) + 2 * panel

    @property
    def total(self) -> int:
        return self.floor(self.panels)


def find_layouts(entries: Iterable[PlannedEntry], results: Results) -> dict[Seeds, Layout]:
    """The prompts of a column for each seed, from the first of its records that can be read."""
    layouts: dict[Seeds, Layout] = {}
    for entry in entries:
        for cell in entry.cells:
            if cell.status == "done" and cell.seeds not in layouts:
                try:
                    items = read_items(results.folder(cell.judge))
                except StoreError:
                    continue
                layouts[cell.seeds] = Layout(items.prompt, items.group, items.dataset)
    return layouts


def read_column(target: str, entries: Sequence[PlannedEntry], layouts: dict[Seeds, Layout], results: Results) -> Column:
    """Read all records of a column. A record that does not fit makes a hole that says so, never an error."""
    checked, records = [], []
    for entry in entries:
        found: dict[Seeds, Record] = {}
        cells = []
        for cell in entry.cells:
            reason = ""
            if cell.status == "done":
                try:
                    record = read_record(results.folder(cell.judge))
                    if not layouts[cell.seeds].holds(record.items):
                        raise StoreError("its prompts are not those of the other cells of this target")
                    found[cell.seeds] = record
                except StoreError as error:
                    reason = str(error)
            cells.append(replace(cell, status="damaged", reason=reason) if reason else cell)
        checked.append(replace(entry, cells=tuple(cells)))
        records.append(found)
    return Column(target, checked, records, layouts)


def arrange(column: Column, averages: list[list[int]], panels: int) -> Quantities:
    lengths = [record.curve.shape[1] for found in column.records for record in found.values()]
    return Quantities(len(column.entries), max(lengths, default=0), averages, panels)


def samples(
    column: Column,
    where: Quantities,
    verdicts: Sequence[dict[Seeds, Floats]],
    clusters: dict[Seeds, Clusters],
) -> list[Sample]:
    """One sample a seed, `where`'s quantities in percent. `verdicts`: each panel's floor and ceiling."""
    data_seeds = {task_seed for task_seed, _ in column.layouts}
    result = []
    for seeds in sorted(column.layouts):
        values = _values(column, where, verdicts, seeds) * PERCENT
        label = seeds[0] if len(data_seeds) > 1 else seeds[1]
        result.append(resample(clusters[seeds], values, label, fresh=len(data_seeds) > 1, crossed=column.recorded))
    return result


def _values(column: Column, where: Quantities, verdicts: Sequence[dict[Seeds, Floats]], seeds: Seeds) -> Floats:
    """(prompts, K) in 0..1, NaN where there is no record."""
    values = np.full((len(column.layouts[seeds].prompts), where.total), np.nan)
    for number, found in enumerate(column.records):
        if seeds in found:
            record = found[seeds]
            values[:, number] = np.array(record.items.win, dtype=np.float64)  # NaN where there is no verdict
            values[:, where.share(number)] = record.items.in_language
            values[:, where.curve(number)][:, : record.curve.shape[1]] = record.curve
    for number, members in enumerate(where.averages):
        there = [member for member in members if seeds in column.records[member]]
        if there:
            values[:, where.average(number)] = values[:, there].mean(axis=1)
    for panel, verdict in enumerate(verdicts):
        if seeds in verdict:
            values[:, where.floor(panel) : where.floor(panel) + 2] = verdict[seeds]
    return values


def read_bounds(column: Column, members: Sequence[int], results: Results) -> dict[Seeds, Floats]:
    """Floor and ceiling of each seed by the judge's own scores; nothing where those are gone."""
    found: dict[Seeds, Floats] = {}
    for member in members:
        for cell in column.entries[member].cells:
            record = column.records[member].get(cell.seeds)
            if record is None or cell.seeds in found or "verdict" not in cell.stages:
                continue
            try:
                values = bounds(results.folder(cell.stages["verdict"]), record.summary.n_samples)
            except StoreError:
                continue
            if len(values) == len(record.items.prompt):
                found[cell.seeds] = values
    return found


def contrast(taken: Sequence[Sample], left: Sequence[int], right: Sequence[int]) -> list[Estimate | None]:
    """Paired differences left - right, folded over seeds."""
    if not taken or not left:
        return [None] * len(left)
    return fold([difference(sample, left, right) for sample in taken])


def pair_samples(column: Column) -> list[Sample]:
    """Agreement with people on pairs within a prompt (percent), one sample a seed: recorded responses only."""
    first: dict[Seeds, Pairs] = {}
    for found in column.records:
        for seeds, record in found.items():
            if record.pairs is not None and record.pairs.group:
                first.setdefault(seeds, record.pairs)
    taken = []
    for seeds, pairs in sorted(first.items()):
        values = np.full((len(pairs.group), len(column.entries)), np.nan)
        for number, found in enumerate(column.records):
            own = found[seeds].pairs if seeds in found else None
            if own is not None and own.group == pairs.group:
                values[:, number] = own.correct
        clusters = draw([(pairs.group, [""] * len(pairs.group))])[0]
        taken.append(resample(clusters, values * PERCENT, "/".join(seeds), crossed=True))
    return taken
