"""Submit a plan: held arrays through submitit, then the edges between their tasks, then the release.

    made = submit(plan, settings, Work("xling.planning:KINDS", "xling.folding:fold", tracking))

What is going to be submitted is written down before the first sbatch, and each answer of sbatch after it, so that a
shell that dies anywhere in between leaves nothing that the next one cannot find: arrays are held until all of them
are there, and an array whose id was never written down is found by its name.
"""

import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import xling
from xling.console import harmless
from xling.errors import ConfigError, StageError
from xling.grid import claim, files, host
from xling.grid.cleanup import remove_leftovers
from xling.grid.launches import digest_of
from xling.grid.plan import Plan, needs_of
from xling.grid.stage import Gpus
from xling.grid.store import Store
from xling.runners import HERE, Work
from xling.runners.execute import own_paths
from xling.runners.slurm import cluster, holdings, record, snapshot
from xling.runners.slurm.cluster import HELD, ClusterError
from xling.runners.slurm.dispatch import (
    BLOCKS,
    EDGES,
    arrays_of,
    asked_for,
    assign,
    dependencies,
    dependency,
    is_held,
    pilots_of,
)
from xling.runners.slurm.holdings import MOVED, Held, Survey, survey
from xling.runners.slurm.limits import Limits, check_resources, mixed_gpus
from xling.runners.slurm.record import Array, Event, Filed, Submission
from xling.runners.slurm.script import Refused, submit_array
from xling.runners.slurm.settings import REDUCE, Slurm, check_shared_gpus

PREFIX = "xling-"
LOCK = "slurm.claim"


@dataclass(frozen=True)
class Made:
    """Result of `submit`. Nothing submitted: all is done, queued or running already."""

    waiting_for: Mapping[str, Held]  # stages of the plan that other jobs run, by key
    stages: int = 0
    jobs: int = 0
    calls: int = 0  # of sbatch
    let_go: int = 0  # jobs that SLURM held
    done: bool = False  # since it was planned, and no job is going to fold it
    later: int = 0  # jobs that follow
    limit: str = ""  # what allows no more at once, and how many it allows

    def sentence(self, grid: str) -> str:
        words = []
        if self.calls:
            words.append(f"submitted {self.stages} stages as {self.jobs} jobs in {self.calls} arrays")
        if self.later:
            words.append(f"{self.later} more jobs follow from inside the grid as these end ({self.limit} at once)")
        if self.waiting_for:
            names = ", ".join(sorted({held.filed.head.grid for held in self.waiting_for.values()}))
            words.append(f"{len(self.waiting_for)} stages are queued or running already ({names})")
        if self.let_go:
            words.append(f"{self.let_go} of them were held and may go on")
        done = "; ".join(words) or "nothing to submit"
        return f"{grid}: {done}. `xling status {grid}` shows how it goes, `xling cancel all` stops it."


def check(plan: Plan, settings: Slurm) -> Limits:
    """ConfigError if this is no SLURM cluster or some stage asks for what it does not have; submits nothing."""
    cluster.require()
    limits = cluster.limits()
    for said in refuse(plan, settings, limits):
        print(harmless(f"xling: {said}"), file=sys.stderr)
    return limits


def refuse(plan: Plan, settings: Slurm, limits: Limits) -> list[str]:
    """ConfigError if some stage asks for what the cluster does not have; sentences on what it may get besides."""
    if settings.pilots is not None and plan.mode == "force":
        raise ConfigError(
            f"{HERE}.pilots={settings.pilots} with mode=force: each pilot would run all stages again. Leave out "
            f"{HERE}.pilots, or type mode=retry."
        )
    found = list[str]()
    asked = asked_for(plan, settings, plan.to_run)
    for kind, gpu in sorted(dict.fromkeys([*asked, (REDUCE, False)]), key=lambda one: not one[1]):  # GPUs cost most
        wanted, where = settings.of(kind, gpu), settings.where(kind, gpu)
        check_resources(wanted, limits, where)
        found.append(mixed_gpus(wanted, limits, where))
    if settings.pilots is not None:
        check_shared_gpus(settings, needs_of(plan, lambda _: Gpus(gib=settings.common.gpu_mem_gb)))
    return [said for said in dict.fromkeys(found) if said]


