"""How numbers and names are written, the same in the terminal, in Markdown and in the plot."""

from xling.analysis.matrix.types import Count, Entry, Matrix, Panel
from xling.analysis.statistics.intervals import MOST_PROMPTS, MOST_SEEDS, Difference, Estimate


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
    """What would settle a difference, in a word: so many more for a power of 80 %."""
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
    """`cells abroad ... (20 by point estimate; 2 not there)`"""
    remarks = [] if count.by_value is None else [f"{count.by_value} by point estimate"]
    remarks += [] if count.planned == count.of else [f"{count.planned - count.of} not there"]
    return count.text + (f" ({'; '.join(remarks)})" if remarks else "")


def task_names(matrix: Matrix) -> str:
    return ", ".join(sorted({block.axes["task"] for block in matrix.blocks}))


def mixes(matrix: Matrix) -> list[str]:
    """What differs between the results of one grid and may decide bits: code, devices, threads."""
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
