"""Submissions and what became of them: files in one folder each, and what the cluster says of their jobs.

    found = survey(store)          # one query for all open submissions
    found.held[stage.key].job      # "123_4": the job that runs it or is going to

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
import shlex
import sys
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from xling.console import harmless, without_secrets
from xling.grid import files
from xling.grid.records import Sheet
from xling.grid.store import Listing, Store
from xling.jsonfiles import decode, unsealed
from xling.runners.execute import Job, record_failure
from xling.runners.slurm import cluster
from xling.runners.slurm.cluster import JobRef, JobState
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
    return Filed(folder, decode(content, Submission), _state(folder), path.stat().st_uid)


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
            if not states or _state(path.parent) in states:
                found.append(read(path.parent))
        except (OSError, msgspec.DecodeError):
            continue  # `unreadable` names it
    return sorted(found, key=lambda filed: filed.head.created)


def any_open(store: Store, grid: str | None = None) -> bool:
    """Whether there is a submission that is not noted to have ended; records are not read for it."""
    paths = files.matching(store.root / "grids", f"{'*' if grid is None else grid}/slurm/*/submission.json")
    return any(_state(path.parent) in ("submitting", "released") for path in paths)


def unreadable(store: Store, grid: str, read_: Collection[Path] = ()) -> list[str]:
    """A sentence for each record of a grid's open submissions that is damaged: of their jobs nothing is known here.

    read_: folders of those that have been read.
    """
    found = []
    for path in files.matching(folder_of(store, grid), "*/submission.json"):
        try:
            if path.parent not in read_ and _state(path.parent) in ("submitting", "released"):
                _ = read(path.parent).submission
        except (OSError, msgspec.DecodeError) as error:
            found.append(f"'{path}' cannot be read ({error}): jobs of it that still run are not shown (`squeue --me`).")
    return found


def _is_whole(filed: Filed) -> bool:
    with suppress(OSError, msgspec.DecodeError):  # `unreadable` names it
        return bool(filed.submission.arrays)
    return False


def _state(folder: Path) -> Word:
    words: list[Word] = [line.state for line in _lines(folder / "jobs.jsonl", _Line) if line.state]
    return words[-1] if words else "submitting"


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


# --- what the cluster holds of ours: which stages are queued or running, and what died without saying why -----
# A job that was cancelled or killed leaves no word in the store; its stage gets a failure record here, with SLURM's
# cause. Unknown means alive: where the cluster does not answer, or shows a user nothing of others' jobs, nothing is
# concluded. Only who has submitted a job notes down what became of it.

MOVED = "moved"  # a stage's end in a task that was cancelled because another submission runs it
TOLD = ("failed", "blocked", MOVED)  # ends after which a stage's result is not expected from the task any more
UNKNOWN = JobState("UNKNOWN", alive=True, reason="the cluster does not answer")
HIDDEN = JobState("UNKNOWN", alive=True, reason="OtherUser")
LATER = JobState("PENDING", alive=True, reason="Later")  # of a job that is submitted from inside the grid


@dataclass(frozen=True)
class Held:
    """A stage's job that is queued or running."""

    job: str  # "123_4"; "" if it is submitted later, from inside the grid
    state: JobState
    place: Place
    filed: Filed

    @property
    def first(self) -> str:
        """Key of the first stage of the job, with which it ends well or not; "" of one that ends well whatever it did.

        That of its last if it has but one.
        """
        jobs = self.filed.submission.jobs(self.filed.submission.task(self.place))
        return jobs[0].key if jobs and not self.pilot else ""

    @property
    def pilot(self) -> bool:
        """Whether others may run its stages as well."""
        return self.filed.head.arrays[self.place[0]].pilots


@dataclass(frozen=True)
class Survey:
    answered: bool  # False: the cluster did not answer, everything open counts as alive
    open: Sequence[Filed]  # submissions that have living jobs, or have not been completed
    held: Mapping[str, Held]  # by stage key; of several pilots one, that runs if one does
    reducers: Mapping[str, Held]  # by submission id: the living jobs that fold
    pilots: Mapping[str, Held]  # living ones, by job


def survey(store: Store, grid: str | None = None) -> Survey:
    """Look at all open submissions, of one grid or of all; notes down what has ended."""
    filed = [one for one in submissions(store, grid, "submitting", "released") if _is_whole(one)]
    listings: dict[str, Listing] = {}
    wanted = [_wanted(store, one, listings) for one in filed]
    refs = [ref for one, jobs in zip(filed, wanted, strict=True) if jobs for ref in one.refs.values()]
    states = cluster.states(refs, {job for jobs in wanted for job in jobs}) if refs else {}
    hidden = bool(states) and not all(one.own for one in filed) and cluster.hides_jobs()
    held: dict[str, Held] = {}
    reducers: dict[str, Held] = {}
    pilots: dict[str, Held] = {}
    open_ = []
    for one in filed:
        living = _living(one, states, hidden and not one.own)
        if states is not None:
            settle(store, one, states, listings)
        if one.state == "released" and not living:
            if one.own:
                _close(one, states or {})
            continue
        open_.append(one)
        if one.feeds:
            later = ((place, Held("", LATER, place, one)) for place, _, job in one.tasks() if job is None)
            living |= {place: found for place, found in later}
        for place, found in sorted(living.items(), key=lambda item: bool(item[1].state.node)):
            keys = [job.key for job in one.submission.jobs(one.submission.task(place))]
            if found.pilot:
                pilots[found.job] = found
            began = found.state.node or found.pilot
            told = {event.key for event in one.ends(place) if event.end in TOLD} if began else set()
            held.update({key: found for key in keys if key not in told})
            if not keys:
                reducers[one.head.id] = found
    return Survey(states is not None, open_, held, reducers, pilots)


