"""What a running grid shows on stderr: bars on a terminal, a plain line now and then elsewhere."""

import sys
import time
from typing import Protocol

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from xling.console import Console, harmless
from xling.grid.tables import duration

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
