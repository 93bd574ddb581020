"""From the plan to panels: columns are folded one after the other, rows are gathered on the way."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace

from xling.analysis.matrix.across import Kept, judge_accuracy, keep
from xling.analysis.matrix.column import Column, Seeds, find_layouts, read_column
from xling.analysis.matrix.draws import Draws
from xling.analysis.matrix.fold import FoldedColumn, PanelKey, belongs, fold_column, panel_key
from xling.analysis.matrix.frontier import marked
from xling.analysis.matrix.length_control import Lengths, length_controlled, lengths_of
from xling.analysis.matrix.names import named
from xling.analysis.matrix.own_measures import OwnMeasures
from xling.analysis.matrix.types import (
    Accuracy,
    Band,
    Baseline,
    Block,
    Bounds,
    Control,
    Entry,
    JudgeAccuracy,
    Mean,
    Opponent,
    Panel,
)
from xling.analysis.matrix.verdicts import counts, verdicts
from xling.analysis.statistics.bootstrap import SHARE, Clusters, Floats, Sample, draw
from xling.analysis.statistics.intervals import Difference, Estimate, fold, holm
from xling.config.common import members
from xling.grid.stage import OTHERS
from xling.results.plan import PlannedEntry, Results

BlockKey = tuple[tuple[str, str], ...]
ColumnKey = tuple[BlockKey, str]  # block, target
Place = tuple[str, ...]  # all of an entry's axes


def _place(axes: dict[str, str]) -> Place:
    return tuple(f"{axis}={value}" for axis, value in axes.items())


def fold_blocks(
    entries: Sequence[PlannedEntry], results: Results, draws: Draws | None = None, own: OwnMeasures | None = None
) -> tuple[list[Block], list[Kept]]:
    """All blocks of a grid: entries that share prompts and opponents stand in one block.

    With them, of grids with several blocks, what comparisons between these need. `draws` collects what analyses need;
    `own` are measures of the user's.
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
    blocks = sorted({block for block, _ in columns})
    drafts = {block: _Draft(dict(block)) for block in blocks}
    optimizers = {named(dict(block), "optimizer") for block in blocks}
    kept: list[Kept] = []
    for key in sorted(columns):
        column = read_column(key[1], columns[key], layouts[key], results)
        folded = fold_column(column, clusters[key], results)
        if own is not None:
            folded = _with_own(folded, *own.of(column, clusters[key]))
        drafts[key[0]].add(folded)
        if draws is not None:
            draws.add(folded)
        drafts[key[0]].add_lengths(column, clusters[key])
        drafts[key[0]].add_accuracy(judge_accuracy(column, results))
        compared = keep(column, clusters[key]) if len(blocks) > 1 else []
        kept += marked(compared, column, results) if len(optimizers) > 1 else compared
    return [draft.finish() for draft in drafts.values()], kept


def _with_own(
    column: FoldedColumn, measures: Sequence[dict[str, Estimate]], baseline: dict[str, Estimate]
) -> FoldedColumn:
    entries = [replace(entry, own=own) for entry, own in zip(column.entries, measures, strict=True)]
    return dataclasses.replace(column, entries=entries, opponent=replace(column.opponent, own=baseline))


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

    sums: dict[str, tuple[float, Floats, int]] = field(default_factory=dict)
    entries: int = 0
    planned: int = 0
    prompts: int = 0
    clusters: int = 0
    crossed: bool = False

    def add(self, samples: Sequence[Sample], number: int, entry: Entry) -> None:
        self.planned += not entry.own_judge
        if entry.win is None:
            return
        self.entries += 1
        self.prompts += entry.win.n
        self.clusters = max(self.clusters, entry.win.clusters)
        for sample in samples:
            value = float(sample.means[number])
            self.crossed = sample.crossed
            if not np.isnan(value):
                total, resamples, count = self.sums.get(sample.label, (0.0, np.zeros(1), 0))
                column = sample.resamples[:, number]
                self.sums[sample.label] = (total + value, resamples + column, count + 1)

    def mean(self) -> Mean | None:
        samples = [
            Sample(
                np.array([total / n]),
                resamples[:, None] / n,
                self.prompts,
                self.clusters,
                label,
                crossed=self.crossed,
                span=SHARE[:, None],
            )
            for label, (total, resamples, n) in self.sums.items()
        ]
        estimate = fold(samples)[0] if samples else None
        return None if estimate is None else Mean(estimate, self.entries, self.planned)


