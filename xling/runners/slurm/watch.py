"""A grid that runs, for people: `xling status`, `xling cancel` and `xling logs`, on a cluster or here.

view = look(store, "embedded")    # the files and one query of the cluster
Console().print(view.table())
"""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from xling.console import SHOWN, Console, duration, harmless, is_gone
from xling.errors import ConfigError, StageError
from xling.grid import claim, files, host
from xling.grid.claim import Claim
from xling.grid.cleanup import Garbage
from xling.grid.grids import read_grid, stage_at
from xling.grid.records import PlannedStage
from xling.grid.status import Cluster, GridStatus, Row, count_table, grid_status, status_table
from xling.grid.store import Store
from xling.runners.slurm import cluster, holdings, record
from xling.runners.slurm.cluster import ClusterError
from xling.runners.slurm.cost import cost as cost
from xling.runners.slurm.holdings import Held, Survey, survey
from xling.runners.slurm.record import Filed
from xling.runners.slurm.submit import cancel_arrays, lock

SLOWER, SLOWEST = 1.3, 6.0  # looks become rarer while nothing changes, up to so many times the setting
SECONDS = 0.5  # of one look, for reading win rates
SILENT_SECONDS = 3600.0  # a cluster that does not answer for so long is not waited for

WHY = {
    "BadConstraints": "no node is left that could run it",
    "BeginTime": "queued again, starts soon",
    "Later": "submitted when earlier jobs of the grid have ended",
    "ControllerAway": "SLURM's controller does not answer",
    "Dependency": "waits for jobs of the grid that come first",
    "DependencyNeverSatisfied": "what it waits for has failed",
    "JobArrayTaskLimit": "array_parallelism jobs of its array run",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held: the same command lets it go",
    "launch_failed_requeued_held": "SLURM could not start it and holds it: the same command lets it go",
    "OtherCluster": "submitted to another cluster",
    "OtherUser": "another user's job, which this cluster does not show",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs",
    "Priority": "others come first",
    "ReqNodeNotAvail": "its nodes are not available",
    "Resources": "no node is free",
}


