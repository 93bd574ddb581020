"""A job that is told to stop: why, and how it gets another turn.

SLURM sends USR2 some time before the time limit (signal_delay_s) and, where it is told to, at a preemption; TERM when
the time is over, at a preemption, and for scancel. The main thread may be deep inside a library and deaf, so a thread
of its own listens, and acts when the main thread has not by the time it must.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from xling.grid.stage import Interrupted
from xling.run.slurm import cluster
from xling.run.slurm.cluster import ClusterError

TIME_LIMIT = "time limit"
PREEMPTED = "preempted"
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
        self._job, self._limit, self._delay = job, limit, delay
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
        """Why the signal was sent; "" for one that is followed by a clearer one."""
        ran = time.monotonic() - self._began
        over = ran >= self._limit - self._delay - GRAIN_SECONDS
        told = cluster.details(self._job)
        if told is not None and told.get("PreemptTime", "None") not in ("None", "Unknown", ""):
            return PREEMPTED
        if told is not None and told.get("JobState") in ("CANCELLED", "COMPLETING"):
            return CANCELLED
        if number == signal.SIGUSR2:
            return TIME_LIMIT if over else PREEMPTED
        return TIME_LIMIT if ran >= self._limit else ""

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
