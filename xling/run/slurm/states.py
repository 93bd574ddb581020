"""What SLURM says about jobs, read from the answers of squeue, sacct and the job-completion log. Runs nothing.

Seen on 22.05: squeue alone knows what lives. sacct shows a requeued job as NODE_FAIL until it starts again, a job
that a killed controller has forgotten as PENDING for ever, and calls a young job `allocation`; it is asked only
for jobs that squeue knows no more.
"""

import pwd
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from xling.run.slurm.record import JobRef

DEAD = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL",
                  "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"})  # fmt: skip
REQUEUED = frozenset({"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REQUEUED"})  # in sacct: may be alive again
CLOCKS_DIFFER = 3600.0  # seconds; a job of ours that is older than its submission is not ours
SQUEUE_FIELDS = ("JobArrayID", "Name", "State", "Reason", "NodeList", "SubmitTime", "StartTime", "exit_code",
                 "RestartCnt")  # fmt: skip
SACCT_FIELDS = ("JobID", "JobName", "State", "Reason", "NodeList", "Submit", "Start", "ExitCode")


class JobState(msgspec.Struct, frozen=True):
    """A task of an array as SLURM sees it."""

    state: str  # SLURM's word; GONE if a cluster that answers knows nothing of it
    alive: bool
    reason: str = ""  # why it waits, in SLURM's word (Dependency, Resources, ...)
    node: str = ""
    seconds: float = 0.0  # running: since its start; waiting: since it was submitted
    cause: str = ""  # dead: a clause fit for a failure record
    restarts: int = 0


# A job of ours that SLURM will not start by itself: held by hand, or by SLURM after its start had failed (a broken
# node or prolog, a controller that was killed before it had written down that the job runs).
HELD = ("JobHeldUser", "launch_failed_requeued_held")

GONE = JobState("GONE", alive=False, cause="SLURM has forgotten it")
ELSEWHERE = JobState("UNKNOWN", alive=True, reason="OtherCluster")
LOST = JobState("GONE", alive=False, cause="SLURM lost it: its controller was killed before the job was saved")


@dataclass(frozen=True, slots=True)
class Row:
    """One job or array task of an answer."""

    id: str  # "123" or "123_4"
    name: str
    word: str
    reason: str
    node: str
    submitted: float
    started: float
    code: int
    signal: int
    restarts: int = 0
    by: str = ""  # who cancelled it

    @property
    def array(self) -> str:
        return self.id.partition("_")[0]

    def belongs_to(self, ref: JobRef) -> bool:
        """Whether it is the job meant, or another that was given the same id."""
        return self.name == ref.name and self.submitted > ref.submitted - CLOCKS_DIFFER

    def state(self, now: float | None = None) -> JobState:
        begin = self.started if self.word == "RUNNING" else self.submitted
        seconds = max(0.0, (time.time() if now is None else now) - begin)
        alive = self.word not in DEAD
        reason = self.reason.replace(" ", "_") if alive and self.reason not in ("None", "N/A", "(null)") else ""
        return JobState(self.word, alive, reason, self.node, seconds, "" if alive else self._cause(), self.restarts)

    def _cause(self) -> str:
        causes = {
            "COMPLETED": "",
            "CANCELLED": "cancelled" + (f" by {self.by}" if self.by else ""),
            "TIMEOUT": "its time limit was reached",
            "DEADLINE": "its deadline passed",
            "OUT_OF_MEMORY": "killed for memory",
            "NODE_FAIL": f"node {self.node or '?'} failed",
            "BOOT_FAIL": f"node {self.node or '?'} did not boot",
            "PREEMPTED": "preempted and not queued again",
        }
        if self.word in causes:
            return causes[self.word]
        killer = self.signal or max(0, self.code - 128)  # a shell says 128 + signal of what it ran
        if killer == 9:
            return "killed by signal 9, as SLURM does when a job takes more memory than it asked for"
        if killer:
            return f"killed by signal {killer}"
        return f"exit code {self.code}" if self.code else self.reason or self.word.lower()


def squeue_rows(answer: str) -> Iterator[Row]:
    """Of `squeue -O` with SQUEUE_FIELDS, each followed by `|`, times in seconds."""
    for line in answer.splitlines():
        values = line.rstrip().split("|")
        if len(values) <= len(SQUEUE_FIELDS):
            continue
        id_, name, word, reason, node, submitted, started, status, restarts = values[: len(SQUEUE_FIELDS)]
        raw = int(status) if status.isdigit() else 0
        yield Row(id_, name, word, reason, node, _epoch(submitted), _epoch(started), raw >> 8, raw & 0x7F,
                  int(restarts) if restarts.isdigit() else 0)  # fmt: skip


def sacct_rows(answer: str) -> Iterator[Row]:
    """Of `sacct -P` with SACCT_FIELDS, times in seconds; arrays that still wait come as one line, `12_[0-7%2]`."""
    for line in answer.splitlines():
        values = line.split("|")
        if len(values) < len(SACCT_FIELDS):
            continue
        id_, name, word, reason, node, submitted, started, status = values[: len(SACCT_FIELDS)]
        word, _, who = word.partition(" by ")
        code, _, killer = status.partition(":")
        for task in expanded(id_):
            yield Row(task, name, word, reason, "" if node == "None assigned" else node, _epoch(submitted),
                      _epoch(started), _number(code), _number(killer), by=_user(who))  # fmt: skip


def log_rows(lines: Iterable[str]) -> Iterator[Row]:
    """Of the job-completion log (jobcomp/filetxt), in the order in which jobs ended; a requeued job has several."""
    for line in lines:
        has = dict(re.findall(r"(\w+)=(\S*)", line))
        code, _, killer = has.get("ExitCode", "").partition(":")
        task = has.get("ArrayTaskId", "")
        id_ = f"{has['ArrayJobId']}_{task}" if task.isdigit() and has.get("ArrayJobId") else has.get("JobId", "")
        submitted, started = _iso(has.get("SubmitTime", "")), _iso(has.get("StartTime", ""))
        yield Row(id_, has.get("Name", ""), has.get("JobState", ""), "", has.get("NodeList", ""), submitted, started,
                  _number(code), _number(killer))  # fmt: skip


def newest(rows: Iterable[Row], refs: Mapping[str, JobRef]) -> dict[str, Row]:
    """The last row of each task that belongs to one of the refs (by id)."""
    found: dict[str, Row] = {}
    for row in rows:
        ref = refs.get(row.array)
        if ref is None or not row.belongs_to(ref):
            continue
        if row.id not in found or row.submitted >= found[row.id].submitted:
            found[row.id] = row
    return found


def expanded(id_: str) -> list[str]:
    """`12_[0,4-6%2]` to `12_0`, `12_4`, `12_5`, `12_6`; anything else as it is."""
    job, bracket, inner = id_.partition("_[")
    if not bracket:
        return [id_]
    tasks: list[str] = []
    for part in re.sub(r"%.*|\]", "", inner).split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if match:
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            tasks += [f"{job}_{index}" for index in range(first, last + 1, step)]
    return tasks


def _epoch(text: str) -> float:
    return float(text) if text.isdigit() else 0.0


def _iso(text: str) -> float:
    """The log's times are the controller's local ones."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0.0


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _user(uid: str) -> str:
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        return f"user {uid}" if uid else ""
