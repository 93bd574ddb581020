"""What is known of a submission: files in one folder, written before, while and after its jobs run.

    <root>/grids/<grid>/slurm/<submission>/
        submission.json             what was to be submitted; written once, before the first sbatch
        jobs.jsonl                  appended: the job id of each array, then what became of the whole
        tasks/<array>_<task>.jsonl  appended by the job itself: started where, each stage's end, why requeued
        logs/                       the job scripts and what the jobs print

A job is recognised by its id and its name: SLURM may give an id a second time after its controller has crashed.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from xling.grid import files
from xling.grid.store import Store
from xling.jsonfiles import decode, unsealed
from xling.runners.execute import Job
from xling.runners.slurm.settings import Resources, Slurm

Word = Literal["submitting", "released", "finished", "cancelled", "abandoned"]
Place = tuple[int, int]  # (array, task)


class Task(msgspec.Struct, frozen=True):
    """One job: stages run one after the other in one process. None at all: the reducer."""

    stages: tuple[int, ...]  # into Submission.stages
    needs: tuple[Place, ...] = ()  # tasks of this submission that end before it starts
    others: tuple[str, ...] = ()  # jobs of other submissions, "99_3"


class Array(msgspec.Struct, frozen=True):
    number: int
    name: str  # of its jobs, nobody else's
    resources: Resources
    tasks: tuple[Task, ...]


class Submission(msgspec.Struct, frozen=True):
    """Everything a job has to know, so that no job holds a pickle."""

    id: str
    grid: str
    root: str
    created: float  # seconds since the epoch
    command: tuple[str, ...]
    catalogue: str  # module:name of a dict[str, Kind]
    force: bool
    git: str | None
    code: str  # digest of the package's files
    python: str
    cwd: str
    path: tuple[str, ...]  # sys.path of the shell that submitted
    settings: Slurm
    tracking: dict[str, Any]
    stages: tuple[Job, ...]
    arrays: tuple[Array, ...]
    cluster: str = ""  # SLURM's ClusterName
    fold: str = "xling.folding:fold"  # module:name of what the last job calls; records of before it was named have none
    cells: str = ""  # launches.digest_of: a name can become another grid's before the last job folds
    format: int = 1

    def task(self, place: Place) -> Task:
        return self.arrays[place[0]].tasks[place[1]]

    def jobs(self, task: Task) -> list[Job]:
        return [self.stages[number] for number in task.stages]


class JobRef(msgspec.Struct, frozen=True):
    """An array as SLURM knows it."""

    id: str
    name: str
    submitted: float  # seconds since the epoch
    cluster: str = ""  # its name; another one knows nothing of the job


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that a job writes about itself.

    `start`; `stage` with how it ended; `requeue` with why; `note`; `end`.
    """

    event: Literal["start", "stage", "requeue", "note", "end"]
    at: float = 0.0
    job: str = ""  # "123_4"
    node: str = ""
    pid: int = 0
    restarts: int = 0  # by SLURM's count
    key: str = ""
    end: str = ""  # done, found, failed, blocked
    text: str = ""  # why
    seconds: float = 0.0


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    at: float
    array: int = -1
    job: str = ""
    state: Literal["", "submitting", "released", "finished", "cancelled", "abandoned"] = ""


T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True)
class Filed:
    """A submission with what has been noted about it since."""

    folder: Path
    submission: Submission
    state: Word
    refs: Mapping[int, JobRef]  # by array; those that sbatch has answered for

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where each stage is run, by key."""
        return {
            self.submission.stages[stage].key: (array.number, number)
            for array in self.submission.arrays
            for number, task in enumerate(array.tasks)
            for stage in task.stages
        }

    @property
    def open(self) -> bool:
        """Its jobs may still run, as far as has been noted."""
        return self.state in ("submitting", "released")

    def job(self, place: Place) -> str | None:
        """SLURM's id of a task, "123_4"; None if it was never submitted."""
        ref = self.refs.get(place[0])
        return f"{ref.id}_{place[1]}" if ref else None

    def events(self, place: Place) -> list[Event]:
        return list(_lines(task_file(self.folder, place), Event))


def folder_of(store: Store, grid: str) -> Path:
    return store.grid_folder(grid) / "slurm"


def task_file(folder: Path, place: Place) -> Path:
    return folder / "tasks" / f"{place[0]}_{place[1]}.jsonl"


def write(folder: Path, submission: Submission) -> None:
    """Before anything is submitted: the folder and what is to be done."""
    (folder / "tasks").mkdir(parents=True)
    (folder / "logs").mkdir()
    files.write_atomically(folder / "submission.json", files.sealed_json(submission, indent=-1))


def read(folder: Path) -> Filed:
    """OSError or msgspec.DecodeError if there is no whole submission in the folder."""
    submission = unsealed((folder / "submission.json").read_bytes(), Submission)
    refs = {
        line.array: JobRef(line.job, submission.arrays[line.array].name, line.at, submission.cluster)
        for line in _lines(folder / "jobs.jsonl", _Line)
        if line.job and line.array < len(submission.arrays)
    }
    return Filed(folder, submission, _state(folder), refs)


def submissions(store: Store, grid: str | None = None, *states: Word) -> list[Filed]:
    """All that can be read, of one grid or of all, the newest last; `states`: only those that are in one of them."""
    pattern = f"{'*' if grid is None else grid}/slurm/*/submission.json"
    found = []
    for path in files.matching(store.root / "grids", pattern):
        try:
            if not states or _state(path.parent) in states:
                found.append(read(path.parent))
        except (OSError, msgspec.DecodeError):
            continue  # `unreadable` names it
    return sorted(found, key=lambda filed: filed.submission.created)


def unreadable(store: Store, grid: str) -> list[str]:
    """A sentence for each record of a grid's open submissions that is damaged: of their jobs nothing is known here."""
    found = []
    for path in files.matching(folder_of(store, grid), "*/submission.json"):
        try:
            if _state(path.parent) in ("submitting", "released"):
                read(path.parent)
        except (OSError, msgspec.DecodeError) as error:
            found.append(f"'{path}' cannot be read ({error}): jobs of it that still run are not shown (`squeue --me`).")
    return found


def _state(folder: Path) -> Word:
    words: list[Word] = [line.state for line in _lines(folder / "jobs.jsonl", _Line) if line.state]
    return words[-1] if words else "submitting"


def note_job(folder: Path, array: int, job: str) -> None:
    """sbatch has answered."""
    files.append_line(folder / "jobs.jsonl", _Line(time.time(), array, job))


def note_state(folder: Path, state: Word) -> None:
    files.append_line(folder / "jobs.jsonl", _Line(time.time(), state=state))


def note_event(folder: Path, place: Place, event: Event) -> None:
    path = task_file(folder, place)
    files.append_line(path, event)


def _lines(path: Path, type_: type[T]) -> Iterator[T]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.splitlines():
        try:
            yield decode(line, type=type_)
        except msgspec.DecodeError:
            continue  # cut off by a full disk or a kill


def new_id(now: float) -> str:
    """A word for a submission: time to the second, and four letters that tell two of them apart."""
    stamp = time.strftime("%m%d%H%M%S", time.gmtime(now))
    return f"{stamp}{hashlib.sha256(f'{now}'.encode()).hexdigest()[:4]}"
