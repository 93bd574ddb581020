"""What a dry run shows of the jobs of a plan, and what a plan warns of: jobs that ask for what they do not use.

    for part in preview(plan, settings, work): console.print(part)

The jobs are those that would be submitted (submit.py, dispatch.py) if none of the stages were queued; their hours
follow from the estimates of the stages. Where there is a cluster, it is asked what submitting would ask it.
"""

import heapq
import math
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from xling.console import duration
from xling.errors import XlingError
from xling.grid.estimate import path_lengths
from xling.grid.plan import Plan
from xling.runners import HERE, Work
from xling.runners.slurm import cluster, record
from xling.runners.slurm.dispatch import on_gpu
from xling.runners.slurm.limits import Limits
from xling.runners.slurm.record import Array, Filed, Place
from xling.runners.slurm.script import script
from xling.runners.slurm.settings import Resources, Slurm, asks_for_gpus, gpus_as_asked, job_gpus
from xling.runners.slurm.submit import draft, refuse

ANYWHERE = Limits({}, None, 1001, None, None)  # a cluster of which nothing is known: SLURM's usual MaxArraySize
PARALLEL = Resources().array_parallelism
SPARE = 1.25  # of time that is suggested: estimates are rough


def preview(plan: Plan, settings: Slurm, work: Work) -> Iterator[RenderableType]:
    """Jobs and what they ask for, hours, a script, the cluster's limits; at last ConfigError for what is refused."""
    limits, said = _limits()
    drafted = draft(plan, settings, work, {}, limits or ANYWHERE)
    filed = Filed(record.folder_of(plan.store, plan.name) / drafted.id, drafted, "submitting", os.geteuid())
    seconds = {
        (array.number, number): sum(plan.estimates[job.sheet.kind].seconds for job in drafted.jobs(task))
        for array in drafted.arrays
        for number, task in enumerate(array.tasks)
    }
    for array in drafted.arrays[:1]:
        if array.pilots:  # they share the stages, and none ends before the longest chain of them may have
            later = {job.key for other in drafted.arrays[1:] for task in other.tasks for job in drafted.jobs(task)}
            own = (step.stage for key, step in plan.steps.items() if key not in later)
            longest = max(path_lengths(own, plan.seconds()).values())
            share = seconds[0, 0] / (len(array.tasks) * settings.side_by_side(array.resources))
            seconds |= {(0, number): max(longest, share) for number in range(len(array.tasks))}
    yield _table(filed, seconds)
    yield _hours(filed, seconds, limits)
    yield escape("\n".join(_head(filed, seconds)))
    if limits is None:
        yield escape(f"No cluster was asked. {said}")
        return
    yield escape("\n".join(_allowed(filed, settings, limits)))
    yield from map(escape, refuse(plan, settings, limits))


def _limits() -> tuple[Limits | None, str]:
    """The cluster's; None, and why, where none is at hand."""
    try:
        cluster.require()
        return cluster.limits(), ""
    except XlingError as error:
        return None, str(error)


