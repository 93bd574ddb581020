"""`xling reduce GRID`: fold the finished cells of a grid into its matrix. Reads plan.json and the store.

Columns are folded one after the other (fold_column.py), rows are gathered on the way.

    matrix = fold_grid(Store(Path("outputs")), "embedded")
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace

from xling.analysis.matrix.across import Kept, agreements, judge_accuracy, keep, optimizer_tables
from xling.analysis.matrix.categories import Categories, fold_categories
from xling.analysis.matrix.column import Column, find_layouts, read_column
from xling.analysis.matrix.equal_length import Lengths, at_equal_length, lengths_of
from xling.analysis.matrix.fold_column import FoldedColumn, PanelKey, belongs, fold_column, panel_key
from xling.analysis.matrix.frontier import frontiers, marked
from xling.analysis.matrix.names import named
from xling.analysis.matrix.own_measures import OwnMeasures, own_measures
from xling.analysis.matrix.types import (
    Block,
    Control,
    Entry,
    JudgeAccuracy,
    Matrix,
    Mean,
    OwnTitle,
    Panel,
    Seeds,
)
from xling.analysis.matrix.verdicts import counts, verdicts
from xling.analysis.statistics.bootstrap import Average, Clusters, Sample, draw, select
from xling.analysis.statistics.decisions import Difference, holm
from xling.analysis.statistics.intervals import fold
from xling.config.common import members
from xling.console import without_secrets
from xling.grid.stage import OTHERS
from xling.grid.store import Store
from xling.results.plan import (
    Plan,
    PlannedEntry,
    Results,
    left_out_notes,
    other_axes,
    planned_entries,
    rates_of_entries,
    read_plan,
)

Collect = Callable[[FoldedColumn], None]
BlockKey = tuple[tuple[str, str], ...]
ColumnKey = tuple[BlockKey, str]  # block, target
FEW_DOCUMENTS = 10
FEW_SEEN = "where few win or lose, Wilson's"
ONE_SEED = f"95 % bootstrap intervals over prompts only ({FEW_SEEN}); RM training not included"


def grid_categories(store: Store, name: str) -> Categories:
    """Accuracy by category, where the grid is on a benchmark that has categories."""
    plan = read_plan(store.grid_folder(name))
    results = Results(store, plan)
    return fold_categories(planned_entries(plan, results), results)


def fold_grid(store: Store, name: str, collect: Collect | None = None) -> Matrix:
    """A pure function of what stands in the store; `collect` is given every column, for analyses (Draws.add).

    ConfigError: no such grid; StoreError: its plan cannot be read.
    """
    plan = read_plan(store.grid_folder(name))
    results = Results(store, plan)
    entries = planned_entries(plan, results)
    own = own_measures(store, name, plan.measures)
    blocks, kept = fold_blocks(entries, results, collect, own)
    notes = own.sentences() if own else []
    return Matrix(
        name=plan.name,
        blocks=_completed(blocks, plan, own),
        other_axes=other_axes(entries),
        left_out=[*left_out_notes(plan), *notes],
        provenance=_provenance(plan, results, entries),
        interval_note=_interval_note(blocks, entries) + _few_documents(blocks),
        agreement=agreements(kept),
        optimizers=optimizer_tables(kept, blocks),
        frontiers=frontiers(kept, results),
    )


def _completed(blocks: list[Block], plan: Plan, own: OwnMeasures | None) -> list[Block]:
    """Panels with how often the detector errs in their targets, and with the titles of the user's own measures."""
    known = rates_of_entries(plan)
    titles = [OwnTitle(measure.name, measure.title) for measure in own.measures] if own else []

    def told(panel: Panel) -> Panel:
        found = {e.target: known[place] for e in panel.entries if (place := tuple(e.axes.items())) in known}
        return replace(
            panel, own_measures=titles, language_rates=[found[target] for target in panel.targets if target in found]
        )

    return [replace(block, panels=[told(panel) for panel in block.panels]) for block in blocks]


def _interval_note(blocks: list[Block], planned: list[PlannedEntry]) -> str:
    """The table's note on what its intervals are over."""
    wins = [entry.win for block in blocks for p in block.panels for entry in p.entries if entry.win]
    seeds = {win.seeds for win in wins}
    several = sorted(seeds - {1})
    if not several:
        return ONE_SEED
    if all(win.crossed for win in wins if win.seeds > 1):
        if all(entry.axes["policy"] != "recorded" for entry in planned):
            return f"{ONE_SEED}; {several[-1]} seeds gave the very same"
        return (
            f"95 % bootstrap intervals over prompts and {several[-1]} seeds (the same ratings, split anew; {FEW_SEEN})"
        )
    span = " to ".join(str(count) for count in dict.fromkeys((several[0], several[-1])))
    fresh = len({cell.seeds[0] for entry in planned for cell in entry.cells}) > 1
    kind = "data seeds (each with its own prompts)" if fresh else "seeds (training and sampling; the same prompts)"
    note = f"95 % intervals over prompts and seeds, from {span} {kind}, Wilson's on the scale"
    note += "" if fresh else "; those over seeds alone, for these very prompts, have a table of their own"
    return f"{note}; where one seed is finished, over prompts only" if 1 in seeds else note


