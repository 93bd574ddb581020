"""From cells to a plan: which stages there are, in order, what is to be done about each, and why.

    plan = make_plan(cells, Store("outputs"), mode="retry", name="my_grid", command=overrides)
    plan.print(workers=2)  # the dry run
    plan.write()           # <root>/grids/<name>/plan.json
    run_local(plan)        # local.py

A plan wants every result of its stages, also those whose children are done: the reducer reads them.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from xling.console import Console
from xling.errors import ConfigError, did_you_mean
from xling.grid import files, formats
from xling.grid.estimate import Estimate, Rates, estimate, path_lengths
from xling.grid.host import code_digest, git_sha
from xling.grid.listing import Listing
from xling.grid.reasons import Neighbours
from xling.grid.records import Done
from xling.grid.stage import Cell, Json, Kind, Stage
from xling.grid.store import Status, Store

Mode = Literal["cached", "retry", "force", "read-only"]
State = Literal["cached", "run", "failed", "blocked", "missing"]


@dataclass(frozen=True, slots=True)
class Step:
    """A stage and what is to be done about it."""

    stage: Stage
    state: State  # run; cached: use the result; failed, blocked, missing: not in this mode
    reason: str
    lost: bool = False  # a result is stored that holds no longer: it goes before the stage runs


@dataclass(frozen=True)
class Plan:
    """Decided once; nothing in it changes while it runs."""

    name: str
    mode: Mode
    store: Store
    command: Sequence[str]
    cells: Sequence[Cell]
    steps: Mapping[str, Step]  # by key, parents before children
    left_out: Sequence[Mapping[str, Json]]  # [{"axes": {...}, "reason": "..."}]
    estimates: Mapping[str, Estimate]  # by kind, in order of first use
    warnings: Sequence[str]
    git: str | None
    rates: Rates | None = None  # of a dry run, which estimates by what stages say of their work
    language_rates: Sequence[Json] = ()  # what stands beside the language shares: [{"rates": {...}, "cells": [places]}]

    @property
    def to_run(self) -> list[Stage]:
        return [step.stage for step in self.steps.values() if step.state == "run"]

    def count(self) -> dict[str, Counter[State]]:
        """Stages by kind and state, kinds in order of first use."""
        counts: dict[str, Counter[State]] = {kind: Counter() for kind in self.estimates}
        for step in self.steps.values():
            counts[step.stage.kind][step.state] += 1
        return counts

    def seconds(self) -> dict[str, float]:
        """What each stage is expected to take, by key; 0 if it does not run."""
        return {
            key: self.estimates[step.stage.kind].seconds if step.state == "run" else 0.0
            for key, step in self.steps.items()
        }

    def cost(self, workers: int) -> tuple[float, float]:
        """(seconds of work, seconds until it is done): bounded by the critical path and by the workers."""
        seconds = self.seconds()
        lengths = path_lengths((step.stage for step in self.steps.values()), seconds)
        total = sum(seconds.values())
        return total, max(max(lengths.values(), default=0.0), total / workers)

    def clear_lost(self) -> None:
        """Remove results that hold no longer, so that every runner takes them for missing."""
        for key, step in self.steps.items():
            if step.lost and step.state == "run" and (name := self.store.set_aside(step.stage.kind, key)) is not None:
                shutil.rmtree(self.store.kind_folder(step.stage.kind) / name, ignore_errors=True)

    def print(self, console: Console | None = None, workers: int = 1) -> None:
        """The dry-run table: stages by kind, reasons, cost, what was left out."""
        from xling.grid.tables import plan_table

        (console or Console(soft_wrap=True)).print(plan_table(self, workers))

    def write(self) -> None:
        """Write <root>/grids/<name>/plan.json, all or nothing."""
        folder = self.store.grid_folder(self.name)
        self.store.refuse_links(self.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.write_atomically(folder / "plan.json", files.sealed_json(self._content(), indent=-1))
        except OSError as error:
            raise files.disk_error(error, self.store.root) from error

    def _content(self) -> Json:
        index = {key: number for number, key in enumerate(self.steps)}
        stages = [
            {
                "kind": step.stage.kind,
                "key": key,
                "label": step.stage.label,
                "parents": [index[parent.key] for parent in step.stage.parents.values()],
            }
            for key, step in self.steps.items()
        ]
        named = {key: {"kind": step.stage.kind, "key": key} for key, step in self.steps.items()}
        return {
            "name": self.name,
            "format": formats.PLAN,
            "command": list(self.command),
            "git": self.git,
            "cells": [_cell_content(cell, named) for cell in self.cells],
            "left_out": [dict(row) for row in self.left_out],
            "stages": stages,
            "language_rates": list(self.language_rates),
        }


def _cell_content(cell: Cell, named: Mapping[str, Json]) -> Json:
    """named: how the plan's file names the stage of a key."""
    roles = dict(cell.stage.parents)
    if "score" in roles and "reward" in roles["score"].parents:
        roles["reward"] = roles["score"].parents["reward"]
    if "pool" in roles and "reference" in roles["pool"].parents:  # samples of a policy that was trained for this cell
        roles["align"] = roles["pool"].parents["sft"]
    if (sampled := roles.get("pool")) is not None and {"sft", "reference"} & sampled.parents.keys():
        roles["sft"] = sampled.parents.get("reference") or sampled.parents["sft"]
    return {
        "axes": dict(cell.axes),
        "judge": named[cell.stage.key],
        "stages": {role: named[stage.key] for role, stage in roles.items()},
    }


