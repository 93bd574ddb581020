"""What a cluster allows, and whether a request can ever be granted there; cluster.py asks it.

limits = parse_limits(config, partitions, nodes, qos, accounts)    # what SLURM's commands have said
check_resources(settings.of("align"), limits)                      # ConfigError with what to type instead
"""

import grp
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from xling.errors import ConfigError, did_you_mean
from xling.runners import HERE
from xling.runners.slurm.settings import Resources, asks_for_gpus, cpus_of, gpu_types, gpus_in, gpus_of, memory_of


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
    gpus, cpus, memory = gpus_of(asked), cpus_of(asked), memory_of(asked)
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