def submit(plan: Plan, settings: Slurm, work: Work, limits: Limits | None = None) -> Made:
    """Submit what nobody runs yet, to run after what it needs. Returns as soon as SLURM has it.

    limits: of the cluster, where `check` has been called for this plan.
    ConfigError: refused before anything was submitted. StageError: SLURM refused on the way; what it had taken by
    then has been taken back.
    """
    limits = limits or check(plan, settings)
    plan.store.prepare()
    plan.write()
    copied = snapshot.take(plan.store) if settings.snapshot else None  # it takes a moment, others need not wait for it
    with lock(plan.store):
        remove_leftovers(plan.store, plan.estimates)
        recover(plan.store)
        found = survey(plan.store)
        if not found.answered:
            raise ConfigError("SLURM does not answer, so that nobody can say what is queued. Try again in a minute.")
        _refuse_hidden(plan, found)
        let_go = _let_go(found)
        plan = _as_it_stands(plan)
        held = _divide(plan, found)
        new = [stage for stage in plan.to_run if stage.key not in held]
        folds_later = any(one.filed.head.grid == plan.name for one in found.reducers.values())
        if not new and (folds_later or not held):
            return Made(held, let_go=let_go, done=not held and not folds_later)
        fed = [one.folder for one in found.open if one.own and one.feeds and one.head.grid == plan.name]
        held = {key: one for key, one in held.items() if one.job or one.filed.folder not in fed}
        new = [stage for stage in plan.to_run if stage.key not in held]
        room = _room(asked_for(plan, settings, new), settings, limits)
        drafted = draft(plan, settings, work, held, limits, room, copied)
        filed = record.write(record.folder_of(plan.store, plan.name) / drafted.id, drafted)
        taken = _submit_arrays(filed, room.free)
        for folder in fed:  # what was to follow from there is in this submission
            record.note_state(folder, "released", record.TAKEN)
        jobs = sum(array.size for array in filed.head.arrays if array.number in taken)
        later = sum(array.size for array in filed.head.arrays) - jobs
        return Made(held, len(new), jobs, len(taken), let_go, later=later, limit=f"{room.word}: {room.at_once}")


@dataclass(frozen=True)
class Room:
    """In the queue."""

    free: int = sys.maxsize  # jobs that can be added now
    at_once: int = 0  # that may be there; 0: any number
    word: str = ""  # what says so


ROOM = Room()  # for any number of jobs


def _room(kinds: Mapping[tuple[str, bool], int], settings: Slurm, limits: Limits) -> Room:
    """For so many of each (asked_for), but not for the job that folds, whose QOS may be small. ConfigError if none."""
    _, queued = cluster.mine()
    wanted = [(settings.of(*kind), number) for kind, number in kinds.items()]
    at_once, word = limits.at_once(wanted, settings.max_submit, queued)
    if not at_once:
        return ROOM
    if at_once - queued < 1 + (settings.pilots or 1):
        fewer = f" Or type {HERE}.pilots={at_once - queued - 1}." if settings.pilots and at_once - queued > 1 else ""
        raise ConfigError(
            f"{queued} jobs of yours are in the queue, and {word} allows no more than {at_once}. The same command "
            f"submits the grid when some of them have ended.{fewer}"
        )
    return Room(at_once - queued, at_once, word)


def lock(store: Store, patience: float = claim.TURN_SECONDS) -> AbstractContextManager[None]:
    """One shell at a time looks at the queue and adds to it. patience: seconds that one which lives is waited for."""
    heart = claim.Heart(host.this_process())
    doing = f"submits to '{store.root}' or cancels there"
    return heart.alone(str(store.root / LOCK), doing, lambda held: not cluster.may_live(held.by), patience)


# --- what is there already --------------------------------------------------------------------------------


