"""Tables of the report as compact JSON: the texts of the terminal, and the full numbers that they were written from.

A table of R rows and C columns has flat lists of R x C, row after row: `text`, `span`, and `value`, `low`, `high`
(null where there is none), six decimals as in matrix.json. `look` has a letter a cell: the first of plain, above,
below, hole or quiet; in upper case for home. `marks` and `numbered` stand around the text, where any cell has one.
`scale` says what the colours mean, or is null for a table without.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xling.report.tables.table import Cell, Table

Json = Any


def encode_table(table: Table, scale: Json = None, **more: Json) -> dict[str, Json]:
    """A table; `more` stands beside or instead.

    `sources` and `targets` say how many of its leading rows and columns are languages that a filter may hide.
    """
    cells = [cell for _, row in table.rows for cell in row]
    encoded: dict[str, Json] = {
        "sources": 0,
        "targets": 0,
        "name": table.name,
        "title": table.title,
        "tab": table.tab,
        "corner": table.corner,
        "columns": table.columns,
        "rows": [label for label, _ in table.rows],
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
    return encoded | more


def exact(number: float | None) -> float | None:
    """As in matrix.json."""
    return None if number is None else round(number, 6) + 0.0


def _look(cell: Cell) -> str:
    letter = cell.look[:1] or "p"
    return letter.upper() if cell.home else letter


def encode_scales(tables: Sequence[Table]) -> dict[str, Json]:
    """What the colours of each table mean, by name: one scale for tables of one name, so that panels can be compared.

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


def everywhere(value: Json, change: Callable[[str], str]) -> Json:
    """JSON with every text in it changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): everywhere(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [everywhere(item, change) for item in value]
    return value
