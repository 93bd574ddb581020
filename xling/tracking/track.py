"""Tracking: the runs of a grid that are missing are written by a process of its own. Never a reason to fail.

    settings = {"mode": "auto", "project": "xling", "entity": None, "artifacts": "references", "runs": "trained"}
    result = track_grid(root, "embedded", settings)

Stages know nothing of it. When a grid has been folded, a child process for each tracker, `python -m
xling.tracking.track ROOT GRID DESTINATION`, hands it the runs of finished stages that it has not
yet, as far as `runs` asks for them, and then that of the grid; <root>/tracking/ has its log, its ledger of what has
been written, its answer, and what W&B writes offline. docs/wandb.md has the rest.
"""

import fcntl
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from textwrap import shorten
from typing import Any

import msgspec
from msgspec import Struct

import xling
from xling.console import lasting_output, without_secrets
from xling.grid.files import append_line, json_bytes, no_link, write_atomically
from xling.grid.records import PlannedStage
from xling.grid.store import Store
from xling.jsonfiles import decode
from xling.results.plan import Plan, read_plan
from xling.tracking.base import TRACKERS, Destination, Tracker, TrackingResult, asked_runs

PATIENCE = 120.0  # seconds to wait for the child; slow uploads go on without us
A_LINE = 300  # characters of a problem that are told
AT_A_TIME = 8  # runs that are written online
MOST_PROBLEMS = 3  # then something is wrong with all of them


class Noted(Struct, frozen=True):
    """One line of a ledger: a stage's key, or a reduce run's id and the digest of the matrix it shows."""

    key: str


def track_grid(root: Path, name: str, tracking: Mapping[str, Any], patience: float | None = PATIENCE) -> TrackingResult:
    """Write the runs of a grid that are missing. Raises nothing: trouble is in the result and in the log.

    tracking: settings as in conf/config.yaml, of one tracker; without its name they are W&B's. patience: seconds to
    wait for the child, which goes on after them; None: until it has ended.
    """
    folder, title = Path(root) / "tracking", ""
    try:
        tracker = TRACKERS[str(tracking.get("name") or "wandb")]
        title = tracker.TITLE
        to, why = tracker.destination(tracker.read(tracking), os.environ)
        if to is None:
            return TrackingResult("off", title=title)
        to = msgspec.structs.replace(to, runs=asked_runs(tracking))
        store = Store(root)
        stages, reduce_key = missing(store, read_plan(store.grid_folder(name)), to)
        known = len(read_ledger(folder, to))
        if not stages and reduce_key is None:
            return TrackingResult(to.mode, 0, known, str(folder), why, title=title)
        result = _in_child(folder, Path(root), name, to, known, patience)
        return msgspec.structs.replace(result, problem=f"{why} {result.problem}".strip(), title=title)
    except Exception as error:
        problem = without_secrets(f"{type(error).__name__}: {error}")
        return TrackingResult("off", 0, 0, str(folder), problem, title=title or "Tracking")


# --- what is missing ----------------------------------------------------------------------------------------


def missing(store: Store, plan: Plan, to: Destination) -> tuple[list[PlannedStage], str | None]:
    """The finished stages that lack a run of theirs, and the ledger key of the grid's if that lacks or is outdated."""
    known, asked = read_ledger(store.root / "tracking", to), having_runs(store, plan, to.runs)
    new = (stage for stage in plan.stages if stage.key in asked - known)
    stages = [stage for stage in new if store.state(stage.kind, stage.key) == "done"]
    key = reduce_ledger_key(store, plan)
    return stages, None if _shown(store, plan, to)[-1:] == [key] else key


def having_runs(store: Store, plan: Plan, runs: str) -> set[str]:
    """Keys of the stages that have runs of their own. runs: one of RUNS."""
    if runs in ("grid", "stages"):
        return {stage.key for stage in plan.stages if runs == "stages"}
    from xling.planning import KINDS

    trained = {kind for kind, facts in KINDS.items() if facts.weights}
    found = {stage.key for stage in plan.stages if stage.kind in trained or _has_curve(store, stage)}
    return found | {cell.judge.key for cell in plan.cells if runs == "cells"}


def _has_curve(store: Store, stage: PlannedStage) -> bool:
    """Whether it has trained, as a base that is pretrained here does."""
    done = store.check(stage.kind, stage.key).done
    return done is not None and "curve.jsonl" in done.files


def reduce_id(plan: Plan) -> str:
    """The id of a grid's reduce run: the same cells under the same name are the same run."""
    cells = "\n".join([plan.name, *sorted(cell.judge.key for cell in plan.cells)])
    return f"reduce-{sha256(cells.encode()).hexdigest()[:32]}"


def reduce_ledger_key(store: Store, plan: Plan) -> str:
    """The reduce run as it shows this very matrix."""
    content = (store.grid_folder(plan.name) / "matrix.json").read_bytes()
    return f"{reduce_id(plan)}-{sha256(content).hexdigest()[:16]}"


def _shown(store: Store, plan: Plan, to: Destination) -> list[str]:
    """The matrices that the grid's run has shown, one after the other: it may come back to one."""
    ident = reduce_id(plan)
    return [noted.key for noted in _lines(store.root / "tracking" / to.ledger) if noted.key.startswith(ident)]


def read_ledger(folder: Path, to: Destination) -> set[str]:
    """Keys that have been written to a destination; a torn last line counts as not written."""
    return {noted.key for noted in _lines(folder / to.ledger)}


def _lines(path: Path) -> Iterator[Noted]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield decode(line, type=Noted)
        except msgspec.DecodeError:
            continue


