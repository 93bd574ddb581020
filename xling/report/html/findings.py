"""Any Finding as a table of the page: numbers with their intervals in one column, the rest as it is."""

import math
from typing import Any

import pandas as pd

from xling.analysis.findings import Finding
from xling.report.html.encode import Json, exact

MOST_ROWS = 400  # that are shown; how many there are is said


def encode_finding(finding: Finding) -> dict[str, Json]:
    """Columns and cells: `x`, `x_low` and `x_high` are one column x."""
    table = finding.table
    names = [str(name) for name in table.columns]
    ends = {f"{name}{end}" for name in names for end in ("_low", "_high") if _has_interval(name, names)}
    kept = [name for name in names if name not in ends]
    columns = [_column(table, name, f"{name}_low" in ends) for name in kept]
    return {
        "name": finding.name,
        "title": finding.title,
        "note": finding.note,
        "left_out": list(finding.left_out),
        "columns": [name.replace("_", " ") for name in kept],
        "numeric": [pd.api.types.is_numeric_dtype(table[name]) for name in kept],
        "rows": [list(row) for row in zip(*columns, strict=True)][:MOST_ROWS],
        "total": len(table),
    }


def _has_interval(name: str, names: list[str]) -> bool:
    return f"{name}_low" in names and f"{name}_high" in names


def _column(table: pd.DataFrame, name: str, interval: bool) -> list[Json]:
    """[text, span, value] of numbers, else the text alone."""
    values = table[name].tolist()
    if not pd.api.types.is_numeric_dtype(table[name]) or pd.api.types.is_bool_dtype(table[name]):
        return ["" if value is None or value is pd.NA or value != value else str(value) for value in values]
    digits = _digits(values)
    lows = table[f"{name}_low"].tolist() if interval else [None] * len(values)
    highs = table[f"{name}_high"].tolist() if interval else [None] * len(values)
    return [
        [_text(v, digits), _between(low, high, digits), None if _missing(v) else exact(float(v))]
        for v, low, high in zip(values, lows, highs, strict=True)
    ]


def _digits(values: list[Any]) -> int:
    """None for counts, one for percents, three for shares and coefficients."""
    there = [float(value) for value in values if not _missing(value)]
    if all(value == int(value) for value in there if math.isfinite(value)):
        return 0
    return 1 if max(map(abs, there)) >= 10 else 3 if max(map(abs, there)) <= 1 else 2


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or not math.isfinite(float(value))


def _text(value: Any, digits: int) -> str:
    return "" if _missing(value) else f"{float(value):.{digits}f}"


def _between(low: Any, high: Any, digits: int) -> str:
    if _missing(low) or _missing(high):
        return ""
    return f"{_text(low, digits)}{'..' if float(low) < 0 else '-'}{_text(high, digits)}"
