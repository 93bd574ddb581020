"""Settings of `hydra/launcher=slurm`: resources by the submitit launcher plugin's names, and how jobs behave.

hydra.launcher.partition=gpu hydra.launcher.timeout_min=240        # for all stages
hydra.launcher.stages.align.timeout_min=600                        # for one kind of stage
"""

import grp
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from xling.config.common import NonNegative, Positive, PositiveFloat, check_names, converted
from xling.errors import ConfigError, did_you_mean
from xling.grid.stage import RESERVED, Kind, Memory, fits
from xling.runners import HERE

REDUCE = "reduce"  # the job that folds what is complete: resources as for a kind of stage

T = TypeVar("T", bound=Struct)


class Resources(Struct, frozen=True, omit_defaults=True):
    """Resources that one job requests; None leaves one to the cluster."""

    partition: str | None = None
    timeout_min: Positive = 60
    mem_gb: PositiveFloat | None = None  # a node
    gpus_per_node: NonNegative | None = None
    gpu_mem_gb: PositiveFloat | None = None  # of one of those GPUs; asked of nobody: what takes more is refused
    cpus_per_task: Positive | None = 1
    nodes: Positive = 1
    tasks_per_node: Positive = 1
    array_parallelism: Positive = 256  # jobs of one array that run at once
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    cpus_per_gpu: Positive | None = None
    gpus_per_task: Positive | None = None
    comment: str | None = None
    signal_delay_s: Positive = 90  # warning before the time limit: so long has a stage to leave a checkpoint
    max_num_timeout: NonNegative = 5  # time limits after which a stage goes on; the next one is a failure
    additional_parameters: dict[str, Any] = {}  # any other option of sbatch: {"mail-type": "FAIL"}
    setup: tuple[str, ...] = ()  # shell lines before Python starts

    @property
    def processes(self) -> int:
        return self.nodes * self.tasks_per_node


