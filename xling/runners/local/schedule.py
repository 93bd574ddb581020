"""Which stage next: a plan's stages while they run, and how each of them ended. Knows no processes.

The stage with the longest chain of work below it goes first (critical path first).
"""

import heapq
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from xling.console import SHOWN, Console, duration
from xling.grid.estimate import path_lengths
from xling.grid.plan import Plan
from xling.grid.stage import Cell, Stage

End = Literal["done", "cached", "failed", "blocked", "not run"]

CHEAP_SECONDS = 0.05  # stages of a kind that takes less than this travel together,
BATCH_SECONDS = 0.5  # as many as are expected to take this long,
BATCH = 64  # and no more than this
HEALS = 2  # times a damaged result is made again within one run


class Schedule:
    """States of a plan's stages: ready, taken, waiting for another runner, ended."""

    def __init__(self, plan: Plan, heavy: Callable[[Stage], bool] = lambda stage: True) -> None:
        """`heavy`: whether a stage is for workers that take heavy ones (xling/runners/local/crew.py)."""
        self.steps, self._heavy = plan.steps, heavy
        self.ends: dict[str, End] = {}
        self.work: dict[str, float] = {}  # kind -> seconds inside stage functions
        self.waiting: set[str] = set()
        self._lengths = path_lengths((step.stage for step in plan.steps.values()), plan.seconds())
        self._order = {key: number for number, key in enumerate(plan.steps)}
        self._pending: dict[str, int] = {}  # key -> parents it still waits for
        self._children: dict[str, list[str]] = {}  # key -> stages that still wait for it
        self._ready: dict[bool, list[tuple[float, int, str]]] = {True: [], False: []}  # heavy ones, others
        self.healed: dict[str, int] = {}  # key -> times
        self._recent: dict[str, deque[float]] = {}
        for kind, estimate in plan.estimates.items():
            self._recent[kind] = deque([estimate.seconds] if estimate.recorded else [], maxlen=25)
        self._enter()

    def _enter(self) -> None:
        for key, step in self.steps.items():
            if step.state == "run":
                parents = {up.key for up in step.stage.parents.values() if self.steps[up.key].state == "run"}
                self._pending[key] = len(parents)
                for parent in parents:
                    self._children.setdefault(parent, []).append(key)
                if not parents:
                    self._push(key)
            else:
                self.ends[key] = "not run" if step.state == "missing" else step.state

    def _push(self, key: str) -> None:
        heap = self._ready[self._heavy(self.steps[key].stage)]
        heapq.heappush(heap, (-self._lengths[key], self._order[key], key))

    @property
    def left(self) -> int:
        """Stages that have not ended."""
        return len(self.steps) - len(self.ends)

    def ready(self, heavy: bool = True) -> int:
        return len(self._ready[heavy])

    def width(self) -> int:
        """How many heavy stages of those that are left could run at once: the largest layer of what is left."""
        depths, layers = dict[str, int](), Counter[int]()
        for key, step in self.steps.items():
            if key not in self.ends:
                depths[key] = 1 + max((depths.get(up.key, 0) for up in step.stage.parents.values()), default=0)
                layers[depths[key]] += self._heavy(step.stage)
        return max(layers.values(), default=0)

    def index(self, key: str) -> int:
        return self._order[key]

    def next(self, heavy: bool = True) -> Stage:
        """The one that goes first."""
        return self.steps[self._ready[heavy][0][2]].stage

    def pop(self, heavy: bool = True) -> Stage:
        """Take that one alone."""
        return self.steps[heapq.heappop(self._ready[heavy])[2]].stage

    def take(self, workers: int, heavy: bool = True) -> list[Stage]:
        """The next stage; cheap ones of its kind with it, a fair share for `workers`."""
        heap = self._ready[heavy]
        first = self.pop(heavy)
        batch = [first]
        size = min(self._batch(first.kind), len(heap) // workers + 1)
        while len(batch) < size and heap:
            stage = self.steps[heap[0][2]].stage
            if stage.kind != first.kind:
                break
            heapq.heappop(heap)
            batch.append(stage)
        return batch

    def _batch(self, kind: str) -> int:
        recent = self._recent[kind]
        if not recent:
            return 1
        median = statistics.median(recent)
        return 1 if median >= CHEAP_SECONDS else min(BATCH, int(BATCH_SECONDS / (median + 0.002)))

    def give_back(self, key: str) -> None:
        """A stage that was taken and has not been started, or that another runner has let go."""
        self.waiting.discard(key)
        self._push(key)

    def wait(self, key: str) -> None:
        """Another runner is at it."""
        self.waiting.add(key)

    def done(self, key: str, end: End = "done", seconds: float = 0.0) -> None:
        """`end` is "done" if it ran here, "cached" if another runner made it."""
        self.waiting.discard(key)
        self.ends[key] = end
        if end == "done":
            kind = self.steps[key].stage.kind
            self.work[kind] = self.work.get(kind, 0.0) + seconds
            self._recent[kind].append(seconds)
        for child in self._children.pop(key, ()):
            self._pending[child] -= 1
            if not self._pending[child]:
                self._push(child)

    def fail(self, key: str) -> None:
        """Blocks all stages that wait for it, directly or not."""
        self.waiting.discard(key)
        self.ends[key] = "failed"
        below = self._children.pop(key, [])
        while below:
            child = below.pop()
            if child not in self.ends:
                self.ends[child] = "blocked"
                below.extend(self._children.pop(child, []))

    def heal(self, parent: str, child: str) -> bool:
        """The child found a finished parent damaged: make it again first.

        False if that has not helped before, or the parent failed meanwhile.
        """
        if self.ends.get(parent) in ("failed", "blocked") or parent not in self.steps:
            return False
        if parent in self.ends:
            if self.healed.get(parent, 0) >= HEALS:
                return False
            self.healed[parent] = self.healed.get(parent, 0) + 1
            del self.ends[parent]
            self._pending[parent] = 0
            self._push(parent)
        self._pending[child] = self._pending.get(child, 0) + 1
        self._children.setdefault(parent, []).append(child)
        return True

    def stop(self) -> None:
        """Whatever has not ended will not run."""
        for key in self.steps:
            self.ends.setdefault(key, "not run")


# --- How a run of a plan ended: a state for every stage and cell, the failures, the exit code -------------


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
