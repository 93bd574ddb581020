"""Claims: files that say who runs a stage, or a grid, now, so that two runners do not do the same work.

A runner that this process can see (host.sees) holds its claim until it ends, and no longer. Of any other one nothing is
known but its heartbeat: it touches its claims every few seconds, and who gives no sign of life for `timeout` seconds
counts as dead (`Watch`). Correctness never depends on claims: a runner that has lost one notices before it publishes,
works in folders that carry its own name, and if two finish all the same, the store publishes one result.

Clocks of several machines are never compared: an observer counts, by its own monotonic clock, how long it has seen no
heartbeat. Up to two thirds of the timeout are credited to a claim that was silent before, as told by the file system.
"""

import contextlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from xling.errors import ConfigError
from xling.grid import files
from xling.grid.host import Process, is_alive, sees
from xling.jsonfiles import decode

TIMEOUT = 180.0  # seconds without a heartbeat after which an unseen runner counts as dead
BEATS = 12  # heartbeats in that time
SIZE = 4096  # bytes; a claim is smaller
EMPTY_SECONDS = 5.0  # after which a claim without content is not being written any more
GAP_SECONDS = 5.0  # at most so much silence is counted between two looks: the observer may have slept itself
TURN_SECONDS = 120.0  # that a process waits for a living one where one at a time may do something
ASK_SECONDS = 5.0  # between two questions whether the one that is waited for has ended


class Claim(msgspec.Struct, frozen=True):
    by: Process
    since: Annotated[float, Meta(ge=0.0, le=1e11)]  # seconds since the epoch, by the clock of its maker
    beat: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0  # seconds between its heartbeats

    @property
    def who(self) -> str:
        """For people: `node7 (pid 12)`."""
        slurm = f", SLURM job {self.by.slurm}" if self.by.slurm else ""
        return f"{self.by.host or 'somebody'} (pid {self.by.pid}{slurm})" if self.by.pid else "somebody unknown"


@dataclass(frozen=True, slots=True)
class _Sight:
    """A claim's file at one moment."""

    claim: Claim
    content: bytes
    mtime_ns: int


def _look(path: str) -> _Sight | None:
    """None if there is no claim. One that is unreadable, or not whole, is somebody's whom we do not know."""
    try:
        descriptor = os.open(path, os.O_RDONLY)  # which makes a network file system ask for the server's attributes
        try:
            mtime_ns, content = os.fstat(descriptor).st_mtime_ns, os.read(descriptor, SIZE)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        mtime_ns, content = 0, b"unreadable"
        with contextlib.suppress(OSError):
            mtime_ns = os.stat(path).st_mtime_ns
    try:
        return _Sight(decode(content, Claim), content, mtime_ns)
    except msgspec.DecodeError:
        return _Sight(Claim(Process("", 0, ""), mtime_ns / 1e9), content, mtime_ns)


def read(path: str) -> Claim | None:
    """The claim in a file; None if there is none."""
    sight = _look(path)
    return sight.claim if sight else None


def holder(path: str, clock: float | None = None, timeout: float = TIMEOUT) -> Claim | None:
    """The claim in a file, unless its runner is known to be dead.

    clock: the file system's (files.clock), by which runners that have been silent for too long are dead as well. For
    looks that cannot wait and decide nothing that matters: clocks may differ.
    """
    sight = _look(path)
    if sight is None or not is_alive(sight.claim.by):
        return None
    if clock is not None and not sees(sight.claim.by) and silence(path, clock) > _patience(sight, timeout):
        return None
    return sight.claim


def silence(path: str, clock: float) -> float:
    """Seconds since the last heartbeat by the file system's `clock`."""
    sight = _look(path)
    return clock - sight.mtime_ns / 1e9 if sight else 0.0


def _patience(sight: _Sight, timeout: float) -> float:
    """Seconds of silence that a runner is given; one that was killed before it wrote anything, a few."""
    return max(timeout, 4 * sight.claim.beat) if sight.content else min(timeout, EMPTY_SECONDS)


