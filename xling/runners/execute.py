"""One stage, from claim to published result. Every runner (local worker, cluster task) goes through here."""

import errno
import importlib
import os
import shutil
import site
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from xling.console import without_secrets
from xling.errors import StageError, StoreError
from xling.grid import claim, files, host
from xling.grid.records import Failure, Run, Sheet
from xling.grid.stage import Context, Interrupted, Kind
from xling.grid.store import Damaged, Store, now
from xling.grid.weights import drop

Progress = Callable[[int, int], None]
TIDY_SECONDS = 1.0  # a stage that took so long may have left something behind
Event = Literal["ready", "fatal", "progress", "done", "found", "claimed", "damaged", "failed"]


class Job(msgspec.Struct, frozen=True):
    """A stage as a runner needs it: JSON, so that it crosses pipes and files."""

    key: str
    sheet: Sheet
    suspect: bool = False  # a result that is there has been found damaged: hash it before trusting it
    gpus: str = ""  # of a stage in several processes on this machine: all that they have; empty: what the worker has


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of a job. `found`: another runner has done it; `damaged`: a parent must run again."""

    event: Event
    key: str = ""
    text: str = ""  # failed: last line; claimed: by whom; damaged: why
    parent: str = ""  # damaged: the key
    seconds: float = 0.0
    numbers: tuple[int, int] = (0, 0)  # progress: done, total
    leaving: bool = False  # the worker ends itself after this
    by: host.Process | None = None  # ready: who works


@dataclass
class Executor:
    """Runs stages one after the other in this process."""

    store: Store
    kinds: Mapping[str, Kind]
    force: bool = False
    threads: int = 1
    git: str | None = None
    code: str = field(default_factory=host.code_digest)
    timeout: float = claim.TIMEOUT  # seconds without a heartbeat after which others may take a stage over
    who: host.Process = field(default_factory=host.this_process)
    note: str = ""  # said in the header of each stage's log
    stopping: Callable[[], bool] = lambda: False  # for stages: the runner has to stop
    call: Callable[[Kind, Context], None] = lambda kind, context: kind.run(context)
    drops: Collection[str] = ()  # kinds of stages whose weights go when all have read them
    processes: Callable[[str], int] = lambda kind: 1  # that `call` runs a stage of a kind in
    heart: claim.Heart = field(init=False)

    def __post_init__(self) -> None:
        self.heart = claim.Heart(self.who, self.timeout)

    def execute(self, job: Job, progress: Progress = lambda done, total: None) -> Report:
        """Whatever stage code raises, SystemExit and KeyboardInterrupt too, is its failure; raises Interrupted only."""
        path = self.store.beside(job.sheet.kind, job.key, ".claim")
        try:
            living = claim.take(path, self.who, self.timeout)
        except OSError as error:
            return self._failed(job, files.disk_error(error, self.store.root))
        except StoreError as error:
            return self._failed(job, error)
        if living is not None:
            return Report("claimed", job.key, living.who)
        self.heart.hold(path)
        try:
            report = self._claimed(job, progress)
        except Interrupted:
            raise
        except BaseException as error:
            if not self.heart.ours(path):  # whatever went wrong, the stage is another's, who has its scratch now
                return Report("claimed", job.key, "another runner, who took it over")
            return self._failed(job, error)
        finally:
            with suppress(OSError):
                self.heart.release(path)
        if self.drops and report.event in ("done", "found"):
            self._drop(job)
        return report

    def _claimed(self, job: Job, progress: Progress) -> Report:
        kind, key = job.sheet.kind, job.key
        state = self._state(job)
        if state == "done" and not self.force:
            return Report("found", key)
        if state == "damaged":
            self.store.set_aside(kind, key)
        elif state == "weightless":
            self.store.put_by(kind, key)
        try:
            parents = {role: self.store.load(up.kind, up.key) for role, up in job.sheet.parents.items()}
        except Damaged as damaged:
            return Report("damaged", key, damaged.why, parent=damaged.key)
        for up in job.sheet.parents.values():
            if self._weightless(up.kind, up.key):  # for somebody who had not planned this stage
                return Report("damaged", key, "its weights were dropped (keep_weights)", parent=up.key)
        return self._run(job, parents, progress)

    def _state(self, job: Job) -> str:
        state = self.store.state(job.sheet.kind, job.key)
        if state == "done" and job.suspect:
            try:
                self.store.load(job.sheet.kind, job.key)
            except Damaged:
                return "damaged"
            if self._weightless(job.sheet.kind, job.key):
                return "weightless"
        return state

    def _weightless(self, kind: str, key: str) -> bool:
        return kind in self.kinds and bool(self.kinds[kind].weights) and self.store.dropped(kind, key)

    def _drop(self, job: Job) -> None:
        """The weights that this stage was the last to read, and its own if nothing is left to read them."""
        refs = [(job.sheet.kind, job.key), *((up.kind, up.key) for up in job.sheet.parents.values())]
        drop(self.store, self.kinds, [ref for ref in refs if ref[0] in self.drops])

    def _run(self, job: Job, parents: Mapping[str, Path], progress: Progress) -> Report:
        sheet, key = job.sheet, job.key
        previous = self.store.failure_record(sheet.kind, key)
        attempt = previous.attempts + 1 if previous else 1
        out = self.store.begin(sheet.kind, key, self.who)
        start, cpu = time.perf_counter(), time.process_time()
        try:
            scratch = self.store.scratch(sheet.kind, key, self.who)
            with self._logged(job, attempt):
                cache = self.store.cache()
                kind = self._kind(sheet)
                self.call(kind, Context(sheet.spec, parents, out, scratch, progress, self.stopping, cache))
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            if not self.heart.ours(self.store.beside(sheet.kind, key, ".claim")):
                raise StageError("Another runner has taken this stage over, since this one gave no sign of life.")
            record = self._record(sheet.kind, seconds, cpu, attempt)
            anew = self.force or self._weightless(sheet.kind, key)  # somebody has put it back meanwhile
            self.store.publish(sheet, key, out, record, anew, kind.joined)
            if kind.joined:
                drop_silent(self.store.log(sheet.kind, key))
        except BaseException:
            files.share(self.store.beside(sheet.kind, key, ".partial"))  # another user of the root may go on from it
            raise
        finally:
            shutil.rmtree(out, ignore_errors=True)
            if time.perf_counter() - start >= TIDY_SECONDS:
                host.release()
        return Report("done", key, seconds=seconds)

    def _record(self, kind: str, seconds: float, cpu: float, attempt: int) -> Run:
        return Run(
            seconds=round(seconds, 6),
            cpu_seconds=round(cpu, 6),
            when=now(),
            attempt=attempt,
            by=self.who,
            threads=self.threads,
            device=host.device(),
            git=self.git,
            code=self.code,
            versions=host.versions(),
            processes=self.processes(kind),
        )

    def _kind(self, sheet: Sheet) -> Kind:
        kind = self.kinds.get(sheet.kind)
        if kind is None:
            raise StageError(f"The catalogue has no stage '{sheet.kind}'; it has {', '.join(self.kinds)}.")
        if kind.version != sheet.version:
            raise StageError(
                f"The plan has version {sheet.version} of stage '{sheet.kind}', the code has {kind.version}: "
                f"the code changed after planning. Run the same command again."
            )
        return kind

    @contextmanager
    def _logged(self, job: Job, attempt: int) -> Iterator[None]:
        """Send what the stage and the libraries below it print to its log, file descriptors and all."""
        path = self.store.log(job.sheet.kind, job.key)
        by = f"{self.who.host}:{self.who.pid}"
        note = f", {self.note}" if self.note else ""
        header = f"--- {job.sheet.label}, attempt {attempt}, {now()}, {by}{note}, {job.key}\n"
        with redirected(path, header):
            try:
                yield
            except Interrupted as stop:
                print(f"--- stopped: {stop}")
                raise
            except BaseException:
                print(without_secrets(traceback.format_exc()), file=sys.stderr)
                raise

    def _failed(self, job: Job, error: BaseException) -> Report:
        sheet = job.sheet
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error = files.disk_error(error, self.store.root).with_traceback(error.__traceback__)
        last = last_line(error)
        text = without_secrets("".join(traceback.format_exception(error)))
        record_failure(self.store, sheet.kind, job.key, sheet.label, last, text)
        spoilt = host.device() != "cpu"  # an error on an accelerator can leave its context unusable
        return Report("failed", job.key, last, leaving=spoilt)


def last_line(error: BaseException) -> str:
    """`ValueError: what it says`, first line of several; our own errors as they are."""
    message = without_secrets(str(error)).strip().partition("\n")[0]
    if isinstance(error, (StoreError, StageError)):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def record_failure(store: Store, kind: str, key: str, label: str, last: str, text: str) -> None:
    previous = store.failure_record(kind, key)
    log = os.path.relpath(store.log(kind, key), store.root)
    attempts = previous.attempts + 1 if previous else 1
    store.record_failure(kind, key, Failure(label, attempts, last, text, log, now(), host.hostname()))


@contextmanager
def redirected(path: Path, header: str) -> Iterator[None]:
    """File descriptors 1 and 2 append to a file for a while; to nowhere if it cannot be opened."""
    log = open_log(path)
    saved = os.dup(1), os.dup(2)
    with suppress(OSError):
        os.write(log, header.encode())
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    try:
        yield
    finally:
        flush()
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def drop_silent(path: Path) -> None:
    """Remove a log that has one header, and no word of the stage."""
    with suppress(OSError):
        said = path.read_bytes()
        if said.startswith(b"--- ") and said.find(b"\n") == len(said) - 1:
            path.unlink()


def open_log(path: Path) -> int:
    """To append to; of nowhere if the disk does not take it. StoreError if it is a link: to whose file?"""
    for _ in range(2):
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise files.disk_error(error, path.parent) from error
    return os.open(os.devnull, os.O_WRONLY)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a full disk, a stream that stage code closed
            stream.flush()


def load_catalogue(path: str) -> Mapping[str, Kind]:
    """`module:name` to the dict of kinds it names."""
    kinds = load_named(path)
    if not isinstance(kinds, Mapping):
        raise StageError(f"'{path}' is no catalogue: it must be a dict of kinds of stages.")
    return kinds


def load_named(path: str) -> Any:
    """The object that `module:name` names, as workers and jobs are told it; None if the module has none."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name, None)


def fixed_environment(threads: int) -> dict[str, str]:
    """Environment variables that every process that runs stages must have before anything is imported."""
    count = str(threads)
    libraries = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "NUMEXPR_NUM", "RAYON_NUM", "VECLIB_MAXIMUM")
    fixed = {f"{name}_THREADS": count for name in libraries}
    return {
        **fixed,
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",  # the order of sets decides no bytes
        "PYTHONPATH": os.pathsep.join(own_paths()),
    }


def own_paths() -> list[str]:
    """sys.path without what this Python finds by itself anyway, and what would break any other."""
    library = sysconfig.get_path("stdlib")
    archive = f"{os.path.dirname(library)}/python{sys.version_info.major}{sys.version_info.minor}.zip"
    standard = (library, sysconfig.get_path("platstdlib"), f"{library}/lib-dynload", archive)
    usual = {*standard, os.path.dirname(sys.executable), *site.getsitepackages(), site.getusersitepackages()}
    return [path or os.getcwd() for path in sys.path if path not in usual]
