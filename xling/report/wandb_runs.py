"""The child process that writes W&B runs: `python -m xling.report.wandb_runs ROOT GRID MODE PROJECT [ENTITY]`.

A stage's run has the stage's key as id and its kind as job_type; its artifact `<kind>-<key>` has the stage's spec,
the hashes of all its files and the small files themselves. The grid's reduce run uses these artifacts, so that
two grids that share stages show them both.
"""

import fcntl
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import wandb
from wandb.sdk.wandb_run import Run

from xling.analysis.matrix import ENTRY_AXES, Matrix
from xling.analysis.plan import Plan, PlannedStage, read_plan
from xling.analysis.records import Items, read_json
from xling.grid.files import append_line, json_bytes, write_atomically
from xling.grid.records import Done
from xling.grid.store import Store
from xling.report.files import read_matrix
from xling.report.tracking import Destination, Noted, TrackingResult, missing, read_ledger, reduce_id

SMALL = 1 << 20  # bytes; larger files are named by their hash only
MOST_PROBLEMS = 3  # then something is wrong with all of them
INIT_TIMEOUT = 30.0  # seconds; then the runs are written offline


def main(arguments: list[str]) -> int:
    root, name, mode, project, *entity = arguments
    to = Destination(mode, project, entity[0] if entity else None)
    folder = Path(root) / "tracking"
    with _lock(folder):
        result = write_runs(Store(root), name, to)
    write_atomically(folder / f"{name}.json", json_bytes(result))
    return 0


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Two grids of one root that end together do not write the same run twice."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_runs(store: Store, name: str, to: Destination) -> TrackingResult:
    """Write what is missing. Trouble online ends in offline runs; a run that fails offline is told and passed over."""
    folder = store.root / "tracking"
    plan = read_plan(store.grid_folder(name))
    known = len(read_ledger(folder, to))
    stages, reduce_key = missing(store, plan, to)
    jobs: list[tuple[str, Callable[[], None]]] = []
    jobs += [(stage.key, partial(_stage_run, store, stage, to)) for stage in stages]
    jobs += [] if reduce_key is None else [(reduce_key, partial(_reduce_run, store, plan, to))]
    problems: list[str] = []
    for key, job in jobs:
        try:
            job()
            append_line(folder / to.ledger, Noted(key))
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
            traceback.print_exc()
            if to.mode == "online":
                wandb.teardown()  # else the run's id stays taken
                offline = write_runs(store, name, Destination("offline", to.project, to.entity))
                return msgspec.structs.replace(
                    offline, problem=f"Not online ({problems[0]}). {offline.problem}".strip()
                )
            if len(problems) == MOST_PROBLEMS:
                break
    told = f"{len(problems)} could not be written: {problems[0]}" if problems else ""
    written = len(read_ledger(folder, to)) - known
    return TrackingResult(to.mode, written, known, str(folder), told)


def _init(store: Store, to: Destination, **about: Any) -> Run:
    """A run that gathers nothing by itself: no console, code, git, packages or machine statistics."""
    settings = wandb.Settings(
        mode=to.mode,  # type: ignore[arg-type]
        root_dir=str(store.root / "tracking"),
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        init_timeout=INIT_TIMEOUT,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
    )
    return wandb.init(project=to.project, entity=to.entity, resume="allow", settings=settings, **about)


# --- one stage ------------------------------------------------------------------------------------------------


def _stage_run(store: Store, stage: PlannedStage, to: Destination) -> None:
    folder = store.load(stage.kind, stage.key)
    done, sheet = store.check(stage.kind, stage.key).done, store.sheet(stage.kind, stage.key)
    assert done is not None and sheet is not None  # load has checked both
    config = {
        "label": stage.label,
        "version": sheet.version,
        "spec": sheet.spec,
        "parents": {role: parent.key for role, parent in sheet.parents.items()},
    }
    run = _init(store, to, id=stage.key, name=stage.label, job_type=stage.kind, config=config)
    try:
        for step, values in _curve(folder):
            run.log(values, step=step)
        run.summary.update(_summary(folder, done))
        run.log_artifact(stage_artifact(folder, done))
    finally:
        run.finish()


def _curve(folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, values) of a training stage's curve.jsonl; nothing where there is none."""
    path = folder / "curve.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else []:
        values = msgspec.json.decode(line, type=dict[str, Any])
        yield int(values.pop("step")), values


