"""What the cluster holds of ours: which stages are queued or running, and what died without saying why.

    found = survey(store)          # one query for all open submissions
    found.held[stage.key].job      # "123_4": the job that runs it or is going to

A job that was cancelled or killed leaves no word in the store; its stage gets a failure record here, with SLURM's
cause. Unknown means alive: where the cluster does not answer, or shows a user nothing of others' jobs, nothing is
concluded. Only who has submitted a job notes down what became of it.
"""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from xling.console import without_secrets
from xling.grid import files
from xling.grid.store import Listing, Store
from xling.runners.execute import Job, record_failure
from xling.runners.slurm import cluster
from xling.runners.slurm.cluster import JobState
from xling.runners.slurm.record import (
    NO_FOLDER,
    Event,
    Filed,
    Place,
    Task,
    folder_of,
    is_whole,
    last_word,
    note_event,
    note_state,
    submissions,
)

MOVED = "moved"  # a stage's end in a task that was cancelled because another submission runs it
TOLD = ("failed", "blocked", MOVED)  # ends after which a stage's result is not expected from the task any more
UNKNOWN = JobState("UNKNOWN", alive=True, reason="the cluster does not answer")
HIDDEN = JobState("UNKNOWN", alive=True, reason="OtherUser")
LATER = JobState("PENDING", alive=True, reason="Later")  # of a job that is submitted from inside the grid


@dataclass(frozen=True)
class Held:
    """A stage's job that is queued or running."""

    job: str  # "123_4"; "" if it is submitted later, from inside the grid
    state: JobState
    place: Place
    filed: Filed

    @property
    def first(self) -> str:
        """Key of the first stage of the job, with which it ends well or not; "" of one that ends well whatever it did.

        That of its last if it has but one.
        """
        jobs = self.filed.submission.jobs(self.filed.submission.task(self.place))
        return jobs[0].key if jobs and not self.pilot else ""

    @property
    def pilot(self) -> bool:
        """Whether others may run its stages as well."""
        return self.filed.head.arrays[self.place[0]].pilots


@dataclass(frozen=True)
class Survey:
    answered: bool  # False: the cluster did not answer, everything open counts as alive
    open: Sequence[Filed]  # submissions that have living jobs, or have not been completed
    held: Mapping[str, Held]  # by stage key; of several pilots one, that runs if one does
    reducers: Mapping[str, Held]  # by submission id: the living jobs that fold
    pilots: Mapping[str, Held]  # living ones, by job


def survey(store: Store, grid: str | None = None) -> Survey:
    """Look at all open submissions, of one grid or of all; notes down what has ended."""
    filed = [one for one in submissions(store, grid, "submitting", "released") if is_whole(one)]
    listings: dict[str, Listing] = {}
    wanted = [_wanted(store, one, listings) for one in filed]
    refs = [ref for one, jobs in zip(filed, wanted, strict=True) if jobs for ref in one.refs.values()]
    states = cluster.states(refs, {job for jobs in wanted for job in jobs}) if refs else {}
    hidden = bool(states) and not all(one.own for one in filed) and cluster.hides_jobs()
    held: dict[str, Held] = {}
    reducers: dict[str, Held] = {}
    pilots: dict[str, Held] = {}
    open_ = []
    for one in filed:
        living = _living(one, states, hidden and not one.own)
        if states is not None:
            settle(store, one, states, listings)
        if one.state == "released" and not living:
            if one.own:
                _close(one, states or {})
            continue
        open_.append(one)
        if one.feeds:
            later = ((place, Held("", LATER, place, one)) for place, _, job in one.tasks() if job is None)
            living |= {place: found for place, found in later}
        for place, found in sorted(living.items(), key=lambda item: bool(item[1].state.node)):
            keys = [job.key for job in one.submission.jobs(one.submission.task(place))]
            if found.pilot:
                pilots[found.job] = found
            began = found.state.node or found.pilot
            told = {event.key for event in one.ends(place) if event.end in TOLD} if began else set()
            held.update({key: found for key in keys if key not in told})
            if not keys:
                reducers[one.head.id] = found
    return Survey(states is not None, open_, held, reducers, pilots)


def _close(filed: Filed, states: Mapping[str, JobState]) -> None:
    """Note that no job of a submission lives any more, and whether the last one has folded the matrix."""
    place, _, job = list(filed.tasks())[-1]
    if job is None or any(event.event == "end" for event in filed.events(place)):
        note_state(filed.folder, "finished")
    else:
        note_state(filed.folder, "unfolded", f"its job {job} ended: {cause_of(filed, place, states.get(job))}")