def _few_documents(blocks: list[Block]) -> str:
    """The note's warning where a cell's prompts come from few documents."""
    wins = [entry.win for block in blocks for p in block.panels for entry in p.entries if entry.win]
    fewest = min((win.clusters for win in wins), default=FEW_DOCUMENTS)
    if fewest >= FEW_DOCUMENTS:
        return ""
    return f"; of {fewest} document{'' if fewest == 1 else 's'} in some cells, too few to say what others would give"


def _provenance(plan: Plan, results: Results, entries: list[PlannedEntry]) -> dict[str, str | list[str] | int | None]:
    """The command, and the code, devices and threads of the results, so that a mix can be reported."""
    runs = list(results.runs())
    return {
        "command": [without_secrets(line) for line in plan.command],
        "git": plan.git,
        "cells": len(plan.cells),
        "cells_done": sum(cell.status == "done" for entry in entries for cell in entry.cells),
        "code": sorted({run.git or "unknown" for run in runs}),
        "devices": sorted({run.device for run in runs}),
        "threads": sorted({str(run.threads) for run in runs}),
    }


# --- panels --------------------------------------------------------------------------------------------------


# --- blocks -------------------------------------------------------------------------------------------------


def fold_blocks(
    entries: Sequence[PlannedEntry], results: Results, collect: Collect | None = None, own: OwnMeasures | None = None
) -> tuple[list[Block], list[Kept]]:
    """All blocks of a grid: entries that share prompts and opponents stand in one block.

    With them, of grids with several blocks, what comparisons between these need. `own` are measures of the user's.
    """
    columns: dict[ColumnKey, list[PlannedEntry]] = {}
    for entry in sorted(entries, key=lambda entry: (_source_order(entry.axes["source_lang"]), *entry.axes.values())):
        columns.setdefault((_block_key(entry.axes), entry.axes["target_lang"]), []).append(entry)
    layouts = {key: find_layouts(members, results) for key, members in columns.items()}
    order = [(key, seeds) for key, found in layouts.items() for seeds in found]
    drawn = draw([(layouts[key][seeds].groups, layouts[key][seeds].datasets) for key, seeds in order])
    clusters: dict[ColumnKey, dict[Seeds, Clusters]] = {key: {} for key in columns}
    for (key, seeds), weights in zip(order, drawn, strict=True):
        clusters[key][seeds] = weights
    drafts = {block: _Draft(dict(block)) for block, _ in sorted(columns)}
    optimizers = {named(dict(block), "optimizer") for block in drafts}
    kept: list[Kept] = []
    for (block, target), drawn_of in sorted(clusters.items(), key=lambda item: item[0]):
        column = read_column(target, columns[block, target], layouts[block, target], results)
        folded = fold_column(column, drawn_of, results)
        if own is not None:
            measures, baseline = own.of(column, drawn_of)
            folded = dataclasses.replace(
                folded,
                entries=[replace(entry, own=one) for entry, one in zip(folded.entries, measures, strict=True)],
                opponent=replace(folded.opponent, own=baseline),
            )
        if collect is not None:
            collect(folded)
        drafts[block].add(column, folded, drawn_of, judge_accuracy(column, results))
        compared = keep(column, drawn_of) if len(drafts) > 1 else []
        kept += marked(compared, column, results) if len(optimizers) > 1 else compared
    return [draft.finish() for draft in drafts.values()], kept


def _block_key(axes: dict[str, str]) -> BlockKey:
    skip = ("source_lang", "target_lang")
    return tuple(
        (axis, value) for axis, value in axes.items() if axis not in skip and axis.split(".")[0] != "rm_backbone"
    )


def _source_order(source: str) -> tuple[bool, str]:
    """Pooled sources after single ones."""
    return (len(members(source)) > 1 or source == OTHERS, source)


@dataclass(slots=True)
class _Row:
    """One source's samples summed over targets, seed by seed."""

    means: dict[str, Average] = field(default_factory=dict)  # by label
    entries: int = 0
    planned: int = 0
    prompts: int = 0

    def add(self, samples: Sequence[Sample], number: int, entry: Entry) -> None:
        self.planned += not entry.own_judge
        if entry.win is None:
            return
        self.entries += 1
        self.prompts += entry.win.n
        for sample in samples:
            if not np.isnan(sample.means[number]):
                self.means.setdefault(sample.label, Average()).add(select(sample, [number]))

    def mean(self) -> Mean | None:
        samples = [dataclasses.replace(mean.sample(), present=None) for mean in self.means.values()]
        estimate = fold(samples)[0] if samples else None
        return None if estimate is None else Mean(replace(estimate, n=self.prompts), self.entries, self.planned)


