"""Run a plan on this machine, in warm worker processes.

    outcome = run_local(plan, "xling.planning:KINDS", workers=2)
    sys.exit(outcome.exit_code)

A stage that raises, exits or is killed costs itself and what needs it; its worker is replaced. The first
Ctrl-C (or SIGTERM, or SIGHUP unless that is ignored, as under nohup) ends the workers and returns what there is, the
second raises KeyboardInterrupt at once.
"""

import os
import selectors
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from xling.console import duration
from xling.errors import StageError, while_running
from xling.grid import claim, files, host
from xling.grid.cleanup import remove_leftovers
from xling.grid.plan import Plan
from xling.grid.records import Sheet
from xling.grid.stage import Stage
from xling.grid.store import now
from xling.runners.execute import Job, Report, record_failure
from xling.runners.local.crew import Seat, cores, is_heavy
from xling.runners.local.display import Display, display_for, print_so_far
from xling.runners.local.schedule import Failed, Outcome, Schedule
from xling.runners.local.worker import Setting, Worker

POLL_SECONDS = 0.3  # how often stages that another runner claims are looked at
SAY_SECONDS = 2.0, 60.0  # after which it is said that such stages are waited for, and said again
LOG_TAIL = 4000  # bytes of a dead worker's log that are kept with the failure


