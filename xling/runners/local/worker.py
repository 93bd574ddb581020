"""A warm worker process: takes jobs over a pipe, runs them one after the other, reports over another pipe.

Started by runner.py as `python -P -m xling.runners.local.worker SETTING`; JSON lines in both directions. The pipes are
moved away from descriptors 0, 1 and 2 before any stage is imported, so that stage code can print as it likes
and finds nothing to read.

The process that runner.py starts is a guard: the one that works is its child, and all that the work starts are its
descendants. Whoever of the three ends first, and however, the guard ends all that is left, so that no memory of an
accelerator stays taken.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn

import msgspec

from xling.console import lasting_output
from xling.grid import files, host
from xling.grid.stage import Context, Interrupted, Kind
from xling.grid.store import Store
from xling.jsonfiles import decode
from xling.runners import ranks
from xling.runners.execute import (
    Executor,
    Job,
    Progress,
    Report,
    fixed_environment,
    last_line,
    load_catalogue,
    open_log,
)
from xling.runners.local.crew import VISIBLE, Seat

PROGRESS_SECONDS = 0.2  # at most one progress report in this time
GUARD_SECONDS = 2.0  # between two looks of the guard, should no signal tell it
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class Setting(msgspec.Struct, frozen=True):
    root: str
    catalogue: str  # module:name of a dict[str, Kind]
    force: bool
    threads: int
    git: str | None
    code: str  # host.code_digest when it was planned
    timeout: float  # seconds without a heartbeat after which others may take a stage over
    drops: list[str]  # kinds of stages whose weights go when all have read them
    parent: int  # pid of the process to die with
    processes: dict[str, int] = {}  # by kind: that its stages run in, where that is not one
    note: str = ""  # said in the header of each stage's log
    leaves: bool = False  # SIGTERM tells the running stage to stop, and does not end it at once


def main() -> None:
    setting, told = decode(sys.argv[1], type=Setting), Told()
    if setting.leaves:
        signal.signal(signal.SIGTERM, told.hear)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C and a terminal that closes are for the parent to decide about
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    guarded(setting.parent)
    commands, replies = _private_pipes(setting)
    try:
        kinds = load_catalogue(setting.catalogue)
    except Exception as error:
        traceback.print_exc()
        _send(replies, Report("fatal", text=last_line(error)))
        return
    store = Store(setting.root)
    git = host.commit(setting.git, setting.code)
    executor = Executor(store, kinds, setting.force, setting.threads, git, timeout=setting.timeout, note=setting.note,
                        stopping=told.stopping, drops=setting.drops)  # fmt: skip
    executor.processes = lambda kind: setting.processes.get(kind, 1)
    executor.heart.lost = lambda path: _give_up(replies, path)
    _send(replies, Report("ready", by=executor.who))
    serve(executor, setting.catalogue, commands, replies, told)
    sys.stdout.flush()
    os._exit(0)  # threads that stage code left behind do not keep the worker


class Told:
    """Whether this process has been told to stop. A stage that looks comes to an end by itself, any other is
    interrupted.
    """

    def __init__(self) -> None:
        self._told = self._looks = self._inside = False

    def stopping(self) -> bool:
        """Context.stopping."""
        self._looks = True
        return self._told

    def hear(self, _number: int, _frame: FrameType | None) -> None:
        first, self._told = not self._told, True
        if first and self._inside and not self._looks:
            raise Interrupted("the runner has to stop")

    def execute(self, executor: Executor, job: Job, progress: Progress) -> Report:
        """Run a stage; one that is stopped may be claimed by others, and this process leaves."""
        stopped = Report("claimed", job.key, "nobody: it was stopped", leaving=True)
        self._looks, self._inside = False, True
        try:
            return stopped if self._told else executor.execute(job, progress)
        except Interrupted:
            return stopped
        finally:
            self._inside = False


def serve(executor: Executor, catalogue: str, commands: BinaryIO, replies: int, told: Told) -> None:
    """Until the other end closes the pipe: one line with a list of jobs, one line back for each."""
    decoder = msgspec.json.Decoder(list[Job])
    for line in commands:
        for job in decoder.decode(line):
            executor.call = _caller(executor, catalogue, job)
            report = told.execute(executor, job, _Progress(replies, job.key))
            _send(replies, report)
            if report.leaving:
                return


def _caller(executor: Executor, catalogue: str, job: Job) -> Callable[[Kind, Context], None]:
    """What runs the job's stage: this process, or several that it starts on the job's GPUs."""
    count = executor.processes(job.sheet.kind)
    if count == 1:
        return lambda kind, context: kind.run(context)
    gpus = {VISIBLE: job.gpus} if job.gpus else {}

    def together(kind: Kind, context: Context) -> None:
        folder = context.scratch / f"processes-{os.getpid()}"  # of this turn, and gone with the rest if it is killed
        ranks.run(kind, context, catalogue, ranks.here(count, folder), folder, {**os.environ, **gpus})

    return together


def _give_up(replies: int, path: str) -> None:
    """The running stage is another runner's now: this process can only be in its way."""
    _send(replies, Report("claimed", os.path.basename(path).partition(".")[0], leaving=True))
    os.killpg(0, signal.SIGKILL)


class _Progress:
    """Context.progress: reports seldom enough to cost nothing, the last one always."""

    def __init__(self, replies: int, key: str) -> None:
        self._replies, self._key, self._next = replies, key, 0.0

    def __call__(self, done: int, total: int) -> None:
        clock = time.monotonic()
        if clock >= self._next:
            self._next = clock + PROGRESS_SECONDS
            _send(self._replies, Report("progress", self._key, numbers=(done, total)))