def recover(store: Store) -> None:
    """Complete or take back what a shell that died had begun to submit."""
    begun = [filed for filed in record.submissions(store, None, "submitting", "abandoned") if filed.own]
    if not begun:
        return
    queued, _ = cluster.mine()
    for filed in begun:
        if filed.state == "submitting" and _complete(filed, queued):
            continue
        if any(array.name in queued for array in filed.head.arrays):
            cancel_arrays(filed, queued)
        if filed.state == "submitting":
            record.note_state(filed.folder, "abandoned")


def _complete(filed: Filed, queued: Mapping[str, str]) -> bool:
    """Order and release what a shell has submitted that died then; False if it had not submitted all of it.

    Some may have been released before, and have begun or ended.
    """
    ids = {array.number: queued[array.name] for array in filed.head.arrays if array.name in queued}
    if len(filed.head.arrays) - 1 not in ids:  # which is submitted last, and taken back first
        return False
    lacking = [] if filed.head.at_once else [one.number for one in filed.head.arrays if one.number not in ids]
    if any(number not in filed.refs or not record.has_begun(filed, number) for number in lacking):
        return False
    for number in ids.keys() - filed.refs.keys():
        record.note_job(filed.folder, number, ids[number])
    _connect(record.read(filed.folder), again=True)
    return True


def cancel_arrays(filed: Filed, queued: Mapping[str, str], living: Collection[int] = ()) -> None:
    """Those that the queue has under their names: an id may have been given to another job, or its answer been lost.

    The last first, so that none starts because what it waits for has ended. living: numbers of arrays that have not
    ended; SLURM is asked to cancel those as well that it does not show as this user's, and says if it refuses.
    """
    cluster.cancel([queued[array.name] for array in reversed(filed.head.arrays) if array.name in queued])
    others = filed.refs if filed.owner != os.geteuid() else living  # the administrator's hand, or not their owner's
    for number in sorted(others, reverse=True):
        if filed.head.arrays[number].name not in queued and number in filed.refs:
            cluster.cancel([filed.refs[number].id], name=filed.head.arrays[number].name)


def _refuse_hidden(plan: Plan, found: Survey) -> None:
    """ConfigError where jobs of somebody else are at stages of the plan and cannot be seen from here."""
    hidden = [one for stage in plan.to_run if (one := found.held.get(stage.key)) and one.state == holdings.HIDDEN]
    if hidden:
        names = ", ".join(sorted({one.filed.head.grid for one in hidden}))
        raise ConfigError(
            f"{len(hidden)} of the {len(plan.to_run)} stages to run have been submitted by {holdings.owners(hidden)} "
            f"(grid {names}), whose jobs this cluster does not show to you (PrivateData=jobs): whether they still run "
            f"nobody but {holdings.owners(hidden)} can see. Nothing was submitted. Wait until they are done, let "
            f"{holdings.owners(hidden)} type `xling status {names}`, or choose another folder with root=PATH."
        )


def _let_go(found: Survey) -> int:
    """Release jobs of complete submissions that are held; returns how many those are."""
    living = [one for one in (*found.held.values(), *found.reducers.values()) if one.filed.own]
    jobs = {one.job for one in living if one.state.reason in HELD and one.filed.state == "released"}
    refused = cluster.release(sorted(jobs))
    for words in refused[:1]:
        print(harmless(f"xling: SLURM does not let go of {len(refused)} jobs that it holds: {words}."), file=sys.stderr)
    return len(jobs) - len(refused)


def _as_it_stands(plan: Plan) -> Plan:
    """The plan without stages that were done since. To be called after the queue was asked: results come first."""
    if plan.mode == "force":
        return plan
    there = {kind: plan.store.listing(kind).results for kind in {stage.kind for stage in plan.to_run}}
    since = {stage.key for stage in plan.to_run
             if stage.key in there[stage.kind] and plan.store.state(stage.kind, stage.key) == "done"}  # fmt: skip
    steps = {key: replace(step, state="cached") if key in since else step for key, step in plan.steps.items()}
    return replace(plan, steps=steps) if since else plan


