"""Everything that is asked of SLURM or told to it; the only module that runs its commands (submitit runs sbatch).

Every command has a wall-clock limit: SLURM's clients try for 10 to 30 s when the controller is away, and some
retry for each line they are given. A cluster that does not answer is no reason to think that a job has ended.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from xling.errors import ConfigError, XlingError
from xling.grid import files
from xling.grid.host import Process, this_process
from xling.runners.slurm.limits import Limits, parse_limits

# --- reading the answers of squeue, sacct and the job-completion log -----------------------------------------
# Seen on 22.05: squeue alone knows what lives. sacct shows a requeued job as NODE_FAIL until it starts again, a job
# that a killed controller has forgotten as PENDING for ever, and calls a young job `allocation`; it is asked only
# for jobs that squeue knows no more.

DEAD = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL",
                  "OUT_OF_MEMORY", "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"})  # fmt: skip
REQUEUED = frozenset({"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REQUEUED"})  # in sacct: may be alive again
MAY_LIVE = REQUEUED | {"GONE"}  # of a job of somebody else's, where jobs are private
CLOCKS_DIFFER = 3600.0  # seconds; a job of ours that is older than its submission is not ours
SQUEUE_FIELDS = ("JobArrayID", "Name", "State", "Reason", "NodeList", "SubmitTime", "StartTime", "exit_code",
                 "RestartCnt")  # fmt: skip
SACCT_FIELDS = ("JobID", "JobName", "State", "Reason", "NodeList", "Submit", "Start", "ExitCode")


class JobRef(msgspec.Struct, frozen=True):
    """An array as SLURM knows it."""

    id: str
    name: str
    submitted: float  # seconds since the epoch
    cluster: str = ""  # its name; another one knows nothing of the job


class JobState(msgspec.Struct, frozen=True):
    """A task of an array as SLURM sees it."""

    state: str  # SLURM's word; GONE if a cluster that answers knows nothing of it
    alive: bool
    reason: str = ""  # why it waits, in SLURM's word (Dependency, Resources, ...)
    node: str = ""
    seconds: float = 0.0  # running: since its start; waiting: since it was submitted
    cause: str = ""  # dead: a clause fit for a failure record
    restarts: int = 0
    code: int = 0  # exit code


# A job of ours that SLURM will not start by itself: held by hand, or by SLURM after its start had failed (a broken
# node or prolog, a controller that was killed before it had written down that the job runs).
HELD = ("JobHeldUser", "launch_failed_requeued_held")

NEVER = "DependencyNeverSatisfied"  # of a job that SLURM has cancelled, or will, since one that it needs has failed

GONE = JobState("GONE", alive=False, cause="SLURM has forgotten it")
ELSEWHERE = JobState("UNKNOWN", alive=True, reason="OtherCluster")
UNTOLD = JobState("UNKNOWN", alive=True, reason="ControllerAway")  # accounting hears of a job some seconds late
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
        said = self.reason == NEVER or (alive and self.reason not in ("None", "N/A", "(null)"))
        reason = self.reason.replace(" ", "_") if said else ""
        cause = "" if alive else self._cause()
        return JobState(self.word, alive, reason, self.node, seconds, cause, self.restarts, self.code)

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
        if killer == NO_OUTPUT:
            return "SLURM could not open the files that its output goes to"
        if killer:
            return f"killed by signal {killer}{SIGNALS.get(killer, '')}"
        return f"exit code {self.code}{CODES.get(self.code, '')}" if self.code else self.reason or self.word.lower()


NO_OUTPUT = 53  # SLURM's word, no signal
SIGNALS: dict[int, str] = {
    signal.SIGILL: " (SIGILL: the node's processor lacks what a program was built for)",
    signal.SIGABRT: " (SIGABRT: a library gave up)",
    signal.SIGBUS: " (SIGBUS: often /dev/shm or a disk is full)",
    signal.SIGKILL: ", as SLURM does when a job takes more memory than it asked for",
    signal.SIGSEGV: " (SIGSEGV: a crash in compiled code)",
    signal.SIGTERM: " (SIGTERM)",
    signal.SIGXCPU: " (SIGXCPU: the node's limit of CPU time, `ulimit -t`)",
    signal.SIGXFSZ: " (SIGXFSZ: the node's limit of a file's size, `ulimit -f`)",
    signal.SIGUSR2: " (SIGUSR2: the warning before a time limit or a preemption)",
}
CODES = {126: " (a program that cannot be run there)", 127: " (a program that is not there)"}


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
    """Of `sacct -P` with SACCT_FIELDS, times in seconds."""
    for line in answer.splitlines():
        values = line.split("|")
        if len(values) < len(SACCT_FIELDS):
            continue
        id_, name, word, reason, node, submitted, started, status = values[: len(SACCT_FIELDS)]
        word, _, uid = word.partition(" by ")
        who = files.user_name(int(uid)) if uid.isdigit() else ""
        code, _, killer = status.partition(":")
        yield Row(id_, name, word, reason, "" if node == "None assigned" else node, _epoch(submitted),
                  _epoch(started), _number(code), _number(killer), by=who)  # fmt: skip


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
    """The last row of each task that belongs to one of the refs (by id); tasks that wait share one, `12_[0-7%2]`."""
    found: dict[str, Row] = {}
    for row in rows:
        ref = refs.get(row.array)
        if ref is None or not row.belongs_to(ref):
            continue
        for task in expanded(row.id):
            if task not in found or row.submitted >= found[task].submitted:
                found[task] = row
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


# --- asking: commands are run from here on ------------------------------------------------------------------

SECONDS = 25.0  # for a query: longer than MessageTimeout (10 s) and one retry
LOG_BYTES = 64_000_000  # of the end of the job-completion log
COMMANDS = 250  # to one scontrol: so many take a second, and half a minute where others keep the controller busy
AT_ONCE = 500  # ids on one command line
FILTERS = ("SQUEUE_", "SACCT_", "SINFO_", "SCANCEL_", "SCONTROL_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")


class ClusterError(XlingError):
    """A SLURM command failed, or did not answer within its time."""


class Unreachable(ClusterError):
    """The controller, or the accounting daemon, does not answer."""


# --- is there a cluster, and what does it allow -----------------------------------------------------------


def require() -> None:
    """ConfigError if this machine has no SLURM; `Unreachable` if its controller does not answer."""
    lacking = [name for name in ("sbatch", "squeue", "scontrol", "scancel") if shutil.which(name) is None]
    if lacking:
        raise ConfigError(
            f"There is no SLURM on this machine: '{lacking[0]}' is not in PATH. hydra/launcher=slurm works on a login "
            "node of a cluster; without it, or with hydra/launcher=local, the grid runs here."
        )
    named = os.environ.get("SLURM_CONF")
    if named and not os.path.exists(named):  # SLURM's commands would wait for it for a minute
        raise ConfigError(f"SLURM_CONF={named}: there is no such file. Unset it, or name the cluster's slurm.conf.")
    answer = _run(["scontrol", "ping"], check=False)
    if " is UP" in answer.stdout:
        return
    if "configuration source" in answer.stderr or "slurm.conf" in answer.stderr:
        raise ConfigError(
            f"SLURM is installed here but belongs to no cluster ({_last_line(answer.stderr)}). Go to a login node, "
            "or set SLURM_CONF to the cluster's slurm.conf; hydra/launcher=local runs the grid here."
        )
    raise Unreachable(
        "SLURM's controller does not answer (scontrol ping). Nothing was submitted; type the same command again "
        "when `sinfo` works, or hydra/launcher=local to run here."
    )


def limits() -> Limits:
    """Partitions, nodes, QOS and accounts of the cluster, asked for now. Three commands, five with accounting."""
    config = _configuration()
    partitions = _run(["scontrol", "-o", "show", "partition"]).stdout
    nodes = _run(["sinfo", "-h", "-a", "-e", "-o", "%R|%D|%c|%m|%G|%f"]).stdout
    qos = accounts = None
    if "slurmdbd" in config.get("AccountingStorageType", ""):
        me = ["show", "user", os.environ.get("USER") or str(os.getuid()), "withassoc"]
        here = f"cluster={config.get('ClusterName', '')}"
        try:
            qos = _run(["sacctmgr", "-nP", "show", "qos", "format=name,MaxSubmitPU,GrpSubmit,MinTRES"]).stdout
            fields = "format=account,MaxSubmit,GrpSubmit,DefaultQOS,DefaultAccount"
            accounts = _run(["sacctmgr", "-nP", *me, here, fields]).stdout
        except ClusterError:
            pass  # SLURM itself will refuse them
    return parse_limits(config, partitions, nodes, qos, accounts)


# --- jobs -------------------------------------------------------------------------------------------------


def states(refs: Sequence[JobRef], tasks: Collection[str] | None = None) -> dict[str, JobState] | None:
    """How the tasks of arrays stand, by id ("123_4"). None: the cluster does not answer, so all may be alive.

    One squeue for all. sacct (or the job-completion log) is asked beside it only for tasks that squeue knows no
    more, or that were cancelled, by whom. `tasks`: those that matter; of them, who is unknown everywhere is GONE, but
    alive while only accounting answers. Without `tasks`, the history of all is asked for, and a task that is not in the
    answer is GONE.
    """
    if not refs:
        return {}
    by_id = {ref.id: ref for ref in sorted(refs, key=lambda ref: ref.submitted)}  # of an id given twice, the later
    rows = _queued(by_id)
    now = rows or {}
    open_ = {task for task in tasks if task not in now} if tasks is not None else set(by_id)
    elsewhere = _elsewhere(open_, by_id) if rows is not None else set()
    open_ -= elsewhere
    by_whom = {id_ for id_, row in now.items() if row.word == "CANCELLED" and row.reason != NEVER}
    open_ |= by_whom if tasks is None else by_whom & set(tasks)
    before = _history({task.partition("_")[0] for task in open_}, by_id) if open_ else {}
    if rows is None and before is None:
        return None
    found = {id_: _last_seen(row) if rows is None else _ended(row) for id_, row in (before or {}).items()}
    told: dict[str, JobState] = {}  # by the id of a row
    for id_, row in now.items():
        if id_ not in by_whom or found.get(id_, GONE).state != "CANCELLED":
            if row.id not in told:
                told[row.id] = row.state()
            found[id_] = told[row.id]
    for task in tasks or ():  # what was left of an array when it was cancelled is told by the array's id alone
        unknown = UNTOLD if rows is None else ELSEWHERE if task in elsewhere else GONE
        found.setdefault(task, unknown if task in elsewhere else found.get(task.partition("_")[0], unknown))
    return found


def _elsewhere(tasks: Collection[str], by_id: Mapping[str, JobRef]) -> set[str]:
    """Those that were submitted to another cluster than the one that answers here: it cannot know of them."""
    if not any(by_id[task.partition("_")[0]].cluster for task in tasks):
        return set()
    here = name()
    return {task for task in tasks if by_id[task.partition("_")[0]].cluster not in ("", here)}


def name() -> str:
    """Of the cluster whose commands these are; empty if it does not answer."""
    try:
        return _configuration().get("ClusterName", "")
    except ClusterError:
        return ""


def hides_jobs() -> bool:
    """Whether users see nothing of each other's jobs here (PrivateData), or that cannot be asked."""
    try:
        return "jobs" in _configuration().get("PrivateData", "").split(",")
    except ClusterError:
        return True


