"""From cells to a plan: which stages there are, in order, what is to be done about each, and why.

    plan = make_plan(cells, Store("outputs"), mode="retry", name="my_grid", command=overrides)
    plan.print(workers=2)  # the dry run
    plan.write()           # <root>/grids/<name>/plan.json
    run_local(plan)        # xling/runners/local/runner.py

A plan wants every result of its stages, also those whose children are done: the reducer reads them.
"""

import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from xling.console import SHOWN, Console, duration, size
from xling.errors import ConfigError, did_you_mean
from xling.grid import files
from xling.grid.estimate import Estimate, Rates, estimate, path_lengths
from xling.grid.grids import planned
from xling.grid.host import code_digest, git_sha
from xling.grid.labels import labelled, own_label
from xling.grid.records import PLAN, AxisValue, Done, LeftOut, PlanFile, PlannedCell, PlannedStage, Ref, Sheet
from xling.grid.stage import DATA, MODELS, WHERE, Cell, Gpus, Json, Kind, Memory, Stage, canonical_json
from xling.grid.store import Listing, Status, Store
from xling.grid.weights import drop, keepers

# --- Why a stage has to run: what differs between its spec and the nearest result that the grid had as last planned ---


def differences(old: Json, new: Json, path: str = "") -> Iterator[str]:
    """`policy.n 16 -> 64` for every leaf that differs, in order of path; lists count as leaves."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{path}.{name}" if path else name
            if name in old and name in new:
                yield from differences(old[name], new[name], inner)
            else:
                before, after = (_shown_value(spec[name]) if name in spec else "(absent)" for spec in (old, new))
                yield f"{inner} {before} -> {after}"
    elif canonical_json(old) != canonical_json(new):
        yield f"{path} {_shown_value(old)} -> {_shown_value(new)}"


def _shown_value(value: Json) -> str:
    text = value if isinstance(value, str) else canonical_json(value).decode()
    return text if len(text) <= 40 else text[:37] + "..."


class Neighbours:
    """Stored results of one kind by label, of the grid's last plan and not of this one: they are older specs of it."""

    def __init__(self, store: Store, kind: str, keys: Iterable[str]) -> None:
        self._by_label: dict[str, list[Sheet]] = {}
        for key in sorted(keys):
            sheet = store.sheet(kind, key)
            if sheet is not None:
                self._by_label.setdefault(own_label(sheet.label), []).append(sheet)

    def reason(self, stage: Stage, steps: Mapping[str, "Step"]) -> str:
        """steps: what has been decided on the stages above."""
        found = [_changes(sheet, stage) for sheet in self._by_label.get(own_label(stage.label), ())]
        if not found:
            return "missing"
        changed, parents = min(found, key=lambda pair: (len(pair[0]), len(pair[1])))
        changed = _without_settings_of_others(changed)
        if changed:
            more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
            if all(one.startswith("data: ") for one in changed):
                return f"data changed: {'; '.join(one.removeprefix('data: ') for one in changed[:3])}{more}"
            return f"spec changed: {', '.join(changed[:3])}{more}"
        if not parents:
            return "missing"
        runs = [r for r in parents if r in stage.parents and steps[stage.parents[r].key].state == "run"]
        role = (runs or parents)[0]
        label = stage.parents[role].label if role in stage.parents else role
        return f"parent will run: {label}" if runs else f"parent changed: {label}"


def _without_settings_of_others(changed: Sequence[str]) -> list[str]:
    """Changes without the settings of an option that is another one now: of `rm.name`, they say nothing besides."""
    names = [one for one in changed if one.partition(" ")[0].endswith(".name")]
    if task := [one for one in names if one.startswith("task.name ")]:
        return task  # its rows are others as well
    groups = tuple(one.partition(" ")[0].removesuffix("name") for one in names)
    return [*names, *(one for one in changed if not one.startswith(groups))]


