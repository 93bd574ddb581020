"""Submissions and what became of them: files in one folder each. holdings.py has what the cluster says.

A folder is written before, while and after its jobs run:

    <root>/grids/<grid>/slurm/<submission>/
        submission.json             what was to be submitted; written once, before the first sbatch
        tasks.jsonl                 a line a task with its stages, which its job finds by the index at the beginning
        jobs.jsonl                  appended: the job id of each array, then what became of the whole
        tasks/<array>_<task>.jsonl  appended by the job itself: started where, each stage's end, why requeued
        logs/                       the job scripts and what the jobs print

A job is recognised by its id and its name: SLURM may give an id a second time after its controller has crashed.
"""

import hashlib
import os
import sys
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from xling.console import harmless
from xling.grid import files
from xling.grid.records import Sheet
from xling.grid.store import Store
from xling.jsonfiles import decode, unsealed
from xling.runners.execute import Job
from xling.runners.slurm.cluster import JobRef
from xling.runners.slurm.settings import Resources, Slurm, words_of

FORMAT = 2  # of submission.json
INDEX = 22  # bytes of an entry in the index of tasks.jsonl
Word = Literal["submitting", "released", "finished", "unfolded", "cancelled", "abandoned"]
Place = tuple[int, int]  # (array, task)


class Task(msgspec.Struct, frozen=True):
    """One job: stages run one after the other in one process. None at all: the reducer."""

    stages: tuple[int, ...]  # into Submission.stages
    needs: tuple[Place, ...] = ()  # tasks of this submission that end before it starts
    others: tuple[str, ...] = ()  # jobs of other submissions, "99_3"
    sure: tuple[Place, ...] = ()  # of `needs`: if it fails, so do all stages of this task
    sure_others: tuple[str, ...] = ()
    light: tuple[int, ...] = ()  # of its stages, by place: those that compute on no GPU


class Array(msgspec.Struct, frozen=True, omit_defaults=True):
    number: int
    name: str  # of its jobs, nobody else's
    resources: Resources
    tasks: tuple[Task, ...] = ()
    together: bool = False  # all its tasks wait for what any of them needs: one edge, which sbatch is given
    size: int = 0  # tasks that it has in tasks.jsonl
    first: int = 0  # and the line of the first of them
    pilots: bool = False  # each of its tasks has all the stages of the first, and runs those that no other one is at

    @property
    def lines(self) -> int:
        """In tasks.jsonl."""
        return min(self.size, 1) if self.pilots else self.size

    @property
    def own(self) -> tuple[Task, ...]:
        """Its tasks; of pilots, which are all alike, one."""
        return self.tasks[:1] if self.pilots else self.tasks


class Submission(msgspec.Struct, frozen=True):
    """Everything a job has to know, so that no job holds a pickle.

    In submission.json there are no stages and no tasks: a job reads its own from tasks.jsonl. (There are in records of
    format 1, which had no other file.)
    """

    id: str
    grid: str
    root: str
    created: float  # seconds since the epoch
    command: tuple[str, ...]
    catalogue: str  # module:name of a dict[str, Kind]
    force: bool
    git: str | None
    code: str  # digest of the package's files, as jobs run them
    python: str
    cwd: str
    path: tuple[str, ...]  # of modules, besides what its Python finds by itself
    settings: Slurm
    tracking: dict[str, Any]
    arrays: tuple[Array, ...]
    stages: tuple[Job, ...] = ()
    cluster: str = ""  # SLURM's ClusterName
    fold: str = "xling.folding:fold"  # module:name of what the last job calls; records of before it was named have none
    at_once: int = 0  # jobs of this user's that may be in the queue; those that are too many come later. 0: any number
    cells: str = ""  # launches.digest_of: a name can become another grid's before the last job folds
    format: int = 1
    snapshot: str = ""  # folder with the copied code; "" where jobs run what they find
    drops: tuple[str, ...] = ()  # kinds of stages whose weights go when all have read them
    versions: dict[str, str] = {}  # of packages, when it was submitted

    @property
    def program(self) -> list[str]:
        """Words that start Python in a job."""
        return words_of(self.settings.python) if self.settings.python is not None else [self.python]

    def task(self, place: Place) -> Task:
        return self.arrays[place[0]].tasks[place[1]]

    def jobs(self, task: Task) -> list[Job]:
        return [self.stages[number] for number in task.stages]


