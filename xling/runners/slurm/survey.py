"""What the cluster holds of ours: which stages are queued or running, and what died without saying why.

    found = survey(store)          # one query for all open submissions
    found.held[stage.key].job      # "123_4": the job that runs it or is going to

A job that was cancelled or killed leaves no word in the store; its stage gets a failure record here, with SLURM's
cause. Unknown means alive: where the cluster does not answer, nothing is concluded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from xling.grid.store import Listing, Store
from xling.runners.execute import Job, record_failure
from xling.runners.slurm import cluster, record
from xling.runners.slurm.cluster import JobState
from xling.runners.slurm.record import Event, Filed, Place

MOVED = "moved"  # a stage's end in a task that was cancelled because another submission runs it
TOLD = ("failed", "blocked", MOVED)  # ends after which a stage's result is not expected from the task any more
UNKNOWN = JobState("UNKNOWN", alive=True, reason="the cluster does not answer")


@dataclass(frozen=True)
class Held:
    """A stage's job that is queued or running."""

    job: str  # "123_4"
    state: JobState
    place: Place
    filed: Filed


@dataclass(frozen=True)
class Survey:
    answered: bool  # False: the cluster did not answer, everything open counts as alive
    open: Sequence[Filed]  # submissions that have living jobs, or have not been completed
    held: Mapping[str, Held]  # by stage key
    reducers: Mapping[str, Held]  # by submission id: the living jobs that fold


def survey(store: Store, grid: str | None = None) -> Survey:
    """Look at all open submissions, of one grid or of all; notes down what has ended."""
    filed = record.submissions(store, grid, "submitting", "released")
    listings: dict[str, Listing] = {}
    wanted = [_wanted(store, one, listings) for one in filed]
    refs = [ref for one, jobs in zip(filed, wanted, strict=True) if jobs for ref in one.refs.values()]
    states = cluster.states(refs, {job for jobs in wanted for job in jobs}) if refs else {}
    held: dict[str, Held] = {}
    reducers: dict[str, Held] = {}
    open_ = []
    for one in filed:
        living = _living(one, states)
        if states is not None:
            settle(store, one, states, listings)
        if one.state == "released" and not living:
            record.note_state(one.folder, "finished")
            continue
        open_.append(one)
        for place, found in living.items():
            keys = [job.key for job in one.submission.jobs(one.submission.task(place))]
            told = {event.key for event in one.events(place) if event.end in TOLD} if found.state.node else set()
            held.update({key: found for key in keys if key not in told})
            if not keys:
                reducers[one.submission.id] = found
    return Survey(states is not None, open_, held, reducers)


def _wanted(store: Store, filed: Filed, listings: dict[str, Listing]) -> list[str]:
    """The jobs that matter: those of stages that have no result, and the one that folds."""
    jobs = []
    for array in filed.submission.arrays:
        for number, task in enumerate(array.tasks):
            job = filed.job((array.number, number))
            if job is not None and (not task.stages or _without_result(store, filed, (array.number, number), listings)):
                jobs.append(job)
    return jobs


def _without_result(store: Store, filed: Filed, place: Place, listings: dict[str, Listing]) -> list[Job]:
    jobs = filed.submission.jobs(filed.submission.task(place))
    if filed.submission.force:  # a result that is there may be the one that is to be replaced
        made = {event.key for event in filed.events(place) if event.end == "done"}
        return [job for job in jobs if job.key not in made]
    left = []
    for job in jobs:
        kind = job.sheet.kind
        if kind not in listings:
            listings[kind] = store.listing(kind)
        if job.key not in listings[kind].results:
            left.append(job)
    return left


def _living(filed: Filed, states: Mapping[str, JobState] | None) -> dict[Place, Held]:
    living = {}
    for array in filed.submission.arrays:
        for number in range(len(array.tasks)):
            place = (array.number, number)
            job = filed.job(place)
            if job is None:
                continue
            state = UNKNOWN if states is None else states.get(job)
            if state is not None and state.alive:
                living[place] = Held(job, state, place, filed)
    return living


def settle(
    store: Store,
    filed: Filed,
    states: Mapping[str, JobState],
    listings: dict[str, Listing] | None = None,
    only: str | None = None,
) -> int:
    """Give every stage whose job (`only` this one) has ended without a word its failure; returns how many.

    A result that the shared folder shows later wins: a failure beside a result counts for nothing.
    """
    listings = {} if listings is None else listings
    count = 0
    for array in filed.submission.arrays:
        for number, task in enumerate(array.tasks):
            place = (array.number, number)
            job = filed.job(place)
            state = states.get(job) if job else None
            if job is None or (only is not None and job != only) or (state is not None and state.alive):
                continue
            silent = _silent(store, filed, place, listings) if task.stages else []
            for stage in silent:
                blame(store, filed, place, stage, job, state)
            count += len(silent)
    return count


def _silent(store: Store, filed: Filed, place: Place, listings: dict[str, Listing]) -> list[Job]:
    """The stages of a task of which there is neither a result nor a word."""
    left = _without_result(store, filed, place, listings)
    if not left:
        return []
    told = {event.key for event in filed.events(place) if event.end}
    return [job for job in left if job.key not in told and not _failed_since(store, job, filed.submission.created)]


def _failed_since(store: Store, job: Job, created: float) -> bool:
    failure = store.failure_record(job.sheet.kind, job.key)
    if failure is None or not failure.when:
        return False
    try:
        when = datetime.fromisoformat(failure.when)
    except ValueError:  # a damaged record
        return False
    return when >= datetime.fromtimestamp(int(created), UTC)


def blame(store: Store, filed: Filed, place: Place, stage: Job, job: str, state: JobState | None) -> None:
    """Record why a stage's job has ended, as the stage's failure."""
    cause = state.cause if state and state.cause else "SLURM knows nothing of it any more"
    last = f"Its SLURM job {job} ended before it was done: {cause}"
    log = filed.folder / "logs" / f"{job}_0_log.err"
    record_failure(store, stage.sheet.kind, stage.key, stage.sheet.label, last, f"{last}\nThe job's own words: {log}\n")
    record.note_event(filed.folder, place, Event("stage", key=stage.key, end="failed", text=last))
