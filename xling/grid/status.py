"""How a grid stands: its plan.json, the store and the claims, whoever runs it and wherever. Changes nothing."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from xling.errors import ConfigError, StoreError, did_you_mean
from xling.grid import claim
from xling.grid.listing import Listing
from xling.grid.store import Store

State = Literal["done", "running", "failed", "damaged", "blocked", "to do"]
STATES: tuple[State, ...] = ("done", "running", "failed", "damaged", "blocked", "to do")


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
    plans = (store.root / "grids").glob("*/plan.json")
    return [path.parent.name for path in sorted(plans, key=lambda path: path.stat().st_mtime, reverse=True)]


def chosen_grid(store: Store, name: str | None) -> str:
    """The grid that is named, or the latest; ConfigError with the nearest name if there is none."""
    known = grids(store)
    if not known:
        raise ConfigError(f"There is no grid in '{store.root}'. Run `python launch.py` first, or give --root PATH.")
    if name is None:
        return known[0]
    if name in known:
        return name
    shown = ", ".join(known[:10])
    raise ConfigError(f"There is no grid '{name}' in '{store.root}'. There are: {shown}.{did_you_mean(name, known)}")


def read_grid(store: Store, name: str) -> GridPlan:
    path = store.grid_folder(name) / "plan.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=GridPlan)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"'{path}' is no plan ({error}). The grid's command writes it anew.") from error


def grid_status(store: Store, name: str) -> GridStatus:
    plan = read_grid(store, name)
    return GridStatus(plan, list(_rows(store, plan)))


def _rows(store: Store, plan: GridPlan) -> Iterator[Row]:
    listings: dict[str, Listing] = {}
    states: list[State] = []
    for index, stage in enumerate(plan.stages):
        if stage.kind not in listings:
            listings[stage.kind] = store.listing(stage.kind)
        state, note = _state(store, stage, listings[stage.kind])
        if state == "to do" and any(states[up] in ("failed", "blocked") for up in stage.parents):
            state = "blocked"
        states.append(state)
        yield Row(index, stage, state, note)


def _state(store: Store, stage: PlannedStage, listing: Listing) -> tuple[State, str]:
    kind, key = stage.kind, stage.key
    if key in listing.claimed:
        held = claim.holder(store.beside(kind, key, ".claim"))
        if held is not None:
            slurm = f", SLURM job {held.by.slurm}" if held.by.slurm else ""
            seconds = max(0, round(time.time() - held.since))
            return "running", f"on {held.by.host} (pid {held.by.pid}{slurm}) for {seconds} s"
    if key in listing.results:
        status = store.check(kind, key)
        return ("done", "") if status.state == "done" else ("damaged", status.why)
    failure = store.failure_record(kind, key) if key in listing.failed else None
    if failure is None:
        return "to do", ""
    times = f" ({failure.attempts} attempts)" if failure.attempts > 1 else ""
    return "failed", failure.last + times


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