def _configuration() -> dict[str, str]:
    """slurm.conf by name."""
    parts = (line.partition("=") for line in _run(["scontrol", "show", "config"]).stdout.splitlines())
    return {name.strip(): value.strip() for name, _, value in parts}


def _queued(by_id: Mapping[str, JobRef]) -> dict[str, Row] | None:
    """Jobs that squeue knows: living ones, and those that ended within MinJobAge. None if it does not answer."""
    fields = ",".join(f"{name}:|" for name in SQUEUE_FIELDS)
    try:
        answer = _run(["squeue", "-h", "-a", "-t", "all", "-O", fields, "-j", ",".join(by_id)], check=False)
    except ClusterError:  # away, or this machine has no SLURM and only shares the folder
        return None
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    return newest(squeue_rows(answer.stdout), by_id)


def _history(ids: Collection[str], by_id: Mapping[str, JobRef]) -> dict[str, Row] | None:
    """Jobs from accounting, or from the log of completed jobs; None if there is neither."""
    fields = ",".join(SACCT_FIELDS)
    try:
        answer = _run(["sacct", "-X", "-D", "-n", "-P", "-o", fields, "-j", ",".join(sorted(ids))])
        return newest(sacct_rows(answer.stdout), by_id)
    except Unreachable:
        return None
    except ClusterError:  # accounting is off
        return _logged(by_id)


