"""What one column of the matrix says: its entries, means over sources, floor and ceiling, and differences.

Differences are paired by prompt: to home, to the best source, to references without a source, to the shuffled band.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from xling.analysis.matrix.accuracy import measure_column, unknown_languages
from xling.analysis.matrix.column import (
    OPPONENT,
    Column,
    Quantities,
    arrange,
    curves,
    pair_samples,
    read_bounds,
    samples,
)
from xling.analysis.matrix.types import Accuracy, Band, Baseline, Bounds, Curve, Entry, Mean, Opponent, Seeds
from xling.analysis.statistics.bootstrap import HUGE, Clusters, Sample, difference, select
from xling.analysis.statistics.decisions import ALPHA, Difference, cautious_p, judged
from xling.analysis.statistics.draws import worse_than_best
from xling.analysis.statistics.intervals import Estimate, fold, on_these_prompts
from xling.config.common import is_foreign
from xling.grid.stage import NO_SOURCE
from xling.results.items import finite
from xling.results.plan import PlannedEntry, Results

PanelKey = tuple[tuple[str, str], ...]  # rm_backbone and its settings


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
        judges = sorted({lang for cell in planned.cells for lang in cell.judge_langs})
        entry = Entry(planned.axes, status, reason, keys=keys, judge_langs=judges)
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


def contrast(taken: Sequence[Sample], left: Sequence[int], right: Sequence[int]) -> list[Estimate | None]:
    """Paired differences left - right, folded over seeds."""
    if not taken or not left:
        return [None] * len(left)
    return fold([difference(sample, left, right) for sample in taken])


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