class Slurm(Struct, frozen=True, tag_field="name", tag="slurm"):
    """Resources for all stages, those of kinds that differ, and how jobs are made and waited for."""

    common: Resources = Resources()
    stages: dict[str, Resources] = {}  # by kind, whole: what is not overridden is as in `common`
    cpu: Resources | None = None  # of what computes on no GPU, the reducer too: without any. None: as all others
    light: dict[str, Resources] = {}  # of those, by kind
    pack_minutes: Annotated[float, Meta(ge=0.0)] = (
        0.1  # predicted stages shorter than this share a job; 0: each has its own
    )
    pilots: Positive | None = None  # jobs that take stages as they become ready; None: a job for each
    pilot_stages: Positive | None = None  # at once in each; None: one a GPU, else as cores and memory allow
    max_submit: Annotated[int, Meta(ge=2)] | None = None  # jobs in the queue; None: what QOS, account and cluster allow
    max_running: Positive | None = None  # jobs of the grid that run at once, whatever array they are in
    late_seconds: Annotated[float, Meta(ge=0.0)] = 60.0  # so long may a shared folder take to show a finished file
    poll_seconds: PositiveFloat = 5.0  # between two looks at the cluster, in `xling status --watch` and wait=true
    claim_timeout_s: Annotated[float, Meta(ge=1.0, le=1e6)] = (
        180.0  # without a heartbeat, after which a runner counts as dead
    )
    python: str | None = None  # shell words that start Python in a job, as in a container; None: the one that submits
    snapshot: bool = True  # jobs run a copy of the code as it was when they were submitted
    wait: bool = False
    threads: Positive = 1  # torch threads a process

    def of(self, kind: str, gpu: bool = True) -> Resources:
        """gpu: whether it is for stages of the kind that compute on one (Kind.gpu)."""
        own = self.stages.get(kind, self.common)
        return own if self.cpu is None or (gpu and kind != REDUCE) else self.light.get(kind, self.cpu)

    def where(self, kind: str, gpu: bool = True) -> str:
        """The path of the settings of `of`, where they are typed."""
        if kind in self.stages:
            return f"{HERE}.stages.{kind}"
        return HERE if gpu or self.cpu in (None, self.common) else f"{HERE}.cpu"

    def side_by_side(self, asked: Resources) -> int:
        """Stages that a pilot with these resources runs at once, as far as the settings say."""
        return self.pilot_stages or gpus_of(asked) or max(1, (asked.cpus_per_task or 1) // self.threads)


RESOURCES = Resources.__struct_fields__
OWN = tuple(name for name in Slurm.__struct_fields__ if name not in ("common", "light"))


def read(values: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Slurm:
    """Check plain values as they stand in conf/hydra/launcher/slurm.yaml; ConfigError names the first bad one.

    kinds: the catalogue's, so that an override for another stage is refused. Stages that cannot run in several
    processes have one, unless just that is asked for, which is refused.
    """
    settings = _read(values, [*kinds, REDUCE])
    _check_pilots(settings)
    single: dict[str, Resources] = {}
    light: dict[str, Resources] = {}
    for kind in [*kinds, REDUCE]:
        able = kind in kinds and kinds[kind].parallel
        for gpu, found in ((True, single), (False, light)):
            wanted = settings.of(kind, gpu)
            if wanted.processes == 1 or able:
                continue
            if kind in settings.stages and wanted.processes != settings.common.processes:
                names = ", ".join(name for name, one in kinds.items() if one.parallel)
                raise ConfigError(
                    f"{HERE}.stages.{kind}: {wanted.nodes} nodes with {wanted.tasks_per_node} processes each, "
                    f"but '{kind}' runs in one process. Several processes can be given to: {names}."
                )
            found[kind] = msgspec.structs.replace(wanted, nodes=1, tasks_per_node=1)
    given = msgspec.structs.replace(settings, stages={**settings.stages, **single}, light={**settings.light, **light})
    several = [kind for kind in kinds if given.of(kind).processes > 1]
    if several and settings.python is not None and words_of(settings.python)[0] == "srun":
        raise ConfigError(
            f"{HERE}.python={settings.python}: srun starts Python as a step that has all of the job's memory, so that "
            f"SLURM has none for the steps of {', '.join(several)}, which are to have several processes "
            f"(tasks_per_node, nodes). Give them one, or leave out python or start it by another program than srun."
        )
    return given


def _read(values: Mapping[str, Any], kinds: Sequence[str]) -> Slurm:
    check_names(values, (*RESOURCES, *OWN), HERE)
    shared = {name: value for name, value in values.items() if name in RESOURCES}
    own = {name: value for name, value in values.items() if name in OWN and name not in ("stages", "cpu")}
    common = _asked(_read_values(Resources, shared, HERE), HERE)
    by_gpu = _memory(common) / 1024 if common.mem_per_gpu and not common.mem_gb else 0.0  # 0: of no GPU
    memory = {"mem_gb": by_gpu} if by_gpu else {}
    bare = msgspec.convert({**_without_gpus(msgspec.to_builtins(common)), **memory}, Resources)
    cpu = _special(bare, values.get("cpu"), f"{HERE}.cpu")
    stages = _mapping(values.get("stages"), f"{HERE}.stages")
    for kind in stages:
        if kind not in kinds:
            allowed = ", ".join(kinds)
            raise ConfigError(
                f"{HERE}.stages.{kind}: there is no stage '{kind}'. Stages: {allowed}.{did_you_mean(kind, kinds)}"
            )
    special = {kind: _special(common, given, f"{HERE}.stages.{kind}") for kind, given in stages.items()}
    light = {
        kind: _special(cpu, _without_gpus(_mapping(given, "")), f"{HERE}.stages.{kind}")
        for kind, given in stages.items()
    }
    rest = _read_values(Slurm, own, HERE)
    if rest.python is not None:
        words_of(rest.python)
    return msgspec.structs.replace(rest, common=common, stages=special, cpu=cpu, light=light)


def _check_pilots(settings: Slurm) -> None:
    """ConfigError for settings of pilots that contradict each other, or that those of kinds of stages contradict."""
    asked, pilots = settings.common, f"{HERE}.pilots={settings.pilots}"
    if settings.pilots is None:
        if settings.pilot_stages is not None:
            raise ConfigError(f"{HERE}.pilot_stages={settings.pilot_stages}: of which pilots? Type {HERE}.pilots=N.")
        return
    if asked.processes > 1:
        raise ConfigError(
            f"{pilots}: a pilot has one node, and runs each stage in one process, but nodes={asked.nodes} and "
            f"tasks_per_node={asked.tasks_per_node} are asked for. Leave them out, or {HERE}.pilots."
        )
    if settings.max_running is not None and settings.max_running < settings.pilots:
        raise ConfigError(
            f"{pilots}: {HERE}.max_running={settings.max_running} allows no more jobs at once. "
            f"Type {HERE}.pilots={settings.max_running}."
        )
    for kind, special in settings.stages.items():
        other = [name for name in RESOURCES if getattr(special, name) != getattr(asked, name)]
        if other and kind != REDUCE:
            raise ConfigError(
                f"{HERE}.stages.{kind}.{other[0]}={getattr(special, other[0])}: with {pilots} all stages run in the "
                f"same jobs, and none but '{REDUCE}' has resources of its own. Type {HERE}.{other[0]}=... for all, or "
                f"leave out {HERE}.pilots."
            )
    gpus = gpus_of(asked)
    if settings.pilot_stages is not None and settings.pilot_stages < gpus:
        raise ConfigError(
            f"{HERE}.pilot_stages={settings.pilot_stages}: a pilot has {gpus} GPUs and runs one stage on each, so that "
            f"some would stand idle. Type {HERE}.pilot_stages={gpus}, or ask for fewer GPUs."
        )


def check_shared_gpus(settings: Slurm, needs: Mapping[str, tuple[str, Memory]]) -> None:
    """ConfigError if stages that run side by side on a GPU of known size do not fit; needs: plan.needs_of."""
    gpus, size = gpus_of(settings.common), settings.common.gpu_mem_gb
    if not gpus or size is None or settings.pilot_stages is None:
        return
    label, memory = max(needs.values(), key=lambda one: one[1].gib, default=("", None))
    side = -(-settings.pilot_stages // gpus)
    if memory is not None and side > 1 and not _fit(side, memory.gib, size):
        most = next((number for number in range(side, 1, -1) if _fit(number, memory.gib, size)), 1)
        raise ConfigError(
            f"{HERE}.pilot_stages={settings.pilot_stages}: that is {side} stages on a GPU of {size:g} GB, and {label} "
            f"takes up to {memory.gib:,.0f}. Type {HERE}.pilot_stages={most * gpus}, or give stages less "
            "(policy.sampling_memory=GB)."
        )


def _fit(stages: int, gib: float, gpu: float) -> bool:
    return fits(stages * gib + (stages - 1) * RESERVED, gpu)


def _without_gpus(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for by name, but for GPUs and what goes by their number."""
    left = {name: value for name, value in values.items() if name not in GPUS}
    if left.get("gres"):
        words = str(left["gres"]).split(",")
        left["gres"] = ",".join(word for word in words if not re.match(r"(gres[/:])?gpu\b", word)) or None
    if isinstance(more := left.get("additional_parameters"), Mapping):
        left["additional_parameters"] = {name: value for name, value in more.items() if not _is_of_gpus(name, value)}
    return left


def _is_of_gpus(option: str, value: Any) -> bool:
    word = option.replace("_", "-").strip("-")
    return word.startswith("gpu") or (word.startswith("tres-per") and "gpu" in str(value))


def _special(common: Resources, given: Any, path: str) -> Resources:
    given = _mapping(given, path)
    check_names(given, RESOURCES, path)
    more = {**common.additional_parameters, **_mapping(given.get("additional_parameters"), path)}
    values = {**msgspec.to_builtins(common), **given, "additional_parameters": more}
    return _asked(_read_values(Resources, values, path), path)


def words_of(command: str) -> list[str]:
    """A command that starts Python, as words; ConfigError unless it is one."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"{HERE}.python={command} cannot be read: {error}. {EXAMPLE}") from error
    if not words:
        raise ConfigError(f"{HERE}.python= names no program. {EXAMPLE}")
    return words


EXAMPLE = f"Type \"{HERE}.python='apptainer exec --nv IMAGE.sif python'\", or leave it out."


def _asked(asked: Resources, path: str) -> Resources:
    """ConfigError for what could not work on any cluster."""
    for option in asked.additional_parameters:
        word = option.replace("_", "-").strip("-")
        if word in TYPED:
            raise ConfigError(f"{path}.additional_parameters.{option}: that is a setting of its own. "
                              f"Type {path}.{TYPED[word]}=...")  # fmt: skip
        if word in DECIDED:
            raise ConfigError(f"{path}.additional_parameters.{option}: jobs are told apart, put into order and "
                              f"read by what xling gives sbatch as --{word}. Leave it out.")  # fmt: skip
    if asked.signal_delay_s >= asked.timeout_min * 60:
        shorter = max(1, min(90, asked.timeout_min * 30))
        raise ConfigError(
            f"{path}.signal_delay_s={asked.signal_delay_s}: that is no less than timeout_min={asked.timeout_min}, so "
            f"that a job would be told to stop as soon as it starts. Type {path}.signal_delay_s={shorter}, or "
            f"{path}.timeout_min={asked.signal_delay_s // 60 + 1} or more."
        )
    return asked


def _read_values(type_: type[T], values: Mapping[str, Any], path: str) -> T:
    said = {name: value for name, value in values.items() if value is not None or name not in NULL_IS_NONE}
    return converted(type_, said, path, EXAMPLES)


def _mapping(value: Any, path: str) -> dict[str, Any]:
    if value is None or isinstance(value, Mapping):
        return {str(key): entry for key, entry in (value or {}).items()}
    raise ConfigError(f"{path}={value} does not fit: expected settings by name, as in {path}.timeout_min=120.")


TYPED = {"time": "timeout_min", "mem": "mem_gb", "ntasks-per-node": "tasks_per_node", "signal": "signal_delay_s",
         **{name.replace("_", "-"): name for name in (
             "partition", "gpus_per_node", "cpus_per_task", "nodes", "qos", "account", "constraint", "exclude", "gres",
             "mem_per_gpu", "mem_per_cpu", "cpus_per_gpu", "gpus_per_task", "comment")}}  # fmt: skip
GPUS = ("gpus_per_node", "gpu_mem_gb", "mem_per_gpu", "cpus_per_gpu", "gpus_per_task")
DECIDED = ("array", "chdir", "clusters", "dependency", "error", "help", "hold", "input", "job-name",
           "kill-on-invalid-dep", "no-requeue", "ntasks", "open-mode", "output", "parsable", "quiet", "requeue",
           "test-only", "usage", "version", "wait", "wrap")  # fmt: skip
NULL_IS_NONE = ("setup", "additional_parameters")
EXAMPLES = {"partition": "gpu", "setup": "'[module load cuda]'", "exclude": "n1,n2", "qos": "normal", "wait": "true",
            "additional_parameters": "'{mail-type: FAIL}'", "pack_minutes": "5", "timeout_min": "240",
            "max_submit": "200", "python": "python3", "account": "lab", "constraint": "a100", "gres": "gpu:1",
            "mem_per_gpu": "40G", "mem_per_cpu": "4G", "mem_gb": "16", "gpu_mem_gb": "80", "signal_delay_s": "90",
            "comment": "transfer", "snapshot": "true"}  # fmt: skip


# --- what a cluster allows, and whether a request can ever be granted there; cluster.py asks it ------------


@dataclass(frozen=True, slots=True)
class NodeKind:
    """Nodes of a partition that are equal."""

    count: int
    cpus: int
    memory_mb: int
    gpus: int
    features: frozenset[str]
    types: frozenset[str] = frozenset()  # of its GPUs, as the cluster calls them


@dataclass(frozen=True, slots=True)
class Partition:
    name: str
    state: str  # UP; DOWN: queues only; DRAIN and INACTIVE: takes no jobs
    minutes: int | None  # longest time limit; None: unlimited
    nodes: int | None  # of one job
    cpus: int | None  # of one job, a node
    memory_mb: int | None  # of one job, a node
    groups: tuple[str, ...]  # that may use it; none: all
    accounts: tuple[str, ...]
    qos: tuple[str, ...]
    kinds: tuple[NodeKind, ...] = ()
    own_qos: str = ""  # whose limits hold for all its jobs
    memory_of: str = ""  # what a job gets that asks for none goes by: CPU, GPU or Node
    divided: bool = False  # jobs share its nodes, and each has memory of its own

    def most(self, what: Callable[[NodeKind], int]) -> int:
        return max((what(kind) for kind in self.kinds), default=0)


@dataclass(frozen=True, slots=True)
class Limits:
    partitions: Mapping[str, Partition]
    default: str | None
    max_array_size: int  # an array's largest index + 1
    qos: tuple[str, ...] | None  # None: not known
    accounts: tuple[str, ...] | None  # of this user; None: not known or not enforced
    cluster: str = ""  # its name
    submits: Mapping[str, int] = field(default_factory=dict)  # jobs that may be queued at once, by what says so
    usual_qos: str = "normal"
    usual_account: str = ""
    rate: int = 0  # calls that may be made at once where the controller counts them (rl_enable); 0: it does not
    gpu_qos: frozenset[str] = frozenset()  # which take only jobs with GPUs

    def at_once(
        self, wanted: Iterable[tuple[Resources, int]], max_submit: int | None, queued: int = 0
    ) -> tuple[int, str]:
        """Jobs that may be queued at once and what says so; 0: all of these (resources, and how many ask for them).

        queued: jobs of this user's that are there already. A QOS that has room for all that go there limits none.
        """
        jobs = Counter[str]()
        for asked, number in wanted:
            named = (_or_environment(asked.partition, "PARTITION") or self.default or "").split(",")
            own = [self.partitions[name].own_qos for name in named if name in self.partitions]
            words = {f"QOS {name}" for name in (_or_environment(asked.qos, "QOS") or self.usual_qos, *own)}
            words |= {CLUSTER, f"{ACCOUNT} {_or_environment(asked.account, 'ACCOUNT') or self.usual_account}"}
            jobs.update(dict.fromkeys(words, number))
        found = [(most, word) for word, most in self.submits.items() if word in jobs and jobs[word] + queued >= most]
        found += [(max_submit, f"{HERE}.max_submit")] if max_submit else []
        return min(found, default=(0, ""))


def _or_environment(typed: str | None, option: str) -> str | None:
    """What sbatch reads where nothing is typed."""
    return typed or os.environ.get(f"SBATCH_{option}")


CLUSTER, ACCOUNT = "MaxJobCount of the cluster", "MaxSubmitJobs of account"

# --- reading ----------------------------------------------------------------------------------------------


def parse_limits(
    facts: Mapping[str, str], partitions: str, nodes: str, qos: str | None, accounts: str | None
) -> Limits:
    """From `scontrol show config`, `scontrol -o show partition`, `sinfo -e -o '%R|%D|%c|%m|%G|%f'`, sacctmgr.

    qos: `name|MaxSubmitPU|GrpSubmit|MinTRES` a line; accounts: `account|MaxSubmit|GrpSubmit|DefaultQOS|DefaultAccount`.
    """
    kinds: dict[str, list[NodeKind]] = {}
    for line in nodes.splitlines():
        name, count, cpus, memory, gres, features = line.split("|", 5)
        words = frozenset(re.split(r"[,&]", features)) - {"(null)", ""}
        kinds.setdefault(name, []).append(
            NodeKind(
                _number(count) or 0, _number(cpus) or 0, _number(memory) or 0, gpus_in(gres), words, gpu_types(gres)
            )
        )
    found, default = {}, None
    for line in partitions.splitlines():
        has = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" not in has:
            continue
        name = has["PartitionName"]
        found[name] = _partition(name, has, facts, kinds.get(name, []))
        default = name if has.get("Default") == "YES" else default
    enforced = "associations" in facts.get("AccountingStorageEnforce", "")
    return Limits(
        found,
        default,
        _number(facts.get("MaxArraySize", "")) or 1001,
        _first(qos),
        _first(accounts) if enforced else None,
        facts.get("ClusterName", ""),
        _submits(facts, qos, accounts),
        next((row[3] for row in _fields(accounts) if row[3]), "normal"),
        next((row[4] for row in _fields(accounts) if row[4]), ""),
        _rate(facts.get("SlurmctldParameters", "")),
        frozenset(
            row[0] for row in _fields(qos) if gpus_in(row[3]) and "limits" in facts.get("AccountingStorageEnforce", "")
        ),
    )


def _submits(facts: Mapping[str, str], qos: str | None, accounts: str | None) -> dict[str, int]:
    """MaxJobCount counts everybody's jobs, and those that have ended a while ago: half of it may be ours."""
    found = {CLUSTER: max(1, (_number(facts.get("MaxJobCount", "")) or 10000) // 2)}
    enforced = facts.get("AccountingStorageEnforce", "")
    for name, *numbers in (row[:3] for row in _fields(qos)) if "qos" in enforced or "limits" in enforced else ():
        if values := [value for number in numbers if (value := _number(number))]:
            found[f"QOS {name}"] = min(values)
    for name, *numbers in (row[:3] for row in _fields(accounts)) if "limits" in enforced else ():
        word = f"{ACCOUNT} {name}"  # several lines where it has partitions of its own
        if values := [value for number in (*numbers, str(found.get(word, ""))) if (value := _number(number))]:
            found[word] = min(values)
    return found


def _rate(parameters: str) -> int:
    """The bucket of SLURM's limit of calls: so many at once, then two a second as a rule."""
    if not re.search(r"(^|,)rl_enable(,|$)", parameters):
        return 0
    size = re.search(r"rl_bucket_size=(\d+)", parameters)
    return int(size[1]) if size else 30


def _fields(text: str | None) -> list[list[str]]:
    """Lines of sacctmgr -P that name something, each with four fields at least."""
    return [[*line.split("|"), "", "", ""] for line in (text or "").splitlines() if line.partition("|")[0].strip()]


def _partition(name: str, has: Mapping[str, str], facts: Mapping[str, str], kinds: Sequence[NodeKind]) -> Partition:
    select = [has.get("SelectTypeParameters", "NONE"), facts.get("SelectTypeParameters", "")]
    counted = "MEMORY" in select[select[0] == "NONE"].upper() and "linear" not in facts.get("SelectType", "")
    return Partition(
        name, has.get("State", "UP"), minutes_in(has.get("MaxTime", "")), _number(has.get("MaxNodes", "")),
        _number(has.get("MaxCPUsPerNode", "")), _number(has.get("MaxMemPerNode", "")), _allowed(has, "AllowGroups"),
        _allowed(has, "AllowAccounts"), _allowed(has, "AllowQos"), tuple(kinds), "".join(_allowed(has, "QoS")),
        _memory_of(has) or _memory_of(facts), counted and has.get("OverSubscribe") != "EXCLUSIVE",
    )  # fmt: skip


def _memory_of(has: Mapping[str, str]) -> str:
    """What the memory of jobs that ask for none goes by; empty where they get all that a node has."""
    for word in ("CPU", "Node"):
        if (_number(has.get(f"DefMemPer{word}", "")) or 0) > 0:
            return word
    return "GPU" if "DefMemPerGPU=" in has.get("JobDefaults", "") else ""


def _first(text: str | None) -> tuple[str, ...] | None:
    return tuple(sorted({row[0] for row in _fields(text)})) or None


def _allowed(has: Mapping[str, str], key: str) -> tuple[str, ...]:
    value = has.get(key, "ALL")
    return () if value in ("ALL", "(null)", "N/A", "") else tuple(value.split(","))


def _number(text: str) -> int | None:
    """The leading digits (`8+` of unequal nodes, `300 sec`); None where there are none (UNLIMITED)."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def minutes_in(limit: str) -> int | None:
    """`1-00:00:00` to 1440; None for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+)(?::\d+)?", limit)
    if not match:
        return None
    days, hours, minutes = (int(part or 0) for part in match.groups())
    return days * 1440 + hours * 60 + minutes


def gpus_in(gres: str) -> int:
    """GPUs in a gres word: `gpu:a100:4(S:0-1),gpu:v100:2` has 6, `gpu:1g.10gb` one."""
    return sum(count for _, count in _gpu_words(gres))


def gpu_types(gres: str) -> frozenset[str]:
    """Their names in a gres word: `gpu:a100:4(S:0-1),gpu:v100:2` has a100 and v100."""
    return frozenset(name for name, _ in _gpu_words(gres) if name)


def _gpu_words(gres: str) -> Iterator[tuple[str, int]]:
    """The name (a100, a100-80, 1g.10gb, or none) and number of each word that speaks of GPUs; no number is one."""
    for word in re.sub(r"\([^)]*\)", "", gres).split(","):
        if found := re.fullmatch(r"\s*(?:gres[/:])?gpu(?::(?!\d+$)([^:=]+))?(?:[:=](\d+))?\s*", word):
            yield found[1] or "", int(found[2] or 1)


def gpus_as_asked(asked: Resources) -> str:
    """The setting by which a node's GPUs are asked for, `{}` for their number; empty if they follow the processes."""
    if asked.gpus_per_task:
        return ""
    if asked.gpus_per_node or not gpus_in(asked.gres or ""):
        return "gpus_per_node={}"
    words = (
        re.sub(r"^((?:gres[/:])?gpu(?::(?!\d+$)[^:=(]+)?).*", r"\1:{}", word) for word in str(asked.gres).split(",")
    )
    return f"gres={','.join(words)}"


def megabytes(amount: str) -> float:
    """SLURM's memory words: `16G`, `500M`, `2000` (MB)."""
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)B?", amount.strip(), re.IGNORECASE)
    if not match:
        return 0.0
    return float(match[1]) * {"K": 1 / 1024, "M": 1, "": 1, "G": 1024, "T": 1024**2}[match[2].upper()]


# --- refusing ---------------------------------------------------------------------------------------------


def check_resources(resources: Resources, limits: Limits, where: str = "hydra.launcher") -> None:
    """ConfigError with what to type if the cluster could never grant the request; `where` is its override's path."""
    names = _names(resources, limits, where)
    refusals = []
    for name in names:  # several partitions: SLURM takes the first that fits
        try:
            _check_partition(resources, limits.partitions[name], where)
        except ConfigError as error:
            refusals.append(error)
    if len(refusals) == len(names):
        raise refusals[0]
    _check_word(resources.qos, limits.qos, f"{where}.qos", "QOS")
    _check_word(resources.account, limits.accounts, f"{where}.account", "account of yours")
    strict = limits.gpu_qos & {resources.qos or limits.usual_qos, limits.partitions[names[0]].own_qos}
    if strict and not asks_for_gpus(resources):
        raise ConfigError(
            f"QOS {', '.join(strict)} takes only jobs with GPUs, and stages that compute on none ask for none. Type "
            f"{HERE}.cpu.partition=NAME or {HERE}.cpu.qos=NAME of others, or, if there are none that you may use, "
            f"{HERE}.cpu.gpus_per_node=1, so that they hold one."
        )


def _names(resources: Resources, limits: Limits, where: str) -> list[str]:
    known = list(limits.partitions)
    named = _or_environment(resources.partition, "PARTITION")
    if not named:
        if limits.default is None:
            raise ConfigError(
                f"The cluster has no default partition. Type {where}.partition=NAME with one of: {', '.join(known)}."
            )
        return [limits.default]
    names = named.split(",")
    for name in names:
        if name not in limits.partitions:
            raise ConfigError(
                f"{where}.partition={named}: the cluster has no partition '{name}'. "
                f"Partitions: {', '.join(known)}.{did_you_mean(name, known)}"
            )
    return names


def _check_word(value: str | None, known: Sequence[str] | None, path: str, what: str) -> None:
    if value is not None and known is not None and value not in known:
        raise ConfigError(
            f"{path}={value}: the cluster has no {what} '{value}'. There are: {', '.join(known)}."
            f"{did_you_mean(value, known)}"
        )


def _check_partition(asked: Resources, partition: Partition, where: str) -> None:
    name = f"partition {partition.name}"
    if partition.state in ("DRAIN", "INACTIVE"):
        raise ConfigError(f"{where}.partition={partition.name}: {name} takes no jobs now (state {partition.state}).")
    mine = {entry.gr_name for entry in map(_group, os.getgroups()) if entry}
    if partition.groups and os.getuid() and not mine & set(partition.groups):
        raise ConfigError(f"{where}.partition={partition.name}: {name} is for {', '.join(partition.groups)} only.")
    for key, value, allowed in (("account", asked.account, partition.accounts), ("qos", asked.qos, partition.qos)):
        if value is not None and allowed and value not in allowed:
            raise ConfigError(f"{where}.{key}={value}: {name} takes only {', '.join(allowed)}.")
    if partition.minutes is not None and asked.timeout_min > partition.minutes:
        raise ConfigError(
            f"{where}.timeout_min={asked.timeout_min}: {name} allows {partition.minutes} minutes. "
            f"Type {where}.timeout_min={partition.minutes}: training goes on after a time limit."
        )
    if partition.kinds:
        _check_nodes(asked, partition, where)


def _check_nodes(asked: Resources, partition: Partition, where: str) -> None:
    gpus, cpus, memory = gpus_of(asked), _cpus(asked), _memory(asked)
    name = f"partition {partition.name}"
    wanted = frozenset(asked.constraint.split("&")) if asked.constraint else frozenset()
    if any(re.search(r"[^\w.+-]", word) for word in wanted):
        wanted = frozenset()  # SLURM's own grammar of features: left to SLURM
    features = frozenset().union(*(kind.features for kind in partition.kinds))
    for word in sorted(wanted - features):
        shown = ", ".join(sorted(features)) or "none"
        raise ConfigError(
            f"{where}.constraint={asked.constraint}: no node of {name} has the feature '{word}'. "
            f"Features: {shown}.{did_you_mean(word, features)}"
        )
    kinds = [_cut(kind, partition) for kind in partition.kinds if wanted <= kind.features]
    cut = replace(partition, kinds=tuple(kinds))
    for need, what, key, unit in (
        (gpus, lambda kind: kind.gpus, _said(asked, "gpus_per_node", "gpus_per_task", "gres"), "GPUs"),
        (cpus, lambda kind: kind.cpus, _said(asked, "cpus_per_task", "cpus_per_gpu", "tasks_per_node"), "CPUs"),
        (memory, lambda kind: kind.memory_mb, _said(asked, "mem_gb", "mem_per_gpu", "mem_per_cpu"), "MB of memory"),
    ):
        most = cut.most(what)
        if need > most:
            raise ConfigError(
                f"{where}.{key}: that is {need:g} {unit} a node, but no node of {name} gives a job more than {most}."
                f"{_elsewhere(need, most, unit)}"
            )
    _check_count(asked, cut, where, lambda k: k.gpus >= gpus and k.cpus >= cpus and k.memory_mb >= memory)
    fitting = [kind for kind in cut.kinds if kind.gpus >= gpus and kind.cpus >= cpus]
    if partition.divided and not memory and not _takes_nodes(asked):
        _check_memory(gpus, cpus, replace(partition, kinds=tuple(fitting)))


def _takes_nodes(asked: Resources) -> bool:
    """Whether it has whole nodes to itself, or memory by the environment, which holds where nothing is typed."""
    words = {word.replace("_", "-").strip("-") for word in asked.additional_parameters}
    said = ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU", "SBATCH_EXCLUSIVE")
    return "exclusive" in words or any(name in os.environ for name in said)


def _check_memory(gpus: int, cpus: int, partition: Partition) -> None:
    """ConfigError for a job that asks for no memory where it would get all of a node that has room for several."""
    if partition.memory_of and (gpus or partition.memory_of != "GPU"):
        return
    beside = [min(kind.cpus // cpus, kind.gpus // gpus if gpus else kind.cpus) for kind in partition.kinds]
    if max(beside) < 2:
        return
    share = min(kind.memory_mb // count for kind, count in zip(partition.kinds, beside, strict=True) if count)
    path = HERE if gpus or not partition.memory_of else f"{HERE}.cpu"
    idle = f"{max(kind.gpus for kind in partition.kinds) - gpus} GPUs" if gpus else "CPUs and GPUs"
    most = max(kind.memory_mb for kind in partition.kinds) / 1024
    light = f" {HERE}.cpu.mem_gb=4, the latter for stages that compute on no GPU" if gpus else ""
    raise ConfigError(
        f"{path}.mem_gb is not set, and partition {partition.name} has no default (DefMemPerCPU): SLURM would give "
        f"each job all the memory of its node, up to {most:.3g} GB, and the node's other {idle} to nobody. Type "
        f"{path}.mem_gb={_rounded(share / 1024)}{light}."
    )


def _rounded(gb: float) -> str:
    """Down to a number that people would type."""
    return f"{int(gb)}" if gb >= 2 else f"{int(gb * 10) / 10:g}"


def _check_count(asked: Resources, partition: Partition, where: str, fits: Callable[[NodeKind], bool]) -> None:
    available = sum(kind.count for kind in partition.kinds if fits(kind))
    if available == 0:
        raise ConfigError(
            f"{where}: no node of partition {partition.name} has the GPUs, CPUs and memory asked for together."
        )
    most = min(available, partition.nodes if partition.nodes is not None else available)
    if asked.nodes > most:
        raise ConfigError(
            f"{where}.nodes={asked.nodes}: partition {partition.name} gives a job like this at most {most} "
            f"node{'s' * (most > 1)}."
        )


def _cut(kind: NodeKind, partition: Partition) -> NodeKind:
    """The part of a node that one job can have."""
    return replace(
        kind,
        cpus=min(kind.cpus, partition.cpus or kind.cpus),
        memory_mb=min(kind.memory_mb, partition.memory_mb or kind.memory_mb),
    )


def mixed_gpus(asked: Resources, limits: Limits, where: str) -> str:
    """A sentence where one job's nodes may have GPUs of different types; else empty."""
    gpus = gpus_of(asked)
    if asked.nodes == 1 or not gpus or gpu_types(asked.gres or ""):
        return ""
    wanted = frozenset(asked.constraint.split("&")) if asked.constraint else frozenset[str]()
    for name in _names(asked, limits, where):
        fit = [kind for kind in limits.partitions[name].kinds if kind.gpus >= gpus and wanted <= kind.features]
        types = sorted(frozenset().union(*(kind.types for kind in fit)))
        if len(types) > 1:
            return (
                f"{where}.nodes={asked.nodes}: nodes of partition {name} have GPUs of several types "
                f"({', '.join(types)}), and processes share a stage equally: the smallest and the slowest decide. Type "
                f"{where}.gres=gpu:{types[0]}:{gpus} in place of gpus_per_node for one type."
            )
    return ""


def _elsewhere(need: float, most: int, unit: str) -> str:
    return " Another partition may have them." if unit == "GPUs" and not most else ""


def asks_for_gpus(asked: Resources) -> bool:
    """Whether a job gets any, in whatever words."""
    own = any("gpu" in f"{name} {value}".lower() for name, value in asked.additional_parameters.items())
    return gpus_of(asked) > 0 or asked.gpu_mem_gb is not None or own


def job_gpus(asked: Resources) -> int:
    """GPUs that a job holds, as far as its settings say."""
    total = re.search(r"\d+$", str(asked.additional_parameters.get("gpus", "")))
    return max(asked.nodes * gpus_of(asked), int(total[0]) if total else 0)


def gpus_of(asked: Resources) -> int:
    """GPUs of a node, in whatever words."""
    per_task = (asked.gpus_per_task or 0) * asked.tasks_per_node
    return max(asked.gpus_per_node or 0, per_task, gpus_in(asked.gres or ""))


def _cpus(asked: Resources) -> int:
    return max((asked.cpus_per_task or 1) * asked.tasks_per_node, (asked.cpus_per_gpu or 0) * gpus_of(asked))


def _memory(asked: Resources) -> float:
    per_gpu = megabytes(asked.mem_per_gpu or "0") * gpus_of(asked)
    per_cpu = megabytes(asked.mem_per_cpu or "0") * _cpus(asked)
    return max((asked.mem_gb or 0) * 1024, per_gpu, per_cpu)


def _said(asked: Resources, *names: str) -> str:
    """The setting that asks for it, as it was typed."""
    usual = Resources()
    for name in names:
        value = getattr(asked, name)
        if value is not None and value != getattr(usual, name):
            return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
    return f"{names[0]}={getattr(asked, names[0])}"


def _group(gid: int) -> grp.struct_group | None:
    try:
        return grp.getgrgid(gid)
    except KeyError:
        return None