class _Form(msgspec.Struct, frozen=True):
    format: int = 1


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """A line of tasks.jsonl."""

    needs: tuple[Place, ...]
    others: tuple[str, ...]
    stages: tuple[Job, ...]
    sure: tuple[Place, ...] = ()
    sure_others: tuple[str, ...] = ()
    light: tuple[int, ...] = ()


class _Label(msgspec.Struct, frozen=True):
    kind: str
    label: str


class _Named(msgspec.Struct, frozen=True):
    """Of a stage, what is asked of thousands."""

    key: str
    sheet: _Label


class _Light(msgspec.Struct, frozen=True, array_like=True):
    """A line of tasks.jsonl without specs."""

    needs: tuple[Place, ...]
    others: tuple[str, ...]
    stages: tuple[_Named, ...]
    sure: tuple[Place, ...] = ()
    sure_others: tuple[str, ...] = ()
    light: tuple[int, ...] = ()


TIME_LIMIT, PREEMPTED = "time limit", "preempted"  # why a job was queued again, as its events say it


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that a job writes about itself.

    `unfit`: a node that cannot run it, and why; `unready`: a setup line that failed. `start`; `stage` with how it
    ended; `requeue` with why; `refused`: SLURM did not queue it again; `note`; `end`.
    """

    event: Literal["unfit", "unready", "start", "stage", "requeue", "refused", "note", "end"]
    at: float = 0.0
    job: str = ""  # "123_4"
    node: str = ""
    pid: int = 0
    restarts: int = 0  # by SLURM's count
    key: str = ""
    end: str = ""  # done, found, failed, blocked
    text: str = ""  # why
    seconds: float = 0.0
    idle: float = 0.0  # a pilot: GPU seconds (without GPUs of stages side by side) since the line before, in which
    # nothing ran. Their sum over the lines of a job is what stood idle in all its turns


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    at: float
    array: int = -1
    job: str = ""
    state: Word | Literal[""] = ""
    text: str = ""  # unfolded: what became of the job that folds; released: TAKEN


TAKEN = "taken over"  # what was still to follow is another submission's


NO_FOLDER = os.EX_CANTCREAT  # exit code of a job that finds no folder to write in, and so cannot say why

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True)
class Filed:
    """A submission with what has been noted about it since."""

    folder: Path
    head: Submission  # without stages and tasks
    state: Word
    owner: int  # user id: whose jobs they are

    @property
    def own(self) -> bool:
        """Whether this user may change its jobs, and can say what became of them."""
        return os.geteuid() in (0, self.owner)

    @cached_property
    def feeds(self) -> bool:
        """Whether jobs of it that have found no room yet follow from inside the grid."""
        taken = any(line.text == TAKEN for line in _lines(self.folder / "jobs.jsonl", _Line))
        return bool(self.head.at_once) and self.state == "released" and not taken

    @cached_property
    def submission(self) -> Submission:
        """With all tasks, and their stages by key, kind and label alone; OSError or msgspec.DecodeError if damaged."""
        return self.head if self.head.format == 1 else _whole(self.folder, self.head)

    @cached_property
    def refs(self) -> Mapping[int, JobRef]:
        """Arrays that sbatch has answered for."""
        head = self.head
        return {
            line.array: JobRef(line.job, head.arrays[line.array].name, line.at, head.cluster)
            for line in _lines(self.folder / "jobs.jsonl", _Line)
            if line.job and line.array < len(head.arrays)
        }

    def task(self, place: Place) -> tuple[Task, Sequence[Job]]:
        """A task and its stages, and no other's. OSError or msgspec.DecodeError if they cannot be read."""
        if self.head.format == 1:
            task = self.head.task(place)
            return task, self.head.jobs(task)
        array = self.head.arrays[place[0]]
        row = _row(self.folder, array.first + (0 if array.pilots else place[1]))
        return _task(row), row.stages

    @cached_property
    def places(self) -> dict[str, Place]:
        """Where each stage is run, by key."""
        return {job.key: place for place, task, _ in self.tasks() for job in self.submission.jobs(task)}

    def tasks(self) -> Iterator[tuple[Place, Task, str | None]]:
        """Each task with its place and SLURM's id of its job; None if it was never submitted."""
        for array in self.submission.arrays:
            for number, task in enumerate(array.tasks):
                place = (array.number, number)
                yield place, task, self.job(place)

    def job(self, place: Place) -> str | None:
        """SLURM's id of a task, "123_4"; None if it was never submitted."""
        ref = self.refs.get(place[0])
        return f"{ref.id}_{place[1]}" if ref else None

    def among(self, place: Place) -> list[Place]:
        """Tasks that have the same stages: itself, or all pilots."""
        array = self.head.arrays[place[0]]
        return [(place[0], number) for number in range(array.size)] if array.pilots else [place]

    def awaited(self, place: Place) -> str | None:
        """What SLURM is told to wait for so that its stages have ended: the job of a task, or all pilots."""
        pilots = self.head.arrays[place[0]].pilots and place[0] in self.refs
        return self.refs[place[0]].id if pilots else self.job(place)

    def ends(self, place: Place) -> list[Event]:
        """How stages of a task have ended, in whichever of the pilots."""
        return [event for one in self.among(place) for event in self.events(one) if event.end]

    def events(self, place: Place) -> list[Event]:
        return list(_lines(task_file(self.folder, place), Event))