@dataclass(slots=True)
class _Draft:
    """A block while its columns come in; their samples are not kept."""

    axes: dict[str, str]
    columns: list[FoldedColumn] = field(default_factory=list)
    rows: dict[tuple[PanelKey, str], tuple[_Row, _Row]] = field(default_factory=dict)  # everywhere, and abroad
    judged: list[JudgeAccuracy] = field(default_factory=list)
    lengths: dict[Seeds, list[Lengths]] = field(default_factory=dict)

    def add(
        self, column: Column, folded: FoldedColumn, clusters: dict[Seeds, Clusters], judged: JudgeAccuracy | None
    ) -> None:
        for key, numbers in folded.groups.panels.items():
            for number in numbers:
                entry = folded.entries[number]
                everywhere, abroad = self.rows.setdefault((key, entry.source), (_Row(), _Row()))
                everywhere.add(folded.wins, number, entry)
                if entry.abroad:
                    abroad.add(folded.wins, number, entry)
        self.columns.append(dataclasses.replace(folded, wins=[], kl=[], hits=[]))
        for seeds, drawn in clusters.items():
            trained = {number for numbers in folded.groups.panels.values() for number in numbers}
            self.lengths.setdefault(seeds, []).append(lengths_of(column, seeds, drawn, trained))
        self.judged += [] if judged is None else [judged]

    def finish(self) -> Block:
        found, slope = at_equal_length([columns for _, columns in sorted(self.lengths.items())])
        for place, column in enumerate(self.columns):
            wins = found.get(column.target, [None] * len(column.entries))
            entries = [
                replace(entry, win_equal_length=win if entry.win else None)
                for entry, win in zip(column.entries, wins, strict=True)
            ]
            self.columns[place] = dataclasses.replace(column, entries=entries)
        references: dict[PanelKey, list[tuple[FoldedColumn, int]]] = {}
        for column in self.columns:
            for number in column.groups.references:
                references.setdefault(panel_key(column.entries[number].axes), []).append((column, number))
        controls = {
            key: Control(
                dict(key),
                [column.entries[number] for column, number in members],
                [accuracy for column, number in members if (accuracy := column.accuracy[number]) is not None],
            )
            for key, members in sorted(references.items())
        }
        panels = [
            self._panel(key, [control for own, control in controls.items() if belongs(own, key)])
            for key in sorted({key for column in self.columns for key in column.groups.panels})
        ]
        shuffled = [column.entries[number] for column in self.columns for number in column.groups.shuffled]
        return Block(self.axes, panels, list(controls.values()), shuffled, self.judged, slope)

    def _panel(self, key: PanelKey, controls: Sequence[Control]) -> Panel:
        columns = [column for column in self.columns if key in column.groups.panels]
        members = [(column, number) for column in columns for number in column.groups.panels[key]]
        entries = _holm([column.entries[number] for column, number in members])
        everywhere, abroad = (
            {
                source: mean
                for (panel, source), rows in self.rows.items()
                if panel == key and (mean := rows[place].mean()) is not None
            }
            for place in (0, 1)
        )
        over_sources, over_foreign = (
            {column.target: mean for column in columns if (mean := column.means[key][place]) is not None}
            for place in (0, 1)
        )
        panel = Panel(
            axes={**self.axes, **dict(key)},
            sources=sorted({entry.source for entry in entries}, key=_source_order),
            targets=sorted({entry.target for entry in entries}),
            entries=entries,
            row_means=everywhere,
            column_means=over_sources,
            row_means_abroad=abroad,
            column_means_abroad=over_foreign,
            bounds=[column.bounds[key] for column in columns if key in column.bounds],
            accuracy=[found for column, number in members if (found := column.accuracy[number]) is not None],
            accuracy_baselines=[column.baseline for column in columns if column.baseline is not None],
            bands=[column.bands[number] for column, number in members if number in column.bands],
            versus=_by_reference(key, members, [column.versus for column, _ in members]),
            pairs_versus=_by_reference(key, members, [column.pairs_versus for column, _ in members]),
            opponents=[column.opponent for column in columns],
            unknown_languages=sorted({lang for column in columns for lang in column.unknown_languages[key]}),
        )
        return replace(panel, counts=counts(panel, controls), verdicts=verdicts(panel))


def _by_reference(
    key: PanelKey,
    members: Sequence[tuple[FoldedColumn, int]],
    differences: Sequence[Mapping[tuple[int, int], Difference]],
) -> dict[str, dict[str, dict[str, Difference]]]:
    """Reference -> source -> target, of the references that belong to a panel."""
    found: dict[str, dict[str, dict[str, Difference]]] = {}
    for (column, number), known in zip(members, differences, strict=True):
        for reference in column.groups.references:
            other, difference = column.entries[reference], known.get((number, reference))
            if difference is not None and belongs(panel_key(other.axes), key):
                sources = found.setdefault(other.axes["rm_backbone"], {})
                sources.setdefault(column.entries[number].source, {})[column.target] = difference
    return found


def _holm(entries: Sequence[Entry]) -> list[Entry]:
    """Correct the differences to home within a panel."""
    tested = [
        (number, difference, difference.p)
        for number, entry in enumerate(entries)
        if (difference := entry.versus_home) is not None and difference.p is not None
    ]
    result = list(entries)
    for (number, difference, _), p_holm in zip(tested, holm([p for _, _, p in tested]), strict=True):
        result[number] = replace(entries[number], versus_home=replace(difference, p_holm=p_holm))
    return result
