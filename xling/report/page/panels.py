"""A panel as the page's data: heat maps of every measure, what stands beside them, curves, verdicts.

Which section a table of the report belongs to is told by its title; one that is new stands under `measures`.
"""

from collections.abc import Callable, Mapping, Sequence

from xling.analysis.matrix.fold import belongs, panel_key
from xling.analysis.matrix.types import CHANCE, Block, Entry, Matrix, Opponent, Panel
from xling.report.page.encode import Json, Scale, diverging, encode_table, exact, sequential
from xling.report.tables.comparisons import comparison_tables
from xling.report.tables.measures import MEASURES, measure_cell
from xling.report.tables.panel import panel_tables
from xling.report.tables.table import BEST, Cell, Table, by_entry, difference_cell
from xling.report.tables.wording import count_text, needed, panel_title

SECTIONS = {  # beginnings of titles
    "Win rate, %": "maps",
    "Source minus home": "maps",
    "Length-controlled": "maps",
    "Agreement with people": "rewards",
    "Spearman": "rewards",
    "Reward model": "rewards",
    "Controls": "controls",
    "Trained minus": "controls",
    "Agreement minus": "controls",
    "Shuffled": "controls",
    "The judge": "judges",
    "Best-of-k": "curves",
}
TITLES = {  # of the measures as heat maps
    "win_soft": "Win rate by the judge's probabilities, %",
    "win_hard": "Win rate by the judge's answers, %",
    "inconsistent": "Pairs that their order decides, %",
    "unanswered": "Pairs that the judge left unanswered, %",
    "share_in_language": "Responses in the target language, %",
    "length": "Length, tokens",
    "eos": "Responses that ended by themselves, %",
    "repetition": "Repetition: word bigrams said before, %",
    "reward": "Reward, increase over the baseline, standard deviations",
    "quality": "Judge's score, increase over the baseline",
    "kl": "KL from SFT_t, nats a response",
}
SIGNED = ("reward", "quality")
MOST_POINTS = 14  # of a best-of-k curve
MOST_CELLS = 150  # beyond this a table with a row a cell is no longer read; the heat maps have its numbers


def encode_panels(matrix: Matrix) -> list[dict[str, Json]]:
    """All panels in the matrix's order, colours of one measure alike in all of them."""
    pairs = [(block, panel) for block in matrix.blocks for panel in block.panels]
    tables = [_sorted(block, panel) for block, panel in pairs]
    scales = _scales([found["maps"] for found in tables])
    panels = []
    for (_, panel), found in zip(pairs, tables, strict=True):
        encoded = {section: [_encode(table, panel, scales) for table in found[section]] for section in found}
        panels.append(
            {
                "axes": panel.axes,
                "title": panel_title(panel),
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


def _sorted(block: Block, panel: Panel) -> dict[str, list[Table]]:
    """The report's tables by section; measures a cell become heat maps."""
    found: dict[str, list[Table]] = {name: [] for name in (*SECTIONS.values(), "measures")}
    for table in panel_tables(block, panel):
        section = next((name for start, name in SECTIONS.items() if table.title.startswith(start)), "measures")
        if table.title.startswith("Beside the win rates") and table.brief != (len(panel.entries) > MOST_CELLS):
            continue  # means over targets of a large matrix, a row a cell of a small one
        found[section].append(table)
    found["maps"] += _measure_maps(block, panel)
    return found


def _measure_maps(block: Block, panel: Panel) -> list[Table]:
    """Source minus best, and every measure there is, as source x target tables."""
    controls = [control for control in block.controls if belongs(panel_key(control.axes), panel_key(panel.axes))]
    maps = []
    if any(entry.versus_best for entry in panel.entries):
        maps.append(by_entry("Source minus best source, points, paired by prompt", panel, [], _versus_best))
    for name, title in TITLES.items():
        if not any(_there(entry, name) for entry in panel.entries):
            continue
        table = by_entry(title, panel, controls, _measured(name))
        cells = [measure_cell(opponent, name, True) for opponent in _opponents(panel)]
        if any(cell.text for cell in cells):
            table.rows.append(("baseline", cells))
        maps.append(table)
    return maps


def _there(entry: Entry, name: str) -> bool:
    return bool(measure_cell(entry, name, False).text)


def _measured(name: str) -> Callable[[Entry], Cell]:
    return lambda entry: measure_cell(entry, name, True)


def _versus_best(entry: Entry) -> Cell:
    return Cell(BEST, look="quiet", home=entry.home) if entry.best else difference_cell(entry.versus_best)


def _opponents(panel: Panel) -> list[Opponent]:
    found = {opponent.target: opponent for opponent in panel.opponents}
    nothing = Opponent("", None, None, None, None)
    return [found.get(target, nothing) for target in panel.targets]


def _scales(maps: Sequence[Sequence[Table]]) -> dict[str, Scale | None]:
    """What the colours of each title mean, over all panels."""
    by_title: dict[str, list[Table]] = {}
    for table in (table for tables in maps for table in tables):
        by_title.setdefault(table.title, []).append(table)
    return {title: _scale(title, tables) for title, tables in by_title.items()}


def _scale(title: str, tables: Sequence[Table]) -> Scale | None:
    if "minus" in title:
        return diverging(tables, 0.0)
    if "Win rate" in title or "win rate" in title or "AUC" in title or "accuracy" in title or "Agreement" in title:
        return diverging(tables, CHANCE)
    signed = [TITLES[name] for name in SIGNED]
    if title in signed:
        reach = max(
            (abs(x) for t in tables for _, row in t.rows for c in row if c.exact for x in [c.exact.value]), default=0
        )
        return {"middle": 0.0, "reach": round(reach, 6)} if reach else None
    return sequential(tables)


def _encode(table: Table, panel: Panel, scales: Mapping[str, Scale | None]) -> dict[str, Json]:
    """With the number of leading rows that are sources and of columns that are targets: what a filter hides."""
    plain = [label.rstrip("†") for label, _ in table.rows]
    sources = len(panel.sources) if plain[: len(panel.sources)] == panel.sources else 0
    columns = [column.rstrip("†") for column in table.columns]
    targets = len(panel.targets) if columns[: len(panel.targets)] == panel.targets else 0
    scale = scales[table.title] if table.title in scales else _scale_alone(table) if targets else None
    short = next((MEASURES[name][0] for name, title in TITLES.items() if title == table.title), "")
    return encode_table(table, scale, sources=sources, targets=targets, short=short)


def encode_across(matrix: Matrix) -> list[dict[str, Json]]:
    """Tables that compare panels: those with a row an optimizer or a pair of judges first."""
    tables = comparison_tables(matrix)
    tables.sort(key=lambda table: not table.title.startswith(("Optimizers", "Agreement")))
    return [
        encode_table(table, None if table.title.startswith("Optimizers") else _scale(table.title, [table]))
        for table in tables
    ]


def _scale_alone(table: Table) -> Scale | None:
    known = any(word in table.title for word in ("minus", "in rate", "accuracy", "AUC", "Agreement"))
    return _scale(table.title, [table]) if known else None


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
