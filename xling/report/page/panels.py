"""A panel as the page's data: heat maps of every measure, what stands beside them, curves, verdicts."""

from typing import get_args

from xling.analysis.matrix.names import heading_of
from xling.analysis.matrix.types import MEASURES, OF_POINTS, Block, Entry, Matrix, Panel
from xling.report.page.encode import Json, encode_scales, encode_table, exact
from xling.report.tables.comparisons import comparison_tables
from xling.report.tables.panel import controls_of, measure_table, panel_tables
from xling.report.tables.table import BEST, UNKNOWN, Cell, Section, Table, by_entry, difference_cell
from xling.report.tables.wording import count_text, needed

SECTIONS: tuple[Section, ...] = get_args(Section)
MAPS = [name for name, measure in MEASURES.items() if measure.head and not measure.own_table]  # of their own
MOST_POINTS = 14  # of a best-of-k curve
MOST_CELLS = 150  # beyond this a table with a row a cell is no longer read; the heat maps have its numbers


def encode_panels(matrix: Matrix) -> list[dict[str, Json]]:
    """All panels in the matrix's order, colours of one measure alike in all of them."""
    pairs = [(block, panel) for block in matrix.blocks for panel in block.panels]
    tables = [_tables(block, panel) for block, panel in pairs]
    scales = encode_scales([table for shown in tables for table in shown])
    panels = []
    for (_, panel), shown in zip(pairs, tables, strict=True):
        encoded: dict[str, list[Json]] = {section: [] for section in SECTIONS}
        for table in shown:
            encoded[table.section].append(_encode(table, panel, scales[table.name]))
        panels.append(
            {
                "axes": panel.axes,
                "title": heading_of(panel.axes),
                "sources": panel.sources,
                "targets": panel.targets,
                "tables": encoded,
                "needs": _needs(panel),
                "reasons": _reasons(panel),
                "verdicts": panel.verdicts,
                "counts": [[count.k, count.of, count_text(count)] for count in panel.counts],
                "curves": _curves(panel),
            }
        )
    return panels


def _tables(block: Block, panel: Panel) -> list[Table]:
    """The report's tables, and source minus best and every measure as heat maps."""
    left_out = "detail" if len(panel.entries) > MOST_CELLS else "brief"  # of the measures, which come at two lengths
    tables = [t for t in panel_tables(block, panel) if t.name != "beside_the_win_rates" or t.kind != left_out]
    if any(entry.versus_best for entry in panel.entries):
        tables.append(
            Table(
                "source_minus_best",
                "Source minus best source, points, paired by prompt",
                "source",
                list(panel.targets),
                by_entry(panel, [], _versus_best),
                section="maps",
                scale=OF_POINTS,
                tab="minus best",
            )
        )
    controls = controls_of(block, panel)
    return tables + [made for name in MAPS if (made := measure_table(panel, controls, name)) is not None]


def _versus_best(entry: Entry) -> Cell:
    return Cell(look="quiet", home=entry.home, marks=BEST) if entry.best else difference_cell(entry.versus_best)


def _encode(table: Table, panel: Panel, scale: Json) -> dict[str, Json]:
    """With the number of leading rows that are sources and of columns that are targets: what a filter hides."""
    plain = [label.rstrip(UNKNOWN) for label, _ in table.rows]
    sources = len(panel.sources) if plain[: len(panel.sources)] == panel.sources else 0
    columns = [column.rstrip(UNKNOWN) for column in table.columns]
    targets = len(panel.targets) if columns[: len(panel.targets)] == panel.targets else 0
    return encode_table(table, scale, sources=sources, targets=targets)


def encode_across(matrix: Matrix) -> list[dict[str, Json]]:
    """Tables that compare panels: those with a row an optimizer or a pair of judges first."""
    tables = comparison_tables(matrix)
    tables.sort(key=lambda table: table.name not in ("optimizers", "agreement_between_judges"))
    return [encode_table(table, encode_scales([table])[table.name]) for table in tables]


def _needs(panel: Panel) -> list[str]:
    """What would settle each source against home, sources by targets, row after row."""
    cells = panel.at()
    entries = [cells.get((source, target)) for source in panel.sources for target in panel.targets]
    return [needed(entry.versus_home) if entry and entry.versus_home else "" for entry in entries]


def _reasons(panel: Panel) -> list[str]:
    """Status and reason of each cell that is not whole, sources by targets; empty for the rest."""
    cells = panel.at()
    entries = [cells.get((source, target)) for source in panel.sources for target in panel.targets]
    return [
        "not asked for"
        if entry is None
        else ""
        if entry.status == "done"
        else f"{entry.status}: {entry.reason}".rstrip(": ")
        for entry in entries
    ]


def _curves(panel: Panel) -> dict[str, Json] | None:
    """Best-of-k of every cell at up to MOST_POINTS values of k, win rates with their bands."""
    there = [entry for entry in panel.entries if entry.curve is not None and len(entry.curve.value) > 2]
    if not there:
        return None
    n = max(len(entry.curve.value) for entry in there if entry.curve)
    ks = thinned(n)
    cells = []
    for entry in there:
        if (curve := entry.curve) is not None:
            own = [k for k in ks if k <= len(curve.value)]
            columns = [[exact(column[k - 1]) for k in own] for column in (curve.value, curve.low, curve.high)]
            cells.append([panel.sources.index(entry.source), panel.targets.index(entry.target), *columns])
    return {"k": ks, "cells": cells}


def thinned(n: int) -> list[int]:
    """1..n, at most MOST_POINTS values, evenly on a logarithmic scale and with both ends."""
    if n <= MOST_POINTS:
        return list(range(1, n + 1))
    return sorted({round(n ** (step / (MOST_POINTS - 1))) for step in range(MOST_POINTS)})
