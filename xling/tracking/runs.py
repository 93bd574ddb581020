"""Runs for a tracker: one for each stage that has its own (`tracking.runs`), and one for the grid. Knows no tracker.

A stage's run is the same whichever grids use it. Folded again (a hole was filled), a grid's run shows the new matrix:
its id comes from the grid's name and cells.
"""

import hashlib
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xling.analysis.matrix.names import told_apart
from xling.analysis.matrix.types import Matrix, read_matrix
from xling.analysis.statistics.bootstrap import SHARE, draw, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.analysis.tidy.finding import spread
from xling.analysis.tidy.tables import Rows, counts, tables, three
from xling.console import shown
from xling.errors import StoreError
from xling.grid import joined, labels
from xling.grid.records import Done, PlannedStage, Sheet
from xling.grid.store import Store
from xling.jsonfiles import decode
from xling.judges import judges_its_own
from xling.report.tables.findings import shown_findings
from xling.results.items import Items
from xling.results.plan import SEED_AXES, Plan, Results, axes_text
from xling.results.reading import CellSamples, JudgedItems, SampleReader


@dataclass(frozen=True)
class Result:
    """A finished stage as it stands in the store: its folder, and marker and sheet with all that is known of it."""

    folder: Path
    done: Done
    sheet: Sheet


@dataclass(frozen=True)
class StageRun:
    """The run of a finished stage. Its id is the stage's key."""

    store: Store
    result: Result
    grid: str = ""  # of which it is written: a stage that several share is the run of the first
    axes: Mapping[str, str] = field(default_factory=dict)  # of the grid's cells that need it, as far as these agree
    name: str = ""  # for people: its label in the grid
    above: Sequence[PlannedStage] = ()  # the nearest ones above it that have runs

    @property
    def id(self) -> str:
        """The stage's key."""
        return self.result.done.key

    @property
    def config(self) -> dict[str, Any]:
        """What it is filtered and grouped by: grid, kind and axes; and the settings that the result depends on."""
        sheet = self.result.sheet
        return {
            **self.axes,
            "grid": self.grid,
            "kind": sheet.kind,
            "label": self.name or sheet.label,
            "version": sheet.version,
            "spec": sheet.spec,
            "parents": {role: parent.key for role, parent in sheet.parents.items()},
        }

    @cached_property
    def curve(self) -> list[tuple[int, dict[str, float]]]:
        """(step, values) of a training stage, named as `sft/loss`; empty where there is none."""
        return list(read_curve(self.result.folder, self.result.done))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """How the stage came about, and its one number if it is a judge's."""
        return summary(self.result.folder, self.result.done, self.result.sheet)

    def parents(self) -> Iterator[Result]:
        """The nearest results above it that have runs, as far as they are there: `xling gc` may have deleted some."""
        yield from _there(self.store, self.above)


@dataclass(frozen=True)
class GridRun:
    """The run of a grid that has been folded."""

    store: Store
    plan: Plan
    id: str
    times: int  # that it has been written before
    folder: Path  # with the pictures and files of the matrix
    matrix: Matrix
    config: dict[str, Any]
    tables: dict[str, Rows]  # all that it shows, by name
    above: Sequence[PlannedStage]  # of what its cells are folded from, or the nearest ones above it that have runs
    left_out: dict[str, str] = field(default_factory=dict)  # what of it could not be read -> why

    @property
    def summary(self) -> dict[str, Any]:
        """Cells by status, and mean win rates."""
        return counts(self.matrix)

    def parts(self) -> Iterator[Result]:
        """The results that its cells are folded from, or the nearest ones above them that have runs."""
        yield from _there(self.store, self.above)


def _there(store: Store, stages: Sequence[PlannedStage]) -> Iterator[Result]:
    for stage in stages:
        if store.state(stage.kind, stage.key) == "done":
            yield read_result(store, stage.kind, stage.key)