@dataclass(slots=True)
class _PanelDraft:
    """A panel while its columns come in."""

    entries: list[Entry] = field(default_factory=list)
    rows: dict[str, _Row] = field(default_factory=dict)
    rows_abroad: dict[str, _Row] = field(default_factory=dict)
    column_means: dict[str, Mean] = field(default_factory=dict)
    column_means_abroad: dict[str, Mean] = field(default_factory=dict)
    bounds: list[Bounds] = field(default_factory=list)
    accuracy: list[Accuracy] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    versus: dict[str, dict[str, dict[str, Difference]]] = field(default_factory=dict)
    pairs_versus: dict[str, dict[str, dict[str, Difference]]] = field(default_factory=dict)
    opponents: list[Opponent] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    def add(self, key: PanelKey, column: FoldedColumn) -> None:
        """Take over this panel's part of a column."""
        for number in column.groups.panels[key]:
            entry = column.entries[number]
            self.entries.append(entry)
            self.rows.setdefault(entry.source, _Row()).add(column.wins, number, entry)
            if entry.abroad:
                self.rows_abroad.setdefault(entry.source, _Row()).add(column.wins, number, entry)
            if (accuracy := column.accuracy[number]) is not None:
                self.accuracy.append(accuracy)
            if number in column.bands:
                self.bands.append(column.bands[number])
            for reference in column.groups.references:
                self._add_versus(key, column, number, reference)
        self.opponents.append(column.opponent)
        self.unknown.update(column.unknown_languages[key])
        everywhere, abroad = column.means[key]
        if everywhere is not None:
            self.column_means[column.target] = everywhere
        if abroad is not None:
            self.column_means_abroad[column.target] = abroad
        if key in column.bounds:
            self.bounds.append(column.bounds[key])
        if column.baseline is not None:
            self.baselines.append(column.baseline)

    def _add_versus(self, key: PanelKey, column: FoldedColumn, number: int, reference: int) -> None:
        other = column.entries[reference]
        if not belongs(panel_key(other.axes), key):
            return
        for kept, found in ((self.versus, column.versus), (self.pairs_versus, column.pairs_versus)):
            if (difference := found.get((number, reference))) is not None:
                sources = kept.setdefault(other.axes["rm_backbone"], {})
                sources.setdefault(column.entries[number].source, {})[column.target] = difference

    def finish(self, axes: dict[str, str], controls: Sequence[Control]) -> Panel:
        entries = _holm(self.entries)
        panel = Panel(
            axes=axes,
            sources=sorted({entry.source for entry in entries}, key=_source_order),
            targets=sorted({entry.target for entry in entries}),
            entries=entries,
            row_means=_means(self.rows),
            column_means=self.column_means,
            row_means_abroad=_means(self.rows_abroad),
            column_means_abroad=self.column_means_abroad,
            bounds=self.bounds,
            accuracy=self.accuracy,
            accuracy_baselines=self.baselines,
            bands=self.bands,
            versus=self.versus,
            pairs_versus=self.pairs_versus,
            opponents=self.opponents,
            unknown_languages=sorted(self.unknown),
        )
        return replace(panel, counts=counts(panel, controls), verdicts=verdicts(panel))


def _means(rows: dict[str, _Row]) -> dict[str, Mean]:
    found = {source: row.mean() for source, row in rows.items()}
    return {source: mean for source, mean in found.items() if mean is not None}


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


@dataclass(slots=True)
class _Draft:
    """A block while its columns come in."""

    axes: dict[str, str]
    panels: dict[PanelKey, _PanelDraft] = field(default_factory=dict)
    controls: dict[PanelKey, tuple[list[Entry], list[Accuracy]]] = field(default_factory=dict)
    shuffled: list[Entry] = field(default_factory=list)
    judged: list[JudgeAccuracy] = field(default_factory=list)
    lengths: dict[Seeds, list[Lengths]] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)  # a target's entries, in the column's order

    def add_lengths(self, column: Column, clusters: dict[Seeds, Clusters]) -> None:
        """Keep what the length-controlled win rates are fitted to."""
        self.places[column.target] = [_place(entry.axes) for entry in column.entries]
        for seeds, drawn in clusters.items():
            self.lengths.setdefault(seeds, []).append(lengths_of(column, seeds, drawn))

    def add_accuracy(self, found: JudgeAccuracy | None) -> None:
        """Of the block's judge on a target's preferences."""
        self.judged += [] if found is None else [found]

    def add(self, column: FoldedColumn) -> None:
        for key in column.groups.panels:
            self.panels.setdefault(key, _PanelDraft()).add(key, column)
        in_panels = {number for members in column.groups.panels.values() for number in members}
        for number, entry in enumerate(column.entries):
            if number in column.groups.references:
                entries, accuracies = self.controls.setdefault(panel_key(entry.axes), ([], []))
                entries.append(entry)
                if (accuracy := column.accuracy[number]) is not None:
                    accuracies.append(accuracy)
            elif number not in in_panels:
                self.shuffled.append(entry)

    def finish(self) -> Block:
        found, slope = length_controlled([columns for _, columns in sorted(self.lengths.items())])
        controlled = {
            place: estimate
            for target, estimates in found.items()
            for place, estimate in zip(self.places[target], estimates, strict=True)
        }

        def completed(entries: Sequence[Entry]) -> list[Entry]:
            return [
                replace(entry, win_lc=controlled.get(_place(entry.axes)) if entry.win else None) for entry in entries
            ]

        controls = {
            key: Control(dict(key), completed(entries), accuracy)
            for key, (entries, accuracy) in sorted(self.controls.items())
        }
        panels = []
        for key, draft in sorted(self.panels.items()):
            draft.entries = completed(draft.entries)
            beside = [control for own, control in controls.items() if belongs(own, key)]
            panels.append(draft.finish({**self.axes, **dict(key)}, beside))
        return Block(self.axes, panels, list(controls.values()), completed(self.shuffled), self.judged, slope)