def unfolded(store: Store, grid: str) -> str:
    """Why the latest submission of a grid has left no matrix; empty if it has, or somebody else has folded it since."""
    found = [
        (path.stat().st_mtime, path.parent) for path in files.matching(folder_of(store, grid), "*/submission.json")
    ]
    if not found:
        return ""
    when, folder = max(found)
    state, text = last_word(folder)
    matrix = store.grid_folder(grid) / "matrix.csv"
    folded = matrix.exists() and matrix.stat().st_mtime >= when
    return "" if state != "unfolded" or folded else text


def _wanted(store: Store, filed: Filed, listings: dict[str, Listing]) -> list[str]:
    """The jobs that matter: those of stages that have no result, and the one that folds."""
    return [
        job
        for place, task, job in filed.tasks()
        if job is not None and (not task.stages or _without_result(store, filed, place, listings))
    ]


def _without_result(store: Store, filed: Filed, place: Place, listings: dict[str, Listing]) -> list[Job]:
    jobs = filed.submission.jobs(filed.submission.task(place))
    if filed.head.force:  # a result that is there may be the one that is to be replaced
        made = {event.key for event in filed.ends(place) if event.end == "done"}
        return [job for job in jobs if job.key not in made]
    left = []
    for job in jobs:
        kind = job.sheet.kind
        if kind not in listings:
            listings[kind] = store.listing(kind)
        if job.key not in listings[kind].results:
            left.append(job)
    return left


def owners(held: Iterable[Held]) -> str:
    """Names of the users whose jobs these are."""
    return ", ".join(sorted({files.user_name(one.filed.owner) for one in held}))


def _living(filed: Filed, states: Mapping[str, JobState] | None, hidden: bool) -> dict[Place, Held]:
    """hidden: the cluster may know more of the jobs than it tells this user."""
    living = {}
    for place, _, job in filed.tasks():
        if job is not None:
            state = UNKNOWN if states is None else states.get(job)
            if state is not None and hidden and not state.alive and state.state in cluster.MAY_LIVE:
                state = None if any(event.event == "end" for event in filed.events(place)) else HIDDEN
            if state is not None and state.alive:
                living[place] = Held(job, state, place, filed)
    return living


def settle(
    store: Store,
    filed: Filed,
    states: Mapping[str, JobState],
    listings: dict[str, Listing] | None = None,
    only: str | None = None,
) -> None:
    """Give every stage whose job (`only` this one) has ended without a word its failure.

    A result that the shared folder shows later wins: a failure beside a result counts for nothing.
    """
    if not filed.own:
        return
    listings = {} if listings is None else listings
    for place, task, job in filed.tasks():
        state = states.get(job) if job else None
        if job is None or (only is not None and job != only) or (state is not None and state.alive):
            continue
        if any(_may_go_on(filed, other, place, states) for other in filed.among(place) if other != place):
            continue
        if left := _without_result(store, filed, place, listings):
            events = filed.events(place)
            told = {event.key for event in filed.ends(place)}
            began = any(event.event == "start" for event in events)
            above = "" if began else _failed_above(store, filed, task, state)
            for stage in left:
                if stage.key in told or failed_since(store, stage, filed.head.created):
                    continue
                if not above:
                    _blame(store, filed, place, stage, job, cause_of(filed, place, state))
                elif _has_parents(store, filed, place, stage):
                    cause = f"cancelled by SLURM, since a job before it did not end well ({above})"
                    _blame(store, filed, place, stage, job, cause)
                else:
                    note_event(filed.folder, place, Event("stage", key=stage.key, end="blocked", text=above))


def _may_go_on(filed: Filed, other: Place, place: Place, states: Mapping[str, JobState]) -> bool:
    """Whether another pilot lives, or is rather to blame: of those that have ended, who has not said so."""
    job = filed.job(other)
    state = states.get(job) if job else None
    ended, too = (any(event.event == "end" for event in filed.events(one)) for one in (place, other))
    return (state is not None and state.alive) or (ended and not too)


def _failed_above(store: Store, filed: Filed, task: Task, state: JobState | None) -> str:
    """What a job waited for that was never started, since that has failed; empty if it ended for another reason."""
    for one, need in _sure(store, filed, task):
        for event in one.events(need):
            if event.end in ("failed", "blocked"):
                labels = {job.key: job.sheet.label for job in one.submission.jobs(one.submission.task(need))}
                return f"{labels.get(event.key, 'a stage above')} {event.end}"
    return "a stage above failed" if state is not None and state.reason == cluster.NEVER else ""


