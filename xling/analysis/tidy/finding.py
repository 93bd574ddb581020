"""Result of an analysis: a tidy table with its title and notes.

Every analysis is a pure function from tidy tables (pandas) to one of these; every report (terminal, Markdown, HTML,
LaTeX) shows any of them. A tidy table has a row an observation and a column a variable: `source_lang`, `target_lang`,
`optimizer`, `judge` and other axes as text, then numbers. A statistic x has its 95 % interval in `x_low` and `x_high`
(NaN: none could be made), and `n` says over how many observations it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from xling.analysis.statistics.intervals import Estimate

Row = dict[str, Any]  # of a tidy table
Place = tuple[tuple[str, str], ...]  # all axes of an entry but the seeds
MOST_NAMED = 6


@dataclass(frozen=True)
class Finding:
    """One table for people and for machines."""

    name: str  # stands in file names and anchors: source_ranking
    title: str  # a line
    table: pd.DataFrame
    note: str = ""  # how it was made (formula or paper section), and over what
    left_out: tuple[str, ...] = ()  # holes: what is not in it and why, a sentence each
    # (rows, columns, value): how people see it, a table for every panel; rows "": one table whose rows are the panels
    compact: tuple[str, str, str] | None = None


def is_home(source: str, target: str) -> bool:
    """Trained on the target's own feedback and on nothing else."""
    return source == target


def place_of(axes: Mapping[str, str]) -> Place:
    """The name of an entry: an empty axis is one that it does not have."""
    return tuple(sorted((axis, value) for axis, value in axes.items() if value))


def some(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    there = list(dict.fromkeys(names))
    rest = len(there) - MOST_NAMED
    return ", ".join(there[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


# --- rows -------------------------------------------------------------------------------------------------


def spread(*names: str) -> list[str]:
    """The columns of statistics with intervals: x -> x, x_low, x_high."""
    return [f"{name}{end}" for name in names for end in ("", "_low", "_high")]


def with_ends(name: str, value: float, ends: tuple[float | None, float | None]) -> Row:
    """The columns of a value and its interval; NaN where an end could not be made."""
    return dict(zip(spread(name), (np.nan if number is None else number for number in (value, *ends)), strict=True))


def columns_of(name: str, estimate: Estimate | None) -> Row:
    """The columns of an estimate; NaN where there is none."""
    ends = (np.nan, np.nan) if estimate is None else (estimate.low, estimate.high)
    return with_ends(name, np.nan if estimate is None else estimate.value, ends)