def make_plan(
    cells: Sequence[Cell],
    store: Store,
    mode: str = "retry",
    name: str = "grid",
    command: Sequence[str] = (),
    left_out: Sequence[Mapping[str, Json]] = (),
    kinds: Mapping[str, Kind] | None = None,
    rates: Rates | None = None,
) -> Plan:
    """Decide what is to be done about every stage of the cells; reads the store, changes nothing.

    `kinds` gives the guessed cost of kinds that have never run; with `rates` (a dry run's) stages say how much work
    they are, for which a task's data may have to be read. `ConfigError` on an unknown mode.
    """
    decide = checked_mode(mode)
    stages = in_order(cells)
    keys_of: dict[str, list[str]] = {}
    for key, stage in stages.items():
        keys_of.setdefault(stage.kind, []).append(key)
    listings = {kind: store.listing(kind) for kind in keys_of}
    known = kinds or {}
    statuses = {
        key: _status(store, stage, listings[stage.kind], known.get(stage.kind)) for key, stage in stages.items()
    }
    steps = _Decision(store, decide, stages, statuses, listings).steps()
    estimates = {}
    for kind, keys in keys_of.items():
        others = listings[kind].results.difference(keys)
        asked = [stages[key] for key in keys if steps[key].state == "run"]
        estimates[kind] = estimate(store, kind, _markers(statuses, keys), others, known, asked, rates)
    git = git_sha()
    used = [status.done for key, status in statuses.items() if status.done and steps[key].state == "cached"]
    return Plan(name, decide, store, command, cells, steps, left_out, estimates, _warnings(used, git), git, rates)


def checked_mode(mode: str) -> Mode:
    for known in get_args(Mode):
        if mode == known:
            return known  # type: ignore[no-any-return]
    allowed = get_args(Mode)
    raise ConfigError(f"mode={mode} is unknown. Allowed: {', '.join(allowed)}.{did_you_mean(mode, allowed)}")


def in_order(cells: Iterable[Cell]) -> dict[str, Stage]:
    """All stages the cells need by key, each once, parents before children."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in found:
            for parent in stage.parents.values():
                visit(parent)
            found[stage.key] = stage

    for cell in cells:
        visit(cell.stage)
    return found


def _status(store: Store, stage: Stage, listing: Listing, kind: Kind | None) -> Status:
    if stage.key in listing.results:
        status = store.check(stage.kind, stage.key)
        lost = kind.lost(store.folder(stage.kind, stage.key)) if status.state == "done" and kind and kind.lost else ""
        return Status("lost", lost) if lost else status
    if stage.key in listing.failed:
        return Status("failed", store.failure(stage.kind, stage.key) or "")
    return Status("missing")


def _markers(statuses: Mapping[str, Status], keys: Iterable[str]) -> list[Done]:
    return [done for key in keys if (done := statuses[key].done) is not None]


class _Decision:
    """Goes through the stages in order and decides on each, knowing what was decided on its parents."""

    def __init__(
        self,
        store: Store,
        mode: Mode,
        stages: Mapping[str, Stage],
        statuses: Mapping[str, Status],
        listings: Mapping[str, Listing],
    ) -> None:
        self._store, self._mode, self._stages, self._statuses = store, mode, stages, statuses
        self._listings = listings
        self._neighbours: dict[str, Neighbours] = {}
        self._runs: dict[str, bool] = {}

    def steps(self) -> dict[str, Step]:
        steps: dict[str, Step] = {}
        for key, stage in self._stages.items():
            state, reason = self._decide(stage, self._statuses[key], steps)
            steps[key] = Step(stage, state, reason, self._statuses[key].state == "lost")
            self._runs[key] = state == "run"
        return steps

    def _decide(self, stage: Stage, status: Status, steps: Mapping[str, Step]) -> tuple[State, str]:
        if self._mode == "force":
            return "run", "forced"
        if status.state == "done":
            return "cached", ""
        reason = self._reason(stage, status)
        if self._mode == "read-only":
            return ("failed" if status.state == "failed" else "missing"), reason
        if self._mode == "cached":
            if status.state not in ("missing", "lost"):
                return "failed", reason
            for parent in stage.parents.values():
                if steps[parent.key].state in ("failed", "blocked"):
                    return "blocked", f"below {parent.label}"
        return "run", reason

    def _reason(self, stage: Stage, status: Status) -> str:
        if status.state == "lost":
            return status.why
        if status.state == "damaged":
            return f"damaged: {status.why}"
        if status.state == "failed":
            return f"failed before: {status.why}"
        if stage.kind not in self._neighbours:
            others = self._listings[stage.kind].results - self._stages.keys()
            self._neighbours[stage.kind] = Neighbours(self._store, stage.kind, others)
        return self._neighbours[stage.kind].reason(stage, self._runs)


def _warnings(used: Sequence[Done], git: str | None) -> list[str]:
    """What the reader of the numbers should know about the results that are used as they are."""
    warnings = []
    code = code_digest() if used else ""
    other = sum(
        done.run.code != code if done.run.code else bool(done.run.git and git and done.run.git != git) for done in used
    )
    if other:
        warnings.append(f"{other} of {len(used)} cached results were made by other code (mode=force: anew).")
    devices = Counter(f"{done.run.device} with {done.run.threads} thread(s)" for done in used)
    if len(devices) > 1:
        mix = ", ".join(f"{count} on {device}" for device, count in devices.most_common())
        warnings.append(f"Results of several devices or thread counts are mixed in this grid: {mix}.")
    return warnings