def _sure(store: Store, filed: Filed, task: Task) -> Iterator[tuple[Filed, Place]]:
    """Tasks that have to end well before a task starts, those of other submissions too."""
    yield from ((filed, need) for need in task.sure)
    for one in submissions(store) if task.sure_others else ():
        numbers = {ref.id: array for array, ref in one.refs.items()}
        for job in task.sure_others:
            id_, _, number = job.partition("_")
            if id_ in numbers:
                yield one, (numbers[id_], int(number))


def _has_parents(store: Store, filed: Filed, place: Place, stage: Job) -> bool:
    """Whether a stage could have run: a job that made what it needs died afterwards, at a stage that rode along."""
    whole = next(job for job in filed.task(place)[1] if job.key == stage.key)
    return all(store.state(up.kind, up.key) == "done" for up in whole.sheet.parents.values())


def failed_since(store: Store, job: Job, created: float) -> bool:
    """Whether a stage has failed after a time; seconds since the epoch."""
    failure = store.failure_record(job.sheet.kind, job.key)
    if failure is None or not failure.when:
        return False
    try:
        when = datetime.fromisoformat(failure.when)
    except ValueError:  # a damaged record
        return False
    return when >= datetime.fromtimestamp(int(created), UTC)


def _blame(store: Store, filed: Filed, place: Place, stage: Job, job: str, cause: str) -> None:
    """Record why a stage's job has ended, as the stage's failure."""
    last = f"Its SLURM job {job} ended before it was done: {cause}"
    log = filed.folder / "logs" / f"{job}_0_log.err"
    record_failure(store, stage.sheet.kind, stage.key, stage.sheet.label, last, f"{last}\nThe job's own words: {log}\n")
    note_event(filed.folder, place, Event("stage", key=stage.key, end="failed", text=last))


def cause_of(filed: Filed, place: Place, state: JobState | None) -> str:
    """Why a job ended without a word: as SLURM has it, on which node, and what it had written down itself."""
    cause = state.cause if state and state.cause else "SLURM knows nothing of it any more"
    on = f" on node {state.node}" if state and state.node and state.node not in cause else ""
    events = filed.events(place)
    if state is not None and state.state == "CANCELLED":
        return f"{cause}{on}"
    unfit = list(dict.fromkeys(event.node for event in events if event.event == "unfit"))
    if events and events[-1].event == "unfit":
        out = ",".join(filter(None, (filed.head.arrays[place[0]].resources.exclude, *unfit)))
        typed = shlex.quote(f"hydra.launcher.exclude={out}")
        return f"{events[-1].text} on {_nodes(unfit)}. If others are fit, type {typed}"
    if events and events[-1].event == "unready":
        return f"{events[-1].text} on node {events[-1].node}. Mend the line, or leave the node out (exclude)"
    if state and state.code == NO_FOLDER and not any(event.event == "start" for event in events):
        return f"'{filed.folder}' or '{filed.head.cwd}' is not there or cannot be written{on} and those tried before"
    said = events[-1].text if events and events[-1].event == "refused" else ""
    if state and state.code and not any(event.event == "start" for event in events):  # an import has failed, say
        said = _last_words(filed, place)
    return f"{cause}{on}; it said: {said}" if said else f"{cause}{on}"


def _last_words(filed: Filed, place: Place) -> str:
    """The last line of a job's own log of errors."""
    with suppress(OSError), open(filed.folder / "logs" / f"{filed.job(place)}_0_log.err", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return without_secrets(lines[-1].strip()) if lines else ""
    return ""


CANCELLED = "Cancelled by "  # that a stage's failure says so tells the pilot that is at it


def cancel_in_pilot(store: Store, held: Held, stage: Job) -> None:
    """Give a stage of a living pilot its failure: the pilot that is at it ends it, and none begins it."""
    last = f"{CANCELLED}{files.user_name(os.geteuid())}"
    record_failure(store, stage.sheet.kind, stage.key, stage.sheet.label, last, f"{last}\n")
    note_event(held.filed.folder, held.place, Event("stage", key=stage.key, end="failed", text=last))


def _nodes(names: Sequence[str]) -> str:
    return f"node{'s' * (len(names) != 1)} {', '.join(names)}"