def _changes(sheet: Sheet, stage: Stage) -> tuple[list[str], list[str]]:
    """(changes of the spec, roles whose parent is another)."""
    changed = [one for one in differences(sheet.spec, stage.spec) if not one.startswith(f"{WHERE}.")]
    if rows := _changed_rows(sheet.spec.get(WHERE, {}).get(DATA), stage.spec.get(WHERE, {}).get(DATA)):
        changed = [*rows, *(one for one in changed if not one.startswith("digest "))]
    if sheet.version != stage.version:
        changed.insert(0, f"version {sheet.version} -> {stage.version}")
    old = {role: parent.key for role, parent in sheet.parents.items()}
    new = {role: parent.key for role, parent in stage.parents.items()}
    return changed, [role for role in sorted(old.keys() | new.keys()) if old.get(role) != new.get(role)]


def _changed_rows(old: Mapping[str, Json] | None, new: Mapping[str, Json] | None) -> list[str]:
    """Data that changed: `data: en demonstrations, train: 3 rows more`."""
    found = []
    for name, (before, digest) in sorted((old or {}).items()):
        rows, other = (new or {}).get(name, (before, digest))
        if other != digest:
            count = f"{abs(rows - before)} row{'s' if abs(rows - before) != 1 else ''}"
            more = "more" if rows > before else "fewer"
            found.append(f"data: {name}: {f'{count} {more}' if rows != before else 'other rows'}")
    return found


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

    def print(self, console: Console | None = None, workers: int = 1, said: str = "", every: bool = False) -> None:
        """The dry-run table: stages by kind, reasons, cost, what was left out; `said`: of the workers.

        every: every stage below it, with what is to be done about it and why.
        """
        console = console or Console(soft_wrap=True)
        console.print(plan_table(self, workers, said))
        if every:
            console.print(stage_table(self), soft_wrap=True)

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


def too_large(plan: Plan) -> Iterator[tuple[str, Memory]]:
    """A sentence on each kind of stage that does not fit into its GPUs, and the memory."""
    for kind, (label, memory) in plan.needs.items():
        if not memory.fits:
            parts = sorted(memory.parts.items(), key=lambda part: -part[1])
            shown = ", ".join(f"{name} {size / 2**30:,.0f}" for name, size in parts if size >= 2**29)
            trains = "optimizer" in memory.parts
            adapters = f", {'rm_backbone' if kind == 'reward' else 'policy'}.tuning=lora" if trains else ""
            instead = memory.setting or (
                f"a smaller model{adapters} or GPUs with more memory: no setting of memory makes it fit"
            )
            verb = "Type" if memory.setting else "Take"
            known = memory.gpus.stated or f"it has {memory.gpus.gib:.0f}"
            then = f": {memory.then[0]:,.0f} GB of {_gpus(memory.then[1])}" if memory.then else ""
            told = f"{label} takes up to {memory.gib:,.0f} GB of a GPU ({shown}), and {known}. {verb} {instead}{then}."
            yield told, memory


def _gpus(count: int) -> str:
    return "one GPU" if count == 1 else f"each of {count} GPUs"


def _fitting(plan: Plan) -> Iterator[str]:
    """What fits as it is set, where it is known how much a GPU has."""
    fits = {kind: memory for kind, (_, memory) in plan.needs.items() if memory.gpus.gib is not None and memory.fits}
    if fits:
        kind = max(fits, key=lambda one: fits[one].gib)
        most, gpus = fits[kind], fits[kind].gpus
        which = "Every kind of stage" if len(fits) == len(plan.needs) else ", ".join(fits)
        taken = f"{most.gib:,.0f} GB of {_gpus(gpus.count)} of {gpus.gib:g} GB"
        yield f"Fits as it is set: {which}. Most takes {kind}, {taken}."


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
        return neighbours[stage.kind].reason(stage, steps)

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


# --- the dry run's table ----------------------------------------------------------------------------------


WORTH = 2.0  # GiB of a GPU, from which on plans say how much their stages take
SHOWN_BYTES = 1e9  # of results, from which on they say what weights are of it
CONSIDERABLE = 16.0  # from which on they say how to ask whether it fits


