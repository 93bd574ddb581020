"""Tables of the report as compact JSON: the texts of the terminal, and the full numbers that they were written from.

A table of R rows and C columns has flat lists of R x C, row after row: `text`, `span`, and `value`, `low`, `high`
(null where there is none), six decimals as in matrix.json. `look` has a letter a cell: the first of plain, above,
below, hole or quiet; in upper case for home. `scale` says what the colours mean, or is null for a table without.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xling.report.tables.table import Cell, Table

Json = Any
Scale = Mapping[str, Any]
LEAST_REACH = 10.0  # points around the middle that the colours span at least, so that noise looks pale


def encode_table(table: Table, scale: Scale | None = None, **more: Json) -> dict[str, Json]:
    """A table; `more` stands beside or instead.

    `sources` and `targets` say how many of its leading rows and columns are languages that a filter may hide.
    """
    cells = [cell for _, row in table.rows for cell in row]
    encoded: dict[str, Json] = {
        "sources": 0,
        "targets": 0,
        "title": table.title,
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
    for name in ("value", "low", "high"):
        numbers = [None if cell.exact is None else exact(getattr(cell.exact, name)) for cell in cells]
        if any(number is not None for number in numbers):
            encoded[name] = numbers
    return encoded | more


def exact(number: float | None) -> float | None:
    """As in matrix.json."""
    return None if number is None else round(number, 6) + 0.0


def _look(cell: Cell) -> str:
    letter = cell.look[:1] or "p"
    return letter.upper() if cell.home else letter


def diverging(tables: Sequence[Table], middle: float, least: float = LEAST_REACH) -> Scale | None:
    """One scale for tables that are to be compared: as far below the middle as above."""
    reach = max([least, *(abs(number - middle) for number in _numbers(tables))])
    return {"middle": middle, "reach": round(reach, 6)} if reach else None


def sequential(tables: Sequence[Table]) -> Scale | None:
    """From the smallest to the largest number; nothing where all are equal."""
    numbers = _numbers(tables)
    if not numbers or min(numbers) == max(numbers):
        return None
    return {"low": round(min(numbers), 6), "high": round(max(numbers), 6)}


def _numbers(tables: Sequence[Table]) -> list[float]:
    return [cell.exact.value for table in tables for _, row in table.rows for cell in row if cell.exact is not None]


def everywhere(value: Json, change: Callable[[str], str]) -> Json:
    """JSON with every text in it changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): everywhere(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [everywhere(item, change) for item in value]
    return value