def _divide(plan: Plan, found: Survey) -> dict[str, Held]:
    """The plan's stages that a living job is going to make; jobs that wait in vain are cancelled.

    A queued job in vain is one that would start to find a parent missing that has to be submitted again. One that
    runs has found that already, or will; it is left alone, but its stage is submitted again.
    """
    held: dict[str, Held] = {}
    vain: set[str] = set()
    while True:
        held = {}
        new: set[str] = set()
        grown = False
        for stage in plan.to_run:
            one = found.held.get(stage.key)
            if one is None or one.job in vain or not (one.job or one.filed.head.grid == plan.name):
                new.add(stage.key)
            elif any(parent.key in new for parent in stage.parents.values()):
                new.add(stage.key)
                if one.job and not one.state.node and one.filed.own and not one.pilot:
                    vain.add(one.job)
                    grown = True
            else:
                held[stage.key] = one
        if not grown:
            break
    if vain:
        _withdraw([one for one in found.held.values() if one.job in vain])
    return held


def _withdraw(jobs: list[Held]) -> None:
    cluster.cancel(sorted({one.job for one in jobs}), pending_only=True)
    for one in {one.job: one for one in jobs}.values():
        submission = one.filed.submission
        for job in submission.jobs(submission.task(one.place)):
            record.note_event(
                one.filed.folder, one.place, Event("stage", key=job.key, end=MOVED, text="submitted again")
            )


# --- writing down and submitting --------------------------------------------------------------------------


