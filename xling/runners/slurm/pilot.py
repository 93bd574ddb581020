"""A pilot: a job that takes stages as they become ready, several side by side, until none is left for it.

    hydra.launcher.pilots=4    # hydra/launcher=slurm

It is the local runner's loop (xling/runners/local/runner.py) inside of an allocation: warm workers, of which each has
a GPU or a share of one. Every pilot of a submission has all its stages and tries those that are ready, longest way to
the end first; claims decide who runs one, as between any other runners, so that pilots know nothing of each other.
Results and failures of the others are seen where they stand, in the store.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xling.grid import claim
from xling.grid.claim import Claim
from xling.grid.estimate import estimate
from xling.grid.plan import Plan, Step
from xling.grid.records import Parent, Sheet
from xling.grid.stage import Stage
from xling.grid.store import Store
from xling.runners.execute import Job, Report, load_catalogue, record_failure
from xling.runners.local.crew import Seat, crew, visible
from xling.runners.local.display import Plain
from xling.runners.local.runner import Loop
from xling.runners.local.worker import Setting
from xling.runners.slurm import holdings
from xling.runners.slurm.record import Event, Filed
from xling.runners.slurm.settings import asks_for_gpus

LOOK_SECONDS = 1.0  # between two looks at what has been cancelled, and whether there is anything to stay for
ALONE_SECONDS = 15.0  # between two looks for a later turn of the same job
DEATH_SECONDS = 3.0  # until SLURM says of a job that has been killed that it has ended
LOSSES = 2  # pilots that were killed while they were at a stage, after which none begins it; one is left, if possible


@dataclass(frozen=True)
class Turn:
    """What a pilot is told by, and tells, its job (task.py)."""

    job: str  # "123_4"
    note: Callable[[Event], None]
    told: Callable[[], str]  # why the job has to stop; "": it has not
    patience: float  # seconds that stages have to leave a checkpoint then
    gone: Callable[[Claim], bool]  # whether the cluster knows that a claim's job has ended
    killed: Callable[[Claim], str]  # why a pilot that has ended was killed; "": for nothing that it did
    alone: Callable[[], None]  # raises if a later turn of this job runs elsewhere
    sheet: Callable[[Parent], Sheet | None]  # of a result


@dataclass(frozen=True)
class Flown:
    """How it ended."""

    over: bool  # no stage is left, for any pilot
    at: Sequence[Job]  # stages that it was at when it was told to stop


def fly(filed: Filed, stages: Sequence[Job], turn: Turn, note: str) -> Flown:
    """Run stages of a submission until there is none to stay for, or the job is told to stop.

    note: for the headers of the stages' logs.
    """
    head = filed.head
    store, kinds = Store(head.root), load_catalogue(head.catalogue)
    steps = _steps(store, stages)
    seen = {kind: store.listing(kind).results for kind in {step.stage.kind for step in steps.values()}}
    estimates = {kind: estimate(store, kind, (), found, kinds[kind].seconds if kind in kinds else 1.0)
                 for kind, found in seen.items()}  # fmt: skip
    plan = Plan(head.grid, "retry", store, (), (), steps, (), estimates, (), head.git, kinds=kinds)
    threads, timeout = head.settings.threads, head.settings.claim_timeout_s
    setting = Setting(head.root, head.catalogue, False, threads, head.git, head.code, timeout, list(head.drops),
                      os.getpid(), note=note, leaves=True)  # fmt: skip
    pilot = Pilot(plan, steps, setting, filed, {job.key: job for job in stages}, turn)
    outcome = pilot.outcome()
    for key, (_, end) in outcome.stages.items():
        if end == "blocked":
            turn.note(Event("stage", key=key, end=end))
    return Flown(pilot.finished, pilot.at)


def _steps(store: Store, stages: Sequence[Job]) -> dict[str, Step]:
    """Of the stages that have no result yet, and those that they need: of these no more is known than their names."""
    steps: dict[str, Step] = {}
    for job in stages:
        sheet = job.sheet
        for up in sheet.parents.values():
            if up.key not in steps:
                steps[up.key] = Step(Stage(up.kind, 0, up.label, {}, {}, up.key), "cached", "made before")
        done = store.state(sheet.kind, job.key) == "done"
        steps[job.key] = Step(_stage(job.key, sheet, steps), "cached" if done else "run", "")
    return steps


def _stage(key: str, sheet: Sheet, steps: dict[str, Step]) -> Stage:
    parents = {
        role: steps[up.key].stage if up.key in steps else Stage(up.kind, 0, up.label, {}, {}, up.key)
        for role, up in sheet.parents.items()
    }
    return Stage(sheet.kind, sheet.version, sheet.label, sheet.spec, parents, key)


def seats(plan: Plan, filed: Filed) -> tuple[list[Seat], int]:
    """Its workers, and how many GPUs the allocation has. `pilot_stages` of them share the GPUs evenly."""
    settings, asked = filed.head.settings, filed.head.arrays[0].resources
    names = list(visible()) if asks_for_gpus(asked) else []
    if names and settings.pilot_stages is not None:
        shared = [Seat(True, names[number % len(names)]) for number in range(settings.pilot_stages)]
        return [*shared, Seat(False, "")], len(names)
    return crew(plan, settings.pilot_stages, settings.threads, None if names else 0)[0], len(names)


class Pilot(Loop):
    """The loop, where it differs from that of a launch on this machine."""

    def __init__(
        self, plan: Plan, steps: dict[str, Step], setting: Setting, filed: Filed, jobs: dict[str, Job], turn: Turn
    ) -> None:
        places, self._gpu_count = seats(plan, filed)
        super().__init__(plan, setting, places, Plain(len(steps)))
        self._heavy = sum(seat.heavy for seat in places)
        self._filed, self._jobs, self._job, self._steps = filed, jobs, turn, steps
        self._idle, self._clock = 0.0, time.monotonic()
        self._next_look = self._next_alone = 0.0
        self._others: dict[str, tuple[Claim, float]] = {}  # by stage: who was seen at it, and since when nobody is
        self.finished, self.at = False, list[Job]()

    def over(self) -> bool:
        why = self._job.told()
        now = time.monotonic()
        if not why and now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._end_cancelled()
            why = "" if self._is_needed() else "other pilots are enough for what is left"
        if not why and now >= self._next_alone:
            self._next_alone = now + ALONE_SECONDS
            self._job.alone()
        self.finished = not self._schedule.left
        if self.finished or why:
            self._job.note(Event("note", text=f"leaves: {why or 'nothing is left'}", idle=self._spent()))
        return self.finished or bool(why)

    # --- what there is for it -----------------------------------------------------------------------------

    def _is_needed(self) -> bool:
        """Whether it may get anything to do: it waits for other pilots, which are too few for what comes then."""
        schedule = self._schedule
        if any(worker.jobs for worker in self._workers) or schedule.ready(True) or schedule.ready(False):
            return True
        array, _, _ = self._job.job.partition("_")
        beside = (self._store.beside(self._plan.steps[key].stage.kind, key, ".claim") for key in schedule.waiting)
        holders = {held.by.slurm for path in beside if (held := claim.read(path)) is not None}
        others = {job for job in holders if job.startswith(f"{array}_")} - {self._job.job}
        return not others or schedule.width() > self._heavy * len(others)

    def taken(self, heavy: bool, count: int) -> list[Stage]:
        """Without those that another pilot has failed at; none, if no other is ready."""
        while self._schedule.ready(heavy):
            stages, left = super().taken(heavy, count), []
            for stage in stages:
                failure = self.failed_meanwhile(stage)
                if failure is None:
                    left.append(stage)
                else:
                    self._fail(stage.key, failure)
            if left:
                return left
        return []

    def failed_meanwhile(self, stage: Stage) -> str | None:
        """Since the submission, in whichever pilot and turn."""
        job = self._jobs.get(stage.key)
        if job is None or not holdings.failed_since(self._store, job, self._filed.head.created):
            return None
        return self._store.failure(stage.kind, stage.key)

    def gone(self, stage: Stage, held: Claim) -> bool:
        self._others[stage.key] = held, 0.0
        return self._job.gone(held)

    def left(self, stage: Stage) -> bool:
        """A stage that has whole jobs killed is not begun again by all of them. SLURM takes a moment to say so."""
        held, since = self._others.get(stage.key, (None, 0.0))
        if held is None or self._store.state(stage.kind, stage.key) == "done":
            return True
        if not since:
            self._others[stage.key] = held, time.monotonic()
        if time.monotonic() - (since or time.monotonic()) < DEATH_SECONDS:
            return False
        del self._others[stage.key]
        if cause := self._job.killed(held):
            words = f"job {held.by.slurm} ended while it was at {stage.label}: {cause}"
            self._job.note(Event("note", key=stage.key, job=held.by.slurm, text=words))
            beside = self._filed.among((0, 0))
            told = (event for place in beside for event in self._filed.events(place) if event.event == "note")
            lost = {event.job for event in told if event.key == stage.key}
            if len(lost) >= min(LOSSES, len(beside) - 1):
                last = f"SLURM has killed {len(lost)} pilot{'s' * (len(lost) > 1)} that were at it; the last: {cause}"
                record_failure(self._store, *self._identity(stage.key), last, f"{words}\n{last}\n")
        return True

    def _end_cancelled(self) -> None:
        """`xling cancel INDEX` has given a stage its failure while it runs here."""
        for worker in [worker for worker in self._workers if worker.jobs]:
            job = worker.jobs[0]
            failure = self._store.failure(job.sheet.kind, job.key) or ""
            if failure.startswith(holdings.CANCELLED) and self.failed_meanwhile(self._plan.steps[job.key].stage):
                self._remove(worker)
                worker.jobs.popleft()
                self._fail(job.key, failure)
                self._give_back(worker)

    def _heal(self, report: Report, label: str) -> None:
        """Of a result that was made before the submission nothing but the name is known yet."""
        stage = self._plan.steps[report.parent].stage
        if not stage.version:
            sheet = self._job.sheet(Parent(stage.kind, stage.key, stage.label))
            if sheet is None:
                why = f"StoreError: the result {stage.label} cannot be used: {report.text}"
                record_failure(self._store, *self._identity(report.key), why, why)
                self._fail(report.key, why)
                return
            self._steps[stage.key] = Step(_stage(stage.key, sheet, self._steps), "cached", "made before")
        super()._heal(report, label)

    # --- what it tells ------------------------------------------------------------------------------------

    def _turn(self) -> None:
        super()._turn()
        now = time.monotonic()
        busy = [worker.seat for worker in self._workers if worker.jobs and worker.seat.heavy]
        idle = self._gpu_count - len({seat.gpu for seat in busy}) if self._gpu_count else self._heavy - len(busy)
        self._idle += (now - self._clock) * idle
        self._clock = now

    def _spent(self) -> float:
        """Idle seconds since this was asked last."""
        idle, self._idle = self._idle, 0.0
        return round(idle, 1)

    def _ended(self, report: Report, label: str) -> None:
        super()._ended(report, label)
        if report.event == "done":
            self._job.note(Event("stage", key=report.key, end="done", seconds=report.seconds, idle=self._spent()))

    def _fail(self, key: str, last: str) -> None:
        super()._fail(key, last)
        self._job.note(Event("stage", key=key, end="failed", text=last, idle=self._spent()))

    # --- the end ------------------------------------------------------------------------------------------

    @contextmanager
    def signals(self) -> Iterator[None]:
        """The job listens to them (task.Stopper)."""
        yield

    def _end_workers(self) -> None:
        if self._job.told():
            self.patience = self._job.patience
            self.at = [worker.jobs[0] for worker in self._workers if worker.jobs]
            for worker in self._workers:
                worker.tell()
        super()._end_workers()
