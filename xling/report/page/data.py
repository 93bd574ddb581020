"""The page's data as compact JSON: the texts of the terminal, and the full numbers that they were written from.

A table of R rows and C columns has flat lists of R x C, row after row: `text`, `span`, and `value`, `low`, `high`
(null where there is none), six decimals as in matrix.json. `look` has a letter a cell: the first of plain, above,
below, hole or quiet; in upper case for home. `marks` and `numbered` stand around the text, where any cell has one.
`scale` says what the colours mean, or is null for a table without.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any, get_args

from babel import Locale
from babel.core import UnknownLocaleError

from xling.analysis.matrix.frontier import QUANTITIES
from xling.analysis.matrix.names import heading_of
from xling.analysis.matrix.types import MEASURES, Block, Entry, Frontier, Matrix, Panel
from xling.analysis.statistics.intervals import Estimate
from xling.analysis.tidy.finding import Finding
from xling.config.common import members
from xling.console import direction
from xling.report.page.about import about
from xling.report.page.stages import NAMES, TEXTS, Learning, Origin, Sample, Selection
from xling.report.tables.comparisons import comparison_tables
from xling.report.tables.findings import finding_tables, said
from xling.report.tables.panel import controls_of, measure_table, panel_tables, versus_table
from xling.report.tables.table import UNKNOWN, Cell, Section, Table, count_text, mixes, needed

Json = Any
SECTIONS: tuple[Section, ...] = get_args(Section)
MAPS = [name for name, measure in MEASURES.items() if measure.head and not measure.own_table]  # of their own
MOST_POINTS = 14  # of a best-of-k curve
MOST_CELLS = 150  # beyond this a table with a row a cell is no longer read; the heat maps have its numbers
MOST_LEFT_OUT = 3  # of an analysis that has nothing to say


@dataclass(frozen=True)
class Document:
    """Content of the page; all but the matrix may be missing."""

    matrix: Matrix
    digest: str  # of what it is drawn from
    selection: Selection = field(default_factory=lambda: Selection([], 0))
    learning: Sequence[Learning] = ()
    origin: Origin | None = None
    findings: Sequence[Finding] = ()


def encode(document: Document) -> dict[str, Json]:
    """The page's data as JSON."""
    matrix = document.matrix
    panels = _panels(matrix)
    return {
        "name": matrix.name,
        "panels": panels,
        "across": _across(matrix),
        "frontiers": [_frontier(frontier) for frontier in matrix.frontiers],
        "measures": {name: measure.title for name, measure in MEASURES.items()},
        "learning": [asdict(one) for one in document.learning],
        "learning_names": list(NAMES.items()),
        "findings": [_finding(finding) for finding in document.findings],
        "samples": _samples(document.selection),
        "origin": None if document.origin is None else asdict(document.origin),
        "warnings": mixes(matrix),
        "left_out": matrix.left_out,
        "prompts": _span(entry.win.n for entry in matrix.entries() if entry.win),
        "seeds": _span(entry.win.seeds for entry in matrix.entries() if entry.win),
        "cells": [matrix.provenance.get("cells_done"), matrix.provenance.get("cells")],
        "languages": _languages(code for panel in panels for code in (*panel["sources"], *panel["targets"])),
    }


def _span(numbers: Iterable[int]) -> str:
    """`512`, or `256 to 512`."""
    found = sorted(set(numbers))
    return " to ".join(f"{number:,}" for number in dict.fromkeys((found[0], found[-1]))) if found else ""


def _languages(codes: Iterable[str]) -> dict[str, str]:
    """Names in English, as far as there are any; of pooled sources all of them."""
    return {code: name for code in dict.fromkeys(codes) if (name := " + ".join(map(_language, members(code)))) != code}


@lru_cache(maxsize=512)
def _language(code: str) -> str:
    try:
        return Locale.parse(code.replace("-", "_")).get_display_name("en") or code
    except (ValueError, UnknownLocaleError):
        return code


def _finding(finding: Finding) -> dict[str, Json]:
    """As in the terminal and in Markdown."""
    tables = [encode_table(table) for table in finding_tables(finding)]
    return {
        "name": finding.name,
        "title": finding.title,
        "tables": tables,
        "notes": said(finding),
        "left_out": list(finding.left_out)[:MOST_LEFT_OUT],
    }


def _frontier(frontier: Frontier) -> dict[str, Json]:
    points = [
        {"arm": point.arm, "k": point.k, **{name: _three(getattr(point, name)) for name in QUANTITIES}}
        for point in frontier.points
    ]
    return {"title": heading_of(frontier.axes), "cells": frontier.cells, "points": points}


def _three(estimate: Estimate | None) -> Json:
    return None if estimate is None else [exact(number) for number in (estimate.value, estimate.low, estimate.high)]


def _samples(selection: Selection) -> dict[str, Json]:
    """Columns of samples; texts stand once, and samples have their places."""
    places: dict[str, int] = {}
    columns: dict[str, list[Json]] = {one.name: [] for one in fields(Sample)}
    for sample in selection.samples:
        for name, column in columns.items():
            value = getattr(sample, name)
            column.append(places.setdefault(value, len(places)) if name in TEXTS else value)
    return {
        **columns,
        "texts": list(places),
        "directions": "".join(direction(text)[0] for text in places),  # l, r, a
        "prompts": selection.prompts,
        "left_out": selection.left_out,
    }


