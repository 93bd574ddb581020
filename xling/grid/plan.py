"""From cells to a plan: which stages there are, in order, what is to be done about each, and why.

    plan = make_plan(cells, Store("outputs"), mode="retry", name="my_grid", command=overrides)
    print_plan(plan, workers=2)  # the dry run: xling/grid/plan_table.py
    plan.write()                 # <root>/grids/<name>/plan.json
    run_local(plan)              # xling/runners/local/runner.py

A plan wants every result of its stages, also those whose children are done: the reducer reads them.
"""

import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from xling.errors import ConfigError, did_you_mean
from xling.grid import files
from xling.grid.estimate import Estimate, Rates, estimate, path_lengths
from xling.grid.grids import planned
from xling.grid.host import code_digest, git_sha
from xling.grid.labels import labelled
from xling.grid.reasons import Neighbours
from xling.grid.records import PLAN, AxisValue, Done, LeftOut, PlanFile, PlannedCell, PlannedStage, Ref
from xling.grid.stage import MODELS, WHERE, Cell, Gpus, Json, Kind, Memory, Stage, canonical_json
from xling.grid.store import Listing, Status, Store
from xling.grid.weights import drop, keepers

GROWING = ("source_lang", "target_lang", "seed")  # words that say how many cells of a kind there are
Mode = Literal["cached", "retry", "force", "read-only"]
State = Literal["cached", "run", "failed", "blocked", "missing"]


@dataclass(frozen=True, slots=True)
class Step:
    """A stage and what is to be done about it."""

    stage: Stage
    state: State  # run; cached: use the result; failed, blocked, missing: not in this mode
    reason: str
    lost: bool = False  # a result is stored that holds no longer: it goes before the stage runs
    stored: int = 0  # bytes of its result on disk


