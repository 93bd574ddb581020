"""One column of the matrix: all cells of a target language, which share prompts and opponents.

Everything that can be paired by prompt is computed here: win rates, what is measured beside them, curves, differences
to home, to the best source, to the untrained likelihoods and to the shuffled band, means over sources, floor, ceiling.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from xling.analysis.matrix.accuracy import measure_column, unknown_languages
from xling.analysis.matrix.types import (
    MEASURES,
    PERCENT,
    Accuracy,
    Band,
    Baseline,
    Bounds,
    Curve,
    Entry,
    Mean,
    Opponent,
    Seeds,
)
from xling.analysis.statistics.bootstrap import (
    HUGE,
    SHARE,
    SOME,
    Clusters,
    Floats,
    Sample,
    difference,
    draw,
    resample,
    select,
)
from xling.analysis.statistics.decisions import ALPHA, Difference, cautious_p, judged
from xling.analysis.statistics.draws import worse_than_best
from xling.analysis.statistics.intervals import Estimate, fold, on_these_prompts
from xling.config.common import is_foreign
from xling.errors import StoreError
from xling.grid.stage import NO_SOURCE
from xling.results.items import Items, Pairs, Record, bounds, finite, read_array, read_items, read_record
from xling.results.plan import PlannedEntry, Results, SeedCell

PanelKey = tuple[tuple[str, str], ...]  # rm_backbone and its settings
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
            if own is not None and own.group == pairs.group and not column.own_judge(number, seeds):
                values[:, number] = own.correct
        clusters = draw([(pairs.group, [""] * len(pairs.group))])[0]
        taken.append(resample(clusters, values * PERCENT, "/".join(seeds), crossed=True, span=SHARE))
    return taken


# --- estimates -----------------------------------------------------------------------------------------------


def panel_key(axes: dict[str, str]) -> PanelKey:
    """Key of a panel in its block: the reward model and its settings."""
    return tuple((axis, value) for axis, value in axes.items() if axis.split(".")[0] == "rm_backbone")


def belongs(control: PanelKey, panel: PanelKey) -> bool:
    """A control stands beside every panel whose reward-model settings it does not contradict."""
    settings = dict(panel)
    return all(
        axis == "rm_backbone" or value in ("", NO_SOURCE) or settings.get(axis, value) == value
        for axis, value in control
    )


@dataclass(frozen=True, slots=True)
class Groups:
    """The entries of a column by what they are for; numbers are places in the column."""

    panels: dict[PanelKey, list[int]]
    bands: dict[int, list[int]]  # an entry -> the same reward model on permuted labels
    references: list[int]  # without a source: random, length, likelihood, gold
    shuffled: list[int]  # reward models on permuted labels


def group(entries: Sequence[PlannedEntry]) -> Groups:
    """Sort a column's entries into panels, shuffled bands and references.

    `shuffled_3` belongs to the only reward model there is, `shuffled_3:bag_of_words` to the one it names.
    """
    panels: dict[PanelKey, list[int]] = {}
    shuffled, references = [], []
    for number, entry in enumerate(entries):
        if entry.axes["source_lang"] == NO_SOURCE:
            references.append(number)
        elif entry.axes["rm_backbone"].startswith("shuffled_"):
            shuffled.append(number)
        else:
            panels.setdefault(panel_key(entry.axes), []).append(number)
    bands: dict[int, list[int]] = {}
    backbones = {dict(key)["rm_backbone"] for key in panels}
    for key, members in panels.items():
        for member in members:
            source = entries[member].axes["source_lang"]
            band = [
                number
                for number in shuffled
                if entries[number].axes["source_lang"] == source
                and belongs(panel_key(entries[number].axes), key)
                and _shuffles(entries[number].axes["rm_backbone"], dict(key)["rm_backbone"], backbones)
            ]
            if band:
                bands[member] = band
    return Groups(panels, bands, references, shuffled)


def _shuffles(name: str, backbone: str, backbones: set[str]) -> bool:
    of = name.partition(":")[2]
    return of == backbone if of else len(backbones) == 1


@dataclass(frozen=True, slots=True)
class FoldedColumn:
    """A column's results; lists run parallel to the column's entries."""

    target: str
    groups: Groups
    entries: list[Entry]
    wins: list[Sample]  # one a seed: the win rate of every entry, for the means of rows
    means: dict[PanelKey, tuple[Mean | None, Mean | None]]  # over all sources, over those abroad
    bounds: dict[PanelKey, Bounds]
    bands: dict[int, Band]
    versus: dict[tuple[int, int], Difference]  # (entry, reference) -> entry minus reference
    pairs_versus: dict[tuple[int, int], Difference]  # the same of agreement with people; recorded responses only
    accuracy: list[Accuracy | None]
    baseline: Baseline | None
    opponent: Opponent
    unknown_languages: dict[PanelKey, list[str]]  # those that a panel's encoder does not know
    kl: list[Sample]  # as `wins`; empty where nothing was trained
    hits: list[Sample]  # accuracies of the panels' members, in the order of `groups.panels`, then of references


def fold_column(column: Column, clusters: dict[Seeds, Clusters], results: Results) -> FoldedColumn:
    """All estimates of one target."""
    groups = group(column.entries)
    abroad = {key: [m for m in members if _abroad(column, m)] for key, members in groups.panels.items()}
    averages = [*groups.panels.values(), *abroad.values(), *groups.bands.values()]
    where = arrange(column, averages, len(groups.panels))
    verdicts = [read_bounds(column, members, results) for members in groups.panels.values()]
    length = max((record.curve.shape[1] for found in column.records for record in found.values()), default=0)
    single = where.total + length * len(column.entries) > HUGE
    taken = samples(column, where, verdicts, clusters, single)
    estimates = fold(taken) if taken else [None] * where.total
    drawn = curves(column, length, clusters, single)
    pairs, wins = pair_samples(column), _of_measure("win", where, taken)
    entries = _entries(column, where, estimates, drawn, fold(pairs) if pairs else [None] * len(column.entries))
    if wins:
        entries = [replace(entry, win_here=one) for entry, one in zip(entries, on_these_prompts(wins), strict=True)]
    for members in groups.panels.values():
        compare(entries, members, taken)
    count = len(groups.panels)
    means = {
        key: (
            _mean(estimates[where.average(number)], entries, members),
            _mean(estimates[where.average(count + number)], entries, abroad[key]),
        )
        for number, (key, members) in enumerate(groups.panels.items())
    }
    scored = [number for members in groups.panels.values() for number in members] + groups.references
    measured, baseline, hits = measure_column(column.target, column.entries, scored, column.recorded, results)
    return FoldedColumn(
        column.target,
        groups,
        entries,
        wins,
        means,
        _bounds(column.target, groups, where, estimates),
        _bands(groups, entries, where, taken),
        _versus(groups, taken),
        _versus(groups, pairs),
        measured,
        baseline,
        _opponent(column.target, where, estimates),
        {key: unknown_languages([column.entries[m] for m in ms], results) for key, ms in groups.panels.items()},
        _of_measure("kl", where, taken) if "kl" in where.measures else [],
        hits,
    )


def _of_measure(name: str, where: Quantities, taken: Sequence[Sample]) -> list[Sample]:
    start = where.at(name, 0)
    return [select(sample, slice(start, start + where.entries)) for sample in taken]


def _abroad(column: Column, number: int) -> bool:
    return is_foreign(column.entries[number].axes["source_lang"], column.target)


def _entries(
    column: Column,
    where: Quantities,
    estimates: Sequence[Estimate | None],
    drawn: Sequence[Sequence[Estimate | None]],
    agreement: Sequence[Estimate | None],
) -> list[Entry]:
    entries = []
    for number, planned in enumerate(column.entries):
        status, reason = planned.status()
        records = [record for _, record in sorted(column.records[number].items())]
        keys = [cell.judge.key for cell in planned.cells if cell.seeds in column.records[number]]
        entry = Entry(planned.axes, status, reason, keys=keys)
        if records:
            entry = replace(
                entry,
                **{name: estimates[where.at(name, number)] for name in where.measures},
                reward_scale=_mean_scale(column, number),
                kl_bound=finite(records[0].summary.kl_bound),
                n_samples=records[0].summary.n_samples,
                curve=_curve(drawn[number]),
                pairwise=agreement[number],
                spearman=_spearman([record.spearman.rho for record in records if record.spearman]),
            )
            if entry.win is None and entry.win_own is None:
                entry = replace(entry, status="partial", reason="no prompt of one of its datasets was judged")
        entries.append(entry)
    return entries


def _mean_scale(column: Column, number: int) -> float | None:
    scales = list(column.scales[number].values())
    return float(np.mean(scales)) if scales else None


def _opponent(target: str, where: Quantities, estimates: Sequence[Estimate | None]) -> Opponent:
    measures: dict[str, Any] = {name: estimates[where.opponent(name)] for name in OPPONENT}
    return Opponent(target, **measures)


def _curve(estimates: Sequence[Estimate | None]) -> Curve:
    there = [estimate for estimate in estimates if estimate is not None]
    return Curve([e.value for e in there], [e.low for e in there], [e.high for e in there])


def _spearman(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if finite(value) is not None]
    return float(np.mean(np.array(there))) if there else None


def compare(entries: list[Entry], members: Sequence[int], taken: Sequence[Sample]) -> None:
    """Fill in, for one panel's part of the column: difference to home, difference to the best, ties."""
    filled = [(entry.win.value, m) for m in members if (entry := entries[m]).win is not None]
    if not filled:
        return

    def against(reference: int) -> list[tuple[int, Estimate]]:
        others = [m for _, m in filled if m != reference]
        found = zip(others, contrast(taken, others, [reference] * len(others)), strict=True)
        return [(m, estimate) for m, estimate in found if estimate is not None]

    home = next((m for _, m in filled if entries[m].home), None)
    for m, estimate in [] if home is None else against(home):
        entries[m] = replace(entries[m], versus_home=judged(estimate))
    best = max(filled, key=lambda pair: (pair[0], pair[1] == home, -pair[1]))[1]  # home, where it is equal
    entries[best] = replace(entries[best], best=True)
    rivals = against(best)
    if rivals:
        own = np.array([1.0, *(cautious_p(estimate) for _, estimate in rivals)])
        corrected, alpha = worse_than_best(taken, [best, *(m for m, _ in rivals)], own)
        for (m, estimate), p in zip(rivals, corrected[1:].tolist(), strict=True):
            paired = replace(judged(estimate, alpha), p_best=p, settled=p < ALPHA)
            entries[m] = replace(entries[m], versus_best=paired, tied=not paired.settled)