# --- panels -----------------------------------------------------------------------------------------------


def _panels(matrix: Matrix) -> list[dict[str, Json]]:
    """All panels in the matrix's order, colours of one measure alike in all of them."""
    pairs = [(block, panel) for block in matrix.blocks for panel in block.panels]
    tables = [_tables(block, panel) for block, panel in pairs]
    scales = encode_scales([table for shown in tables for table in shown])
    panels = []
    for (_, panel), shown in zip(pairs, tables, strict=True):
        by_section: dict[str, list[Json]] = {section: [] for section in SECTIONS}
        for table in shown:
            by_section[table.section].append(encode_table(table, scales[table.name], panel))
        cells = panel.at()
        entries = [cells.get((source, target)) for source in panel.sources for target in panel.targets]
        panels.append(
            {
                "axes": panel.axes,
                "title": heading_of(panel.axes),
                "sources": panel.sources,
                "targets": panel.targets,
                "tables": by_section,
                # of every cell, row after row: what would settle it against home, and why it is not whole
                "needs": [needed(entry.versus_home) if entry and entry.versus_home else "" for entry in entries],
                "reasons": list(map(_reason, entries)),
                "verdicts": panel.verdicts,
                "counts": [[count.k, count.of, count_text(count)] for count in panel.counts],
                "curves": _curves(panel),
            }
        )
    return panels


def _reason(entry: Entry | None) -> str:
    if entry is None:
        return "not asked for"
    return "" if entry.status == "done" else f"{entry.status}: {entry.reason}".rstrip(": ")


def _tables(block: Block, panel: Panel) -> list[Table]:
    """The report's tables, and source minus best and every measure as heat maps."""
    left_out = "detail" if len(panel.entries) > MOST_CELLS else "brief"  # of the measures, which come at two lengths
    tables = [t for t in panel_tables(block, panel) if t.name != "beside_the_win_rates" or t.kind != left_out]
    controls = controls_of(block, panel)
    more = [versus_table(panel, "best"), *(measure_table(panel, controls, name) for name in MAPS)]
    return tables + [table for table in more if table is not None]


def _across(matrix: Matrix) -> list[dict[str, Json]]:
    """Tables that compare panels: those with a row an optimizer or a pair of judges first."""
    tables = comparison_tables(matrix)
    tables.sort(key=lambda table: table.name not in ("optimizers", "agreement_between_judges"))
    return [encode_table(table, encode_scales([table])[table.name]) for table in tables]


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


# --- tables -----------------------------------------------------------------------------------------------


def encode_table(table: Table, scale: Json = None, panel: Panel | None = None) -> dict[str, Json]:
    """`sources`, `targets`: how many leading rows and columns are languages of the panel, which a filter may hide."""
    cells = [cell for _, row in table.rows for cell in row]
    rows = [label for label, _ in table.rows]
    encoded: dict[str, Json] = {
        "sources": _leading(rows, panel.sources if panel else []),
        "targets": _leading(table.columns, panel.targets if panel else []),
        "name": table.name,
        "title": table.title,
        "tab": table.tab,
        "about": about(table.name),
        "corner": table.corner,
        "columns": table.columns,
        "rows": rows,
        "notes": table.notes,
        "breaks": sorted(table.breaks),
        "scale": scale,
        "text": [cell.text for cell in cells],
        "span": [cell.span for cell in cells],
        "look": "".join(map(_look, cells)),
    }
    for name, signs in (("marks", [cell.marks for cell in cells]), ("numbered", [cell.note for cell in cells])):
        if any(signs):
            encoded[name] = signs
    for name in ("value", "low", "high"):
        numbers = [None if cell.value is None else exact(getattr(cell.value, name)) for cell in cells]
        if any(number is not None for number in numbers):
            encoded[name] = numbers
    return encoded


def _leading(labels: Sequence[str], languages: Sequence[str]) -> int:
    plain = [label.rstrip(UNKNOWN) for label in labels[: len(languages)]]
    return len(languages) if plain == list(languages) else 0


def exact(number: float | None) -> float | None:
    """As in matrix.json."""
    return None if number is None else round(number, 6) + 0.0


def _look(cell: Cell) -> str:
    letter = cell.look[:1] or "p"
    return letter.upper() if cell.home else letter


def encode_scales(tables: Sequence[Table]) -> dict[str, Json]:
    """Colour scales of tables by name: one scale for tables of one name, so that panels can be compared.

    As far below the middle as above; or from the smallest to the largest number, nothing where all are equal.
    """
    by_name: dict[str, list[Table]] = {}
    for table in tables:
        by_name.setdefault(table.name, []).append(table)
    return {name: _scale(own) for name, own in by_name.items()}


def _scale(tables: Sequence[Table]) -> Json:
    scale = tables[0].scale
    numbers = [cell.value.value for table in tables for _, row in table.rows for cell in row if cell.value is not None]
    if scale is None or not numbers:
        return None
    if scale.middle is None:
        low, high = min(numbers), max(numbers)
        return None if low == high else {"low": round(low, 6), "high": round(high, 6)}
    reach = max([scale.least, *(abs(number - scale.middle) for number in numbers)])
    return {"middle": scale.middle, "reach": round(reach, 6)} if reach else None