def take(path: str, who: Process, timeout: float = TIMEOUT) -> Claim | None:
    """Claim a stage: None if it is ours now, else the claim that is in the way. Hold it with a `Heart`.

    StoreError where a folder or a link is in its place.
    """
    for _ in range(10):  # each turn ends unless another process takes or releases at the same moment
        if _create(path, _content(who, timeout)):
            return None
        _refuse_no_file(path)
        sight = _look(path)
        if sight is not None and is_alive(sight.claim.by):
            return sight.claim
        if sight is not None and not _remove(path, sight):
            time.sleep(0.01)
    return read(path) or Claim(Process("", 0, ""), time.time())


def _content(who: Process, timeout: float) -> bytes:
    return msgspec.json.encode(Claim(who, time.time(), timeout / BEATS))


def beat(path: str, who: Process, timeout: float = TIMEOUT) -> bool:
    """Show that a claim of ours lives; False if it is another's now. One that somebody deleted is made again."""
    sight = _look(path)
    if sight is None:
        with contextlib.suppress(OSError):
            if not _create(path, _content(who, timeout)):
                return beat(path, who, timeout)
        return True
    if sight.claim.by.pid and sight.claim.by.name != who.name:
        return False
    with contextlib.suppress(OSError):
        os.utime(path)  # the server's time, where there is one
    return True


def release(path: str, who: Process) -> None:
    """Let go of a claim if it is this runner's, and of nobody else's."""
    claim = read(path)
    if claim is not None and claim.by.name == who.name:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def remove_stale(path: str) -> bool:
    """Remove a claim whose runner is known to be dead; False if somebody may hold it."""
    sight = _look(path)
    return sight is None or (not is_alive(sight.claim.by) and _remove(path, sight))


def drop(path: str, claim: Claim) -> None:
    """Remove a claim of which something else tells that its runner is gone, if it is still the same."""
    sight = _look(path)
    if sight is not None and sight.claim == claim:
        _remove(path, sight)


def _remove(path: str, seen: _Sight) -> bool:
    """Remove what was seen, and nothing else: another runner may have replaced it, or its own may have shown life.

    It is moved away first and looked at again.
    """
    _refuse_no_file(path)
    if _look(path) != seen:
        return False
    grabbed = f"{path.removesuffix('.claim')}.stale-{secrets.token_hex(4)}"
    try:
        os.rename(path, grabbed)
    except FileNotFoundError:
        return True
    same = _look(grabbed) == seen
    if not same:
        with contextlib.suppress(FileExistsError):
            os.link(grabbed, path)
    os.unlink(grabbed)
    return same


def _refuse_no_file(path: str) -> None:
    """StoreError for a folder, or a link (to itself, say): no runner leaves that, and none can take its place."""
    with contextlib.suppress(FileNotFoundError):
        files.refuse_no_file(path, "a claim, the file that says who runs a stage,")