def _mean(estimate: Estimate | None, entries: Sequence[Entry], members: Sequence[int]) -> Mean | None:
    there = sum(entries[m].win is not None for m in members)
    return None if estimate is None else Mean(estimate, there, sum(not entries[m].own_judge for m in members))


def _bounds(
    target: str, groups: Groups, where: Quantities, estimates: Sequence[Estimate | None]
) -> dict[PanelKey, Bounds]:
    found = {}
    for number, key in enumerate(groups.panels):
        floor, ceiling = estimates[where.floor(number)], estimates[where.floor(number) + 1]
        if floor is not None and ceiling is not None:
            found[key] = Bounds(target, floor, ceiling)
    return found


def _bands(groups: Groups, entries: Sequence[Entry], where: Quantities, taken: Sequence[Sample]) -> dict[int, Band]:
    """The null band of each entry that has one: min..max over permutations, and the paired difference."""
    first = 2 * len(groups.panels)
    means = [where.average(first + number) for number in range(len(groups.bands))]
    differences = contrast(taken, list(groups.bands), means)
    bands = {}
    for (member, permutations), found in zip(groups.bands.items(), differences, strict=True):
        real = entries[member].win
        values = [win.value for number in permutations if (win := entries[number].win) is not None]
        if real is not None and values:
            bands[member] = Band(
                entries[member].source,
                entries[member].target,
                sorted(values),
                float(np.mean(values)),
                real.value > max(values),
                judged(found),
            )
    return bands


def _versus(groups: Groups, taken: Sequence[Sample]) -> dict[tuple[int, int], Difference]:
    """Every trained entry minus every reference, paired by prompt."""
    pairs = [
        (member, reference)
        for members in groups.panels.values()
        for member in members
        for reference in groups.references
    ]
    found = contrast(taken, [member for member, _ in pairs], [reference for _, reference in pairs])
    return {pair: judged(estimate) for pair, estimate in zip(pairs, found, strict=True) if estimate is not None}