def run_local(
    plan: Plan,
    catalogue: str = "xling.planning:KINDS",
    workers: int | Sequence[Seat] | None = None,
    threads: int = 1,
    show: bool = True,
    claim_timeout: float = claim.TIMEOUT,
    processes: Mapping[str, int] | None = None,
) -> Outcome:
    """Run what the plan says, and say how it ended.

    catalogue: `module:name` of the dict of kinds; workers: processes, or what each takes and which GPU it has, None:
    one per core; threads: of the numeric libraries in each; show: progress and end table on stderr; claim_timeout:
    seconds without a heartbeat after which a runner that cannot be seen from here counts as dead; processes: by kind,
    of its stages, each of which takes as many workers' GPUs or cores. Raises StoreError if
    the root cannot be written, StageError if no worker can start.
    """
    seats = workers if isinstance(workers, Sequence) else [Seat()] * (workers or max(1, cores() // threads))
    if plan.to_run:
        plan.store.prepare()
    plan.write()
    if plan.mode != "read-only":
        remove_leftovers(plan.store, plan.estimates)
    force = plan.mode == "force"
    root = str(plan.store.root.absolute())
    own = (plan.git, host.code_digest(), claim_timeout, plan.dropping, os.getpid(), dict(processes or {}))
    setting = Setting(root, catalogue, force, threads, *own)
    run = Loop(plan, setting, seats, display_for(len(plan.steps), show))
    with while_running():
        outcome = run.outcome()
    _note_run(plan, outcome)
    if show:
        outcome.print()
        if outcome.interrupted:  # else it is folded, and the matrix itself is shown
            print_so_far(plan, {key: end for key, (_, end) in outcome.stages.items()})
    return outcome


class Loop:
    """The event loop: feeds idle workers, listens to all of them, replaces the dead.

    What a pilot (xling/runners/slurm/pilot.py) does otherwise: over, gone, left, failed_meanwhile, taken, signals.
    """

    patience = 3.0  # seconds that workers have to end when there is no more to do, or they are told to stop

    def __init__(self, plan: Plan, setting: Setting, seats: Sequence[Seat], display: Display) -> None:
        self._plan, self._setting, self._display = plan, setting, display
        self._seats = Counter(seat.heavy for seat in seats)
        self._free = list(seats)  # those that no worker has
        parted = partial(is_heavy, plan.kinds) if self._seats[False] else lambda stage: True
        self._store, self._schedule = plan.store, Schedule(plan, parted)
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._signal = 0
        self._next_poll = 0.0
        self._failed: dict[str, str] = {}  # key -> last line
        self._before = {  # failures of before: their records' times
            key: self._failed_at(step.stage.kind, key)
            for key, step in plan.steps.items()
            if step.state == "run" and step.reason.startswith("failed")
        }
        self._watch = claim.Watch(lambda: files.clock(plan.store.root), setting.timeout)
        self._said: dict[str, float] = {}  # key of a stage that is waited for -> monotonic time of the next word on it
        self._deaths = 0  # of workers that were not ready yet, in a row
        display.follow(plan, self._schedule.ends)

    def outcome(self) -> Outcome:
        start = time.perf_counter()
        try:
            with self.signals():
                while not self.over():
                    self._turn()
                if self._signal:
                    self._display.say("Stopping: results so far are kept. Again to stop at once.")
                self._end_workers()
        finally:
            for worker in list(self._workers):
                self._remove(worker)
            self._selector.close()
            self._display.tick(self._schedule.left)
            self._display.close()
        self._schedule.stop()
        return self._result(time.perf_counter() - start)

    def _result(self, seconds: float) -> Outcome:
        plan, ends = self._plan, self._schedule.ends
        stages = {key: (step.stage.kind, ends[key]) for key, step in plan.steps.items()}
        failures = []
        for index, (key, step) in enumerate(plan.steps.items()):
            if ends[key] == "failed":
                last = self._failed.get(key) or step.reason
                log = self._store.log(step.stage.kind, key)
                failures.append(Failed(index, step.stage.label, last, str(log)))
        return Outcome(plan.name, plan.cells, stages, failures, self._schedule.work, seconds, self._seats.total(),
                       self._signal)  # fmt: skip

    def over(self) -> bool:
        return not self._schedule.left or bool(self._signal)

    # --- one turn -----------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._feed()
        for key, _ in self._selector.select(0.25 if self._schedule.waiting else 1.0):
            if key.data is not None:
                self._listen(key.data)
        for worker in [worker for worker in self._workers if worker.exited()]:
            self._listen(worker)
        if self._schedule.waiting and time.monotonic() >= self._next_poll:
            self._next_poll = time.monotonic() + POLL_SECONDS
            self._poll()
        self._display.tick(self._schedule.left)

    def _feed(self) -> None:
        for worker in self._workers:
            heavy = worker.seat.heavy
            if worker.idle and self._schedule.ready(heavy):
                count = min(self._setting.processes.get(self._schedule.next(heavy).kind, 1), self._seats[heavy])
                if count > 1 and not self._borrowed(worker, count - 1):
                    continue  # until as many are idle: what comes after it in the plan's order waits too
                if not (stages := self.taken(heavy, count)):
                    continue
                healed, gpus = self._schedule.healed, self._gpus(worker) if count > 1 else ""
                worker.send([Job(stage.key, Sheet.of(stage), stage.key in healed, gpus) for stage in stages])
                self._display.started(stages[0].label)
        for heavy in self._seats:
            starting = sum(not worker.ready and worker.seat.heavy == heavy for worker in self._workers)
            free = [seat for seat in self._free if seat.heavy == heavy]
            for seat in free[: max(0, self._schedule.ready(heavy) - starting)]:
                self._start(seat)

    def taken(self, heavy: bool, count: int) -> list[Stage]:
        """The next stages for a worker; one, where it runs in `count` processes."""
        return self._schedule.take(self._seats[heavy], heavy) if count == 1 else [self._schedule.pop(heavy)]

    def _borrowed(self, worker: Worker, count: int) -> bool:
        """Whether `count` other seats of its sort are idle, which are the worker's then until its stage has ended."""
        heavy = worker.seat.heavy
        idle = [one for one in self._workers if one is not worker and one.idle and one.seat.heavy == heavy]
        free = [seat for seat in self._free if seat.heavy == heavy]
        if len(idle) + len(free) < count:
            return False
        for one in idle[:count]:
            one.lent = worker
        for seat in free[: max(0, count - len(idle))]:
            self._free.remove(seat)
            worker.borrowed.append(seat)
        return True

    def _gpus(self, worker: Worker) -> str:
        """All that the worker's stage has, as CUDA_VISIBLE_DEVICES; empty where seats have none of their own."""
        lent = [one.seat for one in self._workers if one.lent is worker]
        return ",".join(seat.gpu for seat in (worker.seat, *lent, *worker.borrowed) if seat.gpu)

    def _given_back(self, worker: Worker) -> None:
        """The seats that others lent to a worker's stage, which has ended."""
        for one in self._workers:
            one.lent = None if one.lent is worker else one.lent
        self._free += worker.borrowed
        worker.borrowed = []

    def _start(self, seat: Seat) -> None:
        self._free.remove(seat)
        worker = Worker(self._setting, seat)
        self._workers.append(worker)
        self._selector.register(worker.stdout, selectors.EVENT_READ, worker)

    def _listen(self, worker: Worker) -> None:
        if worker not in self._workers:
            return
        reports = worker.read()
        if reports is None:
            self._bury(worker)
        else:
            for report in reports:
                self._heard(worker, report)

    def _heard(self, worker: Worker, report: Report) -> None:
        if report.event == "fatal":
            raise StageError(
                f"Workers cannot load the stages '{self._setting.catalogue}': {report.text} "
                f"(details: {self._setting.root}/logs/workers.log)"
            )
        if report.event == "ready":
            worker.who, self._deaths = report.by, 0
            return
        label = self._plan.steps[report.key].stage.label
        if report.event == "progress":
            self._display.progress(label, *report.numbers)
            return
        job = worker.jobs.popleft()
        self._given_back(worker)
        self._ended(report, label)
        if report.leaving:
            self._clear(worker, job)
            self._give_back(worker)
            self._remove(worker)
        elif worker.jobs:
            self._display.started(self._plan.steps[worker.jobs[0].key].stage.label)

    def _ended(self, report: Report, label: str) -> None:
        schedule, key = self._schedule, report.key
        if report.event == "done":
            schedule.done(key, "done", report.seconds)
            self._display.finished(label, report.seconds)
        elif report.event == "found":
            schedule.done(key, "cached")
            self._display.finished(label, None)
        elif report.event == "claimed":
            schedule.wait(key)
            self._said[key] = time.monotonic() + SAY_SECONDS[0]
            self._display.waits(label)
        elif report.event == "damaged":
            self._heal(report, label)
        else:
            self._fail(key, report.text)

    def _fail(self, key: str, last: str) -> None:
        self._failed[key] = last
        self._schedule.fail(key)
        self._display.failed(self._plan.steps[key].stage.label, last)

    def _heal(self, report: Report, label: str) -> None:
        parent = self._plan.steps[report.parent].stage
        what = f"the result {parent.label} cannot be used: {report.text}"
        if self._plan.mode != "cached" and self._schedule.heal(report.parent, report.key):
            self._display.waits(label)
            self._display.say(f"{label} has to wait: {what}; it is made again.")
        else:
            record_failure(self._store, *self._identity(report.key), f"StoreError: {what}", what)
            self._fail(report.key, f"StoreError: {what}")

    def _identity(self, key: str) -> tuple[str, str, str]:
        stage = self._plan.steps[key].stage
        return stage.kind, key, stage.label

    # --- other runners ------------------------------------------------------------------------------------

    def _poll(self) -> None:
        """Take over results, failures and abandoned claims of the runners we wait for."""
        waited: dict[tuple[str, float], list[tuple[str, str, claim.Claim]]] = {}
        for key in list(self._schedule.waiting):
            stage = self._plan.steps[key].stage
            beside = self._store.beside(stage.kind, key, ".claim")
            held = self._watch.holder(beside)
            if held is not None and self.gone(stage, held):
                claim.drop(beside, held)
            elif held is not None:
                if time.monotonic() >= self._said[key]:
                    self._said[key] = time.monotonic() + SAY_SECONDS[1]
                    waited.setdefault((held.by.name, held.since // 60), []).append((stage.label, beside, held))
            elif not self.left(stage):
                continue
            elif (failure := self.failed_meanwhile(stage)) is not None:
                self._fail(key, failure)
            else:
                self._schedule.give_back(key)  # a worker sees whether it is done
        for group in waited.values():
            self._say_waiting([label for label, _, _ in group], *group[0][1:])

    def gone(self, stage: Stage, held: claim.Claim) -> bool:
        """Whether something else than its heartbeat tells that the runner of a stage has ended."""
        return False

    def left(self, stage: Stage) -> bool:
        """Nobody else is at a stage any more; whether it may go on."""
        return True

    def failed_meanwhile(self, stage: Stage) -> str | None:
        """Another runner's failure of a stage, its last line."""
        failure = self._store.failure(stage.kind, stage.key)
        return failure if self._failed_at(stage.kind, stage.key) != self._before.get(stage.key) else None

    def _say_waiting(self, labels: Sequence[str], path: str, held: claim.Claim) -> None:
        since = time.strftime("%H:%M:%S", time.localtime(held.since))
        ago = duration(max(0.0, time.time() - held.since))
        if held.by.host == host.hostname() and host.sees(held.by):
            hint = f"`kill {held.by.pid}` ends it."
        else:
            silent, patience = map(duration, self._watch.silent(path))
            hint = (
                f"Last sign of life {silent} ago; after {patience} without one it counts as dead "
                f"(hydra.launcher.claim_timeout_s). If you know that it is gone, type: rm '{path}'"
            )
        more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
        words = f"{', '.join(labels[:3])}{more}: waiting for {held.who}, at it since {since} ({ago})."
        self._display.say(f"{words} {hint}")

    def _failed_at(self, kind: str, key: str) -> int:
        """When its failure was recorded, by the file system's clock; 0 if it has none."""
        with suppress(OSError):
            return os.stat(self._store.beside(kind, key, ".failed.json")).st_mtime_ns
        return 0

    # --- the end of workers -------------------------------------------------------------------------------

    def _bury(self, worker: Worker) -> None:
        """A worker has gone: blame the stage it was running, give back what it had not begun."""
        cause = worker.cause_of_death()
        self._remove(worker)
        if not worker.ready:
            self._deaths += 1
            if self._deaths >= 3:
                raise StageError(
                    f"Worker processes do not start: {cause} (details: {self._setting.root}/logs/workers.log)."
                )
        if worker.jobs:
            job = worker.jobs.popleft()
            if self._store.state(job.sheet.kind, job.key) == "done" and not self._setting.force:
                self._ended(Report("found", job.key), job.sheet.label)
            else:
                self._blame(job, cause)
        self._give_back(worker)

    def _give_back(self, worker: Worker) -> None:
        while worker.jobs:
            self._schedule.give_back(worker.jobs.popleft().key)

    def _blame(self, job: Job, cause: str) -> None:
        label = job.sheet.label
        tail = _tail(str(self._store.log(job.sheet.kind, job.key)))
        last = f"The stage's process died: {cause}"
        record_failure(self._store, job.sheet.kind, job.key, label, last, f"{tail}\n{last}\n")
        self._fail(job.key, last)

    def _remove(self, worker: Worker) -> None:
        """Kill it if it lives, and clear away what it held: its claim, its unfinished result."""
        self._workers.remove(worker)
        self._given_back(worker)
        (self._free if worker.lent is None else worker.lent.borrowed).append(worker.seat)
        self._selector.unregister(worker.stdout)
        worker.discard()
        for job in worker.jobs:
            self._clear(worker, job)

    def _clear(self, worker: Worker, job: Job) -> None:
        if worker.who is not None:
            kind, key = job.sheet.kind, job.key
            claim.release(self._store.beside(kind, key, ".claim"), worker.who)
            shutil.rmtree(self._store.beside(kind, key, f".tmp-{worker.who.name}"), ignore_errors=True)

    def _end_workers(self) -> None:
        for worker in self._workers:
            if self._signal:
                worker.terminate()
            worker.close()
        deadline = time.monotonic() + self.patience
        for worker in self._workers:
            worker.wait(max(0.0, deadline - time.monotonic()))

    # --- signals ------------------------------------------------------------------------------------------

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP stop the loop; a socket wakes it. Left alone outside the main thread."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ)
        previous = {}
        try:
            with suppress(ValueError):
                wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                        previous[number] = signal.signal(number, self._interrupt)
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if previous:
                signal.set_wakeup_fd(wakeup)
            self._selector.unregister(reader)
            reader.close()
            writer.close()

    def _interrupt(self, number: int, _frame: object) -> None:
        if self._signal:
            for worker in self._workers:
                worker.kill()
            raise KeyboardInterrupt
        self._signal = number


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
            return file.read().decode(errors="replace").rstrip()
    except OSError:
        return ""


def _note_run(plan: Plan, outcome: Outcome) -> None:
    """A line in <root>/grids/<name>/runs.jsonl: what was executed, and where the time went."""
    ends = Counter(end for _, end in outcome.stages.values())
    line = {
        "when": now(),
        "mode": plan.mode,
        "workers": outcome.workers,
        "executed": outcome.executed,
        "stages": ends,
        "seconds": round(outcome.seconds, 3),
        "work": {kind: round(seconds, 3) for kind, seconds in outcome.work.items()},
        "exit_code": outcome.exit_code,
    }
    with suppress(OSError):
        files.append_line(plan.store.grid_folder(plan.name) / "runs.jsonl", line)
