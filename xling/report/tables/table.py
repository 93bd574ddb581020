"""What tables are made of: cells with a value, an interval and a look, the same for every medium."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xling.analysis.matrix.types import Control, Entry, Panel
from xling.analysis.statistics.intervals import Difference, Estimate
from xling.report.tables.wording import signed_span, span

HOME, BEST, TIED, SETTLED, UNKNOWN = "◆", "▲", "△", "*", "†"

Look = Literal["", "above", "below", "hole", "quiet"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, its interval, and how it looks: above or below what it is compared with, a hole, or plain."""

    text: str = ""
    span: str = ""
    look: Look = ""
    home: bool = False
    exact: Estimate | None = field(default=None, compare=False)  # the numbers that text and span were written from


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str] = field(default_factory=list)
    breaks: frozenset[int] = frozenset()  # rows that begin a new section
    detail: bool = False  # for whoever asks for more: not in the terminal's first view
    brief: bool = False  # of the terminal's first view only: another table says the same at length
    whole: bool = False  # shown however wide it is: the matrix itself
    shared: bool = False  # says nothing of the optimizer: shown once if several panels have it


def against(estimate: Estimate, level: float) -> Look:
    """Which side of a level the whole interval is on."""
    return "above" if estimate.above(level) else "below" if estimate.below(level) else ""


def quiet_cell(estimate: Estimate | None) -> Cell:
    """A value for comparison."""
    return Cell() if estimate is None else Cell(f"{estimate.value:.1f}", span(estimate), "quiet", exact=estimate)


def difference_cell(difference: Difference | None) -> Cell:
    """A signed difference, starred where it is settled."""
    if difference is None:
        return Cell("")
    estimate = difference.estimate
    star = SETTLED if difference.settled else ""
    return Cell(f"{estimate.value:+.1f}{star}", signed_span(estimate), against(estimate, 0.0), exact=estimate)


def by_entry(
    title: str, panel: Panel, controls: Sequence[Control], cell: Callable[[Entry], Cell], detail: bool = False
) -> Table:
    """Sources and then controls down, targets across."""
    cells = panel.at()
    rows = []
    for source in panel.sources:
        entries = [cells.get((source, target)) for target in panel.targets]
        rows.append((source, [cell(entry) if entry else Cell() for entry in entries]))
    breaks = frozenset({len(rows)})
    for control in controls:
        own = {entry.target: entry for entry in control.entries}
        rows.append((control.name, [cell(own[t]) if t in own else Cell() for t in panel.targets]))
    return Table(title, "source", list(panel.targets), rows, [], breaks, detail)
