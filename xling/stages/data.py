"""A stage's data: what it is stands in the key, where it lies does not; and it must stay what it was.

Before a stage runs its paths are put back, and before and after it the data's digest is compared with the one of the
plan: hours may lie between, on a cluster, and a file that is swapped in that time must not give a result under the key
of the old one.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from xling.config import Task
from xling.errors import DataError
from xling.grid.stage import WHERE, Context, Json
from xling.tasks import task_module

PATHS = ("path", "articles")  # settings of tasks that say where something lies


def data_spec(narrowed: Task) -> dict[str, Json]:
    """The part of a spec that says which data a stage reads: a narrowed task, its digest, and where it lies."""
    task = msgspec.to_builtins(narrowed)
    where = {name: task[name] for name in PATHS if task.get(name)}
    spec = {"task": {**task, **dict.fromkeys(where, "")}, "digest": task_module(narrowed).digest(narrowed)}
    return spec | {WHERE: where} if where else spec


def located(spec: Mapping[str, Json]) -> dict[str, Json]:
    """The spec with its task's paths."""
    task = spec.get("task")
    return {**spec, "task": {**task, **_paths(spec)}} if task else dict(spec)


def _paths(spec: Mapping[str, Json]) -> dict[str, str]:
    return {name: where for name, where in spec.get(WHERE, {}).items() if name in PATHS}


def on_data(run: Callable[[Context], None]) -> Callable[[Context], None]:
    """`run` for a stage that reads a task's data. DataError if that is not, or does not stay, what the plan saw."""

    def checked(context: Context) -> None:
        spec = located(context.spec)
        unchanged(spec)
        run(replace(context, spec=spec))
        unchanged(spec)

    return checked


def unchanged(spec: Mapping[str, Any]) -> None:
    """DataError unless the data of a located spec has the digest that the plan saw."""
    if not spec.get("task"):
        return
    task: Task = msgspec.convert(spec["task"], Task)
    if task_module(task).digest(task) != spec["digest"]:
        where = ", ".join(_paths(spec).values()) or "the data"
        raise DataError(f"{where} has changed since the grid was planned. Run the same command again.")
