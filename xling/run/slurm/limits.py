"""What a cluster allows, and whether a request can ever be granted there. Runs nothing: cluster.py asks."""

import grp
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from xling.errors import ConfigError, did_you_mean
from xling.run.slurm.settings import Resources


@dataclass(frozen=True, slots=True)
class NodeKind:
    """Nodes of a partition that are equal."""

    count: int
    cpus: int
    memory_mb: int
    gpus: int
    features: frozenset[str]


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

    def most(self, what: Callable[[NodeKind], int]) -> int:
        return max((what(kind) for kind in self.kinds), default=0)


@dataclass(frozen=True, slots=True)
class Limits:
    partitions: Mapping[str, Partition]
    default: str | None
    max_array_size: int  # an array's largest index + 1
    max_jobs: int
    accounting: bool
    qos: tuple[str, ...] | None  # None: not known
    accounts: tuple[str, ...] | None  # of this user; None: not known or not enforced
    cluster: str = ""  # its name


# --- reading ----------------------------------------------------------------------------------------------


def parse_limits(config: str, partitions: str, nodes: str, qos: str | None, accounts: str | None) -> Limits:
    """From `scontrol show config`, `scontrol -o show partition`, `sinfo -e -o '%R|%D|%c|%m|%G|%f'`, sacctmgr."""
    facts = facts_of(config)
    kinds: dict[str, list[NodeKind]] = {}
    for line in nodes.splitlines():
        name, count, cpus, memory, gres, features = line.split("|", 5)
        words = frozenset(re.split(r"[,&]", features)) - {"(null)", ""}
        kinds.setdefault(name, []).append(
            NodeKind(_number(count) or 0, _number(cpus) or 0, _number(memory) or 0, gpus_in(gres), words)
        )
    found, default = {}, None
    for line in partitions.splitlines():
        has = dict(re.findall(r"(\w+)=(\S*)", line))
        if "PartitionName" not in has:
            continue
        name = has["PartitionName"]
        found[name] = _partition(name, has, kinds.get(name, []))
        default = name if has.get("Default") == "YES" else default
    enforced = "associations" in facts.get("AccountingStorageEnforce", "")
    return Limits(
        found, default, _number(facts.get("MaxArraySize", "")) or 1001, _number(facts.get("MaxJobCount", "")) or 10000,
        "slurmdbd" in facts.get("AccountingStorageType", ""), _lines(qos), _lines(accounts) if enforced else None,
        facts.get("ClusterName", ""),
    )  # fmt: skip


def facts_of(config: str) -> dict[str, str]:
    """`scontrol show config` by name."""
    parts = (line.partition("=") for line in config.splitlines())
    return {name.strip(): value.strip() for name, _, value in parts}


def _partition(name: str, has: Mapping[str, str], kinds: Sequence[NodeKind]) -> Partition:
    return Partition(
        name, has.get("State", "UP"), minutes_in(has.get("MaxTime", "")), _number(has.get("MaxNodes", "")),
        _number(has.get("MaxCPUsPerNode", "")), _number(has.get("MaxMemPerNode", "")), _allowed(has, "AllowGroups"),
        _allowed(has, "AllowAccounts"), _allowed(has, "AllowQos"), tuple(kinds),
    )  # fmt: skip


def _lines(text: str | None) -> tuple[str, ...] | None:
    return tuple(sorted(set(text.split()))) if text and text.strip() else None


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
    """GPUs in a gres word: `gpu:a100:4(S:0-1),gpu:v100:2` has 6."""
    inner = re.sub(r"\([^)]*\)", "", gres)
    return sum(int(count) for count in re.findall(r"(?:^|,)(?:gres/)?gpu(?::[a-zA-Z]\w*)?[:=](\d+)", inner))


def megabytes(amount: str) -> float:
    """SLURM's memory words: `16G`, `500M`, `2000` (MB)."""
    match = re.fullmatch(r"([\d.]+)\s*([KMGT]?)B?", amount.strip(), re.IGNORECASE)
    if not match:
        return 0.0
    return float(match[1]) * {"K": 1 / 1024, "M": 1, "": 1, "G": 1024, "T": 1024**2}[match[2].upper()]


# --- refusing ---------------------------------------------------------------------------------------------


def check(resources: Resources, limits: Limits, where: str = "hydra.launcher") -> None:
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


def _names(resources: Resources, limits: Limits, where: str) -> list[str]:
    known = list(limits.partitions)
    if resources.partition is None:
        if limits.default is None:
            raise ConfigError(
                f"The cluster has no default partition. Type {where}.partition=NAME with one of: {', '.join(known)}."
            )
        return [limits.default]
    names = resources.partition.split(",")
    for name in names:
        if name not in limits.partitions:
            raise ConfigError(
                f"{where}.partition={resources.partition}: the cluster has no partition '{name}'. "
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
    gpus, cpus, memory = _gpus(asked), _cpus(asked), _memory(asked)
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
    """What one job can have of a node."""
    return replace(
        kind,
        cpus=min(kind.cpus, partition.cpus or kind.cpus),
        memory_mb=min(kind.memory_mb, partition.memory_mb or kind.memory_mb),
    )


def _elsewhere(need: float, most: int, unit: str) -> str:
    return " Another partition may have them." if unit == "GPUs" and not most else ""


def _gpus(asked: Resources) -> int:
    per_task = (asked.gpus_per_task or 0) * asked.tasks_per_node
    return max(asked.gpus_per_node or 0, per_task, gpus_in(asked.gres or ""))


def _cpus(asked: Resources) -> int:
    return max((asked.cpus_per_task or 1) * asked.tasks_per_node, (asked.cpus_per_gpu or 0) * _gpus(asked))


def _memory(asked: Resources) -> float:
    per_gpu = megabytes(asked.mem_per_gpu or "0") * _gpus(asked)
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