def plan_table(plan: Plan, workers: int, said: str = "") -> RenderableType:
    title = f"{escape(plan.name)}: {len(plan.cells)} cells, {len(plan.steps)} stages"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )  # the paper's grids in the 80 columns of a terminal
    large = any(memory.gib >= WORTH or memory.gpus.gib is not None for _, memory in plan.needs.values())
    scale = ["GPU", "disk"] if large else []
    left = any(step.state not in ("cached", "run") for step in plan.steps.values())
    for column in ("stage", "count", "cached", "to run", *["not run"] * left, "est. time", *scale, "why"):
        table.add_column(
            column, justify="left" if column in ("stage", "why") else "right",
            no_wrap=column in ("stage", "est. time"), overflow="fold",
        )  # fmt: skip
    reasons = _reasons(plan)
    for kind, states in plan.count().items():
        estimate = plan.estimates[kind]
        time = duration(estimate.seconds * states["run"]) + _certainty(estimate)
        rest = states["failed"] + states["blocked"] + states["missing"]
        table.add_row(kind, str(states.total()), str(states["cached"]), str(states["run"]), *[str(rest or "")] * left,
                      time if states["run"] else "", *(_scale(plan, kind) if large else ()), reasons[kind])  # fmt: skip
    cost = [*_cost(plan, workers, said), *_units(plan)] if plan.to_run else ["Nothing to run."]
    return Group(table, *cost, *_notes(plan))


def stage_table(plan: Plan) -> Text:
    """A line a stage, by the index and label that `xling status --all` shows once the plan is run."""
    rows = [("index", "stage", "", "key", "disk", "why")]
    for number, (key, step) in enumerate(plan.steps.items()):
        disk = size(step.stored) if step.stored else ""
        rows.append((str(number), step.stage.label, step.state, key[:12], disk, step.reason))
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for index, label, state, key, disk, why in rows:  # nothing is cut: a narrow terminal breaks the lines
        left = [set_cell_size(text, width) for text, width in zip((label, state, key), widths[1:4], strict=True)]
        lines.append("  ".join((index.rjust(widths[0]), *left, disk.rjust(widths[4]), why)).rstrip())
    lines.insert(1, "─" * (sum(widths[:5]) + 14))
    cached = [step.stored for step in plan.steps.values() if step.state == "cached"]
    more = sum(estimate.stored for estimate in plan.estimates.values())
    said = f"On disk: {size(sum(cached))} in {len(cached)} results that are used as they are"
    lines.append(f"{said}{f'; models to come take about {size(more)}' if more else ''}.")
    return Text("\n".join(lines))


def _scale(plan: Plan, kind: str) -> tuple[str, str]:
    """Of a kind's stages: memory of each GPU (`!`: too much) and of how many, and what all of them store."""
    stored, (_, memory) = plan.estimates[kind].stored, plan.needs.get(kind, ("", None))
    disk = f"{_few(stored / 1e9)} GB" if stored >= 1e8 else ""
    if memory is None:
        return "", disk
    return (
        f"{_few(memory.gib)} GB{f' x{memory.gpus.count}' * (memory.gpus.count > 1)}{'' if memory.fits else ' !'}",
        disk,
    )


