"""What tables are made of: cells with a value, an interval, marks and a look, the same for every medium."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xling.analysis.matrix.types import Control, Entry, Panel, Scale
from xling.analysis.statistics.intervals import Difference, Estimate
from xling.report.tables.wording import signed_span, span

HOME, BEST, TIED, SETTLED, UNKNOWN = "◆", "▲", "△", "*", "†"

Look = Literal["", "above", "below", "hole", "quiet"]
Section = Literal["maps", "rewards", "controls", "judges", "curves", "measures", "across"]
# matrix: shown however wide it is; detail: not in the terminal's first view; brief: in that view only, since another
# table says the same at length
Kind = Literal["", "matrix", "detail", "brief"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as it is written, its interval, and how it looks: above or below what it is compared with, a hole."""

    text: str = ""
    span: str = ""
    look: Look = ""
    home: bool = False
    value: Estimate | None = field(default=None, compare=False)  # the numbers that text and span were written from
    marks: str = ""  # of HOME, BEST, TIED and SETTLED
    note: str = ""  # `(1)`: the number of a reason; `(3/4)`: how many entries a mean is over

    @property
    def shown(self) -> str:
        """`◆71.3▲(1)`"""
        home = HOME if HOME in self.marks else ""
        return f"{home}{self.text}{self.marks.replace(HOME, '')}{self.note}"


@dataclass(frozen=True, slots=True)
class Table:
    """`name` is what it is found by and what its file is called; `title` is for people, and may be any text."""

    name: str
    title: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str] = field(default_factory=list)
    breaks: frozenset[int] = frozenset()  # rows that begin a new section
    section: Section = "measures"  # of the page
    scale: Scale | None = None  # what colours of its cells mean; None: it has none
    kind: Kind = ""
    shared: bool = False  # says nothing of the optimizer: shown once if several panels have it
    tab: str = ""  # a short title, as of a tab of the page


def against(estimate: Estimate, level: float) -> Look:
    """Which side of a level the whole interval is on."""
    return "above" if estimate.above(level) else "below" if estimate.below(level) else ""


def quiet_cell(estimate: Estimate | None) -> Cell:
    """A value for comparison."""
    return Cell() if estimate is None else Cell(f"{estimate.value:.1f}", span(estimate), "quiet", value=estimate)


def difference_cell(difference: Difference | None) -> Cell:
    """A signed difference, starred where it is settled."""
    if difference is None:
        return Cell()
    estimate = difference.estimate
    star = SETTLED if difference.settled else ""
    return Cell(f"{estimate.value:+.1f}", signed_span(estimate), against(estimate, 0.0), value=estimate, marks=star)


def by_source(panel: Panel, cell: Callable[[str, str], Cell]) -> list[tuple[str, list[Cell]]]:
    """Rows of a table: sources down, targets across."""
    return [(source, [cell(source, target) for target in panel.targets]) for source in panel.sources]


def by_entry(panel: Panel, controls: Sequence[Control], cell: Callable[[Entry], Cell]) -> list[tuple[str, list[Cell]]]:
    """Rows of a table: sources and then controls down, targets across; nothing where there is no entry."""
    entries = panel.at()

    def of(entry: Entry | None) -> Cell:
        return cell(entry) if entry else Cell()

    rows = by_source(panel, lambda source, target: of(entries.get((source, target))))
    for control in controls:
        own = {entry.target: entry for entry in control.entries}
        rows.append((control.name, [of(own.get(target)) for target in panel.targets]))
    return rows