def _close(filed: Filed, states: Mapping[str, JobState]) -> None:
    """Note that no job of a submission lives any more, and whether the last one has folded the matrix."""
    place, _, job = list(filed.tasks())[-1]
    if job is None or any(event.event == "end" for event in filed.events(place)):
        note_state(filed.folder, "finished")
    else:
        note_state(filed.folder, "unfolded", f"its job {job} ended: {cause_of(filed, place, states.get(job))}")


def unfolded(store: Store, grid: str) -> str:
    """Why the latest submission of a grid has left no matrix; empty if it has, or somebody else has folded it since."""
    found = [
        (path.stat().st_mtime, path.parent) for path in files.matching(folder_of(store, grid), "*/submission.json")
    ]
    if not found:
        return ""
    when, folder = max(found)
    lines = [line for line in _lines(folder / "jobs.jsonl", _Line) if line.state]
    if not lines or lines[-1].state != "unfolded":
        return ""
    matrix = store.grid_folder(grid) / "matrix.csv"
    return "" if matrix.exists() and matrix.stat().st_mtime >= when else lines[-1].text


def _wanted(store: Store, filed: Filed, listings: dict[str, Listing]) -> list[str]:
    """The jobs that matter: those of stages that have no result, and the one that folds."""
    return [
        job
        for place, task, job in filed.tasks()
        if job is not None and (not task.stages or _without_result(store, filed, place, listings))
    ]


def _without_result(store: Store, filed: Filed, place: Place, listings: dict[str, Listing]) -> list[Job]:
    jobs = filed.submission.jobs(filed.submission.task(place))
    if filed.head.force:  # a result that is there may be the one that is to be replaced
        made = {event.key for event in filed.ends(place) if event.end == "done"}
        return [job for job in jobs if job.key not in made]
    left = []
    for job in jobs:
        kind = job.sheet.kind
        if kind not in listings:
            listings[kind] = store.listing(kind)
        if job.key not in listings[kind].results:
            left.append(job)
    return left


def owners(held: Iterable[Held]) -> str:
    """Names of the users whose jobs these are."""
    return ", ".join(sorted({files.user_name(one.filed.owner) for one in held}))


def _living(filed: Filed, states: Mapping[str, JobState] | None, hidden: bool) -> dict[Place, Held]:
    """hidden: the cluster may know more of the jobs than it tells this user."""
    living = {}
    for place, _, job in filed.tasks():
        if job is not None:
            state = UNKNOWN if states is None else states.get(job)
            if state is not None and hidden and not state.alive and state.state in cluster.MAY_LIVE:
                state = None if any(event.event == "end" for event in filed.events(place)) else HIDDEN
            if state is not None and state.alive:
                living[place] = Held(job, state, place, filed)
    return living


def settle(
    store: Store,
    filed: Filed,
    states: Mapping[str, JobState],
    listings: dict[str, Listing] | None = None,
    only: str | None = None,
) -> None:
    """Give every stage whose job (`only` this one) has ended without a word its failure.

    A result that the shared folder shows later wins: a failure beside a result counts for nothing.
    """
    if not filed.own:
        return
    listings = {} if listings is None else listings
    for place, task, job in filed.tasks():
        state = states.get(job) if job else None
        if job is None or (only is not None and job != only) or (state is not None and state.alive):
            continue
        if any(_may_go_on(filed, other, place, states) for other in filed.among(place) if other != place):
            continue
        if left := _without_result(store, filed, place, listings):
            events = filed.events(place)
            told = {event.key for event in filed.ends(place)}
            began = any(event.event == "start" for event in events)
            above = "" if began else _failed_above(store, filed, task, state)
            for stage in left:
                if stage.key in told or failed_since(store, stage, filed.head.created):
                    continue
                if not above:
                    _blame(store, filed, place, stage, job, cause_of(filed, place, state))
                elif _has_parents(store, filed, place, stage):
                    cause = f"cancelled by SLURM, since a job before it did not end well ({above})"
                    _blame(store, filed, place, stage, job, cause)
                else:
                    note_event(filed.folder, place, Event("stage", key=stage.key, end="blocked", text=above))


