"""How a grid stands: its plan.json, the store and the claims, whoever runs it and wherever. Changes nothing.

What a cluster knows beside that (which stages are queued, which runners are gone) is handed in as `Cluster`.
"""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from xling.grid import claim, files, host
from xling.grid.claim import Claim
from xling.grid.files import Unreadable
from xling.grid.grids import read_grid
from xling.grid.records import PlanFile, PlannedStage
from xling.grid.store import Listing, Store

State = Literal["done", "running", "queued", "failed", "damaged", "unreadable", "blocked", "to do"]
STATES: tuple[State, ...] = ("done", "running", "queued", "failed", "damaged", "unreadable", "blocked", "to do")


@dataclass(frozen=True, slots=True)
class Row:
    """A stage as it stands; `index` is its handle."""

    index: int
    stage: PlannedStage
    state: State
    note: str = ""  # running: where and how long; failed, damaged: why
    claim: Claim | None = None  # running: whose


@dataclass(frozen=True)
class Cluster:
    """A cluster's knowledge of jobs, beside the store's files."""

    queued: Mapping[str, str] = field(default_factory=dict)  # key of a stage that a job is going to run -> its job
    gone: Callable[[Claim], bool] = lambda claim: False  # whether it is known that the job of a claim has ended


@dataclass(frozen=True, slots=True)
class GridStatus:
    plan: PlanFile
    rows: Sequence[Row]

    def count(self) -> dict[str, Counter[State]]:
        counts: dict[str, Counter[State]] = {}
        for row in self.rows:
            counts.setdefault(row.stage.kind, Counter())[row.state] += 1
        return counts

    def cells(self) -> Counter[State]:
        states = {row.stage.key: row.state for row in self.rows}
        return Counter(states[cell.judge.key] for cell in self.plan.cells)

    def having(self, *states: State) -> list[Row]:
        return [row for row in self.rows if row.state in states]


def grid_status(store: Store, name: str, cluster: Cluster | None = None) -> GridStatus:
    plan = read_grid(store, name)
    return GridStatus(plan, list(_rows(store, plan, cluster or Cluster())))


def _rows(store: Store, plan: PlanFile, cluster: Cluster) -> Iterator[Row]:
    listings: dict[str, Listing] = {}
    states: list[State] = []
    clock = functools.cache(lambda: files.clock(store.root))
    for index, stage in enumerate(plan.stages):
        if stage.kind not in listings:
            listings[stage.kind] = store.listing(stage.kind)
        row = _row(store, index, stage, listings[stage.kind], cluster, clock)
        if row.state == "to do" and any(states[up] in ("failed", "blocked") for up in stage.parents):
            row = Row(index, stage, "blocked")
        states.append(row.state)
        yield row


def _row(
    store: Store, index: int, stage: PlannedStage, listing: Listing, cluster: Cluster, clock: Callable[[], float]
) -> Row:
    kind, key = stage.kind, stage.key
    if key in listing.claimed:
        path = store.beside(kind, key, ".claim")
        held = claim.holder(path, clock())
        if held is not None and not cluster.gone(held):
            seconds = max(0, round(time.time() - held.since))
            note = f"{'on' if held.by.pid else 'by'} {held.who} for {seconds} s"
            if (silent := claim.silence(path, clock())) > 3 * held.beat and not host.sees(held.by):
                note += f", last sign of life {silent:.0f} s ago"
            return Row(index, stage, "running", note, held)
    if key in listing.results:
        try:
            status = store.check(kind, key)
        except Unreadable as error:
            return Row(index, stage, "unreadable", str(error))
        note = "its weights were dropped" if status.done is not None and status.done.dropped else ""
        return Row(index, stage, "done", note) if status.state == "done" else Row(index, stage, "damaged", status.why)
    if key in cluster.queued:
        return Row(index, stage, "queued", f"SLURM job {cluster.queued[key]}")
    failure = store.failure_record(kind, key) if key in listing.failed else None
    if failure is None:
        return Row(index, stage, "to do")
    times = f" ({failure.attempts} attempts)" if failure.attempts > 1 else ""
    return Row(index, stage, "failed", failure.last + times)


# --- in the terminal --------------------------------------------------------------------------------------


def status_table(status: GridStatus, store: Store, every: bool = False) -> RenderableType:
    """Stages by kind and state; then what runs and what failed, or with `every` all stages, by index."""
    rows = status.rows if every else status.having("running", "failed", "damaged", "unreadable")
    return Group(count_table(status), *(line for row in rows for line in _status_lines(row, store)))


def count_table(status: GridStatus) -> RenderableType:
    """Stages by kind and state."""
    counts, cells = status.count(), status.cells()
    states = [state for state in STATES if any(count[state] for count in counts.values())]
    table = Table()
    table.add_column("stage")
    for state in states:
        table.add_column(state, justify="right")
    for kind, count in counts.items():
        table.add_row(kind, *(str(count[state] or "") for state in states))
    gone = Counter(row.stage.kind for row in status.rows if row.state == "done" and row.note)
    words = ", ".join(f"{count} {kind}" for kind, count in gone.items())
    said = [Text(f"Weights were dropped on purpose (keep_weights) of {words}.")] if gone else []
    # not the table's own title, which is broken to the width of the table
    return Group(
        Text(f"{status.plan.name}: {cells['done']} of {cells.total()} cells done", style="italic"), table, *said
    )


def _status_lines(row: Row, store: Store) -> Iterable[Text]:
    yield Text(f"{row.index:5d}  {row.state:8s}{row.stage.label}" + (f": {row.note}" if row.note else ""))
    if row.state == "failed":
        yield Text(f"       log: {store.log(row.stage.kind, row.stage.key)}")
