"""One column of the matrix: all cells of a target language, which share prompts and opponents.

Read here, with all that can be drawn together by prompt: win rates, what is measured beside them, curves, means over
sources, floor and ceiling. What is made of that: fold_column.py.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from xling.analysis.matrix.types import MEASURES, PERCENT, Opponent, Seeds
from xling.analysis.statistics.bootstrap import SHARE, SOME, Clusters, Floats, Sample, draw, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.errors import StoreError
from xling.results.items import Items, Pairs, Record, bounds, read_array, read_items, read_record
from xling.results.plan import PlannedEntry, Results, SeedCell

FOLDED = [name for name, measure in MEASURES.items() if measure.column]  # from items.json
OPPONENT = [name for name in MEASURES if name in Opponent.__struct_fields__]  # measured of the baseline too


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
    scales: list[dict[Seeds, float]]  # standard deviation of the entry's reward over the baseline's responses

    @property
    def recorded(self) -> bool:
        """Seeds split the same people's ratings, so that prompts are what an interval has to be over."""
        return any(record.pairs is not None for found in self.records for record in found.values())

    @property
    def fresh(self) -> bool:
        """Several data seeds, each with its own prompts."""
        return len({task_seed for task_seed, _ in self.layouts}) > 1

    def own_judge(self, number: int, seeds: Seeds) -> bool:
        """An entry was judged by its own reward model: what the judge says is then told apart, as win_own."""
        return any(cell.seeds == seeds and cell.own_judge for cell in self.entries[number].cells)

    def label(self, seeds: Seeds) -> str:
        """The seed that is one point of an interval over seeds."""
        return seeds[0] if self.fresh else seeds[1]

    def resample(
        self, seeds: Seeds, clusters: dict[Seeds, Clusters], values: Floats, span: Floats, single: bool
    ) -> Sample:
        """Of (prompts, K) quantities under one seed; arguments as of bootstrap.resample."""
        about = self.label(seeds), self.fresh, self.recorded
        return resample(clusters[seeds], values, *about, span=span, single=single)

    def measure(self, number: int, seeds: Seeds, name: str) -> Floats | None:
        """(prompts,) of an entry, in the measure's unit; NaN where a prompt was not judged."""
        record = self.records[number].get(seeds)
        own = self.own_judge(number, seeds)
        if record is None or (MEASURES[name].judged if own else name == "win_own"):
            return None
        values = _measured(record.items, name, self.scales[number].get(seeds))
        if values is None:
            return None
        if name not in ("win", "win_own", "unanswered") and None in record.items.win:
            values[np.isnan(np.array(record.items.win, dtype=np.float64))] = np.nan
        return values * MEASURES[name].factor


def _measured(items: Items, name: str, scale: float | None) -> Floats | None:
    """(prompts,) as in items.json, increases over the baseline; the reward's is divided by `scale`."""
    measure = MEASURES[name]
    values = items.column(measure.column)
    if measure.increase and values is not None:
        opponent = items.column(f"baseline_{measure.column}")
        values = None if opponent is None else values - opponent
    if name == "reward" and values is not None:
        return values / scale if scale else None
    return values


@dataclass(frozen=True, slots=True)
class Quantities:
    """Where each quantity stands among a sample's K; entries are numbered as in the column."""

    entries: int
    measures: list[str]  # of FOLDED, those that any entry has; the first is `win`
    averages: list[list[int]]  # entries whose mean is a quantity of its own: column means, bands
    panels: int

    def at(self, measure: str, entry: int) -> int:
        return self.measures.index(measure) * self.entries + entry

    def average(self, number: int) -> int:
        return len(self.measures) * self.entries + number

    def floor(self, panel: int) -> int:
        """Its ceiling is the next one."""
        return self.average(len(self.averages)) + 2 * panel

    def opponent(self, measure: str) -> int:
        return self.floor(self.panels) + OPPONENT.index(measure)

    @property
    def total(self) -> int:
        return self.floor(self.panels) + len(OPPONENT)

    def span(self) -> Floats:
        """(2, K) the ends of each quantity's scale: shares in percent, but for those that are none."""
        ends = np.tile(SHARE[:, None], (1, self.total))
        for name in self.measures:
            if MEASURES[name].unit != "%":
                start = self.at(name, 0)
                ends[:, start : start + self.entries] = [[-np.inf if MEASURES[name].increase else 0.0], [np.inf]]
        for name in OPPONENT:
            if MEASURES[name].unit != "%":
                ends[1, self.opponent(name)] = np.inf
        return ends


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
    checked, records, scales = [], [], []
    for entry in entries:
        found: dict[Seeds, Record] = {}
        spread: dict[Seeds, float] = {}
        cells = []
        for cell in entry.cells:
            reason = ""
            if cell.status == "done":
                try:
                    record = read_record(results.folder(cell.judge))
                    if not layouts[cell.seeds].holds(record.items):
                        raise StoreError("its prompts are not those of the other cells of this target")
                    found[cell.seeds] = record
                    spread |= _spread(cell, results)
                except StoreError as error:
                    reason = str(error)
            cells.append(dataclasses.replace(cell, status="damaged", reason=reason) if reason else cell)
        checked.append(dataclasses.replace(entry, cells=tuple(cells)))
        records.append(found)
        scales.append(spread)
    return Column(target, checked, records, layouts, scales)