# --- starting the child -------------------------------------------------------------------------------------


def _in_child(
    folder: Path, root: Path, name: str, to: Destination, known: int, patience: float | None
) -> TrackingResult:
    folder.mkdir(parents=True, exist_ok=True)
    answer = folder / _answer(name, to)
    answer.unlink(missing_ok=True)
    log = folder / f"{to.tracker}.log"
    with open(log, "ab", opener=no_link) as output:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "xling.tracking.track", str(root), name, msgspec.json.encode(to).decode()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(folder),
            start_new_session=True,  # Ctrl-C in the terminal does not tear a run
        )
    try:
        code = child.wait(patience)
    except subprocess.TimeoutExpired:
        return TrackingResult(to.mode, 0, known, str(folder), f"Still writing in the background: {log}.")
    if code or not answer.exists():
        return TrackingResult(to.mode, 0, known, str(folder), f"It ended with code {code}; see {log}.")
    return decode(answer.read_bytes(), type=TrackingResult)


def _environment(folder: Path) -> dict[str, str]:
    """Ours, with W&B's own files below the tracking folder and this very xling importable."""
    source = str(Path(xling.__file__).resolve().parent.parent)
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    return {
        **own,
        "PYTHONPATH": os.pathsep.join(paths),
        "WANDB_DATA_DIR": str(folder / "data"),
        "WANDB_CACHE_DIR": str(folder / "cache"),
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }


# --- the child ----------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """ROOT GRID DESTINATION (as JSON). The answer is a file of <root>/tracking, a TrackingResult."""
    lasting_output()  # the log's disk may be full
    root, name, to = Path(arguments[0]), arguments[1], decode(arguments[2], type=Destination)
    folder = root / "tracking"
    with _lock(folder):
        result = write_runs(Store(root), name, to)
    write_atomically(folder / _answer(name, to), json_bytes(result))
    return 0


def _answer(name: str, to: Destination) -> str:
    return f"{name}.json" if to.tracker == "wandb" else f"{name}.{to.tracker}.json"


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Two grids of one root that end together do not write the same run twice."""
    with open(folder / "lock", "a", opener=no_link) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_runs(store: Store, name: str, to: Destination) -> TrackingResult:
    """Write what is missing. A run that fails is passed over, or the tracker names another destination for the rest."""
    from xling.tracking.runs import grid_run, stage_runs  # pandas and numpy, which the launch need not wait for

    folder, tracker = store.root / "tracking", TRACKERS[to.tracker]
    plan = read_plan(store.grid_folder(name))
    ledger = read_ledger(folder, to)
    stages, reduce_key = missing(store, plan, to)
    writing = _Writing(folder, to, tracker)

    asked = having_runs(store, plan, to.runs)
    run_of = stage_runs(store, plan, asked)

    def write_stage(stage: PlannedStage) -> str | None:
        return tracker.write_stage(run_of(stage), to)

    def write_grid() -> str | None:
        times = len(_shown(store, plan, to))
        return tracker.write_grid(grid_run(store, plan, reduce_id(plan), times, asked), to)

    for wave in waves(plan, {stage.key for stage in stages}):
        writing.all((stage.key, partial(write_stage, stage)) for stage in wave)
    if reduce_key is not None:
        writing.all([(reduce_key, write_grid)], sys.maxsize)  # the matrix, whatever is wrong with stages
    problems = writing.problems
    if writing.instead is not None:
        other = write_runs(store, name, writing.instead)
        return msgspec.structs.replace(other, problem=f"Not {to.mode} ({problems[-1]}). {other.problem}".strip())
    told = f"{len(problems)} could not be written: {problems[0]}" if problems else ""
    return TrackingResult(
        to.mode, len(writing.written), len(ledger), str(folder), told, to.project, to.entity, writing.team,
        tracker.TITLE, to.runs,
    )  # fmt: skip


def waves(plan: Plan, keys: set[str]) -> list[list[PlannedStage]]:
    """The stages with these keys, those of a wave needing only what stands in the waves before it.

    So an artifact is given out by its own run before another uses it.
    """
    depth: list[int] = []
    found: dict[int, list[PlannedStage]] = {}
    for stage in plan.stages:
        depth.append(1 + max((depth[parent] for parent in stage.parents), default=-1))
        if stage.key in keys:
            found.setdefault(depth[-1], []).append(stage)
    return [found[level] for level in sorted(found)]


class _Writing:
    """Writes runs, online several at a time since most of the time is the network's, until something is wrong."""

    def __init__(self, folder: Path, to: Destination, tracker: Tracker) -> None:
        self._folder, self._to, self._tracker = folder, to, tracker
        self.team = to.entity
        self.written: list[str] = []
        self.problems: list[str] = []
        self.instead: Destination | None = None  # where the rest is to go

    def all(self, jobs: Iterable[tuple[str, Callable[[], str | None]]], most: int = MOST_PROBLEMS) -> None:
        with ThreadPoolExecutor(AT_A_TIME if self._to.mode == "online" else 1) as pool:
            list(pool.map(partial(self._write, most), jobs))

    def _write(self, most: int, job: tuple[str, Callable[[], str | None]]) -> None:
        if self.instead is not None or len(self.problems) >= most:
            return
        key, write = job
        try:
            self.team = write() or self.team
            append_line(self._folder / self._to.ledger, Noted(key))
            self.written.append(key)
        except Exception as error:
            self.problems.append(shorten(without_secrets(f"{type(error).__name__}: {error}"), A_LINE))
            print(without_secrets(traceback.format_exc()), file=sys.stderr)
            self.instead = self.instead or self._tracker.instead(self._to, error)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
