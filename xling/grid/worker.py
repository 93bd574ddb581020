"""A warm worker process: takes jobs over a pipe, runs them one after the other, reports over another pipe.

Started by local.py as `python -P -m xling.grid.worker SETTING`; JSON lines in both directions. The pipes are
moved away from descriptors 0, 1 and 2 before any stage is imported, so that stage code can print as it likes
and finds nothing to read.
"""

import ctypes
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from xling.console import lasting_output
from xling.errors import StageError
from xling.grid import files, host
from xling.grid.execute import Executor, Job, Report, last_line, open_log
from xling.grid.stage import Kind
from xling.grid.store import Store
from xling.jsonfiles import decode

PROGRESS_SECONDS = 0.2  # at most one progress report in this time


class Setting(msgspec.Struct, frozen=True):
    root: str
    catalogue: str  # module:name of a dict[str, Kind]
    force: bool
    threads: int
    git: str | None
    code: str  # host.code_digest when it was planned
    foreign_hours: float
    parent: int  # pid of the process to die with


def main() -> None:
    setting = decode(sys.argv[1], type=Setting)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to decide about
    die_with(setting.parent)
    commands, replies = _private_pipes(setting)
    try:
        kinds = load_catalogue(setting.catalogue)
    except Exception as error:
        traceback.print_exc()
        _send(replies, Report("fatal", text=last_line(error)))
        return
    store = Store(setting.root)
    git = setting.git if setting.code == host.code_digest() else host.git_sha()  # edited since it was planned
    executor = Executor(store, kinds, setting.force, setting.threads, git, foreign_hours=setting.foreign_hours)
    _send(replies, Report("ready"))
    serve(executor, commands, replies)
    sys.stdout.flush()
    os._exit(0)  # threads that stage code left behind do not keep the worker


def serve(executor: Executor, commands: BinaryIO, replies: int) -> None:
    """Until the other end closes the pipe: one line with a list of jobs, one line back for each."""
    decoder = msgspec.json.Decoder(list[Job])
    for line in commands:
        for job in decoder.decode(line):
            report = executor.execute(job, _Progress(replies, job.key))
            _send(replies, report)
            if report.leaving:
                return


class _Progress:
    """Context.progress: reports seldom enough to cost nothing, the last one always."""

    def __init__(self, replies: int, key: str) -> None:
        self._replies, self._key, self._next = replies, key, 0.0

    def __call__(self, done: int, total: int) -> None:
        clock = time.monotonic()
        if clock >= self._next:
            self._next = clock + PROGRESS_SECONDS
            _send(self._replies, Report("progress", self._key, numbers=(done, total)))


def load_catalogue(path: str) -> Mapping[str, Kind]:
    """`module:name` to the dict of kinds it names."""
    module, _, name = path.partition(":")
    kinds = getattr(importlib.import_module(module), name, None)
    if not isinstance(kinds, Mapping):
        raise StageError(f"'{path}' is no catalogue: {name} of {module} must be a dict of kinds.")
    return kinds


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


def die_with(parent: int) -> None:
    """End this process when its parent ends, however that ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
