"""How a grid stands: its plan.json, the store and the claims, whoever runs it and wherever. Changes nothing.

What a cluster knows beside that (which stages are queued, which runners are gone) is handed in as `Cluster`.
"""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from xling.errors import ConfigError, StoreError, did_you_mean
from xling.grid import claim, files, formats, host
from xling.grid.claim import Claim
from xling.grid.files import Unreadable
from xling.grid.listing import Listing
from xling.grid.store import Store
from xling.jsonfiles import unsealed

State = Literal["done", "running", "queued", "failed", "damaged", "unreadable", "blocked", "to do"]
STATES: tuple[State, ...] = ("done", "running", "queued", "failed", "damaged", "unreadable", "blocked", "to do")


class PlannedStage(msgspec.Struct, frozen=True):
    kind: str
    key: str
    label: str
    parents: tuple[int, ...]  # indices of stages before this one


class Reference(msgspec.Struct, frozen=True):
    kind: str
    key: str


class PlannedCell(msgspec.Struct, frozen=True):
    judge: Reference


class GridPlan(msgspec.Struct, frozen=True):
    """What this module needs of a plan.json."""

    name: str
    command: tuple[str, ...]
    cells: tuple[PlannedCell, ...]
    stages: tuple[PlannedStage, ...]


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
    """What a cluster adds to the files."""

    queued: Mapping[str, str] = field(default_factory=dict)  # key of a stage that a job is going to run -> its job
    gone: Callable[[Claim], bool] = lambda claim: False  # whether it is known that the job of a claim has ended


@dataclass(frozen=True, slots=True)
class GridStatus:
    plan: GridPlan
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


def grids(store: Store) -> list[str]:
    """Names of the root's grids, the one planned last first."""
    found = []
    for path in files.matching(store.root / "grids", "*/plan.json"):
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # deleted meanwhile, private, or nowhere
            found.append((path.stat().st_mtime, path.parent.name))
    return [name for _, name in sorted(found, reverse=True)]


def chosen_grid(store: Store, name: str | None) -> str:
    """The grid that is named, or the latest; ConfigError with the nearest name if there is none."""
    known = grids(store)
    if not known:
        raise ConfigError(f"There is no grid in '{store.root}'. Fill one with `xling run`, or give --root PATH.")
    if name is None:
        return known[0]
    if name in known:
        return name
    shown = ", ".join(known[:10])
    raise ConfigError(f"There is no grid '{name}' in '{store.root}'. There are: {shown}.{did_you_mean(name, known)}")


def read_grid(store: Store, name: str) -> GridPlan:
    path = store.grid_folder(name) / "plan.json"
    try:
        content = path.read_bytes()
        found = formats.format_of(content)
        if found is not None:
            formats.check_format(f"'{path}'", found, formats.PLAN, formats.PLAN_AGAIN)
        plan = unsealed(content, type=GridPlan)
    except PermissionError as error:
        raise Unreadable(error, str(path)) from error
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"'{path}' is no plan ({error}). Run the grid's command again: it writes it anew.") from error
    named = {plan.name, *(stage.kind for stage in plan.stages), *(stage.key for stage in plan.stages)}
    formats.check_plan(str(path), named | {word for cell in plan.cells for word in (cell.judge.kind, cell.judge.key)})
    formats.check_order(str(path), [stage.parents for stage in plan.stages])
    return plan


def grid_status(store: Store, name: str, cluster: Cluster | None = None) -> GridStatus:
    plan = read_grid(store, name)
    return GridStatus(plan, list(_rows(store, plan, cluster or Cluster())))


def _rows(store: Store, plan: GridPlan, cluster: Cluster) -> Iterator[Row]:
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
        held = claim.living(path, clock())
        if held is not None and not cluster.gone(held):
            slurm = f", SLURM job {held.by.slurm}" if held.by.slurm else ""
            seconds = max(0, round(time.time() - held.since))
            note = f"on {held.by.host} (pid {held.by.pid}{slurm}) for {seconds} s"
            if (silent := claim.silence(path, clock())) > 3 * held.beat and not host.sees(held.by):
                note += f", last sign of life {silent:.0f} s ago"
            return Row(index, stage, "running", note, held)
    if key in listing.results:
        try:
            status = store.check(kind, key)
        except Unreadable as error:
            return Row(index, stage, "unreadable", str(error))
        return Row(index, stage, "done") if status.state == "done" else Row(index, stage, "damaged", status.why)
    if key in cluster.queued:
        return Row(index, stage, "queued", f"SLURM job {cluster.queued[key]}")
    failure = store.failure_record(kind, key) if key in listing.failed else None
    if failure is None:
        return Row(index, stage, "to do")
    times = f" ({failure.attempts} attempts)" if failure.attempts > 1 else ""
    return Row(index, stage, "failed", failure.last + times)


def stage_at(plan: GridPlan, handle: str) -> PlannedStage:
    """By index or by label; ConfigError says what there is."""
    if handle.isdigit() and int(handle) < len(plan.stages):
        return plan.stages[int(handle)]
    labels = {stage.label: stage for stage in plan.stages}
    if handle in labels:
        return labels[handle]
    raise ConfigError(
        f"'{handle}' is no stage of grid {plan.name}: give an index from 0 to {len(plan.stages) - 1}, as "
        f"`xling status --all` shows them, or a label.{did_you_mean(handle, labels)}"
    )
