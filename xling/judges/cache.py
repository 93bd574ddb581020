"""Answers of judges by the exact content of what was asked, shared by all stages and processes of a root.

    cache = Cache(folder)
    key = request_key({"model": "gpt-4o"}, body)
    with cache.asking(key, over):            # of several that ask the same at once, one does
        answer = cache.get(key) or ask(...)
        cache.put(key, answer)

A file a request, which appears whole or not at all: a killed run loses what was under way and asks nothing else twice.
Nothing here decides a result: the same request has the same answer, and the folder can be deleted.
"""

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from xling.grid.files import json_bytes, no_link, refuse_no_file, sync, write_new
from xling.grid.stage import Interrupted, canonical_json

# by which rules an answer was read, by kind of model: raise it when they change, and what was read before is asked anew
READERS = {"endpoint": 3, "local": 3}
LONGEST_WAIT = 600.0  # seconds that a server may ask for, or that a back-off grows to
POLL = 0.05  # seconds between two looks at a lock that somebody else holds


class Answer(Struct, frozen=True, omit_defaults=True):
    """A judge's answer. `first`: P("1") / (P("1") + P("2")), 0 to 1; None: it said neither."""

    first: Annotated[float, Meta(ge=0.0, le=1.0)] | None
    by: Literal["probabilities", "text"] = "probabilities"
    text: str = ""  # an endpoint's
    mass: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None  # P("1") + P("2"); None: no probabilities
    why: str = ""  # there is no answer


class Kept(Struct, frozen=True):
    """An answer on disk, and what it was when it was written."""

    answer: Answer
    sha256: str  # of the request's key and the answer


def _sum(key: str, answer: Answer) -> str:
    return hashlib.sha256(key.encode() + json_bytes(answer, indent=-1)).hexdigest()


def request_key(model: Mapping[str, Any], request: Any) -> str:
    """sha256 over which model is asked, what it is asked and how its answer is read; no URL, no key, no date."""
    readers = {kind: READERS[kind] for kind in model if kind in READERS}
    return hashlib.sha256(canonical_json({"model": dict(model), "readers": readers, "request": request})).hexdigest()


class Cache:
    """A folder of answers, 256 folders wide."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Answer | None:
        """None: it has not been asked yet, or its file is damaged; then it is asked anew.

        StoreError where a folder, or a link to itself, is in its place, before an answer is paid for which is lost.
        """
        path = self._path(key)
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=Kept)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        except OSError:
            refuse_no_file(str(path), "an answer of a judge")
            raise
        return stored.answer if stored.sha256 == _sum(key, stored.answer) else None

    def put(self, key: str, answer: Answer, durable: bool = True) -> None:
        """Atomically; of two answers to the same request the last one stays. `durable`: the disk has it on return."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = f"{path}.{secrets.token_hex(8)}.partial"
        write_new(partial, json_bytes(Kept(answer, _sum(key, answer)), indent=-1))
        if durable:
            sync(partial)
        os.replace(partial, path)

    @contextmanager
    def asking(self, key: str, over: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Hold the place of a request among all processes and threads; the kernel lets go of it if we are killed.

        Interrupted where it is `over` while somebody else holds it.
        """
        path = self._path(key).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _alone(path, over)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # by its holder alone: those that wait see that it is another file
            os.close(descriptor)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _alone(path: Path, over: Callable[[], bool]) -> int:
    """A descriptor of the file at `path`, locked; not locked where the file system has no locks."""
    while True:
        try:
            descriptor = no_link(str(path), os.O_RDWR | os.O_CREAT)
        except OSError:
            with suppress(FileNotFoundError):
                refuse_no_file(str(path), "the lock of a judge's answer")
            raise
        try:
            _wait(descriptor, over)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has deleted it


def _wait(descriptor: int, over: Callable[[], bool]) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if over():
                raise Interrupted("while another process asked the judge the same; the answers are kept") from None
            time.sleep(POLL)
        except OSError:  # no locks here
            return None


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """An exclusive lock on a file, and its descriptor; without one where the file system has no locks."""
    descriptor = no_link(str(path), os.O_RDWR | os.O_CREAT)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


class Pace:
    """When the next request may be sent: one clock in a file, for all processes that ask the same server."""

    def __init__(self, path: Path, per_minute: float | None) -> None:
        self.path, self.between = path, 60 / per_minute if per_minute else 0.0
        path.parent.mkdir(parents=True, exist_ok=True)

    def wait(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Return at this request's turn, or once `stopping`."""
        with _locked(self.path) as file:
            turn = max(self._next(file), time.time())
            if self.between:
                self._set(file, turn + self.between)
        while (left := turn - time.time()) > 0 and not stopping():
            time.sleep(min(left, 0.2))

    def hold(self, seconds: float) -> None:
        """Nobody sends anything for so long: the server said so."""
        with _locked(self.path) as file:
            self._set(file, max(self._next(file), time.time() + seconds))

    def _next(self, file: int) -> float:
        """The file's time; 0 if nobody can have written it: further ahead than any server and many requests ask for."""
        try:
            when = float(os.pread(file, 64, 0) or b"0")
        except ValueError:
            return 0.0
        return when if when - time.time() <= 2 * LONGEST_WAIT + 10_000 * self.between else 0.0

    @staticmethod
    def _set(file: int, when: float) -> None:
        os.ftruncate(file, 0)
        os.pwrite(file, f"{when:.6f}".encode(), 0)
