"""A job's program: `python -m xling.runners.slurm.task FOLDER ARRAY`, the task's number from SLURM's environment.

Everything else stands in the submission's record. The stages of the task run one after the other in this process;
each waits for its parents' done markers, whatever SLURM thinks of the parents' jobs.
"""

import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType

import msgspec

import xling
from xling.console import lasting_output
from xling.errors import StageError, XlingError
from xling.grid import claim, files, host
from xling.grid.launches import check_own
from xling.grid.records import Parent, Sheet, read_sheet
from xling.grid.stage import Context, Interrupted, Kind
from xling.grid.store import Store
from xling.grid.weights import drop_of
from xling.runners import ranks
from xling.runners.execute import Executor, Job, Report, load_catalogue, load_named, record_failure
from xling.runners.slurm import cluster, holdings, record
from xling.runners.slurm.cluster import ClusterError
from xling.runners.slurm.record import PREEMPTED, TIME_LIMIT, Event, Filed, Place, Task
from xling.runners.slurm.script import Refused
from xling.runners.slurm.step import OF_THE_JOB, step_of

# --- whether the results that a stage needs are there ------------------------------------------------------
# Their markers decide, whatever SLURM thinks of the jobs. A shared folder may show them late; a job may have started
# too early, since SLURM takes an edge to a job that it has forgotten for fulfilled; and a parent may have died without
# a word.

LOOK_SECONDS = 0.5  # between two looks for a marker
ASK_SECONDS = 15.0  # between two questions to the cluster
KILLED = ("FAILED", "OUT_OF_MEMORY")  # of a job that left a claim behind: for what it did itself
DIED = ("CANCELLED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT")


class Requeue(Exception):
    """This job has started too early: it has to wait for other jobs.

    until: in scontrol's words, see cluster.requeue.
    """

    def __init__(self, why: str, until: str) -> None:
        super().__init__(why)
        self.until = until


class Superseded(Exception):
    """A later turn of this job runs elsewhere: SLURM took this one's node for dead, and this process is its orphan."""


# --- a job that is told to stop: why, and how it gets another turn ----------------------------------------
# SLURM sends USR2 some time before the time limit (signal_delay_s) and, where it is told to, at a preemption; TERM when
# the time is over, at a preemption, and for scancel. The main thread may be deep inside a library and deaf, so a thread
# of its own listens, and acts when the main thread has not by the time it must.

CANCELLED = "cancelled"
GRAIN_SECONDS = 65.0  # SLURM may send the warning up to a minute early
RETRY_SECONDS = 2.0  # between two tries to reach the controller