def _table(filed: Filed, seconds: Mapping[Place, float]) -> Table:
    """A line for jobs of the same kinds of stages that ask for the same."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("jobs of", "jobs", "arrays", "each takes", "GPU hours", "each asks for"):
        words = column in ("jobs of", "each asks for")
        table.add_column(column, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    rows: dict[tuple[str, str], list[Place]] = {}
    gpus = {array.number: job_gpus(array.resources) for array in filed.head.arrays}
    for array in filed.head.arrays:
        for number, task in enumerate(array.tasks):
            kinds = ", ".join(dict.fromkeys(job.sheet.kind for job in filed.head.jobs(task))) or "the last, which folds"
            rows.setdefault((kinds, in_words(array.resources)), []).append((array.number, number))
    above = ""
    for (kinds, asked), places in rows.items():
        longest, held = max(seconds[place] for place in places), sum(seconds[one] * gpus[one[0]] for one in places)
        table.add_row(kinds, f"{len(places):,}", f"{len({array for array, _ in places}):,}",
                      duration(longest) if longest else "", _gpu_hours(held) if held else "",
                      "as above" if asked == above else escape(asked))  # fmt: skip
        above = asked
    return table


def in_words(asked: Resources) -> str:
    """`4 GPUs a node, 8 cores, 80 GB, 240 min, partition gpu`: what a job asks for, as far as it says."""
    several = asked.processes > 1
    words = [f"{asked.nodes} nodes"] if asked.nodes > 1 else []
    words += [f"{asked.tasks_per_node} tasks a node"] if several else []
    words += [f"{asked.gpus_per_node} GPU{'s' * (asked.gpus_per_node > 1)} a node"] if asked.gpus_per_node else []
    words += [f"{asked.gpus_per_task} GPUs a task"] if asked.gpus_per_task else []
    words += [asked.gres] if asked.gres else []
    if asked.cpus_per_task:
        words += [f"{asked.cpus_per_task} core{'s' * (asked.cpus_per_task > 1)}{' a task' * several}"]
    words += [f"{asked.cpus_per_gpu} cores a GPU"] if asked.cpus_per_gpu else []
    words += [f"{asked.mem_gb:g} GB{' a node' * (asked.nodes > 1)}"] if asked.mem_gb else []
    words += [f"{asked.mem_per_gpu} a GPU"] if asked.mem_per_gpu else []
    words += [f"{asked.mem_per_cpu} a core"] if asked.mem_per_cpu else []
    words += [f"{asked.timeout_min} min"]
    words += [f"at most {asked.array_parallelism} of an array at once"] if asked.array_parallelism != PARALLEL else []
    for name in ("partition", "qos", "account", "constraint", "exclude"):
        words += [f"{name} {value}"] if (value := getattr(asked, name)) else []
    words += [f"{name}={value}" for name, value in asked.additional_parameters.items()]
    return ", ".join(words)


def _hours(filed: Filed, seconds: Mapping[Place, float], limits: Limits | None) -> str:
    arrays = filed.head.arrays
    wall, most = course(arrays[:-1], seconds, _gpus_of(arrays, limits) if limits else {})
    held = sum(seconds[array.number, task] * job_gpus(array.resources)
               for array in arrays for task in range(len(array.tasks)))  # fmt: skip
    return (
        f"{len(seconds):,} jobs in {len(arrays):,} array{'s' * (len(arrays) > 1)}, at most {most:,} at once: about "
        f"{duration(wall)} until the last one, without waiting for others' jobs; {_gpu_hours(held)} GPU hours."
    )


def _gpu_hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}" if hours >= 0.01 else "<0.01" if hours else "no"


def _gpus_of(arrays: Sequence[Array], limits: Limits) -> dict[str, int]:
    """GPUs of the partitions that jobs name, by that name; of those that have none nothing is known."""
    named = {array.resources.partition or limits.default or "" for array in arrays}
    found: dict[str, int] = {}
    for names in named:
        kinds = [kind for name in names.split(",") if name in limits.partitions
                 for kind in limits.partitions[name].kinds]  # fmt: skip
        if gpus := sum(kind.count * kind.gpus for kind in kinds):
            found |= dict.fromkeys([names, *([""] if names == limits.default else [])], gpus)
    return found


@dataclass
class _Queue:
    """The tasks of an array that could start, and how many more of them may run."""

    gpus: int  # of one
    partition: str
    free: int
    ready: deque[int] = field(default_factory=deque)


def course(arrays: Sequence[Array], seconds: Mapping[Place, float], gpus: Mapping[str, int]) -> tuple[float, int]:
    """(seconds until the last task has ended, most tasks at once), if each starts as soon as it may.

    It may when what it waits for has ended, its array has not its `array_parallelism` running, and its partition's
    `gpus`, by what its resources call it, are free.
    """
    waits: dict[Place, int] = {}  # of a whole array: (its number, -1)
    below: dict[Place, list[Place]] = {}
    queues = {
        array.number: _Queue(job_gpus(array.resources), array.resources.partition or "",
                             array.resources.array_parallelism)
        for array in arrays
    }  # fmt: skip
    for array in arrays:
        own = {(array.number, number): set(task.needs) for number, task in enumerate(array.tasks)}
        for place, needs in {(array.number, -1): set().union(*own.values())}.items() if array.together else own.items():
            waits[place] = len(needs)
            for need in needs:
                below.setdefault(need, []).append(place)
    sizes = {array.number: len(array.tasks) for array in arrays}

    def let(place: Place) -> None:
        queues[place[0]].ready.extend(range(sizes[place[0]]) if place[1] < 0 else [place[1]])

    for place, count in waits.items():
        if not count:
            let(place)
    left, running, now, most = dict(gpus), list[tuple[float, Place]](), 0.0, 0
    while True:
        for number, queue in queues.items():
            while queue.ready and queue.free and left.get(queue.partition, sys.maxsize) >= queue.gpus:
                queue.free -= 1
                if queue.partition in left:
                    left[queue.partition] -= queue.gpus
                place = (number, queue.ready.popleft())
                heapq.heappush(running, (now + seconds[place], place))
        most = max(most, len(running))
        if not running:
            return now, most
        now, place = heapq.heappop(running)
        queue = queues[place[0]]
        queue.free += 1
        if queue.partition in left:
            left[queue.partition] += queue.gpus
        for one in below.get(place, ()):
            waits[one] -= 1
            if not waits[one]:
                let(one)


def _head(filed: Filed, seconds: Mapping[Place, float]) -> Iterator[str]:
    """The script of the jobs that hold most GPU hours, else take most, without what it does before `setup`."""
    arrays = filed.head.arrays

    def weight(array: Array) -> tuple[float, float]:
        taken = sum(seconds[array.number, task] for task in range(len(array.tasks)))
        return taken * job_gpus(array.resources), taken

    array = max(arrays, key=weight)
    kinds = dict.fromkeys(job.sheet.kind for task in array.tasks for job in filed.head.jobs(task))
    lines = script(filed, array).splitlines()
    yield f"The script of array {array.number + 1} of {len(arrays)} ({', '.join(kinds)}):"
    yield from (f"  {line}" for line in lines if line.startswith("#SBATCH"))
    yield "  ...  # goes to another node where this one lacks the folders or the program"
    yield from (f"  {line}" for line in array.resources.setup)
    yield from (f"  {line}" for line in lines[lines.index("# command") + 1 :] if line)


def _allowed(filed: Filed, settings: Slurm, limits: Limits) -> Iterator[str]:
    """What the cluster says of the partitions that are asked for, and of how many jobs there may be."""
    wanted = [array.resources for array in filed.head.arrays]
    names = dict.fromkeys(name for one in wanted for name in (one.partition or limits.default or "").split(","))
    for partition in (limits.partitions[name] for name in names if name in limits.partitions):
        nodes = [f"{kind.count} with {kind.cpus} CPUs, {kind.memory_mb:,} MB and {kind.gpus} GPUs"
                 for kind in partition.kinds]  # fmt: skip
        longest = "any time" if partition.minutes is None else f"{partition.minutes:,} minutes"
        yield f"Partition {partition.name} allows {longest}; its nodes: {'; '.join(nodes)}."
    jobs = [(array.resources, len(array.tasks)) for array in filed.head.arrays[:-1]]
    most, word = limits.at_once(jobs, settings.max_submit)
    if most:
        later = "; others follow from inside the grid" if sum(len(a.tasks) for a in filed.head.arrays) > most else ""
        yield f"In the queue at once: {most:,} ({word}){later}."


# --- warnings -----------------------------------------------------------------------------------------------


def doubts(plan: Plan, settings: Slurm) -> list[str]:
    """Sentences on kinds of stages whose jobs hold idle GPUs, get none, or have less time than they take."""
    kinds = dict.fromkeys((stage.kind, on_gpu(stage, plan.kinds)) for stage in plan.to_run)
    computing = [kind for kind, gpu in kinds if gpu]
    if settings.pilots is not None:  # which go on after time limits, and have a process for each GPU
        return [*_without(settings, computing)]
    return [*_without(settings, computing), *_idle(plan, settings, computing), *_short(plan, settings, kinds)]


def _without(settings: Slurm, kinds: Sequence[str]) -> Iterator[str]:
    lacking: dict[float, list[str]] = {}
    for kind in kinds:
        asked = settings.of(kind)
        bare = msgspec.structs.replace(asked, gpu_mem_gb=None)
        if asked.gpu_mem_gb is not None and not asks_for_gpus(bare):
            lacking.setdefault(asked.gpu_mem_gb, []).append(kind)
    for size, names in lacking.items():
        yield (
            f"{HERE}.gpu_mem_gb={size:g} says how much memory a GPU has and asks for none, so that the jobs of "
            f"{', '.join(names)} get no GPU. Type {HERE}.gpus_per_node=1, too."
        )


def _idle(plan: Plan, settings: Slurm, kinds: Sequence[str]) -> Iterator[str]:
    found: dict[tuple[int, int], list[str]] = {}
    for kind in kinds:
        asked = settings.of(kind)
        if (gpus := job_gpus(asked)) > asked.processes:
            found.setdefault((gpus, asked.processes), []).append(kind)
    for (gpus, used), names in found.items():
        able = [kind for kind in names if kind in plan.kinds and plan.kinds[kind].parallel]
        asked = settings.of(names[0])
        one = gpus_as_asked(asked).replace("{}", str(asked.tasks_per_node)) or "gpus_per_task=1"
        less = f"{HERE}{f'.stages.{names[0]}' * (names[0] in settings.stages)}.{one}"
        able = [] if asked.gpus_per_task else able
        more = f", or {HERE}.stages.{able[0]}.tasks_per_node={gpus // asked.nodes} for what needs them" if able else ""
        yield (
            f"Each job of {', '.join(names)} holds {gpus} GPUs and uses {used}, since a process uses one: the others "
            f"are paid for and idle. Type {less}{more}."
        )


def _short(plan: Plan, settings: Slurm, kinds: Iterable[tuple[str, bool]]) -> Iterator[str]:
    for kind, gpu in kinds:
        asked, seconds = settings.of(kind, gpu), plan.estimates[kind].seconds
        limit = asked.timeout_min * 60
        if seconds <= limit:
            continue
        again = math.ceil(seconds / limit) - 1
        minutes = math.ceil(seconds * SPARE / 600) * 10
        fails = again > asked.max_num_timeout
        yield (
            f"A stage of {kind} takes about {duration(seconds)}, and its jobs end after {asked.timeout_min} minutes: "
            f"it goes on after {again} time limit{'s' * (again > 1)}"
            + (f", of which it may have {asked.max_num_timeout} before it fails" if fails else "")
            + f". Type {HERE}.stages.{kind}.timeout_min={minutes}"
            + (f", or {HERE}.stages.{kind}.max_num_timeout={math.ceil(again * SPARE)}." if fails else " for one job.")
        )
