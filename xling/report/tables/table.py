"""Cells of tables, with a value, an interval, marks and a look, the same for every medium.

Below: how numbers and names are written in them.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from xling.analysis.matrix.types import Count, Entry, Matrix, Panel, Scale
from xling.analysis.statistics.decisions import MOST_PROMPTS, MOST_SEEDS, Difference
from xling.analysis.statistics.intervals import Estimate

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


def number_cell(
    estimate: Estimate | None,
    digits: int = 1,
    *,
    level: float | None = None,
    look: Look = "",
    home: bool = False,
    marks: str = "",
    note: str = "",
) -> Cell:
    """A number with its interval; empty where there is none. level: look above or below, by its interval."""
    if estimate is None:
        return Cell()
    if level is not None:
        look = "above" if estimate.above(level) else "below" if estimate.below(level) else ""
    return Cell(f"{estimate.value:.{digits}f}", span(estimate, digits), look, home, estimate, marks, note)


def difference_cell(difference: Difference | None) -> Cell:
    """A signed difference, starred where it is settled."""
    if difference is None:
        return Cell()
    estimate = difference.estimate
    star = SETTLED if difference.settled else ""
    return replace(
        number_cell(estimate, level=0.0, marks=star), text=f"{estimate.value:+.1f}", span=signed_span(estimate)
    )


# --- numbers and names in words ---------------------------------------------------------------------------


def span(estimate: Estimate | None, digits: int = 1) -> str:
    """The interval alone: `50.1-54.4`, or `-0.3..0.2` where a bound is negative."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    between = ".." if estimate.low < 0 else "-"
    return f"{estimate.low:.{digits}f}{between}{estimate.high:.{digits}f}"


def signed_span(estimate: Estimate | None) -> str:
    """The interval of a difference: `-1.2..+0.4`."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:+.1f}..{estimate.high:+.1f}"


def needed(difference: Difference) -> str:
    """In a word, how many more samples would settle a difference with a power of 80 %."""
    if difference.settled:
        return "settled"
    for name in ("identical", "level"):
        if getattr(difference, name):
            return name
    if difference.unknown:
        return "no interval"
    if difference.more is None:
        return f"> {MOST_PROMPTS:,} prompts" if difference.more_unit == "prompts" else f"> {MOST_SEEDS:,} seeds"
    return f"+{difference.more:,} {difference.more_unit[:-1] if difference.more == 1 else difference.more_unit}"


def count_text(count: Count) -> str:
    """`cells abroad ... (20 by point estimate; 4 below; 2 not there)`"""
    remarks = [] if count.by_value is None else [f"{count.by_value} by point estimate"]
    remarks += [] if count.below is None else [f"{count.below} below"]
    remarks += [] if count.planned == count.of else [f"{count.planned - count.of} not there"]
    return count.text + (f" ({'; '.join(remarks)})" if remarks else "")


def task_names(matrix: Matrix) -> str:
    return ", ".join(sorted({block.axes["task"] for block in matrix.blocks}))


def mixes(matrix: Matrix) -> list[str]:
    """Differences between the results of one grid that may change bits: code, devices, threads."""
    found = []
    for what in ("code", "devices", "threads"):
        values = matrix.provenance.get(what)
        if isinstance(values, list) and len(values) > 1:
            # a commit with `+` is one with changes that were not committed
            short = [value[:9] + "+" * value.endswith("+") if what == "code" else value for value in values]
            found.append(f"Results of this grid were made with different {what}: {', '.join(short)}.")
    return found


def hole_marks(panel: Panel) -> dict[str, int]:
    """A number for each different reason of a panel's holes and partial entries, in reading order."""
    marks: dict[str, int] = {}
    cells = panel.at()
    for source in panel.sources:
        for target in panel.targets:
            entry = cells.get((source, target))
            if entry is not None and entry.status != "done":
                marks.setdefault(hole_text(entry), len(marks) + 1)
    return marks


def hole_text(entry: Entry) -> str:
    """`blocked: sft[de] failed: ValueError: ...`; the status once."""
    return entry.status if entry.reason in ("", entry.status) else f"{entry.status}: {entry.reason}"