def _private_pipes(setting: Setting) -> tuple[BinaryIO, int]:
    """Move the pipes off the standard descriptors (not inherited by children) and put files there."""
    commands, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = open_log(Path(setting.root, "logs", "workers.log"))
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    lasting_output(line_buffering=True)
    return commands, replies


def _send(replies: int, report: Report) -> None:
    try:
        files.write_all(replies, msgspec.json.encode(report) + b"\n")
    except BrokenPipeError:
        os._exit(1)  # nobody is listening any more


# --- nobody outlives the launch ---------------------------------------------------------------------------


def guarded(parent: int) -> None:
    """Fork: returns in the process that works, in a group of its own; the other one guards it until both end."""
    handled = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the work leaves behind becomes the guard's child
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    guard, child = os.getpid(), os.fork()
    if child:
        with contextlib.suppress(OSError):  # it does so itself, and may have ended
            os.setpgid(child, child)
        _guard(parent, child, handled)
    os.setpgid(0, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)


def _guard(parent: int, child: int, handled: set[signal.Signals]) -> NoReturn:
    """Wait for the launch or the work to end, then end the rest; leaves as the work did, for runner.py to see.

    SIGTERM is for the work, SIGUSR1 for all.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # else the ends of the pipes would not be seen
        os.dup2(nothing, number)
    status = None
    while status is None and os.getppid() == parent:
        told = _told(handled, GUARD_SECONDS)
        if told == signal.SIGUSR1:
            break
        if told == signal.SIGTERM and os.getppid() == parent:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGTERM)
        status = _reap(child)
    while (living := _descendants()) or status is None:
        if status is None:
            living.append(child)
        for pid in living:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _told(handled, 0.02)
        ended = _reap(child)
        status = ended if status is None else status
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
        os.kill(os.getpid(), -code)
    os._exit(max(code, 0))


def _told(handled: set[signal.Signals], seconds: float) -> int:
    """The next of these signals, 0 if none comes in time."""
    if sys.platform != "darwin":
        got = signal.sigtimedwait(handled, seconds)
        return got.si_signo if got else 0
    time.sleep(min(seconds, 0.1))
    pending = signal.sigpending() & handled
    return signal.sigwait(pending) if pending else 0


def _reap(child: int) -> int | None:
    """Collect what has ended; the status of the child if it is among that."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                found = ended[1]
    return found


def _descendants() -> list[int]:
    """Living processes below this one, as /proc tells; none where there is no /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{int(name)}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X"):
                parents[int(name)] = int(fields[1])
    below, me = set[int](), os.getpid()
    for pid in parents:
        line = [pid]
        while line[-1] in parents and line[-1] != me:
            line.append(parents[line[-1]])
        if line[-1] == me and pid != me:
            below.add(pid)
    return sorted(below)


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the guard looks whether its parent is still there."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


# --- The parent's end of a worker process: start it, send it jobs, read its reports, know how it died -----

KILL_SECONDS = 5.0  # for a worker and its children to be gone

_reports = msgspec.json.Decoder(Report)


class Worker:
    """A process, its pipes, and the jobs it has not reported on, in order."""

    def __init__(self, setting: Setting, seat: Seat) -> None:
        self.seat = seat
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xling.runners.local.worker", msgspec.json.encode(setting).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **fixed_environment(setting.threads), **seat.environment},
            process_group=0,  # the terminal's Ctrl-C reaches the parent only
        )
        assert self._process.stdin and self._process.stdout
        self._stdin, self.stdout = self._process.stdin, self._process.stdout
        self._buffer = b""
        self.who: host.Process | None = None  # the process that works, once it is ready
        self.jobs: deque[Job] = deque()
        self.lent: Worker | None = None  # to whom its seat is, while that one's stage runs in several processes
        self.borrowed: list[Seat] = []  # of those that no worker has

    @property
    def idle(self) -> bool:
        return self.ready and not self.jobs and self.lent is None

    @property
    def ready(self) -> bool:
        return self.who is not None

    def send(self, jobs: Sequence[Job]) -> None:
        """A worker that has died meanwhile is noticed when its pipe is read."""
        self.jobs.extend(jobs)
        try:
            self._stdin.write(msgspec.json.encode(jobs) + b"\n")
            self._stdin.flush()
        except BrokenPipeError:
            pass

    def read(self) -> list[Report] | None:
        """Reports that have come in; None once the worker has closed its end."""
        chunk = os.read(self.stdout.fileno(), 1 << 16)
        if not chunk:
            return None
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return [_reports.decode(line) for line in lines]

    def exited(self) -> bool:
        return self._process.poll() is not None

    def cause_of_death(self) -> str:
        """`killed by SIGKILL ...`, `it exited with code 3`; waits for the process to be gone."""
        if not self.wait(2.0):
            self.kill()  # it hangs in its last breath
        code = self._process.wait()
        if code >= 0:
            return f"it exited with code {code}"
        name = signal.Signals(-code).name
        hint = {"SIGKILL": " (out of memory, or killed by hand)", "SIGSEGV": " (a crash in native code)"}
        return f"killed by {name}{hint.get(name, '')}"

    def terminate(self) -> None:
        """Tell the process that works, and those that it started, to end."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self._process.pid, signal.SIGTERM)

    def tell(self) -> None:
        """Tell the process that works alone, which stops its stage (Setting.leaves)."""
        if self.who is not None and not self.exited():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.who.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGUSR1)
            if not self.wait(KILL_SECONDS):  # the guard does not do what it is there for
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Ask it to end; an idle worker does at once."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within the time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def discard(self) -> None:
        self.kill()
        self._process.wait()
        self.close()
        self.stdout.close()


if __name__ == "__main__":
    main()