def nearest(plan: Plan, asked: Set[str]) -> dict[str, dict[str, PlannedStage]]:
    """Key of a stage -> itself if its key is among `asked`, else the nearest ones above it that are, by key."""
    found: dict[str, dict[str, PlannedStage]] = {}
    for stage in plan.stages:
        found[stage.key] = {stage.key: stage} if stage.key in asked else _above(plan, stage, found)
    return found


def _above(plan: Plan, stage: PlannedStage, found: Mapping[str, Mapping[str, PlannedStage]]) -> dict[str, PlannedStage]:
    return {key: one for place in stage.parents for key, one in found[plan.stages[place].key].items()}


def stage_runs(store: Store, plan: Plan, asked: Set[str]) -> Callable[[PlannedStage], StageRun]:
    """The run of a stage of the plan. StoreError: it has not finished, or what is read are not the published bytes.

    asked: keys of all that have runs.
    """
    axes, found = axes_of(plan), nearest(plan, asked)

    def run_of(stage: PlannedStage) -> StageRun:
        result = read_result(store, stage.kind, stage.key)
        above = list(_above(plan, stage, found).values())
        run = StageRun(store, result, plan.name, axes.get(stage.key, {}), stage.label, above)
        _ = run.curve, run.summary  # whatever is wrong with them, before anything is written
        return run

    return run_of


CONSTANT = ("task", "policy")  # that are worth naming where they are the same in the whole grid


def axes_of(plan: Plan) -> dict[str, dict[str, str]]:
    """Key of a stage -> axes of the cells that need it, where these agree.

    A judge's stage has all; another those that vary in the grid: with a single source a pool is not that source's.
    That a reward model starts from it counts for a stage that nothing else needs: sft[en] is the policy's of target en.
    """
    cells = [(cell.judge.key, axes_text(cell.axes)) for cell in plan.cells]
    parents = {stage.key: [plan.stages[place].key for place in stage.parents] for stage in plan.stages}
    order = list(dict.fromkeys(axis for _, axes in cells for axis in axes))
    varying = {axis for axis in order if len({axes.get(axis) for _, axes in cells}) > 1}
    judged, found = {key for key, _ in cells}, dict[str, dict[str, str]]()
    every = labels.axes_of(cells, parents)
    direct = {stage.key: [] if stage.kind == "reward" else parents[stage.key] for stage in plan.stages}
    for key, agreed in (every | labels.axes_of(cells, direct)).items():
        own = dict(agreed)
        kept = [axis for axis in order if axis in own and (key in judged or axis in varying or axis in CONSTANT)]
        found[key] = {axis: own[axis] for axis in kept}
    return found


def grid_run(store: Store, plan: Plan, ident: str, times: int, asked: Set[str]) -> GridRun:
    """The run of a grid. StoreError: it has not been folded. If data have moved, samples and findings are left out.

    asked: keys of the stages that have runs.
    """
    folder = store.grid_folder(plan.name)
    matrix = read_matrix(folder)
    states = {stage.key: store.check(stage.kind, stage.key).state for stage in plan.stages}
    config = {
        "command": plan.command,
        "git": plan.git,
        "cells": len(plan.cells),
        "stages": _by_kind(plan, {key: state for key, state in states.items() if key in asked}),
        "provenance": matrix.provenance,
    }
    found = nearest(plan, asked)
    refs = [ref for cell in plan.cells for ref in (cell.judge, cell.stages.get("score")) if ref is not None]
    above = {key: stage for ref in refs for key, stage in found.get(ref.key, {}).items()}
    run = GridRun(store, plan, ident, times, folder, matrix, config, tables(matrix), list(above.values()))
    run.tables["stages"] = stage_rows(store, plan)
    made: dict[str, Callable[[], dict[str, Rows]]] = {
        "cells": lambda: cell_rows(store, plan),
        "samples": lambda: {"samples": sample_rows(store, plan)},
        "findings": lambda: dict(findings(store, plan)),
    }
    for what, make in made.items():
        try:
            run.tables.update(make())
        except Exception as error:
            traceback.print_exc()
            run.left_out[what] = f"{type(error).__name__}: {error}"
    return run