class Stopper:
    """Turns SLURM's signals into an `Interrupted` in the main thread, or into the end of the process.

    job: "123_4"; limit: seconds; delay: seconds between the warning and the limit. Called in whichever thread gets to
    it first: clean, then requeue with the reason, which does not return if the job gets another turn.
    """

    def __init__(
        self, job: str, limit: float, delay: float, clean: Callable[[], None], requeue: Callable[[str], None]
    ) -> None:
        self._job, self.limit, self._delay = job, limit, delay
        self._clean, self._requeue = clean, requeue
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self.why = ""
        self.asked = False  # the running stage looks by itself whether it has to stop

    def stopping(self) -> bool:
        """Context.stopping: a stage that asks is not interrupted, and has `grace` seconds to come to a good end."""
        self.asked = True
        return bool(self.why)

    def listen(self) -> None:
        """From now on; only in the main thread."""
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._writer = writer  # kept open
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._ignore)  # the thread is woken all the same
        signal.signal(signal.SIGCONT, self._ignore)
        signal.signal(signal.SIGUSR1, self._raise)
        threading.Thread(target=self._wait, args=(reader,), daemon=True).start()

    def _ignore(self, _number: int, _frame: FrameType | None) -> None: ...

    def _raise(self, _number: int, _frame: FrameType | None) -> None:
        raise Interrupted(self.why)

    def _wait(self, reader: socket.socket) -> None:
        while data := reader.recv(1):
            if data[0] not in (signal.SIGUSR2, signal.SIGTERM) or self.why:
                continue
            why = self._reason(data[0])
            if why:
                self.why = why
                if not self.asked:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                threading.Timer(self.grace, self.act).start()

    @property
    def grace(self) -> float:
        """Seconds that the main thread has to come to an end by itself."""
        return max(2.0, min(self._delay * 0.6, self._delay - 15.0))

    def _reason(self, number: int) -> str:
        """Why the signal was sent; "" for one that is followed by a clearer one.

        The cluster may have set another limit than was asked for, and counts from before Python started.
        """
        told = cluster.details(self._job)
        self.limit = cluster.seconds_in(told or {}, "TimeLimit") or self.limit
        ran = cluster.seconds_in(told or {}, "RunTime") or time.monotonic() - self._began
        over = ran >= self.limit - self._delay - GRAIN_SECONDS
        if told is not None and "0" <= told.get("StartTime", "") <= told.get("PreemptTime", "") < "A":  # None, Unknown
            return PREEMPTED
        if told is not None and told.get("JobState") in ("CANCELLED", "COMPLETING"):
            return CANCELLED
        if number == signal.SIGUSR2:
            return TIME_LIMIT if over else PREEMPTED
        return TIME_LIMIT if ran >= self.limit else ""

    def act(self) -> None:
        """Ask for another turn (not after a cancellation) and end this process. Called from either thread."""
        with self._lock:
            self._clean()
            deadline = time.monotonic() + max(self._delay, 30.0)
            while self.why != CANCELLED and time.monotonic() < deadline:
                try:
                    self._requeue(self.why)
                    break
                except ClusterError as error:
                    print(f"xling: {error}", file=sys.stderr, flush=True)
                    time.sleep(RETRY_SECONDS)
            os._exit(1)


READ_SECONDS = 60.0  # how long the shared folder may take to show the record itself
LOOKS = 8  # tasks of an array that see whether there is room for more jobs
TRIES, TRY_SECONDS = 20, 30.0  # where the last job finds none, since other users have filled the queue
NO_ROOM, FULL = "no room", "StartTime=now+600"  # where this user's own jobs have, when it looks again
NOT_FED = (XlingError, Refused, OSError, msgspec.DecodeError)  # by SLURM, or by a disk, which may do it later
CLAIM_SECONDS = 1.0  # between two looks at a stage that another runner is at
EARLY = 5  # times that a job is put back behind one that it needs; an order that does not hold ends
HEALS = 2  # times a damaged parent is made again


