"""The parent's end of a worker process: start it, send it jobs, read its reports, know how it died."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence

import msgspec

from xling.grid import host
from xling.run.execute import Job, Report, fixed_environment
from xling.run.local.worker import Setting

KILL_SECONDS = 5.0  # for a worker and its children to be gone

_reports = msgspec.json.Decoder(Report)


class Worker:
    """A process, its pipes, and the jobs it has not reported on, in order."""

    def __init__(self, setting: Setting) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "xling.run.local.worker", msgspec.json.encode(setting).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **fixed_environment(setting.threads)},
            process_group=0,  # the terminal's Ctrl-C reaches the parent only
        )
        assert self._process.stdin and self._process.stdout
        self._stdin, self.stdout = self._process.stdin, self._process.stdout
        self._buffer = b""
        self.who: host.Process | None = None  # the process that works, once it is ready
        self.jobs: deque[Job] = deque()

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