def folder_of(store: Store, grid: str) -> Path:
    return store.grid_folder(grid) / "slurm"


def tasks_of(folder: Path, array: int) -> str:
    """What the files of an array's tasks begin with."""
    return f"{folder}/tasks/{array}_"


def task_file(folder: Path, place: Place) -> Path:
    return Path(f"{tasks_of(folder, place[0])}{place[1]}.jsonl")


def has_begun(filed: Filed, array: int) -> bool:
    """Whether some job of an array has written a word, so that the array was released."""
    return bool(files.matching(filed.folder, f"tasks/{array}_*.jsonl"))


def write(folder: Path, submission: Submission) -> Filed:
    """Before anything is submitted: the folder and what is to be done."""
    (folder / "tasks").mkdir(parents=True)
    (folder / "logs").mkdir()
    rows: list[_Row] = []
    arrays = []
    for array in submission.arrays:
        arrays.append(msgspec.structs.replace(array, tasks=(), size=len(array.tasks), first=len(rows)))
        rows += [
            _Row(task.needs, task.others, tuple(submission.jobs(task)), task.sure, task.sure_others, task.light)
            for task in array.own
        ]
    lines = [msgspec.json.encode(row) for row in rows]
    index, start = [], (len(lines) + 1) * INDEX
    for line in [*lines, b""]:
        index.append(b"%012d %08x\n" % (start, zlib.crc32(line)))
        start += len(line) + 1
    files.write_atomically(folder / "tasks.jsonl", b"".join([*index, *(line + b"\n" for line in lines)]))
    head = msgspec.structs.replace(submission, stages=(), arrays=tuple(arrays), format=FORMAT)
    files.write_atomically(folder / "submission.json", files.sealed_json(head, indent=-1))
    filed = Filed(folder, head, "submitting", os.geteuid())
    filed.__dict__["submission"] = submission  # need not be read again
    return filed


def read(folder: Path) -> Filed:
    """OSError or msgspec.DecodeError if there is no whole submission in the folder."""
    path = folder / "submission.json"
    content = path.read_bytes()
    if (newer := unsealed(content, _Form).format) > FORMAT:
        raise msgspec.DecodeError(f"a newer version of xling wrote it, in format {newer}; this one reads {FORMAT}")
    return Filed(folder, decode(content, Submission), last_word(folder)[0], path.stat().st_uid)