def main() -> None:
    place = (int(sys.argv[2]), int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")))
    code = 1
    lasting_output()
    try:
        code = Runner(*_read(Path(sys.argv[1]), place), place).run()
    except XlingError as error:
        print(f"xling: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        _drop_silent(Path(sys.argv[1]) / "logs")
        os._exit(code)  # threads that stage code left behind do not keep the job


def _drop_silent(logs: Path) -> None:
    """Remove this job's own logs if they are empty: two files a job are many."""
    for name in ("out", "err"):
        path = logs / f"{host.this_process().slurm}_0_log.{name}"
        with suppress(OSError):
            if not path.stat().st_size:
                path.unlink()


def _read(folder: Path, place: Place) -> tuple[Filed, Task, Sequence[Job]]:
    """The submission without the stages of other tasks, and this one."""
    deadline = time.monotonic() + READ_SECONDS
    while True:
        try:
            filed = record.read(folder)
            return filed, *filed.task(place)
        except (OSError, msgspec.DecodeError) as error:
            if time.monotonic() > deadline:
                raise StageError(f"The record of this submission cannot be read: {error}") from error
            time.sleep(0.5)


@dataclass
class Runner:
    """One task."""

    filed: Filed
    task: Task
    stages: Sequence[Job]
    place: Place
    store: Store = field(init=False)
    job: str = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(self.filed.head.root)
        self.job = host.this_process().slurm
        array = self.filed.head.arrays[self.place[0]]
        self._pilot, self._max_timeouts = array.pilots, array.resources.max_num_timeout
        limit, delay = array.resources.timeout_min * 60.0, float(array.resources.signal_delay_s)
        self._stopper = Stopper(self.job, limit, delay, self._clean, self._requeue)
        self._running: Job | None = None
        self._stuck: Sequence[Job] = ()  # a pilot's stages when it was told to stop
        timeout = self.filed.head.settings.claim_timeout_s
        self._watch = claim.Watch(lambda: files.clock(self.store.root), timeout)
        self._ends: dict[str, str] = {}
        self._asked: dict[str, tuple[float, bool]] = {}  # a job -> when SLURM was asked, and whether it may live
        self._noted = self._refused = False

    def run(self) -> int:
        """All stages of the task; 0 if the first of them is done."""
        self._stopper.listen()
        self._note_unfit()
        self._note(Event("start", job=self.job, node=_node(), pid=os.getpid(), restarts=_restarts()))
        self._say_what_changed()
        try:
            if not self.stages:
                return self._reduce()
            if self._pilot:
                return self._fly()
            for job in self.stages:
                self._ends[job.key] = self._stage(job)
            self._feed()
        except Interrupted:
            self._stopper.act()
        except Requeue as early:
            self._wait_for(early)
        except Superseded:
            self._note(Event("note", text=f"{_node()}: left what it was at to a later turn of this job"))
            return 1
        self._note(Event("end"))
        if set(self._ends.values()) == {"blocked"}:
            self._withdraw()
        return 0 if self._ends[self.stages[0].key] in ("done", "found") else 1  # jobs wait for the first one's good end

    def _withdraw(self) -> None:
        """No failure: in accounts and mails this job is a cancelled one, as those that SLURM has not even started."""
        self._stopper.asked = True
        with suppress(ClusterError):
            cluster.cancel([self.job])

    @cached_property
    def _copied(self) -> bool:
        """Whether this process runs the code that was copied when the job was submitted."""
        copied = self.filed.head.snapshot
        return bool(copied) and Path(copied) == Path(xling.__file__).absolute().parents[1]

    def _say_what_changed(self) -> None:
        submission = self.filed.head
        texts = []
        if not self._copied and host.code_digest() != submission.code:
            texts.append("the code has changed since this job was submitted")
        if changed := host.changed(submission.versions):
            texts.append(f"packages have changed since this job was submitted: {changed}")
        for text in texts:
            self._note(Event("note", text=text))
            print(f"xling: {text}", file=sys.stderr, flush=True)

    def _feed(self) -> None:
        """One of a few tasks of each array sees whether more jobs of the grid find room in the queue by now."""
        array = self.filed.head.arrays[self.place[0]]
        if self.filed.head.at_once and self.place[1] % max(1, array.size // LOOKS) == 0:
            from xling.runners.slurm import submit

            try:
                submit.feed_unless_busy(self.store, self.filed.folder)
            except NOT_FED as error:
                print(f"xling: no more jobs were submitted: {error}", file=sys.stderr, flush=True)

    # --- a pilot ------------------------------------------------------------------------------------------

    def _fly(self) -> int:
        """Stages as they become ready; 0, whatever became of them. Raises Interrupted once the job has to stop."""
        from xling.runners.slurm import pilot

        self._stopper.asked = True  # its stages are told in their own processes
        patience = max(1.0, self._stopper.grace * 0.8)
        turn = pilot.Turn(self.job, self._note, lambda: self._stopper.why, patience, self._is_gone, self._killed,
                          self._refuse_orphan, self._sheet)  # fmt: skip
        flown = pilot.fly(self.filed, self.stages, turn, self._turn())
        self._stuck = flown.at
        if self._stopper.why:
            raise Interrupted(self._stopper.why)
        array = self.filed.head.arrays[self.place[0]]
        if flown.over and (ref := self.filed.refs.get(array.number)):
            with suppress(ClusterError):  # those that still wait for a node have nothing to wait for
                cluster.cancel([ref.id], pending_only=True, name=array.name)
        self._note(Event("end"))
        return 0

    # --- one stage ----------------------------------------------------------------------------------------

    def _stage(self, job: Job) -> str:
        self._stopper.asked = False
        self._refuse_orphan()
        if self._stopper.why:
            raise Interrupted(self._stopper.why)
        blocked = self._blocked(job)
        if blocked:
            return self._end(job, "blocked", blocked)
        self._running = job
        report = self._execute(job)
        self._running = None
        return self._end(job, report.event, report.text, report.seconds)

    def _end(self, job: Job, end: str, text: str = "", seconds: float = 0.0) -> str:
        self._note(Event("stage", key=job.key, end=end, text=text, seconds=seconds))
        if end not in ("done", "found"):
            print(f"{job.sheet.label}: {end}{f' ({text})' if text else ''}", flush=True)
        return end

    def _execute(self, job: Job) -> Report:
        """Run a stage; wait where another runner is at it, make a damaged parent again."""
        executor = self._executor
        heals = Counter[str]()
        while True:
            report = executor.execute(job)
            if report.event == "claimed":
                self._claimed(job)
            elif report.event == "damaged" and heals[report.parent] < HEALS and self._heal(job, report.parent):
                heals[report.parent] += 1
            elif report.event == "damaged":
                text = f"StoreError: a result it needs cannot be used: {report.text}"
                record_failure(self.store, job.sheet.kind, job.key, job.sheet.label, text, text)
                return Report("failed", job.key, text)
            else:
                return report

    @cached_property
    def _executor(self) -> Executor:
        submission = self.filed.head
        kinds = load_catalogue(submission.catalogue)
        executor = Executor(
            self.store,
            kinds,
            submission.force,
            submission.settings.threads,
            submission.git if self._copied else host.commit(submission.git, submission.code),
            submission.code if self._copied else host.code_digest(),
            timeout=submission.settings.claim_timeout_s,
            note=self._turn(),
            stopping=self._stopper.stopping,
            drops=submission.drops,
        )
        resources = submission.arrays[self.place[0]].resources
        if resources.processes > 1:
            executor.processes, executor.call = (lambda kind: resources.processes), self._in_processes
        return executor

    def _in_processes(self, kind: Kind, context: Context) -> None:
        """A stage of a job that asks for several processes."""
        resources = self.filed.head.arrays[self.place[0]].resources
        folder = self.filed.folder / "tasks" / f"{self.place[0]}_{self.place[1]}.{host.this_process().name}"
        self._stopper.asked = True  # they come to an end by themselves
        own = {name: value for name, value in os.environ.items() if name not in OF_THE_JOB}
        command = step_of(self.filed.head.program, resources, folder)
        ranks.run(kind, context, self.filed.head.catalogue, command, folder, own, lambda: self._stopper.why)

    def _heal(self, job: Job, key: str) -> bool:
        """Make a damaged parent again from its own sheet, unless another job is at that already."""
        for up in job.sheet.parents.values():
            sheet = self._sheet(up) if up.key == key else None
            if sheet is not None:
                report = self._execute(Job(key, sheet, suspect=True))  # with what that needs, if it has to
                return report.event in ("done", "found")
        return False

    def _sheet(self, up: Parent) -> Sheet | None:
        """Of a result, or of a damaged copy of it that has been set aside."""
        for folder in files.matching(self.store.kind_folder(up.kind), f"{up.key}*"):
            with suppress(OSError, msgspec.DecodeError):
                sheet = read_sheet(str(folder))
                if sheet.key() == up.key:
                    return sheet
        return None

    def _claimed(self, job: Job) -> None:
        """Another process is at the stage: clear its claim away if it has died, else let it."""
        path = self.store.beside(job.sheet.kind, job.key, ".claim")
        self._refuse_orphan()
        held = self._watch.holder(path)
        if held is None:
            return
        if self._is_gone(held):
            claim.drop(path, held)
        else:
            time.sleep(CLAIM_SECONDS)

    def _is_gone(self, held: claim.Claim) -> bool:
        """Whether SLURM knows that a claim's job has ended. A process that is seen lives, whatever SLURM thinks."""
        if not held.by.slurm or host.sees(held.by):
            return False
        if held.by.slurm == self.job and held.by.cluster in ("", host.this_process().cluster):
            return True  # of this job's turn before, on another node
        asked, lives = self._asked.get(held.by.slurm, (-ASK_SECONDS, True))
        if not self._pilot or time.monotonic() - asked >= ASK_SECONDS:  # a pilot looks at many, often
            lives = cluster.may_live(held.by)
            self._asked[held.by.slurm] = time.monotonic(), lives
        return not lives

    def _killed(self, held: claim.Claim) -> str:
        """Why SLURM has killed the job of a claim, if it is another pilot; "" if it was cancelled or lost its node."""
        ref = self.filed.refs.get(self.place[0])
        if ref is None or held.by.slurm == self.job or held.by.slurm.partition("_")[0] != ref.id:
            return ""
        state = (cluster.states([ref], {held.by.slurm}) or {}).get(held.by.slurm)
        return state.cause if state is not None and state.state in KILLED else ""

    def _refuse_orphan(self) -> None:
        if any(event.event == "start" and event.restarts > _restarts() for event in self.filed.events(self.place)):
            raise Superseded

    # --- parents ------------------------------------------------------------------------------------------

    def _blocked(self, job: Job) -> str:
        """Wait until the results it needs are there; why they are not going to be, or nothing."""
        for up in job.sheet.parents.values():
            if self._ends.get(up.key) in ("failed", "blocked"):
                return f"{up.label} {self._ends[up.key]}"
            why = self._missing(up)
            if why:
                return why
        return ""

    def _missing(self, up: Parent) -> str:
        """Wait until a result is there; why it is not going to be, or nothing. Requeue if it is still to come."""
        deadline = time.monotonic() + self.filed.head.settings.late_seconds
        asked, state, over = -ASK_SECONDS, "neither there nor in the queue", False
        while (found := self._state(up)) != "done":
            source = self._source(up)
            said = self._said(*source, up.key) if source else ""
            if said in ("failed", "blocked"):
                return f"{up.label} {said}"
            late = time.monotonic() > deadline
            if late and found == "damaged":
                return ""  # loading it says what is damaged; until now it may have been shown in part
            if source and (late or time.monotonic() - asked >= ASK_SECONDS):
                asked, (state, over) = time.monotonic(), self._ask(*source, up, settle=late)
            if late or over:
                return f"{up.label} is {state}"
            time.sleep(LOOK_SECONDS)
        return ""

    def _state(self, up: Parent) -> str:
        folder = self.store.folder(up.kind, up.key)
        with suppress(OSError):
            os.listdir(folder.parent)  # makes a network file system look again
        return self.store.state(up.kind, up.key)

    def _source(self, up: Parent) -> tuple[Filed, Place] | None:
        """Whose task makes it: of this submission, or of one that this task was told to wait for."""
        place = self.filed.places.get(up.key)
        if place is not None:
            return self.filed, place
        others = set(self.task.others)
        for filed in reversed(record.submissions(self.store)):
            place = filed.places.get(up.key)
            if place is not None and filed.awaited(place) in others:
                return filed, place
        return None

    def _said(self, filed: Filed, place: Place, key: str) -> str:
        ends = [event.end for event in filed.ends(place) if event.key == key]
        return ends[-1] if ends else ""

    def _ask(self, filed: Filed, place: Place, up: Parent, settle: bool) -> tuple[str, bool]:
        """Why a parent is not there, by the state of the job that makes it, and whether it will not be any more.

        Requeue if that job is still to end.
        """
        jobs, ref = [job for one in filed.among(place) if (job := filed.job(one))], filed.refs.get(place[0])
        states = cluster.states([ref], set(jobs)) if ref and jobs else {}
        if states is None or not jobs:
            return "not there, and the cluster does not answer", False
        job = next((job for job in jobs if job in states and states[job].alive), jobs[0])
        state = states.get(job)
        if state is not None and state.alive and job != self.job:
            still = f"still {state.state.lower()}"
            if self._early >= EARLY:
                return f"{still}, and this job has started before its end {EARLY} times", False
            raise Requeue(f"{up.label} is {still}", f"Dependency=afterany:{filed.awaited(place)}")
        # of a job with this stage alone, which has not ended well, nothing is shown late
        over = state is not None and state.state in DIED and len(filed.task(place)[0].stages) == 1 == len(jobs)
        if (settle or over) and state is not None:
            holdings.settle(self.store, record.read(filed.folder), states, only=job)
        return (f"missing: {state.cause or 'its job has ended'}", over) if state else ("missing", False)

    @cached_property
    def _early(self) -> int:
        """How often this job was put back since it had started before its parents."""
        why = [event.text for event in self._turns() if event.event == "requeue"]
        return sum(text not in (TIME_LIMIT, PREEMPTED) for text in why)

    # --- turns --------------------------------------------------------------------------------------------

    def _turns(self) -> list[Event]:
        return [event for event in self.filed.events(self.place) if event.event in ("start", "requeue")]

    def _since_progress(self) -> list[Event]:
        """The past in which time limits count: of a pilot, what came after the last stage that it was done with."""
        events = self.filed.events(self.place)
        ends = [number for number, event in enumerate(events) if event.end] if self._pilot else []
        return events[ends[-1] :] if ends else events

    def _turn(self) -> str:
        """For the header of a stage's log: which job, and the how-manieth turn after what."""
        events = self._turns()
        starts = sum(event.event == "start" for event in events)
        words = f"SLURM job {self.job} on {_node()}"
        if starts > 1:
            reasons = [event.text for event in events if event.event == "requeue"]
            lost = starts - 1 - len(reasons)
            reasons += ["node or job lost"] * max(0, lost)
            words += f", turn {starts} after {', '.join(reasons)}"
        return words

    def _note_unfit(self) -> None:
        """Nodes on which this job could not start, and could not say so: SLURM has been told to leave them out."""
        if not _restarts():
            return
        left_out = (cluster.details(self.job) or {}).get("ExcNodeList", "(null)")
        asked = self.filed.head.arrays[self.place[0]].resources.exclude or ""
        known = {event.node for event in self.filed.events(self.place) if event.event == "unfit"}
        if left_out != "(null)" and (names := set(cluster.hostnames(left_out)) - known):
            for node in sorted(names - set(cluster.hostnames(asked))):
                self._note(Event("unfit", node=node, text=f"'{self.filed.folder}' cannot be written there"))

    def _requeue(self, why: str) -> None:
        """Another turn for this job, unless its time limits are used up: then its running stage has failed."""
        limits = sum(event.event == "requeue" and event.text == TIME_LIMIT for event in self._since_progress())
        if why == TIME_LIMIT and limits >= self._max_timeouts:
            self._give_up(limits + 1)
            if not self._pilot:  # which goes on with others
                return
        if not self._noted:
            self._noted = True
            self._note(Event("requeue", text=why))
        try:
            cluster.requeue(self.job)
        except ClusterError as error:
            if not self._refused:
                self._refused = True
                self._note(Event("refused", text=str(error)))
            raise
        time.sleep(60)  # SLURM ends this process

    def _clean(self) -> None:
        """Clear away the running stage's claim and unfinished result, also where the stage does not end itself.

        The result is moved away first: either this or the stage's own publishing finds it, never both.
        """
        if self._running is None:
            return
        kind, key, who = self._running.sheet.kind, self._running.key, host.this_process()
        unfinished = self.store.beside(kind, key, f".tmp-{who.name}")
        with suppress(OSError):
            os.rename(unfinished, f"{unfinished}.0")
            shutil.rmtree(f"{unfinished}.0", ignore_errors=True)
        self._executor.heart.release(self.store.beside(kind, key, ".claim"))

    def _give_up(self, times: int) -> None:
        submission = self.filed.head
        minutes = self._stopper.limit / 60
        asked = submission.arrays[self.place[0]].resources.timeout_min
        set_ = "" if minutes >= asked else f" ({minutes:g} minutes, which the cluster set in place of {asked})"
        for job in self._stuck if self._pilot else self.stages:
            if job.key not in self._ends:
                last = (
                    f"It reached the time limit {times} times{set_}. Raise hydra.launcher.timeout_min "
                    f"or hydra.launcher.max_num_timeout and run the same command again."
                )
                record_failure(self.store, job.sheet.kind, job.key, job.sheet.label, last, last + "\n")
                self._ends[job.key] = self._end(job, "failed", last)

    def _wait_for(self, early: Requeue) -> None:
        """Back into the queue, behind the job that is still to end."""
        self._stopper.asked = True  # SLURM's signal must not come between its commands
        self._note(Event("requeue", text=str(early)))
        print(f"xling: back into the queue: {early}", flush=True)
        try:
            cluster.requeue(self.job, early.until)
        except ClusterError as error:
            self._note(Event("refused", text=f"it started too early ({early}): {error}"))
            raise StageError(f"It started too early ({early}) and could not be requeued: {error}") from error
        time.sleep(60)  # SLURM ends this process
        os._exit(1)

    # --- the last task ------------------------------------------------------------------------------------

    def _later(self) -> None:
        """Submit what has found no room yet, and wait for it (Requeue). StageError if SLURM takes none of it."""
        from xling.runners.slurm import submit

        for _ in range(TRIES):
            left, why = True, NO_ROOM
            try:
                with submit.lock(self.store):
                    left = submit.feed(self.filed.folder)
            except NOT_FED as error:
                why = str(error)
            with suppress(ClusterError):
                queued, count = cluster.mine()
                waiting = [queued[array.name] for array in self.filed.head.arrays[:-1] if array.name in queued]
                if waiting:
                    raise Requeue("other jobs of the grid are still to end", f"Dependency=afterany:{':'.join(waiting)}")
                if not left:
                    return
                if why == NO_ROOM and count > 1:
                    raise Requeue("other jobs of the user's leave no room for those of the grid", FULL)
            print(f"xling: no more jobs were submitted: {why}", file=sys.stderr, flush=True)
            time.sleep(TRY_SECONDS)
        raise StageError(f"SLURM takes no more jobs of the grid: {why}. The same command submits what is missing.")

    def _reduce(self) -> int:
        """Say what became of jobs that ended without a word, then fold what is complete."""
        submission = self.filed.head
        if submission.at_once:
            self._later()
        refs = [ref for number, ref in self.filed.refs.items() if number != self.place[0]]
        states = cluster.states(refs, {job for place in self.task.needs if (job := self.filed.job(place))})
        if states is not None:
            holdings.settle(self.store, self.filed, states)
        if submission.cells:
            check_own(self.store, submission.grid, submission.cells)
        fold = load_named(submission.fold)
        if not callable(fold):
            raise StageError(f"'{submission.fold}' cannot be called: the results are there, and nothing folds them.")
        code = fold(Store(self.store.root), submission.grid, submission.tracking)
        if submission.force:
            drop_of(self.store, load_catalogue(submission.catalogue), submission.grid)
        self._note(Event("end"))
        if states is not None and all(not one.alive or one.state == "COMPLETING" for one in states.values()):
            record.note_state(self.filed.folder, "finished")  # others may not be able to see that
        return int(bool(code))

    def _note(self, event: Event) -> None:
        record.note_event(self.filed.folder, self.place, msgspec.structs.replace(event, at=round(time.time(), 3)))


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME", host.hostname())


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


if __name__ == "__main__":
    main()