# --- of a stage -------------------------------------------------------------------------------------------


def read_result(store: Store, kind: str, key: str) -> Result:
    """A finished stage; StoreError where it is none."""
    status, sheet = store.check(kind, key), store.sheet(kind, key)
    if status.state != "done" or status.done is None or sheet is None:
        raise StoreError(f"{kind}/{key[:12]} is {status.state}: {status.why}")
    return Result(store.folder(kind, key), status.done, sheet)


def _read(folder: Path, done: Done, name: str) -> bytes:
    """A file's content, its hash checked; the others, weights above all, are not read."""
    content = joined.content(folder / name)
    if hashlib.sha256(content).hexdigest() != done.digests[name]:
        raise StoreError(f"{name} of {done.label} has other bytes than were published. Type `xling gc --verify`.")
    return content


def read_curve(folder: Path, done: Done) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, values) of a training stage's curve.jsonl, named as `sft/loss`; nothing where there is none."""
    for line in _read(folder, done, "curve.jsonl").splitlines() if "curve.jsonl" in done.files else []:
        values = decode(line, type=dict[str, float | None])
        step = int(values.pop("step") or 0)
        yield step, {f"{done.kind}/{name}": value for name, value in values.items() if value is not None}


def summary(folder: Path, done: Done, sheet: Sheet) -> dict[str, Any]:
    """How the stage came about, and its one number if it is a judge's."""
    run = done.run
    found = {
        "seconds": run.seconds,
        "cpu_seconds": run.cpu_seconds,
        "attempt": run.attempt,
        "threads": run.threads,
        "device": run.device,
        "git": run.git,
        "versions": dict(run.versions),
        "bytes": sum(fact.size for fact in done.files.values()),
    }
    if "items.json" in done.digests:
        items = decode(_read(folder, done, "items.json"), type=Items)
        # a name of its own: not to be averaged with the others
        name = "win_rate_own_judge" if judges_its_own(sheet.parents) else "win_rate"
        if (win := _win_rate(items)) is not None:
            found |= {name: win.value, f"{name}_low": win.low, f"{name}_high": win.high, "prompts": win.n}
    return found


def _win_rate(items: Items) -> Estimate | None:
    """In percent, with its interval over the prompts of this one seed, as the matrix has it."""
    groups, datasets = items.group or items.prompt, items.dataset or [""] * len(items.prompt)
    judged = [one for one in zip(groups, datasets, items.win, strict=True) if one[2] is not None]
    if not judged:
        return None
    [clusters] = draw([([group for group, _, _ in judged], [dataset for _, dataset, _ in judged])])
    return fold([resample(clusters, 100 * np.array([[win] for _, _, win in judged]), span=SHARE)])[0]


# --- of a grid --------------------------------------------------------------------------------------------


def findings(store: Store, plan: Plan) -> Iterator[tuple[str, Rows]]:
    """Tables of the grid's findings; those that take long as `xling analyse` last wrote them."""
    for finding in shown_findings(store, plan.name, None):
        if len(finding.table):
            table = finding.table.astype(object).where(finding.table.notna(), None)
            yield f"finding/{finding.name}", Rows(list(map(str, table.columns)), table.to_numpy().tolist())


def _by_kind(plan: Plan, states: dict[str, str]) -> dict[str, list[str]]:
    """Kind -> the finished stages' keys, which are the ids of their runs."""
    found: dict[str, list[str]] = {}
    for stage in plan.stages:
        if states.get(stage.key) == "done":
            found.setdefault(stage.kind, []).append(stage.key)
    return found


def stage_rows(store: Store, plan: Plan) -> Rows:
    """Every stage of the grid with its key, the id of its run if it has one, and what it cost."""
    rows: list[list[Any]] = []
    for stage in plan.stages:
        status = store.check(stage.kind, stage.key)
        run = status.done.run if status.done is not None else None
        cost = [None] * 4 if run is None else [run.seconds, run.cpu_seconds, run.device, run.attempt]
        rows.append([stage.kind, stage.label, stage.key, status.state, *cost])
    return Rows(["kind", "label", "run", "state", "seconds", "cpu_seconds", "device", "attempt"], rows)