def _summary(folder: Path, done: Done) -> dict[str, Any]:
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
    if "items.json" in done.files:
        wins = [win for win in read_json(folder / "items.json", Items).win if win is not None]
        found["win_rate"] = 100 * sum(wins) / len(wins)
    return found


def stage_artifact(folder: Path, done: Done) -> wandb.Artifact:
    """The artifact of a stage; built alike every time, so that whoever uses it means the same one."""
    hashes = {name: fact.sha256 for name, fact in done.files.items()}
    artifact = wandb.Artifact(f"{done.kind}-{done.key}", done.kind, metadata={"label": done.label, "sha256": hashes})
    for name, fact in sorted(done.files.items()):
        if fact.size <= SMALL:
            artifact.add_file(str(folder / name), name, skip_cache=True, policy="immutable")
    return artifact


# --- the matrix -----------------------------------------------------------------------------------------------


def _reduce_run(store: Store, plan: Plan, to: Destination) -> None:
    folder = store.grid_folder(plan.name)
    matrix = read_matrix(folder)
    done = [
        (stage, status.done)
        for stage in plan.stages
        if (status := store.check(stage.kind, stage.key)).state == "done" and status.done is not None
    ]
    used: dict[str, list[str]] = {}
    for stage, _ in done:
        used.setdefault(stage.kind, []).append(f"{stage.kind}-{stage.key}")
    config = {"command": plan.command, "git": plan.git, "cells": len(plan.cells), "artifacts": used}
    about = {"id": reduce_id(plan), "name": plan.name, "job_type": "reduce", "group": plan.name}
    run = _init(store, to, config=config, **about)
    try:
        for stage, marker in done:
            _use(run, stage_artifact(store.folder(stage.kind, stage.key), marker), to)
        pictures = {"picture": "matrix.png"} | ({"frontier": "frontier.png"} if matrix.frontiers else {})
        shown = {name: wandb.Image(str(folder / file)) for name, file in pictures.items()}
        run.log({"matrix": matrix_table(matrix), "rm_accuracy": accuracy_table(matrix), **shown})
        run.summary.update(_counts(matrix))
    finally:
        run.finish()


def _use(run: Run, artifact: wandb.Artifact, to: Destination) -> None:
    """Say that the run used an artifact. `use_artifact` refuses offline; what it does below that does not."""
    if to.mode == "online":
        run.use_artifact(artifact)
    else:
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def matrix_table(matrix: Matrix) -> wandb.Table:
    """matrix.csv as a table, with numbers as numbers and holes as nothing."""
    axes = [*ENTRY_AXES, *matrix.other_axes]
    rows: list[list[Any]] = []
    for entry in matrix.entries():
        win = entry.win
        values = [None] * 3 if win is None else [win.value, win.low, win.high]
        counts = [0, 0] if win is None else [win.n, win.seeds]
        rows.append([*(entry.axes.get(axis, "") for axis in axes), *values, *counts, entry.status, entry.reason])
    columns: list[str | int] = [*axes, "win_rate", "ci_low", "ci_high", "n", "seeds", "status", "reason"]
    rows.sort(key=lambda row: row[: len(axes)])
    return wandb.Table(columns=columns, data=rows)


def accuracy_table(matrix: Matrix) -> wandb.Table:
    """Reward-model accuracy on held-out preferences, long form."""
    rows = [
        [panel.axes["rm_backbone"], a.source, a.target, a.accuracy.value, a.accuracy.low, a.accuracy.high,
         a.auc.value if a.auc else None]
        for block in matrix.blocks for panel in block.panels for a in panel.accuracy
    ]  # fmt: skip
    columns: list[str | int] = ["rm_backbone", "source_lang", "target_lang", "accuracy", "ci_low", "ci_high", "auc"]
    return wandb.Table(columns=columns, data=rows)


def _counts(matrix: Matrix) -> dict[str, int]:
    """Summary counts, by panel where there are several."""
    panels = [panel for block in matrix.blocks for panel in block.panels]
    found = {}
    for number, panel in enumerate(panels):
        prefix = f"panel_{number}/" if len(panels) > 1 else ""
        for count in panel.counts:
            found[f"{prefix}{count.name}"] = count.k
            found[f"{prefix}{count.name}_of"] = count.of
    for table in matrix.optimizers if len(matrix.optimizers) == 1 else []:
        found |= {f"above_50/{arm.name}": arm.above_50 for arm in table.arms}
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
