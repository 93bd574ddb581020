"""What a running grid shows on stderr: bars on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from xling.console import SHOWN, Console, duration, harmless
from xling.grid.stage import Cell

PLAIN_SECONDS = 2.0  # at most one line about finished stages in this time
LIVE_SECONDS = 0.25


class Display(Protocol):
    """`tick` is called often and shows what has changed; the others only note it, except failures."""

    def started(self, label: str) -> None: ...
    def progress(self, label: str, done: int, total: int) -> None: ...
    def finished(self, label: str, seconds: float | None) -> None: ...
    def waits(self, label: str) -> None: ...
    def failed(self, label: str, last: str) -> None: ...
    def say(self, text: str) -> None: ...
    def tick(self, left: int) -> None: ...
    def close(self) -> None: ...


def display_for(total: int, show: bool) -> Display:
    if not show:
        return Silent()
    console = Console(stderr=True)
    return Live(console, total) if console.is_terminal else Plain(total)


class Silent:
    def started(self, label: str) -> None: ...
    def progress(self, label: str, done: int, total: int) -> None: ...
    def finished(self, label: str, seconds: float | None) -> None: ...
    def waits(self, label: str) -> None: ...
    def failed(self, label: str, last: str) -> None: ...
    def say(self, text: str) -> None: ...
    def tick(self, left: int) -> None: ...
    def close(self) -> None: ...


class Plain:
    """Lines for logs: every failure, and the latest finished stage every few seconds."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._latest = ""
        self._next = 0.0

    def started(self, label: str) -> None: ...

    def progress(self, label: str, done: int, total: int) -> None: ...

    def finished(self, label: str, seconds: float | None) -> None:
        self._latest = f"{label} done" + ("" if seconds is None else f" in {duration(seconds)}")

    def waits(self, label: str) -> None: ...

    def failed(self, label: str, last: str) -> None:
        self.say(f"{label} FAILED: {last}")

    def say(self, text: str) -> None:
        print(harmless(text), file=sys.stderr, flush=True)

    def tick(self, left: int) -> None:
        if self._latest and (time.monotonic() >= self._next or not left):
            self._next = time.monotonic() + PLAIN_SECONDS
            self.say(f"{self._latest} ({self._total - left} of {self._total} stages)")
            self._latest = ""

    def close(self) -> None: ...


class Live:
    """A bar for the grid and one for each running stage. Refreshed by `tick`, not by a thread."""

    def __init__(self, console: Console, total: int) -> None:
        self._total = total
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, auto_refresh=False, transient=True,
        )  # fmt: skip
        self._grid = self._bars.add_task("stages", total=total)
        self._stages: dict[str, TaskID] = {}
        self._next = 0.0
        self._bars.start()

    def started(self, label: str) -> None:
        if label not in self._stages:
            self._stages[label] = self._bars.add_task(escape(label), total=None)

    def progress(self, label: str, done: int, total: int) -> None:
        self.started(label)
        self._bars.update(self._stages[label], completed=done, total=total)

    def finished(self, label: str, seconds: float | None) -> None:
        if label in self._stages:
            self._bars.remove_task(self._stages.pop(label))

    def waits(self, label: str) -> None:
        self.finished(label, None)

    def failed(self, label: str, last: str) -> None:
        self.finished(label, None)
        self._bars.console.print(f"[red]{escape(label)} failed:[/red] {escape(last)}", highlight=False)

    def say(self, text: str) -> None:
        self._bars.console.print(escape(text), highlight=False)

    def tick(self, left: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LIVE_SECONDS
            self._bars.update(self._grid, completed=self._total - left)
            self._bars.refresh()

    def close(self) -> None:
        self._bars.stop()


# --- How a run of a plan ended: a state for every stage and cell, the failures, the exit code -------------

End = Literal["done", "cached", "failed", "blocked", "not run"]


@dataclass(frozen=True, slots=True)
class Failed:
    index: int  # of the stage in the plan
    label: str
    last: str
    log: str


@dataclass(frozen=True)
class Outcome:
    """`done` ran in this run; `cached` was there, or another runner made it meanwhile."""

    name: str
    cells: Sequence[Cell]
    stages: Mapping[str, tuple[str, End]]  # key -> kind, end
    failures: Sequence[Failed]
    work: Mapping[str, float]  # kind -> seconds inside stage functions
    seconds: float  # wall
    workers: int
    interrupted: int = 0  # the signal that stopped the run, 0 if none

    @property
    def executed(self) -> dict[str, int]:
        """How many stages of each kind this run executed with success."""
        return dict(Counter(kind for kind, end in self.stages.values() if end == "done"))

    def count(self) -> dict[str, Counter[End]]:
        counts: dict[str, Counter[End]] = {}
        for kind, end in self.stages.values():
            counts.setdefault(kind, Counter())[end] += 1
        return counts

    def cell_ends(self) -> Counter[End]:
        return Counter(self.stages[cell.stage.key][1] for cell in self.cells)

    @property
    def exit_code(self) -> int:
        """0: every cell is there; 1: some are not; 128 + signal: interrupted."""
        if self.interrupted:
            return 128 + self.interrupted
        ends = self.cell_ends()
        return 0 if ends["done"] + ends["cached"] == len(self.cells) and not self.failures else 1

    def summary(self) -> str:
        ends = self.cell_ends()
        parts = [f"{ends['done'] + ends['cached']} of {len(self.cells)} cells done"]
        parts += [f"{ends[end]} {end}" for end in ("failed", "blocked", "not run") if ends[end]]
        stopped = "; stopped by the user" if self.interrupted else ""
        ran = sum(self.executed.values())
        return f"{', '.join(parts)}{stopped} ({ran} stages ran in {self.seconds:.1f} s)"

    def print(self, console: Console | None = None) -> None:
        (console or Console(stderr=True, soft_wrap=True)).print(outcome_table(self))


# --- how it ended -----------------------------------------------------------------------------------------


def outcome_table(outcome: Outcome) -> RenderableType:
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


def _failures(outcome: Outcome) -> Iterable[RenderableType]:
    if not outcome.failures:
        return
    for failed in outcome.failures[:SHOWN]:
        yield f"[red]{failed.index:5d} {escape(failed.label)}[/red]: {escape(failed.last)}"
        yield Text(f"      log: {failed.log}")
    if len(outcome.failures) > SHOWN:
        yield f"and {len(outcome.failures) - SHOWN} more: `xling status` lists them."
    yield "The same command again runs what is left; `xling logs INDEX` shows a log."