def draft(
    plan: Plan,
    settings: Slurm,
    work: Work,
    held: Mapping[str, Held],
    limits: Limits,
    room: Room = ROOM,
    copied: Path | None = None,
) -> Submission:
    """What would be submitted now: held: stages that are queued; room: in the queue; copied: the code that jobs run."""
    now = time.time()
    name = record.new_id(now)
    elsewhere = {key: job for key, one in held.items() if (job := one.filed.awaited(one.place))}
    after = sorted(set(elsewhere.values()))
    own = [one for one in held.values() if one.job and one.filed.head.grid == plan.name]
    before = sorted({one.job.partition("_")[0] for one in own})
    size, edges, blocks = limits.max_array_size, EDGES, BLOCKS
    if limits.rate:
        edges, blocks = limits.rate // 2, BLOCKS // 4
    prefix, part = f"{PREFIX}{plan.name}-{name}", max(1, room.free // 4)
    if settings.pilots is not None:
        living = len({(one.filed.head.id, place) for one in own for place in one.filed.among(one.place)})
        enough = settings.max_running is None or living + settings.pilots <= settings.max_running
        jobs, arrays = pilots_of(plan, settings, settings.pilots, held.keys(), min(size, part), prefix, after,
                                 [] if enough else before)  # fmt: skip
        waves = sum(len(array.tasks) for array in arrays) > room.free
    else:
        groups = assign(plan, settings, elsewhere, [key for key in elsewhere if held[key].first == key])
        waves = len(groups) + 1 > room.free
        if waves:  # later jobs are not connected one by one, and come in parts that find room
            size, edges = min(size, part), 0
        jobs, arrays = arrays_of(groups, settings, size, prefix, after, edges=edges, blocks=blocks, before=before)
    return Submission(
        id=name,
        grid=plan.name,
        root=str(plan.store.root.absolute()),
        created=now,
        command=tuple(plan.command),
        catalogue=work.kinds,
        force=plan.mode == "force",
        git=plan.git,
        code=host.code_digest() if copied is None else host.code_digest(copied / xling.__name__),
        python=sys.executable,
        cwd=os.getcwd(),
        path=(*([] if copied is None else [str(copied)]), *own_paths()),
        settings=settings,
        tracking=dict(work.tracking),
        fold=work.fold,
        stages=jobs,
        arrays=arrays,
        cluster=limits.cluster,
        cells=digest_of(plan.cells),
        snapshot="" if copied is None else str(copied),
        versions=host.installed() if settings.python is None else {},  # another Python has its own
        drops=tuple(plan.dropping),
        at_once=room.at_once if waves else 0,
    )


def _submit_arrays(filed: Filed, room: int) -> Mapping[int, str]:
    """All arrays that find room, those that wait for none of them held; then the edges of tasks; then the release.

    Returns ids by array. Taken back if SLURM refuses any of it.
    """
    arrays, ids = filed.submission.arrays, dict[int, str]()
    try:
        for array in [*_fitting(arrays[:-1], room - 1), arrays[-1]]:
            ids[array.number] = submit_array(filed, array, dependency(array, arrays, ids), is_held(array))
            record.note_job(filed.folder, array.number, ids[array.number])
        _connect(filed)
        return ids
    except (ClusterError, Refused, OSError) as error:
        kept = _take_back(filed)
        if isinstance(error, OSError):
            raise StageError(f"{files.disk_error(error, filed.folder)} {kept}") from error
        what = f"array {len(ids) + 1} of {len(arrays)}" if len(ids) < len(arrays) else "the order of the jobs"
        raise StageError(f"SLURM did not take {what}: {error} {kept} The same command tries again.") from error


def _fitting(arrays: Iterable[Array], room: int) -> Iterator[Array]:
    """The first ones, for as many jobs as there is room for."""
    for array in arrays:
        room -= len(array.tasks)
        if room < 0:
            return
        yield array


def _take_back(filed: Filed) -> str:
    """Cancel what has been submitted, by id and by name; what cannot be reached now, the next run finds."""
    try:
        cancel_arrays(record.read(filed.folder), cluster.mine()[0])
    except ClusterError:
        return "What it had taken before is held, and is taken back by the next run."
    record.note_state(filed.folder, "abandoned")
    return "What it had taken before has been taken back."


PAST = ("no longer pending", "already complet", "Invalid job id")  # of a job that need not be told any more


def _connect(filed: Filed, again: bool = False) -> None:
    """Tell SLURM which task waits for which, then let all of them go. ClusterError if it refuses anything.

    again: it may have been done before, so that some jobs run or have ended.
    """

    def check(complaints: list[str]) -> None:
        refused = [words for words in complaints if not (again and any(past in words for past in PAST))]
        if refused:
            raise ClusterError(f"{refused[0]} ({len(refused)} refusals)" if len(refused) > 1 else refused[0])

    arrays, ids = filed.submission.arrays, {number: ref.id for number, ref in filed.refs.items()}
    check(cluster.update_dependencies(dependencies(arrays, ids)))
    check(cluster.release([ids[array.number] for array in reversed(arrays) if is_held(array) and array.number in ids]))
    record.note_state(filed.folder, "released")


# --- waves: what found no room in the queue comes later, from inside the grid's own jobs --------------------
# A job that ends looks whether there is room now (not each of thousands does). The last job, which folds, starts when
# nothing that was submitted before it is left in the queue: it submits more and goes back behind that.


def feed(folder: Path) -> bool:
    """Submit the next arrays that find room; whether some are left. Under the lock. Refused, in SLURM's words."""
    filed = record.read(folder)
    rest = [array.number for array in filed.head.arrays if array.number not in filed.refs]
    if not (filed.state == "submitting" or filed.feeds) or not rest:
        return False
    queued, count = cluster.mine()
    if filed.state == "submitting":  # by a shell that has died: one that lives has the lock
        return _complete(filed, queued) and feed(folder)
    ids = {array.number: queued[array.name] for array in filed.head.arrays if array.name in queued}
    for number in [number for number in rest if number in ids]:  # by a job that was ended before it noted the answer
        record.note_job(folder, number, ids[number])
        rest.remove(number)
    room = filed.head.at_once - count
    if rest and filed.head.arrays[rest[0]].size <= room:
        arrays = filed.submission.arrays
        for array in list(_fitting((arrays[number] for number in rest), room)):
            ids[array.number] = submit_array(filed, array, dependency(array, arrays, ids), hold=False)
            record.note_job(folder, array.number, ids[array.number])
            rest.remove(array.number)
    return bool(rest)


def feed_unless_busy(store: Store, folder: Path) -> None:
    """`feed`, if nobody else is at the queue of this root: who is, or the next job that ends, sees to it."""
    path, who = str(store.root / LOCK), host.this_process()
    heart, other = claim.Heart(who), claim.take(path, who)
    if other is not None and not cluster.may_live(other.by):
        claim.drop(path, other)
        other = claim.take(path, who)
    if other is None:
        heart.hold(path)
        try:
            feed(folder)
        finally:
            heart.release(path)
