"""What people see of a run on stderr: bars and a matrix that fills; without a terminal, a plain line now and then."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import SegmentLines

from xling.console import Console, duration, harmless
from xling.grid.grids import read_grid
from xling.grid.plan import Plan

if TYPE_CHECKING:
    from xling.results.live import LiveMatrix

PLAIN_SECONDS = 2.0  # at most one line about finished stages in this time
LIVE_SECONDS = 0.25
LOOK_SECONDS = 2.0  # from one look at the matrix to the next


class Display:
    """Shows nothing of a running grid. `tick` is called often and shows what has changed; the others only note it,
    except failures.
    """

    def follow(self, plan: Plan, ends: Mapping[str, str]) -> None: ...
    def started(self, label: str) -> None: ...
    def progress(self, label: str, done: int, total: int) -> None: ...
    def finished(self, label: str, seconds: float | None) -> None: ...
    def waits(self, label: str) -> None: ...
    def failed(self, label: str, last: str) -> None: ...
    def say(self, text: str) -> None: ...
    def tick(self, left: int) -> None: ...
    def close(self) -> None: ...


class Plain(Display):
    """Lines for logs: every failure, and the latest finished stage every few seconds."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._latest = ""
        self._next = 0.0

    def finished(self, label: str, seconds: float | None) -> None:
        self._latest = f"{label} done" + ("" if seconds is None else f" in {duration(seconds)}")

    def failed(self, label: str, last: str) -> None:
        self.say(f"{label} FAILED: {last}")

    def say(self, text: str) -> None:
        print(harmless(text), file=sys.stderr, flush=True)

    def tick(self, left: int) -> None:
        if self._latest and (time.monotonic() >= self._next or not left):
            self._next = time.monotonic() + PLAIN_SECONDS
            self.say(f"{self._latest} ({self._total - left} of {self._total} stages)")
            self._latest = ""


class _Bars(Progress):
    """Bars, and below them the matrix as far as it is filled."""

    below: RenderableType = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield self.below


class Live(Display):
    """A bar for the grid and one for each running stage, and the matrix as it fills. Refreshed by `tick`, not by a
    thread."""

    def __init__(self, console: Console, total: int) -> None:
        self._total, self._console = total, console
        self._matrix: LiveMatrix | None = None
        self._ends: Mapping[str, str] = {}
        self._seen, self._next_look = 0, 0.0
        self._bars = _Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, auto_refresh=False, transient=True,
        )  # fmt: skip
        self._grid = self._bars.add_task("stages", total=total)
        self._stages: dict[str, TaskID] = {}
        self._next = 0.0
        self._bars.start()

    def follow(self, plan: Plan, ends: Mapping[str, str]) -> None:
        self._matrix, self._ends, self._seen = _matrix(plan, self._console), ends, 0

    def _look(self) -> None:
        """Rendered once for each change: drawing a table takes longer than a turn may."""
        if self._matrix is None or len(self._ends) == self._seen or time.monotonic() < self._next_look:
            return
        self._seen, self._next_look = len(self._ends), time.monotonic() + LOOK_SECONDS
        self._matrix.look(self._ends, LIVE_SECONDS)
        lines = self._console.render_lines(self._matrix.shown(self._console.height // 2))
        self._bars.below = SegmentLines(lines, new_lines=True) if len(lines) > 1 else ""

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
            self._look()
            self._bars.update(self._grid, completed=self._total - left)
            self._bars.refresh()

    def close(self) -> None:
        self._bars.stop()


def _matrix(plan: Plan, console: Console) -> "LiveMatrix":
    from xling.results.live import LiveMatrix  # scipy

    return LiveMatrix(plan.store, read_grid(plan.store, plan.name), console.width)


def print_so_far(plan: Plan, ends: Mapping[str, str]) -> None:
    """The matrix of a run that was stopped, if any cell of it is done."""
    if not any(ends.get(cell.stage.key) in ("done", "cached") for cell in plan.cells):
        return
    console = Console(stderr=True)
    matrix = _matrix(plan, console)
    matrix.look(ends)
    console.print(matrix.shown(sys.maxsize))


def display_for(total: int, show: bool) -> Display:
    if not show:
        return Display()
    console = Console(stderr=True)
    return Live(console, total) if console.is_terminal else Plain(total)