def _may_go_on(filed: Filed, other: Place, place: Place, states: Mapping[str, JobState]) -> bool:
    """Whether another pilot lives, or is rather to blame: of those that have ended, who has not said so."""
    job = filed.job(other)
    state = states.get(job) if job else None
    ended, too = (any(event.event == "end" for event in filed.events(one)) for one in (place, other))
    return (state is not None and state.alive) or (ended and not too)


def _failed_above(store: Store, filed: Filed, task: Task, state: JobState | None) -> str:
    """What a job waited for that was never started, since that has failed; empty if it ended for another reason."""
    for one, need in _sure(store, filed, task):
        for event in one.events(need):
            if event.end in ("failed", "blocked"):
                labels = {job.key: job.sheet.label for job in one.submission.jobs(one.submission.task(need))}
                return f"{labels.get(event.key, 'a stage above')} {event.end}"
    return "a stage above failed" if state is not None and state.reason == cluster.NEVER else ""


def _sure(store: Store, filed: Filed, task: Task) -> Iterator[tuple[Filed, Place]]:
    """Tasks that have to end well before a task starts, those of other submissions too."""
    yield from ((filed, need) for need in task.sure)
    for one in submissions(store) if task.sure_others else ():
        numbers = {ref.id: array for array, ref in one.refs.items()}
        for job in task.sure_others:
            id_, _, number = job.partition("_")
            if id_ in numbers:
                yield one, (numbers[id_], int(number))


def _has_parents(store: Store, filed: Filed, place: Place, stage: Job) -> bool:
    """Whether a stage could have run: a job that made what it needs died afterwards, at a stage that rode along."""
    whole = next(job for job in filed.task(place)[1] if job.key == stage.key)
    return all(store.state(up.kind, up.key) == "done" for up in whole.sheet.parents.values())


def failed_since(store: Store, job: Job, created: float) -> bool:
    """Whether a stage has failed after a time; seconds since the epoch."""
    failure = store.failure_record(job.sheet.kind, job.key)
    if failure is None or not failure.when:
        return False
    try:
        when = datetime.fromisoformat(failure.when)
    except ValueError:  # a damaged record
        return False
    return when >= datetime.fromtimestamp(int(created), UTC)


def _blame(store: Store, filed: Filed, place: Place, stage: Job, job: str, cause: str) -> None:
    """Record why a stage's job has ended, as the stage's failure."""
    last = f"Its SLURM job {job} ended before it was done: {cause}"
    log = filed.folder / "logs" / f"{job}_0_log.err"
    record_failure(store, stage.sheet.kind, stage.key, stage.sheet.label, last, f"{last}\nThe job's own words: {log}\n")
    note_event(filed.folder, place, Event("stage", key=stage.key, end="failed", text=last))


def cause_of(filed: Filed, place: Place, state: JobState | None) -> str:
    """Why a job ended without a word: as SLURM has it, on which node, and what it had written down itself."""
    cause = state.cause if state and state.cause else "SLURM knows nothing of it any more"
    on = f" on node {state.node}" if state and state.node and state.node not in cause else ""
    events = filed.events(place)
    if state is not None and state.state == "CANCELLED":
        return f"{cause}{on}"
    unfit = list(dict.fromkeys(event.node for event in events if event.event == "unfit"))
    if events and events[-1].event == "unfit":
        out = ",".join(filter(None, (filed.head.arrays[place[0]].resources.exclude, *unfit)))
        typed = shlex.quote(f"hydra.launcher.exclude={out}")
        return f"{events[-1].text} on {_nodes(unfit)}. If others are fit, type {typed}"
    if events and events[-1].event == "unready":
        return f"{events[-1].text} on node {events[-1].node}. Mend the line, or leave the node out (exclude)"
    if state and state.code == NO_FOLDER and not any(event.event == "start" for event in events):
        return f"'{filed.folder}' or '{filed.head.cwd}' is not there or cannot be written{on} and those tried before"
    said = events[-1].text if events and events[-1].event == "refused" else ""
    if state and state.code and not any(event.event == "start" for event in events):  # an import has failed, say
        said = _last_words(filed, place)
    return f"{cause}{on}; it said: {said}" if said else f"{cause}{on}"


def _last_words(filed: Filed, place: Place) -> str:
    """The last line of a job's own log of errors."""
    with suppress(OSError), open(filed.folder / "logs" / f"{filed.job(place)}_0_log.err", "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return without_secrets(lines[-1].strip()) if lines else ""
    return ""


CANCELLED = "Cancelled by "  # that a stage's failure says so tells the pilot that is at it


def cancel_in_pilot(store: Store, held: Held, stage: Job) -> None:
    """Give a stage of a living pilot its failure: the pilot that is at it ends it, and none begins it."""
    last = f"{CANCELLED}{files.user_name(os.geteuid())}"
    record_failure(store, stage.sheet.kind, stage.key, stage.sheet.label, last, f"{last}\n")
    note_event(held.filed.folder, held.place, Event("stage", key=stage.key, end="failed", text=last))


def _nodes(names: Sequence[str]) -> str:
    return f"node{'s' * (len(names) != 1)} {', '.join(names)}"