def accounted(refs: Sequence[JobRef]) -> dict[str, tuple[float, float]] | None:
    """By task ("123_4"), over all its turns: seconds, and seconds times GPUs (0 if they are not accounted for).

    None where there are no accounts.
    """
    by_id, found = {ref.id: ref for ref in refs}, dict[str, tuple[float, float]]()
    if not by_id:
        return found
    fields = "JobID,JobName,Submit,ElapsedRaw,AllocTRES"
    try:
        answer = _run(["sacct", "-X", "-D", "-n", "-P", "-o", fields, "-j", ",".join(by_id)])
    except ClusterError:
        return None
    for line in answer.stdout.splitlines():
        id_, name, submitted, elapsed, given = [*line.split("|"), *[""] * 5][:5]
        ref = by_id.get(id_.partition("_")[0])
        if ref is not None and Row(id_, name, "", "", "", _epoch(submitted), 0.0, 0, 0).belongs_to(ref):
            gpus = re.search(r"gres/gpu=(\d+)", given)
            seconds, gpu_seconds = found.get(id_, (0.0, 0.0))
            more = float(_number(elapsed))
            found[id_] = (seconds + more, gpu_seconds + more * (int(gpus[1]) if gpus else 0))
    return found


def _logged(by_id: Mapping[str, JobRef]) -> dict[str, Row] | None:
    try:
        facts = _configuration()
    except ClusterError:
        return None
    if facts.get("JobCompType") != "jobcomp/filetxt":
        return None
    try:
        with open(facts["JobCompLoc"], "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
            names = {f"Name={ref.name} " for ref in by_id.values()}
            lines = [line for line in file.read().decode(errors="replace").splitlines() if _names_one(line, names)]
    except (OSError, KeyError):
        return None
    return newest(log_rows(lines), by_id)


def _names_one(line: str, names: Collection[str]) -> bool:
    start = line.find(" Name=") + 1
    return line[start : line.find(" ", start) + 1] in names


def _ended(row: Row) -> JobState:
    """The state of a job that squeue does not know: whatever the books say, it does not live."""
    state = row.state()
    return LOST if state.alive else state


def _last_seen(row: Row) -> JobState:
    """While the controller is away: what accounting saw last. A job that can be requeued may be by now."""
    state = row.state()
    if row.word in REQUEUED:
        return JobState(row.word, alive=True, node=row.node, reason="ControllerAway")
    return JobState(row.word, True, "ControllerAway", row.node, state.seconds) if state.alive else state


def mine() -> tuple[dict[str, str], int]:
    """Names and (array) ids of all that this user has in the queue, and how many jobs that is."""
    answer = _run(["squeue", "--me", "-h", "-a", "-O", "ArrayJobID:|,Name:|,JobArrayID:|"]).stdout
    rows = [line.split("|") for line in answer.splitlines() if line.count("|") >= 3]
    return {name: id_ for id_, name, *_ in rows}, sum(len(expanded(row[2])) for row in rows)


def details(id_: str) -> dict[str, str] | None:
    """All that the controller knows of one job, by its own names; {} if it knows none; None: it does not answer."""
    try:
        answer = _run(["scontrol", "-o", "show", "job", id_], seconds=10, check=False)
    except ClusterError:  # away, or this machine has no SLURM and only shares the folder
        return None
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    return dict(word.split("=", 1) for word in answer.stdout.split() if "=" in word)


def may_live(by: Process) -> bool:
    """Whether a process of a job may run now, its heartbeat apart.

    One may of which the controller tells nothing: the job is another user's or cluster's, or forgotten.
    """
    if by.cluster and by.cluster != (this_process().cluster or name()):
        return True
    told = details(by.slurm) if by.slurm else None
    return not told or told.get("JobState") in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING")


def seconds_in(details: Mapping[str, str], name: str) -> float | None:
    """A length of time among `details`, such as TimeLimit; None if it is not there, or unlimited."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", details.get(name, ""))
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(days * 86400 + hours * 3600 + minutes * 60 + seconds)


def hostnames(expression: str) -> list[str]:
    """`n[1-3]` to n1, n2, n3; none if SLURM does not answer."""
    try:
        return _run(["scontrol", "show", "hostnames", expression], seconds=10).stdout.split() if expression else []
    except ClusterError:
        return []


# --- what changes jobs ------------------------------------------------------------------------------------


def scontrol(commands: Sequence[str], seconds: float = 60.0) -> list[str]:
    """Many commands, a few hundred through one process; its complaints, none if all went well.

    seconds: for each process. A controller that is busy with others gets a second chance, so that no command may do
    harm when it is given twice.
    """
    complaints = []
    for first in range(0, len(commands), COMMANDS):
        text = "".join(f"{command}\n" for command in commands[first : first + COMMANDS])
        try:
            answer = _run(["scontrol"], seconds, check=False, stdin=text)
        except Unreachable:
            answer = _run(["scontrol"], seconds, check=False, stdin=text)
        lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
        if any(_is_away(line) for line in lines):
            raise Unreachable(f"SLURM's controller went away while jobs were being changed: {lines[-1]}.")
        complaints += lines
    return complaints


def update_dependencies(edges: Mapping[str, str]) -> list[str]:
    """{"124_4": "afterany:123_0:123_7"}; a task cannot wait for another of its own array."""
    return scontrol([f"update JobId={id_} Dependency={condition}" for id_, condition in edges.items()])


def release(ids: Iterable[str]) -> list[str]:
    """Let held arrays ("123", with all their tasks) or tasks ("123_4") go."""
    return scontrol([f"release {id_}" for id_ in ids])


# SLURM ends a job's processes as soon as it is queued again, and with them whoever was to say what it has to wait for:
# scontrol ignores the first signal, and is done before the second. A job that cannot be told stays held, else it would
# start again and again.
REQUEUE = """trap '' TERM
if [ -z "$2" ]; then exec scontrol requeue "$1"; fi
scontrol requeuehold "$1" && scontrol update JobId="$1" "$2" && scontrol release "$1"
"""


def requeue(id_: str, until: str = "") -> None:
    """Put a running task back into the queue; until: "Dependency=afterany:123:124", or "StartTime=now+600"."""
    answer = _run(["sh", "-c", REQUEUE, "requeue", id_, until], seconds=60, check=False)
    if answer.returncode:
        kind = Unreachable if _is_away(answer.stderr) else ClusterError
        raise kind(f"Job {id_} could not be queued again: {_last_line(answer.stderr)}.")


def cancel(ids: Sequence[str], pending_only: bool = False, name: str = "") -> None:
    """Cancel arrays or tasks; with `name`, only those that have it. Ids that SLURM does not know are no error.

    ClusterError if SLURM refuses any of them.
    """
    options = ["--quiet", *(["--state=PENDING"] if pending_only else []), *([f"--name={name}"] if name else [])]
    for first in range(0, len(ids), AT_ONCE):
        answer = _run(["scancel", *options, *ids[first : first + AT_ONCE]], seconds=60, check=False)
        if answer.returncode and answer.stderr.strip():  # of jobs that have ended it says nothing, but fails
            kind = Unreachable if _is_away(answer.stderr) else ClusterError
            raise kind(f"SLURM does not cancel {len(ids)} of the jobs: {_last_line(answer.stderr)}.")


# --- commands ---------------------------------------------------------------------------------------------


def _run(
    command: Sequence[str], seconds: float = SECONDS, check: bool = True, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one command. `Unreachable` if it is not done within so many seconds of wall clock."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, errors="replace",
                              timeout=seconds, env=_environment())  # fmt: skip
    except FileNotFoundError as error:
        raise ClusterError(f"There is no '{command[0]}' on this machine.") from error
    except subprocess.TimeoutExpired as error:
        raise Unreachable(f"SLURM's `{command[0]}` did not answer within {seconds:.0f} s.") from error
    if check and done.returncode:
        kind = Unreachable if _is_away(done.stderr) else ClusterError
        raise kind(f"`{' '.join(command[:3])}` failed: {_last_line(done.stderr or done.stdout)}.")
    return done


def _is_away(complaint: str) -> bool:
    signs = ("Unable to contact", "Unexpected message", "Connection refused", "Problem talking to the database",
             "timed out", "temporarily unable")  # fmt: skip
    return any(sign in complaint for sign in signs)


def _environment() -> dict[str, str]:
    """Without the user's own filters and formats; times in seconds since the epoch, array expressions whole."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FILTERS)}
    return {**kept, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}


def _last_line(text: str) -> str:
    lines = [line.strip().rstrip(".") for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
