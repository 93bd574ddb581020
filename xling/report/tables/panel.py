"""The tables of a report, without a medium: the terminal and Markdown draw the same ones.

Rows are source languages (or references), columns target languages.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from xling.analysis.matrix.fold import belongs, panel_key
from xling.analysis.matrix.types import CHANCE, Block, Control, Entry, Mean, Panel
from xling.report.tables.accuracy import accuracy_table, auc_table, pairwise_table, spearman_table
from xling.report.tables.measures import judge_table, measure_tables
from xling.report.tables.table import (
    BEST,
    HOME,
    SETTLED,
    TIED,
    UNKNOWN,
    Cell,
    Table,
    against,
    difference_cell,
    quiet_cell,
)
from xling.report.tables.wording import hole_marks, hole_text, span


def panel_tables(block: Block, panel: Panel) -> list[Table]:
    """Everything about one panel, the result first. Recorded responses: agreement with people before win rates."""
    controls = [c for c in block.controls if belongs(panel_key(c.axes), panel_key(panel.axes))]
    recorded = any(entry.pairwise is not None for entry in panel.entries)
    agreement = [pairwise_table(panel, controls), spearman_table(panel, controls)] if recorded else []
    tables = [
        *agreement,
        win_table(panel),
        difference_table(panel),
        reference_table(panel, controls),
        None if recorded else accuracy_table(panel),  # recorded: the pairs above are the held-out pairs
        curve_table(panel),
        *measure_tables(block, panel),
        judge_table(block, panel),
        *versus_tables(panel),
        band_table(panel),
        auc_table(panel, controls),
    ]
    return [_marked(table, panel.unknown_languages) for table in tables if table is not None]


def _marked(table: Table, unknown: Sequence[str]) -> Table:
    """Mark the languages that the reward model's encoder does not know."""
    if not unknown:
        return table
    columns = [column + UNKNOWN if column in unknown else column for column in table.columns]
    rows = [(label + UNKNOWN if set(label.split("+")) & set(unknown) else label, row) for label, row in table.rows]
    note = f"{UNKNOWN} the encoder was not made for this language"
    return replace(table, columns=columns, rows=rows, notes=[*table.notes, note])


# --- the matrix -------------------------------------------------------------------------------------------


def win_table(panel: Panel) -> Table:
    """Win rates with intervals, means of rows and columns, holes numbered."""
    cells, marks = panel.at(), hole_marks(panel)
    rows = []
    for source in panel.sources:
        row = [_win_cell(cells.get((source, target)), marks) for target in panel.targets]
        row += [_mean_cell(panel.row_means.get(source)), _mean_cell(panel.row_means_abroad.get(source))]
        rows.append((source, row))
    breaks = {len(rows)}
    for label, means in (("mean", panel.column_means), ("abroad", panel.column_means_abroad)):
        if means:
            row = [_mean_cell(means.get(target)) for target in panel.targets]
            rows.append((label, [*row, Cell(), Cell()]))
    notes = [f"({number}) {reason}" for reason, number in marks.items()]
    columns = [*panel.targets, "mean", "abroad"]
    return Table("Win rate, %", "source", columns, rows, notes, frozenset(breaks), whole=True)


def _win_cell(entry: Entry | None, marks: dict[str, int]) -> Cell:
    if entry is None:
        return Cell("", look="quiet")
    mark = _number(entry, marks)
    if entry.win_own and entry.win is None:
        return Cell(f"[{entry.win_own.value:.1f}]{mark}", span(entry.win_own), "hole", entry.home, entry.win_own)
    if entry.win is None:
        return Cell(f"hole{mark}", look="hole", home=entry.home)
    rank = BEST if entry.best else TIED if entry.tied else ""
    text = f"{HOME if entry.home else ''}{entry.win.value:.1f}{rank}{mark}"
    return Cell(text, span(entry.win), against(entry.win, CHANCE), entry.home, entry.win)


def _number(entry: Entry, marks: dict[str, int]) -> str:
    return "" if entry.status == "done" else f"({marks[hole_text(entry)]})"


def _mean_cell(mean: Mean | None) -> Cell:
    if mean is None:
        return Cell("")
    missing = "" if mean.entries == mean.of else f"({mean.entries}/{mean.of})"
    return Cell(f"{mean.estimate.value:.1f}{missing}", span(mean.estimate), "quiet", exact=mean.estimate)


def difference_table(panel: Panel) -> Table | None:
    """Source minus home, paired by prompt."""
    cells = panel.at()
    rows = [
        (source, [_versus_home(cells.get((source, target))) for target in panel.targets]) for source in panel.sources
    ]
    if not any(entry.versus_home for entry in panel.entries):
        return None
    title = "Source minus home, points, paired by prompt"
    return Table(title, "source", list(panel.targets), rows)


