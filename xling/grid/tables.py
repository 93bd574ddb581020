"""The grid's tables in the terminal: the plan before it runs, and how it ended."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from xling.grid.status import STATES

if TYPE_CHECKING:
    from xling.grid.cleanup import Garbage
    from xling.grid.estimate import Estimate
    from xling.grid.outcome import Outcome
    from xling.grid.plan import Plan
    from xling.grid.status import GridStatus, Row
    from xling.grid.store import Store

SHOWN = 20  # rows of a list before it is cut


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `5 h 12 min`."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds >= 0.01 else "<0.01 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 6000:
        return f"{round(minutes / 60):,} h"
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def plan_table(plan: "Plan", workers: int) -> RenderableType:
    title = f"{escape(plan.name)}: {len(plan.cells)} cells, {len(plan.steps)} stages"
    table = Table(title=title, title_justify="left")
    for column, justify in (("stage", "left"), ("count", "right"), ("cached", "right"), ("to run", "right"),
                            ("not run", "right"), ("est. time", "right"), ("why", "left")):  # fmt: skip
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    reasons = _reasons(plan)
    for kind, states in plan.count().items():
        estimate = plan.estimates[kind]
        time = duration(estimate.seconds * states["run"]) + _certainty(estimate)
        rest = states["failed"] + states["blocked"] + states["missing"]
        table.add_row(kind, str(states.total()), str(states["cached"]), str(states["run"]), str(rest or ""),
                      time if states["run"] else "", reasons[kind])  # fmt: skip
    cost = [*_cost(plan, workers), *_units(plan)] if plan.to_run else ["Nothing to run."]
    return Group(table, *cost, *_notes(plan))


def _few(number: float) -> str:
    """`1,234`, `12`, `0.45`."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _units(plan: "Plan") -> Iterable[RenderableType]:
    """What the stages to run come to, as people count it; a dry run's alone."""
    rows = [(kind, {what: count for what, count in e.units.items() if count}) for kind, e in plan.estimates.items()]
    if not any(units for _, units in rows):
        return
    grid = Table.grid(padding=(0, 1))
    for kind, units in rows:
        if units:
            grid.add_row(f"  {kind}", ", ".join(f"{count:,} {what}" for what, count in units.items()))
    yield "To run, in units:"
    yield grid


def _certainty(estimate: "Estimate") -> str:
    return "" if estimate.recorded else " *" if estimate.modelled else " ?"


def _cost(plan: "Plan", workers: int) -> Iterable[str]:
    """What the whole takes, and how that is known."""
    total, wall = plan.cost(workers)
    found = [estimate for kind, estimate in plan.estimates.items() if plan.count()[kind]["run"]]
    guessed = any(not (estimate.recorded or estimate.modelled) for estimate in found)
    yield f"Work: {duration(total)}; about {duration(wall)} with {workers} worker{'s' * (workers > 1)}." + (
        "  (? = guessed: no run of the kind is recorded yet)" if guessed else ""
    )
    modelled = [(kind, e) for kind, e in plan.estimates.items() if e.modelled]
    if modelled and plan.rates:
        hours = sum(estimate.seconds * plan.count()[kind]["run"] for kind, estimate in modelled) / 3600
        flops, shares = sum(estimate.flops for _, estimate in modelled), plan.rates.utilisation.items()
        yield (
            f"* = by its work: {flops:.3g} FLOP, {_few(hours)} GPU hours at {plan.rates.flops_per_second:.3g} FLOP/s, "
            f"of which {', '.join(f'{sort} gets {share:.0%}' for sort, share in shares)} (cost.*; docs/paper.md)"
        )


def _reasons(plan: "Plan") -> dict[str, str]:
    """The most frequent reasons of each kind with their counts."""
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in plan.estimates}
    for step in plan.steps.values():
        if step.reason:
            counts[step.stage.kind][step.reason] += 1
    return {kind: _summary(reasons) for kind, reasons in counts.items()}


def _summary(reasons: Counter[str]) -> str:
    if len(reasons) == 1:
        return escape(next(iter(reasons)))
    shown = [f"{escape(reason)} ({count})" for reason, count in reasons.most_common(3)]
    rest = len(reasons) - len(shown)
    return "\n".join(shown + [f"and {rest} other reason{'s' if rest > 1 else ''}"] * (rest > 0))


