"""What the jobs of a grid have had of GPUs, by kind of stage: asked for, held, used.

How long a job held its GPUs is in the cluster's accounts, all its turns together; without accounts, from its first
word to its last. What it did with them is in its own events: a stage that computes on a GPU uses one a process, from
its start to its end, or until it had to stop. All else is idle: starting, waiting for a result, stages that ride along
and compute on none, GPUs beyond the processes, and work that was lost without a word. A pilot says itself how long its
GPUs were idle; its time is that of the kinds of stages that it has done on them, by the seconds that they took.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from xling.grid.store import Store
from xling.runners import GpuTime
from xling.runners.slurm import cluster, record
from xling.runners.slurm.record import PREEMPTED, TIME_LIMIT, Event, Filed, Task
from xling.runners.slurm.settings import job_gpus


def cost(store: Store, grid: str) -> Mapping[str, GpuTime]:
    """Of all submissions of a grid; kinds whose jobs have had no GPU are not in it."""
    spent: dict[str, GpuTime] = {}
    for filed in record.submissions(store, grid):
        if any(job_gpus(array.resources) for array in filed.head.arrays):
            for kind, more in _of(store, filed):
                spent[kind] = spent.get(kind, GpuTime()) + more
    return spent


def _of(store: Store, filed: Filed) -> Iterator[tuple[str, GpuTime]]:
    kinds = {job.key: job.sheet.kind for job in filed.submission.stages}
    accounted = cluster.accounted(list(filed.refs.values())) or {}
    for place, task, job in filed.tasks():
        asked = filed.head.arrays[place[0]].resources
        gpus = float(job_gpus(asked))
        events = filed.events(place) if gpus else []
        if not any(event.event == "start" for event in events):
            continue
        seconds, gpu_seconds = accounted.get(job or "", (0.0, 0.0))
        gpus = gpu_seconds / seconds if gpu_seconds else gpus
        keys = [stage.key for stage in filed.submission.jobs(task)]
        light, first = {keys[number] for number in task.light}, kinds[keys[0]]
        if filed.head.arrays[place[0]].pilots:
            yield first, GpuTime(1, gpus * asked.timeout_min * 60)
            took = dict[str, float]()
            for event in events:
                if event.key not in light and event.seconds:
                    kind = kinds.get(event.key, first)
                    took[kind] = took.get(kind, 0.0) + event.seconds
            yield from _shared(took or {first: 1.0}, *_flown(events, gpus, seconds))
            continue
        spans = list(_spans(events, keys, _runs(store, filed, task)))
        own = sum(span.seconds for span in spans)
        yield first, GpuTime(1, gpus * asked.timeout_min * 60, gpus * max(0.0, seconds - own))
        for span in spans:
            used = 0.0 if span.key in light else span.used * min(gpus, asked.processes)
            yield kinds.get(span.key, first), GpuTime(0, 0.0, gpus * span.seconds, used)


def _flown(events: Iterable[Event], gpus: float, seconds: float) -> tuple[float, float]:
    """GPU seconds that a pilot has held and used; seconds: that the job took, where the cluster has accounts."""
    mark = spoken = idle = 0.0
    for event in events:
        idle += event.idle
        if event.at:  # else noted by others
            spoken += max(0.0, event.at - mark) if mark and event.event != "start" else 0.0
            mark = 0.0 if event.event in ("requeue", "end") else event.at
    return gpus * max(seconds, spoken), max(0.0, gpus * spoken - idle)


def _shared(took: Mapping[str, float], held: float, used: float) -> Iterator[tuple[str, GpuTime]]:
    for kind, seconds in took.items():
        share = seconds / sum(took.values())
        yield kind, GpuTime(0, 0.0, held * share, used * share)


def _runs(store: Store, filed: Filed, task: Task) -> bool:
    """Whether a job runs, as far as the store knows: one of its stages is claimed."""
    return any(os.path.exists(store.beside(job.sheet.kind, job.key, ".claim")) for job in filed.submission.jobs(task))


@dataclass(frozen=True)
class _Span:
    """A part of a job's time, which is that of one stage: what came before it in the job, and the stage itself."""

    key: str
    seconds: float
    used: float = 0.0


def _spans(events: Iterable[Event], keys: Sequence[str], runs: bool) -> Iterator[_Span]:
    """keys: of the job's stages in their order. runs: it has not ended."""
    mark, left = 0.0, list(keys)
    for event in events:
        if not event.at:
            continue  # noted by others
        span = max(0.0, event.at - mark) if mark else 0.0
        if event.event == "start":
            mark, left = event.at, [key for key in keys if key in left]
        elif event.event == "stage" and mark:
            used = {"done": min(event.seconds, span), "failed": span}.get(event.end, 0.0)
            yield _Span(event.key, span, used)
            mark, left = event.at, [key for key in left if key != event.key]
        elif event.event in ("requeue", "end") and mark:
            stopped = event.event == "requeue" and event.text in (TIME_LIMIT, PREEMPTED)
            yield _Span(left[0] if left else keys[0], span, span if stopped else 0.0)
            mark = 0.0
    if runs and mark and left:
        yield _Span(left[0], time.time() - mark, time.time() - mark)