def _versus_home(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell()
    return Cell(HOME, look="quiet", home=True) if entry.home else difference_cell(entry.versus_home)


# --- references and controls ------------------------------------------------------------------------------


def reference_table(panel: Panel, controls: Sequence[Control]) -> Table | None:
    """Win rates of what has no source: controls, references, and what the judge's own scores allow."""
    rows = []
    for control in controls:
        entries = {entry.target: entry for entry in control.entries}
        rows.append((control.name, [_reference_cell(entries.get(target)) for target in panel.targets]))
    if panel.bands:
        rows.append(("shuffled labels", [_all_bands(panel, target) for target in panel.targets]))
    breaks = {len(rows)} if rows else set()
    bounds = {bound.target: bound for bound in panel.bounds}
    if bounds:
        for label, pick in (("best pick", "ceiling"), ("worst pick", "floor")):
            estimates = [getattr(bounds[t], pick) if t in bounds else None for t in panel.targets]
            rows.append((label, [quiet_cell(estimate) for estimate in estimates]))
    if not rows:
        return None
    notes = ["shuffled labels: mean and range over sources and permutations"] if panel.bands else []
    notes += ["best and worst pick: by the judge's own scores, from the same pool"] if bounds else []
    title = "Controls and references, win rate, %"
    return Table(title, "", list(panel.targets), rows, notes, frozenset(breaks))


def _all_bands(panel: Panel, target: str) -> Cell:
    values = [value for band in panel.bands if band.target == target for value in band.values]
    if not values:
        return Cell()
    return Cell(f"{sum(values) / len(values):.1f}", f"{min(values):.1f}-{max(values):.1f}")


def _reference_cell(entry: Entry | None) -> Cell:
    if entry is None:
        return Cell()
    if entry.win is None:
        return Cell(entry.status, look="hole")
    return Cell(f"{entry.win.value:.1f}", span(entry.win), against(entry.win, CHANCE), exact=entry.win)


def versus_tables(panel: Panel) -> list[Table]:
    """The trained reward model minus each reference, paired: agreement with people, if any, and win rates."""
    tables = []
    for what, differences in (("agreement on pairs, ", panel.pairs_versus), ("", panel.versus)):
        for name, sources in differences.items():
            if name in ("random", "gold", "human"):
                continue
            rows = [
                (source, [difference_cell(sources.get(source, {}).get(target)) for target in panel.targets])
                for source in panel.sources
            ]
            title = f"Trained minus {name}, {what}points, paired"
            tables.append(Table(title, "source", list(panel.targets), rows, detail=True))
    return tables


def band_table(panel: Panel) -> Table | None:
    """What reward models trained on shuffled labels win, and whether the real one beats all of them."""
    if not panel.bands:
        return None
    bands = {(band.source, band.target): band for band in panel.bands}
    rows = []
    for source in panel.sources:
        row = []
        for target in panel.targets:
            band = bands.get((source, target))
            if band is None:
                row.append(Cell())
            else:
                text = f"{band.mean:.1f}{SETTLED if band.beaten else ''}"
                between = f"{min(band.values):.1f}-{max(band.values):.1f}"
                row.append(Cell(text, between, "above" if band.beaten else "", source == target))
        rows.append((source, row))
    most = max(len(band.values) for band in panel.bands)
    title = f"Shuffled labels: mean and range of {most} permutations, win rate, %"
    notes = [f"{SETTLED} the real reward model lies above every permutation"]
    return Table(title, "source", list(panel.targets), rows, notes, detail=True)


# --- the curve -----------------------------------------------------------------------------------


def curve_table(panel: Panel) -> Table | None:
    """Best-of-k from the same pools: means over cells at home and abroad."""
    there = [entry for entry in panel.entries if entry.curve is not None and entry.curve.value]
    n = min((len(entry.curve.value) for entry in there if entry.curve), default=0)
    if n < 3:
        return None
    ks = sorted({*(2**power for power in range(n.bit_length()) if 2**power <= n), n})
    rows = []
    sides = (("home", [e for e in there if e.home]), ("abroad", [e for e in there if e.abroad]))
    for label, entries in sides:
        curves = [entry.curve.value for entry in entries if entry.curve is not None]
        if curves:
            means = [sum(curve[k - 1] for curve in curves) / len(curves) for k in ks]
            rows.append((label, [Cell(f"{mean:.1f}") for mean in means]))
    rows.append(("KL at most", [Cell(f"{math.log(k) - (k - 1) / k:.2f}", look="quiet") for k in ks]))
    return Table("Best-of-k win rate, %, mean over cells", "k", [str(k) for k in ks], rows)