def _few(number: float) -> str:
    """`1,234`, `12`, `0.45`."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _units(plan: Plan) -> Iterable[RenderableType]:
    """Totals of the stages to run in units that people count; of dry runs alone."""
    rows = [(kind, {what: count for what, count in e.units.items() if count}) for kind, e in plan.estimates.items()]
    if not any(units for _, units in rows):
        return
    grid = Table.grid(padding=(0, 1))
    for kind, units in rows:
        if units:
            grid.add_row(f"  {kind}", ", ".join(f"{count:,} {what}" for what, count in units.items()))
    yield "To run, in units:"
    yield grid


def _certainty(estimate: Estimate) -> str:
    return "" if estimate.recorded else " *" if estimate.modelled else " ?"


def _cost(plan: Plan, workers: int, said: str) -> Iterable[str]:
    """Lines on the cost of the whole plan, and how it is known."""
    total, wall = plan.cost(workers)
    found = [estimate for kind, estimate in plan.estimates.items() if plan.count()[kind]["run"]]
    guessed = any(not (estimate.recorded or estimate.modelled) for estimate in found)
    crew = escape(said) or f"{workers} worker{'s' * (workers > 1)}"
    wait = f"; about {duration(wall)} with {crew}" if workers else ""
    yield f"Work: {duration(total)}{wait}." + ("  (? = guessed: no run of the kind is recorded yet)" if guessed else "")
    yield from _disk(plan)
    modelled = [(kind, e) for kind, e in plan.estimates.items() if e.modelled]
    if modelled and plan.rates:
        hours = sum(e.seconds * e.processes * plan.count()[kind]["run"] for kind, e in modelled) / 3600
        flops, shares = sum(estimate.flops for _, estimate in modelled), plan.rates.utilisation.items()
        yield (
            f"* = by its work: {flops:.3g} FLOP, {_few(hours)} hours of {plan.rates.speed.name} "
            f"({plan.rates.speed.flops:.3g} FLOP/s, in float32 {plan.rates.speed.single:.3g}), of which "
            f"{', '.join(f'{sort} gets {share:.0%}' for sort, share in shares)} (cost.*; docs/paper.md)"
        )
    if several := [f"{kind} in {e.processes}" for kind, e in modelled if e.processes > 1]:
        yield (
            f"{', '.join(several)} processes: taken to be as many times as fast. What messages between GPUs cost of "
            "that was not measured."
        )


def _disk(plan: Plan) -> Iterable[str]:
    """What new results take, how much of it weights are, and what dropping those costs whoever needs them later."""
    stored = {kind: estimate.stored for kind, estimate in plan.estimates.items()}
    total, trained = sum(stored.values()), [kind for kind in stored if kind in plan.kinds and plan.kinds[kind].weights]
    weights = {kind: stored[kind] for kind in trained if stored[kind]}
    if total < SHOWN_BYTES or not weights:
        return
    parts = ", ".join(f"{kind} {size(part)}" for kind, part in weights.items())
    gone = [kind for kind in weights if not plan.drops or kind in plan.drops]
    left = size(total - sum(weights[kind] for kind in gone))
    again = duration(sum(plan.estimates[kind].seconds * plan.count()[kind]["run"] for kind in gone))
    how = f"Of these {left} stay" if plan.drops else f"keep_weights=none leaves {left}"
    yield (
        f"Disk: {size(total)} of results, most of it weights: {parts}. {escape(how)} once all stages have read them; "
        f"to train all of {', '.join(gone)} again takes {again}, if a later command has to read them."
    )
    kept = [f"{kind} {size(memory.scratch)}" for kind, (_, memory) in plan.needs.items() if memory.scratch]
    if kept:
        yield f"Checkpoints, on disk while a stage runs, at most: {', '.join(kept)}."


def _reasons(plan: Plan) -> dict[str, str]:
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


def _notes(plan: Plan) -> Iterable[str]:
    if any(memory.gpus.gib is None and memory.gib >= CONSIDERABLE for _, memory in plan.needs.values()):
        yield (
            "GPU: what a stage takes of each at most. How much one has is not known here; with hydra/launcher=slurm "
            "hydra.launcher.gpu_mem_gb=80 a dry run, which needs no cluster, says what does not fit and what to type."
        )
    yield from (f"[yellow]Does not fit:[/yellow] {escape(sentence)}" for sentence, _ in too_large(plan))
    yield from _fitting(plan)
    for warning in plan.warnings:
        yield f"[yellow]Warning:[/yellow] {escape(warning)}"
    lines = _left_out(plan.left_out)
    if lines:
        yield f"Left out ({len(lines)}):"
        yield from (escape(f"  {line}") for line in lines[:SHOWN])
        if len(lines) > SHOWN:
            yield f"  and {len(lines) - SHOWN} more (plan.json has all)"


def _left_out(rows: Sequence[Mapping[str, Json]]) -> list[str]:
    """`source_lang and target_lang=am, ar, bg and 38 more: the task has no data in them`: the same codes once."""
    names: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        values = tuple(map(str, row["axes"].values()))
        merged = names.setdefault((row["reason"], *values), [[] for _ in values])
        for known, name in zip(merged, row["axes"], strict=True):
            known += [] if name in known else [name]
    return [
        ", ".join(f"{' and '.join(axes)}={_few_codes(value)}" for axes, value in zip(merged, values, strict=True))
        + f": {reason}"
        for (reason, *values), merged in names.items()
    ]


def _few_codes(value: str) -> str:
    codes = value.split(", ")
    return value if len(codes) <= 5 else f"{', '.join(codes[:3])} and {len(codes) - 3} more"