def _create(path: str, content: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _create(path, content)
    try:
        files.write_all(descriptor, content)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise
    finally:
        os.close(descriptor)
    return True


# --- others' claims, over time ----------------------------------------------------------------------------


@dataclass(slots=True)
class _Watched:
    sight: _Sight
    looked: float  # monotonic
    silent: float  # seconds


class Watch:
    """Looks at claims again and again, and removes those whose runners have died or fallen silent.

    clock: the file system's own time (files.clock), asked once for each new claim.
    """

    def __init__(self, clock: Callable[[], float], timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self._clock = clock
        self._seen: dict[str, _Watched] = {}

    def holder(self, path: str) -> Claim | None:
        """The claim that is in the way; None if there is none, or no more."""
        sight = _look(path)
        if sight is None:
            self._seen.pop(path, None)
            return None
        gone = not is_alive(sight.claim.by) or self._silence(path, sight) > _patience(sight, self.timeout)
        if gone and _remove(path, sight):
            self._seen.pop(path, None)
            return None
        return sight.claim

    def silent(self, path: str) -> tuple[float, float]:
        """Seconds that a watched claim has given no sign of life, and after how many it counts as dead."""
        seen = self._seen.get(path)
        return (seen.silent, _patience(seen.sight, self.timeout)) if seen else (0.0, self.timeout)

    def _silence(self, path: str, sight: _Sight) -> float:
        now, seen = time.monotonic(), self._seen.get(path)
        if sees(sight.claim.by):
            silent = 0.0
        elif seen is None or seen.sight.content != sight.content:
            silent = min(max(0.0, silence(path, self._clock())), 2 / 3 * _patience(sight, self.timeout))
        elif seen.sight.mtime_ns != sight.mtime_ns:
            silent = 0.0
        else:
            silent = seen.silent + min(now - seen.looked, GAP_SECONDS)
        self._seen[path] = _Watched(sight, now, silent)
        return silent


# --- our own ----------------------------------------------------------------------------------------------


class Heart:
    """Shows every few seconds that the claims of this process live, from a thread of its own.

    lost: called in that thread, once, with the path of a claim that has become another's.
    """

    def __init__(self, who: Process, timeout: float = TIMEOUT, lost: Callable[[str], None] | None = None) -> None:
        self._who, self._timeout, self.lost = who, timeout, lost
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def hold(self, path: str) -> None:
        with self._lock:
            self._held.add(path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
                self._thread.start()

    def ours(self, path: str) -> bool:
        """Look, and beat, now."""
        return beat(path, self._who, self._timeout)

    def release(self, path: str) -> None:
        """Stop beating for a claim and let go of it, if it is still ours."""
        with self._lock:
            self._held.discard(path)
        release(path, self._who)

    @contextlib.contextmanager
    def alone(
        self,
        path: str,
        doing: str,
        gone: Callable[[Claim], bool] = lambda claim: False,
        patience: float = TURN_SECONDS,
    ) -> Iterator[None]:
        """Do what one process at a time may do, under a claim: wait for a turn, and say so if it takes a while.

        gone: whether something else than a heartbeat tells that a holder has ended. One that is silent is waited for
        until it is known to live or to be dead; ConfigError where one that lives has the claim for longer than
        `patience` seconds. `doing` says of them what they do.
        """
        watch = Watch(lambda: files.clock(Path(path).parent), self._timeout)
        before, start, asked, told = None, 0.0, -ASK_SECONDS, False
        while take(path, self._who, self._timeout) is not None:
            other, now = watch.holder(path), time.monotonic()
            if other is None:
                continue
            if other != before:
                before, start = other, now
            if now - start > 1.0 and not told:
                print(f"xling: waiting for {other.who}, which {doing}.", file=sys.stderr)
                told = True
            if now - start > 1.0 and now - asked > ASK_SECONDS:
                asked = now
                if gone(other):
                    drop(path, other)
                    continue
            lives = watch.silent(path)[0] <= 2 * (other.beat or self._timeout / BEATS)
            if lives and now - start > patience:
                raise ConfigError(
                    f"{other.who} {doing}, and has been at it for more than {patience:.0f} seconds. Try again when "
                    f"it is done; if you know that it is gone, type: rm '{path}'"
                )
            time.sleep(0.02)
        self.hold(path)
        try:
            yield
        finally:
            self.release(path)

    def _run(self) -> None:
        while True:
            time.sleep(self._timeout / BEATS)
            with self._lock:
                if not self._held:  # a notebook that runs grid after grid does not gather threads
                    self._thread = None
                    return
            for path in sorted(self._held):
                with self._lock:
                    lost = path in self._held and not beat(path, self._who, self._timeout)
                    if lost:
                        self._held.discard(path)
                if lost and self.lost is not None:
                    self.lost(path)