def _notes(plan: "Plan") -> Iterable[str]:
    for warning in plan.warnings:
        yield f"[yellow]Warning:[/yellow] {escape(warning)}"
    if plan.left_out:
        yield f"Left out ({len(plan.left_out)}):"
        for row in plan.left_out[:SHOWN]:
            axes = ", ".join(f"{name}={value}" for name, value in row.get("axes", {}).items())
            yield escape(f"  {axes}: {row.get('reason', '')}")
        if len(plan.left_out) > SHOWN:
            yield f"  and {len(plan.left_out) - SHOWN} more (plan.json has all)"


def outcome_table(outcome: "Outcome") -> RenderableType:
    """Done, failed, blocked, not run by kind; then each failure with its last line and its log."""
    title = f"{escape(outcome.name)}: {outcome.summary()}"
    if not outcome.executed and not outcome.failures and not outcome.interrupted:
        return title
    table = Table(title=title, title_justify="left")
    table.add_column("stage")
    for column in ("ran", "cached", "failed", "blocked", "not run", "work"):
        table.add_column(column, justify="right")
    for kind, states in outcome.count().items():
        numbers = (states[state] for state in ("done", "cached", "failed", "blocked", "not run"))
        work = outcome.work.get(kind, 0.0)
        table.add_row(kind, *(str(number or "") for number in numbers), duration(work) if work else "")
    return Group(table, *_failures(outcome))


def _failures(outcome: "Outcome") -> Iterable[RenderableType]:
    if not outcome.failures:
        return
    for failed in outcome.failures[:SHOWN]:
        yield f"[red]{failed.index:5d} {escape(failed.label)}[/red]: {escape(failed.last)}"
        yield Text(f"      log: {failed.log}")
    if len(outcome.failures) > SHOWN:
        yield f"and {len(outcome.failures) - SHOWN} more: `xling status` lists them."
    yield "The same command again runs what is left; `xling logs INDEX` shows a log."


def status_table(status: "GridStatus", store: "Store", every: bool = False) -> RenderableType:
    """Stages by kind and state; then what runs and what failed, or with `every` all stages, by index."""
    rows = status.rows if every else status.having("running", "failed", "damaged", "unreadable")
    return Group(count_table(status), *(line for row in rows for line in _status_lines(row, store)))


def count_table(status: "GridStatus") -> RenderableType:
    """Stages by kind and state."""
    states = [state for state in STATES if any(count[state] for count in status.count().values())]
    cells = status.cells()
    table = Table()
    table.add_column("stage")
    for state in states:
        table.add_column(state, justify="right")
    for kind, count in status.count().items():
        table.add_row(kind, *(str(count[state] or "") for state in states))
    # not the table's own title, which is broken to the width of the table
    return Group(Text(f"{status.plan.name}: {cells['done']} of {cells.total()} cells done", style="italic"), table)


def _status_lines(row: "Row", store: "Store") -> Iterable[Text]:
    yield Text(f"{row.index:5d}  {row.state:8s}{row.stage.label}" + (f": {row.note}" if row.note else ""))
    if row.state == "failed":
        yield Text(f"       log: {store.log(row.stage.kind, row.stage.key)}")


def garbage_lines(items: Sequence["Garbage"], root: Path) -> Iterable[str]:
    """Size, age, stage, why and where; then their sum."""
    for item in items:
        what = f"{item.label or '-':28s} ({item.why})"
        yield escape(f"{size(item.size):>10s}  {age(item.modified):>4s}  {what}  {item.path.relative_to(root)}")
    if items:
        yield f"{size(sum(item.size for item in items)):>10s}  in {len(items)} items"


def age(since: float) -> str:
    """`5 s`, `12 min`, `3 h`, `40 d`."""
    seconds = max(0.0, time.time() - since)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: int) -> str:
    """`512 B`, `1.5 MB`: powers of 1000."""
    amount, units = float(count), ["B", "kB", "MB", "GB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" else f"{amount:.1f} {units[0]}"