@dataclass(frozen=True)
class View:
    """A grid at one moment."""

    status: GridStatus
    store: Store
    held: Mapping[str, Held]  # of its stages, by key: jobs that are queued or running
    folding: Sequence[Held]  # jobs that fold its matrix
    pilots: Sequence[Held]  # of its own that live
    submitted: bool  # it has been on a cluster, or is
    answered: bool
    unfolded: str  # why the last job has left no matrix; "" if it has, or is still to come
    notes: Sequence[str]

    @property
    def alive(self) -> bool:
        """Whether anything runs or is queued, here or on the cluster."""
        return bool(self.held or self.folding or self.pilots or self.status.having("running"))

    def jobs(self) -> Counter[str]:
        """Living jobs by SLURM's state; several stages may share one."""
        return Counter({held.job: held.state.state for held in self.living()}.values())

    def living(self) -> list[Held]:
        """Its jobs, and those of others that are going to make stages of it; once for each stage."""
        return [held for held in [*self.held.values(), *self.pilots, *self.folding] if held.job]

    @cached_property
    def _states(self) -> list[str]:
        return [row.state for row in self.status.rows]

    def described(self, row: Row) -> tuple[str, float | None, str]:
        """Where a stage is, how long it has been so in seconds, and why it is not further."""
        held = self.held.get(row.stage.key)
        if row.state == "running" and row.claim is not None:
            by, node = row.claim.by, held.state.node if held else ""
            word = "pilot" if held and held.pilot else "job"
            job = f", {word} {by.slurm}" if by.slurm else f", pid {by.pid}"
            turn = f"turn {held.state.restarts + 1}" if held and held.state.restarts else ""
            return f"{node or by.host}{job}", max(0.0, time.time() - row.claim.since), turn
        if row.state == "queued" and held is not None:
            if held.pilot:
                return "pilots", None, self._why(row, held)
            where = f"{held.state.node}, job {held.job}" if held.state.node else f"job {held.job}" if held.job else ""
            return where, held.state.seconds, self._why(row, held)
        if row.state in ("failed", "damaged", "unreadable"):
            return "", None, row.note
        if row.state == "blocked":
            above = (up for up in row.stage.parents if self._states[up] in ("failed", "blocked"))
            return "", None, f"below {self._labels(above)}"
        return "", None, ""

    def _why(self, row: Row, held: Held) -> str:
        missing = [up for up in row.stage.parents if self._states[up] != "done"]
        if held.pilot and held.state.node:
            return f"waits for {self._labels(missing)}" if missing else "its pilots are at other stages"
        if held.state.node:
            alone = len(held.filed.submission.task(held.place).stages) == 1
            return "its job is starting" if alone else "its job is at other stages"
        if held.state.reason in ("Dependency", "", "None") and missing:
            return f"waits for {self._labels(missing)}"
        why = WHY.get(held.state.reason, held.state.reason)
        return f"{why} ({held.state.restarts} restarts)" if held.state.restarts else why

    def _labels(self, indices: Iterable[int]) -> str:
        labels = [self.status.rows[index].stage.label for index in indices]
        more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
        return ", ".join(labels[:3]) + more

    # --- showing it ---------------------------------------------------------------------------------------

    def sentence(self) -> str:
        """One line: how far it is."""
        cells, counts = self.status.cells(), Counter(row.state for row in self.status.rows)
        parts = [f"{cells['done']} of {cells.total()} cells done"]
        parts += [f"{counts[state]} {state}" for state in ("running", "queued", "failed", "blocked") if counts[state]]
        return f"{self.status.plan.name}: {', '.join(parts)}"

    def table(self, every: bool = False) -> RenderableType:
        """Stages by kind and state; then those that run, failed or are queued, one line each."""
        if not self.submitted:
            return status_table(self.status, self.store, every)
        rows = self.status.rows if every else self.status.having("running", "failed", "damaged", "unreadable")
        queued = [] if every else self.status.having("queued")
        parts: list[RenderableType] = [count_table(self.status)]
        if rows or queued:
            parts.append(self._rows([*rows, *queued[:SHOWN]]))
        if len(queued) > SHOWN:
            parts.append(f"and {len(queued) - SHOWN} more queued: `xling status --all` lists every stage.")
        jobs = self.jobs()
        if jobs:
            counted = ", ".join(f"{count} {state.lower()}" for state, count in jobs.most_common())
            parts.append(f"Jobs: {counted}." + (" The last one folds the matrix." if self.folding else ""))
        if idle := [f"{held.job} {duration(seconds)}" for held in self.pilots if (seconds := _idle(held))]:
            parts.append(f"Pilots stood idle so far (GPU time, where they have any): {', '.join(idle)}.")
        return Group(*parts, *(f"[yellow]Note:[/yellow] {escape(note)}" for note in self.notes))

    def _rows(self, rows: Sequence[Row]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("index", justify="right")
        for column in ("stage", "state", "where"):
            table.add_column(column, no_wrap=True)
        table.add_column("how long", justify="right", no_wrap=True)
        table.add_column("why", overflow="fold")
        for row in rows:
            where, seconds, why = self.described(row)
            cells = (row.stage.label, row.state, where, "" if seconds is None else duration(seconds), why)
            table.add_row(str(row.index), *(Text(cell) for cell in cells))
        return table


def _idle(held: Held) -> float:
    """Seconds, as a pilot has noted them."""
    return sum(event.idle for event in held.filed.events(held.place))


# --- looking ----------------------------------------------------------------------------------------------


def look(store: Store, name: str) -> View:
    """How a grid stands; the cluster is asked once if anything of this root is open there."""
    found = survey(store)
    living = {held.job for held in found.held.values()} | found.pilots.keys()
    arrays: set[tuple[str, str]] = set()  # ids, with and without the cluster

    def gone(held: Claim) -> bool:
        if not found.answered or not held.by.slurm or held.by.slurm in living:
            return False
        if not arrays:  # rare: all that were ever submitted are read
            known = [ref for filed in record.submissions(store) for ref in filed.refs.values()]
            arrays.update((ref.id, name) for ref in known for name in ("", ref.cluster))
        return (held.by.slurm.partition("_")[0], held.by.cluster) in arrays

    status = grid_status(store, name, Cluster({key: held.job for key, held in found.held.items()}, gone))
    keys = {row.stage.key for row in status.rows if row.state in ("queued", "running")}
    held = {key: found.held[key] for key in keys & found.held.keys()}
    at = {row.stage.key: row.claim.by.slurm for row in status.having("running") if row.claim is not None}
    held |= {key: found.pilots[job] for key, job in at.items() if job in found.pilots}
    pilots = [one for one in found.pilots.values() if one.filed.head.grid == name]
    folding = [one for one in found.reducers.values() if one.filed.head.grid == name]
    submitted = bool(held or folding) or record.folder_of(store, name).is_dir()
    unfolded = "" if folding else holdings.unfolded(store, name)
    notes = [*_notes(store, found, name), *_unfit([*held.values(), *pilots])]
    if unfolded:
        notes.append(f"there is no matrix of it yet: {unfolded}. Type `xling reduce {name}`; if that took too much "
                     "memory, next time hydra.launcher.stages.reduce.mem_gb=N.")  # fmt: skip
    return View(status, store, held, folding, pilots, submitted, found.answered, unfolded, notes)


def status(store: Store, name: str, every: bool = False) -> RenderableType:
    """What `xling status` shows."""
    return look(store, name).table(every)


def submitted(store: Store, grid: str | None = None) -> bool:
    """Whether some submission of a grid (of any) has not ended, as far as is noted."""
    return record.any_open(store, grid)


def busy(store: Store) -> Set[str]:
    """Keys of the stages that are queued or running."""
    return survey(store).held.keys()


def garbage(store: Store) -> Iterable[Garbage]:
    """What jobs have left that none needs any more."""
    from xling.runners.slurm import snapshot

    return snapshot.garbage(store)


def _unfit(held: Iterable[Held]) -> Iterator[str]:
    """A sentence for each node that jobs could not start on, as told by those that went elsewhere."""
    again = {one.job: one for one in held if one.state.restarts}.values()
    why = {event.node: event.text for one in again for event in one.filed.events(one.place) if event.event == "unfit"}
    for node, text in sorted(why.items()):
        yield f"jobs that came to node {node} went to another: {text}."


def _notes(store: Store, found: Survey, name: str) -> Iterator[str]:
    if not found.answered:
        yield "the cluster does not answer. Stages shown as queued or running may have ended since."
    yield from record.unreadable(store, name, [filed.folder for filed in found.open])
    mine = [filed for filed in found.open if filed.head.grid == name]
    hidden = [one for one in found.held.values() if one.state == holdings.HIDDEN and one.filed.head.grid == name]
    if hidden:
        yield f"jobs of {holdings.owners(hidden)} are not shown to you here (PrivateData): they may have ended since."
    if any(filed.state == "submitting" for filed in mine):
        yield "its submission has not been completed: the same command completes it."
    own = [filed for filed in mine if filed.own]
    loose = [filed for filed in own if not filed.head.snapshot]
    digest = host.code_digest() if loose else ""
    same = [filed.head.versions for filed in own if filed.head.python == sys.executable]
    if changed := next(filter(None, map(host.changed, same)), ""):
        yield f"packages have changed since it was submitted ({changed}): jobs that start from now on use those."
    if any(filed.head.code != digest for filed in loose):
        yield "the code has changed since it was submitted: jobs that start from now on run the changed code."


# --- waiting ----------------------------------------------------------------------------------------------


def watch(store: Store, name: str, seconds: float = 5.0, every: bool = False, folds: bool = False) -> int:
    """Show the table anew until nothing runs or is queued. 0 if all cells are done, 130 if the user leaves.

    folds: whether the caller folds the matrix itself afterwards; else it counts if the last job has not.
    """
    console = Console(soft_wrap=False)
    try:
        view = _until_over(store, name, seconds, _shower(console, every, _matrices(store)))
    except KeyboardInterrupt:
        print(f"xling: the grid goes on. `xling status {name}` shows it, `xling cancel all {name}` stops it.",
              file=sys.stderr)  # fmt: skip
        return 130
    cells = view.status.cells()
    return 0 if cells["done"] == cells.total() and (folds or not view.unfolded) else 1


def _until_over(store: Store, name: str, seconds: float, show: Callable[[View], None]) -> View:
    """Look again and again; less often while nothing changes. ConfigError if the cluster stays silent."""
    pause, before, heard = seconds, "", time.monotonic()
    while True:
        view = look(store, name)
        show(view)
        if not view.alive or is_gone(sys.stdout):
            return view
        if view.answered:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENT_SECONDS:
            raise ConfigError(
                f"The cluster has not answered for {duration(SILENT_SECONDS)}. Jobs may still run: "
                f"type `xling status {name}` when `sinfo` works again."
            )
        now = view.sentence()
        pause = seconds if now != before else min(pause * SLOWER, seconds * SLOWEST)
        before = now
        time.sleep(pause)


def _matrices(store: Store) -> Callable[[View, Console], RenderableType]:
    """The matrix of a view as far as it is filled; of a view that is over all of its cells are read."""
    from xling.results.live import LiveMatrix  # scipy

    live: LiveMatrix | None = None

    def matrix(view: View, console: Console) -> RenderableType:
        nonlocal live
        if live is None or live.plan.cells != view.status.plan.cells:  # somebody may plan it anew
            live = LiveMatrix(store, view.status.plan, console.width)
        live.look({row.stage.key: row.state for row in view.status.rows}, SECONDS if view.alive else None)
        return live.shown(console.height // 2 if console.is_terminal else sys.maxsize)

    return matrix


def _shower(console: Console, every: bool, matrix: Callable[[View, Console], RenderableType]) -> Callable[[View], None]:
    """In a terminal the matrix and the table in place; elsewhere a line whenever something has changed, and both at the
    end."""
    live = Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") if console.is_terminal else None
    last = ""

    def show(view: View) -> None:
        nonlocal last
        if live is not None:
            live.start()
            live.update(Group(matrix(view, console), view.table(every)), refresh=True)
        elif view.sentence() != last and view.alive:
            last = view.sentence()
            print(harmless(last), flush=True)
        if not view.alive:
            if live is not None:
                live.stop()
            else:
                console.print(matrix(view, console), view.table(every))

    return show


# --- `xling cancel`: nobody else's jobs, whatever their id ------------------------------------------------

ENDING_SECONDS = 15.0  # that a cancelled job has to end


def cancel(store: Store, name: str, what: str) -> str:
    """Cancel `all` of a grid, or the job of a stage."""
    return cancel_grid(store, name) if what == "all" else cancel_stage(store, name, what)


def cancel_grid(store: Store, name: str) -> str:
    """Cancel everything that this user submitted for a grid; a sentence about what was cancelled.

    ConfigError where all of it is somebody else's; StageError where SLURM refuses: what is noted has been cancelled.
    """
    open_ = record.submissions(store, name, "submitting", "released")
    if open_ and not any(filed.own for filed in open_):
        raise ConfigError(_refusal(f"Grid {name}", open_[-1]))
    refused: list[str] = []
    done: set[str] = set()  # submissions
    with ExitStack() as stack:
        with suppress(OSError):  # a full disk takes no claim; jobs can be cancelled all the same
            stack.enter_context(lock(store, math.inf))  # another shell may be adding arrays at this moment
        view = look(store, name)
        mine = [filed for filed in record.submissions(store, name, "submitting", "released") if filed.own]
        queued, _ = cluster.mine()
        living = [held for held in view.living() if held.filed.own and held.filed.head.grid == name]
        for filed in mine:
            try:
                cancel_arrays(filed, queued, {held.place[0] for held in living if held.filed.head.id == filed.head.id})
            except ClusterError as error:
                refused.append(str(error))
            else:
                done.add(filed.head.id)
                record.note_state(filed.folder, "cancelled")
    if not mine:
        return f"{name}: nothing of it is queued or running on the cluster."
    jobs = {held.job for held in living if held.filed.head.id in done}
    if refused:
        left = len({held.job for held in living}) - len(jobs)
        raise StageError(f"{name}: cancelled {_count(len(jobs), 'job')}, but not {left} others. {refused[0]}")
    others = _waiting_elsewhere(store, name, jobs)
    return f"{name}: cancelled {_count(len(jobs), 'job')}.{others} The same command as before submits what is missing."


def _refusal(what: str, filed: Filed) -> str:
    owner = files.user_name(filed.owner)
    return f"{what} was submitted by {owner}, who alone can cancel jobs of it. Nothing was changed."


def _waiting_elsewhere(store: Store, name: str, jobs: set[str]) -> str:
    grids = sorted(
        {
            filed.head.grid
            for filed in record.submissions(store, None, "submitting", "released")
            if filed.head.grid != name
            for array in filed.submission.arrays
            for task in array.tasks
            if jobs & set(task.others) or {job.partition("_")[0] for job in jobs} & set(task.others)
        }
    )
    return f" Grid {', '.join(grids)} waited for some of them and will lack them." if grids else ""


def cancel_stage(store: Store, name: str, handle: str) -> str:
    """Cancel the job of a stage; a sentence that says which other stages it had. ConfigError if it has none."""
    stage = stage_at(read_grid(store, name), handle)
    view = look(store, name)
    held = view.held.get(stage.key)
    if held is None or not held.job:
        raise ConfigError(_no_job(next(row for row in view.status.rows if row.stage.key == stage.key), name))
    if not held.filed.own:
        raise ConfigError(_refusal(stage.label, held.filed))
    if held.pilot:
        return _cancel_in_pilot(store, name, stage, held)
    _cancel_with_those_below(held)
    deadline = time.monotonic() + ENDING_SECONDS
    while _lives(held) and time.monotonic() < deadline:
        time.sleep(0.5)
    survey(store)  # notes down that it was cancelled
    others = [job.sheet.label for job in held.filed.submission.jobs(held.filed.submission.task(held.place))
              if job.key != stage.key and job.key in view.held]  # fmt: skip
    more = f" It also had {', '.join(others[:5])}{' ...' if len(others) > 5 else ''}." if others else ""
    return f"{stage.label}: job {held.job} cancelled.{more} The same command as before submits it again."


def _cancel_with_those_below(held: Held) -> None:
    """A job, and those that wait for its good end: SLURM forgets a task that waits in its array, and starts them."""
    filed, ids, below = held.filed, {held.place[0]: [held.job]}, {held.place}
    for place, task, job in filed.tasks() if not held.state.node else ():  # in an order that respects their needs
        if job is not None and below & set(task.sure):
            below.add(place)
            ids.setdefault(place[0], []).append(job)
    for number, jobs in sorted(ids.items(), reverse=True):  # children first
        cluster.cancel(jobs, name=filed.head.arrays[number].name)


def _cancel_in_pilot(store: Store, name: str, stage: PlannedStage, held: Held) -> str:
    job = next(job for job in held.filed.submission.stages if job.key == stage.key)
    holdings.cancel_in_pilot(store, held, job)
    deadline = time.monotonic() + ENDING_SECONDS
    while claim.read(store.beside(stage.kind, stage.key, ".claim")) is not None and time.monotonic() < deadline:
        time.sleep(0.5)
    return (f"{stage.label}: cancelled; the pilots of {name} go on with what does not need it. The same command as "
            "before submits it again.")  # fmt: skip


def _no_job(row: Row, name: str) -> str:
    here = row.claim is not None and not row.claim.by.slurm
    hint = f" It runs on {row.claim.by.host} as pid {row.claim.by.pid}: end that." if here and row.claim else ""
    return (f"{row.stage.label} has no job on the cluster: it is {row.state}.{hint} "
            f"`xling status {name}` shows which have.")  # fmt: skip


def _lives(held: Held) -> bool:
    found = cluster.states([held.filed.refs[held.place[0]]], {held.job})
    return found is None or found[held.job].alive


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


# --- `xling logs` -----------------------------------------------------------------------------------------


def follow(store: Store, name: str, stage: PlannedStage, path: Path) -> int:
    """Print a stage's log as it grows, until the stage is neither running nor queued. 0 if it is done, else 1."""
    state = ""

    def is_over() -> bool:
        nonlocal state
        view = look(store, name)
        row = next(row for row in view.status.rows if row.stage.label == stage.label)
        if row.state != state:
            state = row.state
            where, _, why = view.described(row)
            on, said = f" on {where}" if where else "", f" ({why})" if why else ""
            print(f"xling: {stage.label} is {state}{on}{said}.", file=sys.stderr)
        return state not in ("running", "queued")

    try:
        tail(path, sys.stdout, is_over)
    except KeyboardInterrupt:
        return 130
    return 0 if state == "done" else 1


def logs(store: Store, name: str, stage: PlannedStage) -> list[Path]:
    """Logs of a stage's job itself, newest submission first: the only ones if it died before the stage began."""
    for filed in reversed(record.submissions(store, name)):
        place = filed.places.get(stage.key)
        job = filed.awaited(place) if place else None
        found = files.matching(filed.folder / "logs", f"{job}_*_log.*") if job else []
        if found:
            return [path for path in found if path.stat().st_size]
    return []


LOOK_SECONDS = 0.3
ASK_SECONDS = 3.0


def tail(path: Path, out: TextIO, is_over: Callable[[], bool], ask_seconds: float = ASK_SECONDS) -> None:
    """Copy what is there and what is added until `is_over`, which is asked every so many seconds.

    The file need not be there yet. A character cut in two by a write is printed when it is whole.
    """
    position, rest = 0, b""
    asked = -ask_seconds
    over = False
    while True:
        if time.monotonic() - asked >= ask_seconds:
            over = is_over()  # before reading: what was written until then is printed
            asked = time.monotonic()
        new = _read(path, position)
        position += len(new)
        rest = _write(out, rest + new, over)
        if over or is_gone(out):
            return
        time.sleep(LOOK_SECONDS)


def _read(path: Path, position: int) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(position)
            return file.read()
    except FileNotFoundError:
        return b""


def _write(out: TextIO, content: bytes, whole: bool) -> bytes:
    """Print all up to the last line break, or everything if `whole`; returns what was kept back."""
    end = len(content) if whole else content.rfind(b"\n") + 1
    if end:
        out.write(harmless(content[:end].decode("utf-8", errors="replace").replace("\r", "\n")))
        out.flush()
    return content[end:]