def cell_rows(store: Store, plan: Plan) -> dict[str, Rows]:
    """`cells`: every cell with its own win rate. Without several seeds there is none: they are the matrix' rows."""
    cells = [axes_text(cell.axes) for cell in plan.cells]
    if len({tuple(axes.get(axis) for axis in SEED_AXES) for axes in cells}) < 2:
        return {}
    names, results = list(dict.fromkeys(axis for axes in cells for axis in axes)), Results(store, plan)
    rows: list[list[Any]] = []
    for axes, cell in zip(cells, plan.cells, strict=True):
        status, reason = results.outcome(cell.judge)
        win = None
        if status == "done":
            result = read_result(store, cell.judge.kind, cell.judge.key)
            win = _win_rate(decode(_read(result.folder, result.done, "items.json"), type=Items))
        place = [axes.get(name, "") for name in names]
        rows.append([*place, *three(win), 0 if win is None else win.n, status, reason, cell.judge.key])
    return {"cells": Rows([*names, *spread("win_rate"), "prompts", "status", "reason", "run"], rows)}


# --- samples: a few prompts of every cell -----------------------------------------------------------------
# What the SFT policy said, what the aligned one says, and what the scores are. The prompts are the same in all cells of
# a target, as far as their judges answered, so that sources and optimizers can be compared line by line. Texts are as
# on the sheets that people judge: control codes are shown, not obeyed.

PROMPTS = 4  # a cell, while the table has fewer rows than MOST
MOST = 4000
SEED = 0  # which prompts
LEVEL = {0.0: "loss", 0.5: "tie", 1.0: "win"}


def sample_rows(store: Store, plan: Plan) -> Rows:
    """A row a prompt of a finished cell; cells of a target stand together."""
    results = Results(store, plan)
    done = [cell for cell in plan.cells if results.outcome(cell.judge)[0] == "done"]
    done = [cell for cell in done if {"pool", "baseline"} <= set(cell.stages)]
    many = max(1, min(PROMPTS, MOST // max(1, len(done))))
    places = told_apart([axes_text(cell.axes) for cell in done])
    names = [*places[0]] if places else []
    order = sorted(range(len(done)), key=lambda i: (places[i]["target_lang"], i))
    reader = SampleReader(store)
    rows = [
        [*places[i].values(), *row]
        for i in order[:MOST]
        for row in _rows(reader.cell(done[i].judge, done[i].stages), places[i]["target_lang"], many)
    ]
    columns = ["prompt", "text", "sft_response", "aligned_response", "sft_reward", "reward", "sft_quality", "quality"]
    return Rows([*names, *columns, "verdict", "win"], rows)


def _rows(samples: CellSamples, lang: str, many: int) -> list[list[Any]]:
    """Prompt, its text, both responses, their rewards and qualities, the verdict on the two, the prompt's win."""
    rows = []
    for prompt in _chosen(samples.items, lang, many):
        one = samples.read(prompt)
        texts = [one.text or "", one.opponents[0], one.response]
        (reward, rewards), (quality, qualities) = one.rewards, one.scores
        point = None if one.points is None else one.points.get(0)
        verdict = None if point is None else LEVEL[point]
        rows.append([prompt, *map(shown, texts), rewards[0], reward, qualities[0], quality, verdict, one.win])
    return rows


def _chosen(items: JudgedItems, lang: str, many: int) -> list[str]:
    """The first prompts in an order of the target's own that have been judged."""
    rank = random.Random(f"{SEED}/{lang}")
    order = {prompt: rank.random() for prompt in sorted(items.prompt)}
    judged = [prompt for prompt, win in zip(items.prompt, items.win, strict=True) if win is not None]
    return sorted(judged, key=lambda prompt: order[prompt])[:many]
