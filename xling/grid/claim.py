"""Claims: a file beside a stage that says who runs it now, so that two runners do not do the same work.

A claim of this host is alive while its process is; one of another host, whose processes cannot be seen, until
it is older than `foreign_hours`. Correctness never depends on claims: if two run the same stage all the same,
the store publishes one result.
"""

import contextlib
import os
import time
import uuid
from pathlib import Path

import msgspec

from xling.grid.files import write_all, write_atomically
from xling.grid.host import Process, hostname, is_alive
from xling.jsonfiles import decode

FOREIGN_HOURS = 24.0


class Claim(msgspec.Struct, frozen=True):
    by: Process
    since: float  # seconds since the epoch


def read(path: str) -> Claim | None:
    """The claim in a file; None if there is none, or none that can be read."""
    try:
        with open(path, "rb") as file:
            return decode(file.read(), Claim)
    except (OSError, msgspec.DecodeError):
        return None


def holder(path: str, foreign_hours: float = FOREIGN_HOURS) -> Claim | None:
    """The claim in a file if whoever made it still runs."""
    claim = read(path)
    if claim is None:
        return None
    if claim.by.host == hostname():
        return claim if is_alive(claim.by) else None
    return claim if time.time() - claim.since < foreign_hours * 3600 else None


def take(path: str, who: Process, foreign_hours: float = FOREIGN_HOURS) -> Claim | None:
    """Claim a stage: None if it is ours now, else the living claim that is in the way."""
    mine = msgspec.json.encode(Claim(who, time.time()))
    for _ in range(10):  # each turn ends unless another process takes or releases at the same moment
        if _create(path, mine):
            return None
        living = holder(path, foreign_hours)
        if living is not None:
            return living
        if not remove_stale(path, foreign_hours):
            time.sleep(0.01)
    return holder(path, foreign_hours) or Claim(Process("unknown", 0, ""), time.time())


def renew(path: str, who: Process) -> None:
    """Show to other hosts that a claim of ours still lives."""
    mine = read(path)
    if mine is not None and mine.by == who:
        write_atomically(Path(path), msgspec.json.encode(Claim(who, time.time())))


def release(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def release_of(path: str, pid: int) -> None:
    """Release the claim of a process of this host that has died, and nobody else's."""
    claim = read(path)
    if claim is not None and claim.by.host == hostname() and claim.by.pid == pid:
        release(path)


def remove_stale(path: str, foreign_hours: float = FOREIGN_HOURS) -> bool:
    """Remove a claim that nobody holds; False if somebody does.

    It is moved away first and looked at again: another runner may have replaced it by a living one.
    """
    if _is_fresh(path) or holder(path, foreign_hours) is not None:
        return False
    grabbed = f"{path[: -len('.claim')]}.stale-{uuid.uuid4().hex[:8]}"
    try:
        os.rename(path, grabbed)
    except FileNotFoundError:
        return True
    living = holder(grabbed, foreign_hours) is not None
    if living:
        with contextlib.suppress(FileExistsError):
            os.link(grabbed, path)
    os.unlink(grabbed)
    return not living


def _create(path: str, content: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return _create(path, content)
    try:
        write_all(descriptor, content)
    except OSError:
        release(path)
        raise
    finally:
        os.close(descriptor)
    return True


def _is_fresh(path: str) -> bool:
    """An empty claim that is seconds old is being written, not left behind."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return False
    return stat.st_size == 0 and time.time() - stat.st_mtime < 5