@dataclass(frozen=True, repr=False)
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
    drops: Sequence[str] = ()  # kinds of stages whose weights go when all have read them (keep_weights)
    measures: Sequence[str] = ()  # of the user's own: FILE:FUNCTION
    kinds: Mapping[str, Kind] = field(default_factory=dict)  # how its stages are run, as far as whoever planned it said
    needs: Mapping[str, tuple[str, Memory]] = field(default_factory=dict)  # by kind: what takes most, by label

    def __repr__(self) -> str:
        return f"<Plan {self.name}: {len(self.cells)} cells, {len(self.steps)} stages, {len(self.to_run)} to run>"

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
        """Expected seconds of each stage, by key; 0 if it does not run."""
        return {
            key: self.estimates[step.stage.kind].seconds if step.state == "run" else 0.0
            for key, step in self.steps.items()
        }

    @property
    def dropping(self) -> list[str]:
        """`drops`, for whoever runs the stages; none while all results are made anew: readers of old ones are done."""
        return [] if self.mode in ("force", "read-only") else list(self.drops)

    def drop_weights(self) -> int:
        """Drop weights that nothing reads any more, also those of before; returns their bytes."""
        if not self.dropping:
            return 0
        asked = [(step.stage.kind, key) for key, step in self.steps.items()
                 if step.stage.kind in self.dropping and step.state == "cached"]  # fmt: skip
        return drop(self.store, self.kinds, asked, self._file())

    def keepers(self) -> list[str]:
        """Other grids of the root, because of which weights stay that this one would drop."""
        return keepers(self.store, self._file()) if self.dropping else []

    def cost(self, workers: int) -> tuple[float, float]:
        """(seconds of work, seconds until it is done): bounded by the critical path and by workers (0: any number)."""
        seconds = self.seconds()
        lengths = path_lengths((step.stage for step in self.steps.values()), seconds)
        total = sum(seconds.values())
        return total, max(max(lengths.values(), default=0.0), total / workers if workers else 0.0)

    def clear_lost(self) -> None:
        """Remove results that hold no longer, so that every runner takes them for missing.

        Those whose weights are to be trained again are put by until they are, and put back where they need not be.
        """
        by = {kind: self.store.listing(kind).weightless for kind in self.estimates}
        for key, step in self.steps.items():
            kind = step.stage.kind
            if step.state == "cached" and key in by[kind]:
                self.store.put_back(kind, key)
            elif step.state == "run" and step.reason.startswith(DROPPED):
                self.store.put_by(kind, key)
            elif step.state == "run" and step.lost and (name := self.store.set_aside(kind, key)) is not None:
                shutil.rmtree(self.store.kind_folder(kind) / name, ignore_errors=True)

    def write(self) -> None:
        """Write <root>/grids/<name>/plan.json, all or nothing."""
        folder = self.store.grid_folder(self.name)
        self.store.refuse_links(self.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.write_atomically(folder / "plan.json", files.sealed_json(self._file(), indent=-1))
        except OSError as error:
            raise files.disk_error(error, self.store.root) from error

    def _file(self) -> PlanFile:
        index = {key: number for number, key in enumerate(self.steps)}
        stages = [step.stage for step in self.steps.values()]
        refs = {stage.key: Ref(stage.kind, stage.key) for stage in stages}
        return PlanFile(
            name=self.name,
            format=PLAN,
            command=list(self.command),
            git=self.git,
            cells=[
                PlannedCell(
                    dict(cell.axes),
                    refs[cell.stage.key],
                    {role: refs[stage.key] for role, stage in _shown_stages(cell).items()},
                )
                for cell in self.cells
            ],
            left_out=[LeftOut(dict(row["axes"]), row["reason"]) for row in self.left_out],
            stages=[
                PlannedStage(stage.kind, stage.key, stage.label, [index[up.key] for up in stage.parents.values()])
                for stage in stages
            ],
            language_rates=list(self.language_rates),
            drops=list(self.drops),
            starts=_starts(self.store, stages),
            measures=list(self.measures),
        )


def _starts(store: Store, stages: Iterable[Stage]) -> list[Ref]:
    """The results of the store that stages read as models in folders."""
    root = (store.root / "stages").resolve()
    folders = {Path(path).resolve() for stage in stages for path in stage.spec.get(WHERE, {}).get(MODELS, {}).values()}
    places = {path.relative_to(root).parts[:2] for path in folders if path.is_relative_to(root)}
    return [Ref(*place) for place in sorted(places) if len(place) == 2]


def _shown_stages(cell: Cell) -> dict[str, Stage]:
    """The stages whose results are shown beside a cell's verdicts, by role: its parents and some of theirs."""
    roles = dict(cell.stage.parents)
    if "score" in roles and "reward" in roles["score"].parents:
        roles["reward"] = roles["score"].parents["reward"]
    if "pool" in roles and "reference" in roles["pool"].parents:  # samples of a policy that was trained for this cell
        roles["align"] = roles["pool"].parents["sft"]
    if (sampled := roles.get("pool")) is not None and {"sft", "reference"} & sampled.parents.keys():
        roles["sft"] = sampled.parents.get("reference") or sampled.parents["sft"]
    return roles


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
    cells = labelled(cells, in_order(cells))
    stages = in_order(cells)
    keys_of: dict[str, list[str]] = {}
    for key, stage in stages.items():
        keys_of.setdefault(stage.kind, []).append(key)
    listings = {kind: store.listing(kind) for kind in keys_of}
    known = kinds or {}
    statuses = {
        key: _status(store, stage, listings[stage.kind], known.get(stage.kind)) for key, stage in stages.items()
    }
    steps = _steps(store, name, decide, stages, statuses, listings)
    estimates = {}
    for kind, keys in keys_of.items():
        asked = [stages[key] for key in keys if steps[key].state == "run"]
        work = known[kind].work if kind in known else None
        estimates[kind] = estimate(
            store, kind, [done.run.seconds for key in keys if (done := statuses[key].done) is not None],
            others=listings[kind].results.difference(keys),
            guess=known[kind].seconds if kind in known else 1.0,
            works=[work(stage, rates.tokens) for stage in asked] if work and rates else [],
            rates=rates,
            roots=_roots(asked[0]) if asked and rates else None,
        )  # fmt: skip
    git = git_sha()
    used = [status.done for key, status in statuses.items() if status.done and steps[key].state == "cached"]
    return Plan(name, decide, store, command, cells, steps, left_out, estimates, _warnings(used, git), git, rates,
                kinds=known)  # fmt: skip


def needs_of(plan: Plan, gpus: Callable[[str], Gpus]) -> dict[str, tuple[str, Memory]]:
    """By kind, of the stages to run, the label and the memory of the one that takes most; `gpus` of a kind."""
    found: dict[str, tuple[str, Memory]] = {}
    given = {kind: gpus(kind) for kind in plan.estimates}
    for stage in plan.to_run:
        needed = plan.kinds[stage.kind].needs if stage.kind in plan.kinds else None
        memory = needed(stage, given[stage.kind]) if needed else None
        if memory is not None and (stage.kind not in found or memory.gib > found[stage.kind][1].gib):
            found[stage.kind] = stage.label, memory
    return found


def replaced(plan: Plan) -> list[str]:
    """A sentence where the name stood for cells that are not asked for any more."""
    before = planned(plan.store, plan.name)
    now = {canonical_json([dict(cell.axes), cell.stage.key]) for cell in plan.cells}
    lost = [axes for axes, key in before.asked() if canonical_json([axes, key]) not in now]
    if not lost:
        return []
    count = f"{len(lost)} of its {len(before.cells)} cells"
    if _asks_the_same(before, plan, lost):
        return [
            f"{plan.name} is asked for as before, and {count} depend on other data, models or code than then. Its plan "
            f"and matrix are replaced; the old results are kept until `xling gc --delete`."
        ]
    command = shlex.join(word for word in before.command if not word.startswith("name="))
    return [
        f"{plan.name} was another grid: {count} are not asked for here. Its "
        f"plan and matrix are replaced; its results are kept until `xling gc --delete`, and its command under another "
        f"name folds them again, while its data is as it was: {command} name=NAME"
    ]


def _asks_the_same(before: PlanFile, plan: Plan, lost: Sequence[Mapping[str, AxisValue]]) -> bool:
    """Whether what is typed now asks for the cells of then, whatever they are made of.

    The same words do. Other languages and seeds do if the cells are still among those asked for, by the axes that both
    plans know: another version of xling may have an axis more, or one less.
    """
    then, now = ({word for word in words if not word.startswith("name=")} for words in (before.command, plan.command))
    if then == now:
        return True
    axes = set().union(*(cell.axes for cell in plan.cells)) & set().union(*(cell.axes for cell in before.cells))

    def known(cell: Mapping[str, AxisValue]) -> bytes:
        return canonical_json({axis: value for axis, value in cell.items() if axis in axes})

    grown = [{word for word in words if word.partition("=")[0] not in GROWING} for words in (then, now)]
    asked = {known(cell.axes) for cell in plan.cells}
    return grown[0] == grown[1] and all(known(cell) in asked for cell in lost)


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
    if stage.key in listing.weightless and (done := store.without_weights(stage.kind, stage.key)) is not None:
        return Status("done", "", done)
    if stage.key in listing.failed:
        return Status("failed", store.failure(stage.kind, stage.key) or "")
    return Status("missing")


def _roots(stage: Stage) -> set[str]:
    """Keys of the stages without parents that a stage was made from."""
    return set().union(*map(_roots, stage.parents.values())) if stage.parents else {stage.key}


def _steps(
    store: Store,
    name: str,
    mode: Mode,
    stages: Mapping[str, Stage],
    statuses: Mapping[str, Status],
    listings: Mapping[str, Listing],
) -> dict[str, Step]:
    """Decide on each stage in order, knowing what was decided on its parents."""
    steps: dict[str, Step] = {}
    neighbours: dict[str, Neighbours] = {}
    before: list[Ref] = []  # results that the grid's last plan names; other grids' settings are no change of this one

    def last_plan() -> list[Ref]:
        if not before:
            before.extend(Ref(stage.kind, stage.key) for stage in planned(store, name).stages)
        return before

    def reason(stage: Stage, status: Status) -> str:
        if status.state != "missing":
            words = {"lost": "", "damaged": "damaged: ", "failed": "failed before: "}
            return f"{words[status.state]}{status.why}"
        if stage.kind not in neighbours:
            known = {ref.key for ref in last_plan() if ref.kind == stage.kind} & listings[stage.kind].results
            neighbours[stage.kind] = Neighbours(store, stage.kind, known - stages.keys())
        return neighbours[stage.kind].reason(stage, lambda key: steps[key].state == "run")

    def decided(stage: Stage, status: Status) -> tuple[State, str]:
        if mode == "force":
            return "run", "forced"
        if status.state == "done":
            return "cached", ""
        why = reason(stage, status)
        if mode == "read-only":
            return ("failed" if status.state == "failed" else "missing"), why
        if mode == "cached":
            if status.state not in ("missing", "lost"):
                return "failed", why
            for parent in stage.parents.values():
                if steps[parent.key].state in ("failed", "blocked"):
                    return "blocked", f"below {parent.label}"
        return "run", why

    statuses = {**statuses, **_needed_again(store, mode, stages, statuses)}
    for key, stage in stages.items():
        done = statuses[key].done
        stored = 0 if done is None else sum(fact.size for fact in done.files.values())
        steps[key] = Step(stage, *decided(stage, statuses[key]), lost=statuses[key].state == "lost", stored=stored)
    return steps


DROPPED = "its weights were dropped, and "  # how the reason begins why such a stage has to run


def _needed_again(
    store: Store, mode: Mode, stages: Mapping[str, Stage], statuses: Mapping[str, Status]
) -> dict[str, Status]:
    """Results whose weights were dropped, of which some stage that runs has to read them: as good as lost.

    Where failures are left as they are, one that failed when it was trained again has failed.
    """
    again: dict[str, Status] = {}
    running = {"retry": ("missing", "lost", "failed", "damaged"), "cached": ("missing", "lost")}.get(mode, ())
    for key, stage in reversed(list(stages.items())):
        if again.get(key, statuses[key]).state not in running:
            continue
        for up in stage.parents.values():
            done = statuses[up.key].done
            if up.key not in again and done is not None and done.dropped and statuses[up.key].state == "done":
                failure = store.failure(up.kind, up.key) if mode == "cached" else None
                why = f"{DROPPED}{stage.label} needs them"
                again[up.key] = Status("lost", why) if failure is None else Status("failed", failure)
    return again


def _warnings(used: Sequence[Done], git: str | None) -> list[str]:
    """Warnings about results that are reused: made by other code, on other devices and the like."""
    warnings = []
    code = code_digest() if used else ""
    other = sum(
        done.run.code != code if done.run.code else bool(done.run.git and git and done.run.git != git) for done in used
    )
    if other:
        warnings.append(
            f"{other} of {len(used)} cached results were made by other code and are used as they are; "
            "mode=force makes them anew."
        )
    devices = Counter(f"{done.run.device} with {done.run.threads} thread(s)" for done in used)
    if len(devices) > 1:
        mix = ", ".join(f"{count} on {device}" for device, count in devices.most_common())
        warnings.append(f"Results of several devices or thread counts are mixed in this grid: {mix}.")
    return warnings