def _row(folder: Path, number: int) -> _Row:
    """One line of tasks.jsonl, by its index: where each line starts, and its checksum."""
    with open(folder / "tasks.jsonl", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no megabytes ahead of so little
        index = os.pread(file.fileno(), 2 * INDEX, number * INDEX)
        (start, checksum), (end, _) = (_entry(index[at : at + INDEX]) for at in (0, INDEX))
        return decode(_checked(os.pread(file.fileno(), end - start - 1, start), checksum), _Row)


def _task(row: _Row | _Light, first: int = 0) -> Task:
    """first: number of its first stage in the submission."""
    numbers = tuple(range(first, first + len(row.stages)))
    return Task(numbers, row.needs, row.others, row.sure, row.sure_others, row.light)


def _entry(line: bytes) -> tuple[int, int]:
    try:
        return int(line[:12]), int(line[13:21], 16)
    except ValueError as error:
        raise msgspec.DecodeError("the index of tasks.jsonl is damaged") from error


def _checked(line: bytes, checksum: int) -> bytes:
    if zlib.crc32(line) != checksum:
        raise msgspec.DecodeError("a line of tasks.jsonl does not have the bytes that were written")
    return line


def _whole(folder: Path, head: Submission) -> Submission:
    content = (folder / "tasks.jsonl").read_bytes()
    total = sum(array.lines for array in head.arrays)
    index = [_entry(content[at : at + INDEX]) for at in range(0, (total + 1) * INDEX, INDEX)]
    lines = (_checked(content[start : end - 1], checksum) for (start, checksum), (end, _) in pairwise(index))
    rows = [decode(line, _Light) for line in lines]
    stages: list[Job] = []
    arrays = []
    for array in head.arrays:
        tasks = []
        for line in rows[array.first : array.first + array.lines]:
            tasks.append(_task(line, len(stages)))
            stages += [Job(one.key, Sheet(one.sheet.kind, 0, one.sheet.label, {}, {})) for one in line.stages]
        arrays.append(msgspec.structs.replace(array, tasks=tuple(tasks) * (array.size if array.pilots else 1)))
    return msgspec.structs.replace(head, stages=tuple(stages), arrays=tuple(arrays))


def submissions(store: Store, grid: str | None = None, *states: Word) -> list[Filed]:
    """All that can be read, of one grid or of all, the newest last; `states`: only those that are in one of them."""
    pattern = f"{'*' if grid is None else grid}/slurm/*/submission.json"
    found = []
    for path in files.matching(store.root / "grids", pattern):
        try:
            if not states or last_word(path.parent)[0] in states:
                found.append(read(path.parent))
        except (OSError, msgspec.DecodeError):
            continue  # `unreadable` names it
    return sorted(found, key=lambda filed: filed.head.created)


def any_open(store: Store, grid: str | None = None) -> bool:
    """Whether there is a submission that is not noted to have ended; records are not read for it."""
    paths = files.matching(store.root / "grids", f"{'*' if grid is None else grid}/slurm/*/submission.json")
    return any(last_word(path.parent)[0] in ("submitting", "released") for path in paths)


def unreadable(store: Store, grid: str, read_: Collection[Path] = ()) -> list[str]:
    """A sentence for each record of a grid's open submissions that is damaged: of their jobs nothing is known here.

    read_: folders of those that have been read.
    """
    found = []
    for path in files.matching(folder_of(store, grid), "*/submission.json"):
        try:
            if path.parent not in read_ and last_word(path.parent)[0] in ("submitting", "released"):
                _ = read(path.parent).submission
        except (OSError, msgspec.DecodeError) as error:
            found.append(f"'{path}' cannot be read ({error}): jobs of it that still run are not shown (`squeue --me`).")
    return found


def is_whole(filed: Filed) -> bool:
    """Whether all of its tasks can be read."""
    with suppress(OSError, msgspec.DecodeError):  # `unreadable` names it
        return bool(filed.submission.arrays)
    return False


def last_word(folder: Path) -> tuple[Word, str]:
    """What became of a submission, and what was said of it."""
    found = [line for line in _lines(folder / "jobs.jsonl", _Line) if line.state]
    return (found[-1].state or "submitting", found[-1].text) if found else ("submitting", "")


def note_job(folder: Path, array: int, job: str) -> None:
    """sbatch has answered."""
    files.append_line(folder / "jobs.jsonl", _Line(time.time(), array, job))


def note_state(folder: Path, state: Word, text: str = "") -> bool:
    return _noted(folder / "jobs.jsonl", _Line(time.time(), state=state, text=text))


def note_event(folder: Path, place: Place, event: Event) -> bool:
    return _noted(task_file(folder, place), event)


def _noted(path: Path, line: msgspec.Struct) -> bool:
    """False where the disk does not take it: whoever looks next finds the same, and the cluster is still asked."""
    try:
        files.append_line(path, line)
    except OSError as error:
        _complain(f"xling: '{path}' cannot be written: {error.strerror or error}")
        return False
    return True


_complained: list[str] = []


def _complain(words: str) -> None:
    """Once is enough: the disk that does not take one line takes none of thousands."""
    if not _complained:
        _complained.append(words)
        print(harmless(words), file=sys.stderr, flush=True)


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