def _spread(cell: SeedCell, results: Results) -> dict[Seeds, float]:
    """Of all responses of the baseline, by the cell's reward model; nothing where the scores are gone or all alike."""
    try:
        spread = float(np.nanstd(read_array(results.folder(cell.stages["score"]) / "baseline.npy")))
    except (KeyError, StoreError):
        return {}
    return {cell.seeds: spread} if spread > 0 else {}


def arrange(column: Column, averages: list[list[int]], panels: int) -> Quantities:
    records = [record for found in column.records for record in found.values()]
    own = any(column.own_judge(number, seeds) for number, found in enumerate(column.records) for seeds in found)
    measures = [
        name
        for name in FOLDED
        if name == "win"
        or (own if name == "win_own" else any(r.items.column(MEASURES[name].column) is not None for r in records))
    ]
    return Quantities(len(column.entries), measures, averages, panels)


def samples(
    column: Column,
    where: Quantities,
    verdicts: Sequence[dict[Seeds, Floats]],
    clusters: dict[Seeds, Clusters],
    single: bool,
) -> list[Sample]:
    """One sample a seed, `where`'s quantities in percent. `verdicts`: each panel's floor and ceiling."""
    result = []
    for seeds in sorted(column.layouts):
        values = _values(column, where, verdicts, seeds)
        result.append(column.resample(seeds, clusters, values, where.span(), single))
    return result


def curves(column: Column, length: int, clusters: dict[Seeds, Clusters], single: bool) -> list[list[Estimate | None]]:
    """Each entry's win rates over k, (length,); most of a big column's quantities, and nothing but the curve needs
    their resamples, which are let go."""
    found: list[list[Estimate | None]] = []
    step = max(1, SOME // max(length, 1))
    for begin in range(0, len(column.entries), step):
        records = column.records[begin : begin + step]
        taken = []
        for seeds in sorted(column.layouts) if length else ():
            values = np.full((len(records), length, len(column.layouts[seeds].prompts)), np.nan)
            for number, of in enumerate(records):
                if seeds in of and not column.own_judge(begin + number, seeds):
                    curve = of[seeds].curve.T
                    values[number, : len(curve)] = curve * PERCENT
            taken.append(column.resample(seeds, clusters, values.reshape(-1, values.shape[2]).T, SHARE, single))
        estimates: list[Estimate | None] = fold(taken) if taken else [None] * (len(records) * length)
        found += [estimates[number * length : (number + 1) * length] for number in range(len(records))]
    return found


def _values(column: Column, where: Quantities, verdicts: Sequence[dict[Seeds, Floats]], seeds: Seeds) -> Floats:
    """(prompts, K), NaN where there is no record; a quantity's values side by side in memory."""
    values = np.full((where.total, len(column.layouts[seeds].prompts)), np.nan).T
    for number, found in enumerate(column.records):
        if seeds in found:
            for name in where.measures:
                if (measured := column.measure(number, seeds, name)) is not None:
                    values[:, where.at(name, number)] = measured
    for number, members in enumerate(where.averages):
        there = [m for m in members if seeds in column.records[m] and not column.own_judge(m, seeds)]
        if there:
            values[:, where.average(number)] = values[:, there].mean(axis=1)
    for panel, verdict in enumerate(verdicts):
        if seeds in verdict:
            values[:, where.floor(panel) : where.floor(panel) + 2] = verdict[seeds] * PERCENT
    for name in OPPONENT:
        opponents = (
            found[seeds].items.column(f"baseline_{MEASURES[name].column}") for found in column.records if seeds in found
        )
        for opponent in opponents:
            if opponent is not None:
                values[:, where.opponent(name)] = opponent * MEASURES[name].factor
                break
    return values


def read_bounds(column: Column, members: Sequence[int], results: Results) -> dict[Seeds, Floats]:
    """Floor and ceiling of each seed by the judge's own scores; nothing where those are gone."""
    found: dict[Seeds, Floats] = {}
    pools: dict[Seeds, set[str]] = {}
    for cell in (cell for member in members for cell in column.entries[member].cells if "pool" in cell.stages):
        pools.setdefault(cell.seeds, set()).add(cell.stages["pool"].key)
    for member in members:
        for cell in column.entries[member].cells:
            record = column.records[member].get(cell.seeds)
            if record is None or record.trained or cell.seeds in found or "verdict" not in cell.stages:
                continue  # a trained policy picks nothing
            if len(pools.get(cell.seeds, ())) > 1:
                continue  # each source's own policy, as with sft_data=translated: there is no one ceiling
            try:
                values = bounds(results.folder(cell.stages["verdict"]), record.summary.n_samples)
            except StoreError:
                continue
            if len(values) == len(record.items.prompt) and None not in record.items.win:
                found[cell.seeds] = values
    return found


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
            if own is not None and own.group == pairs.group and not column.own_judge(number, seeds):
                values[:, number] = own.correct
        clusters = draw([(pairs.group, [""] * len(pairs.group))])[0]
        taken.append(resample(clusters, values * PERCENT, "/".join(seeds), crossed=True, span=SHARE))
    return taken
