"""Where a grid's numbers come from: what its stages cost, and with which settings, code and data they were made.

Read from plan.json and from the done.json and spec.json of every stage of the grid, whichever grid had it made. Names
of machines are left out: the page is made to be passed on.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from xling.analysis.matrix.types import Matrix
from xling.console import without_secrets
from xling.grid.records import PlannedStage, Run
from xling.grid.stage import WHERE
from xling.grid.store import Store
from xling.results.plan import SEED_AXES, Plan, axes_text

TASK = "task"
MOST_VALUES = 12  # of a setting that are listed


@dataclass(frozen=True, slots=True)
class Cost:
    """The stages of one kind; seconds are of the wall clock, summed over stages."""

    kind: str
    planned: int
    done: int
    seconds: float
    cpu_seconds: float
    longest: float
    longest_label: str
    again: int  # that needed more than one attempt


@dataclass(frozen=True, slots=True)
class Origin:
    """All that the page says about it."""

    costs: list[Cost]  # in the order in which kinds depend on each other
    devices: dict[str, float]  # seconds
    machines: int
    began: str  # ISO 8601, UTC; empty: nothing has run
    ended: str
    facts: list[tuple[str, list[str]]]  # command, code, versions, seeds, digests
    settings: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # kind -> setting -> its values as JSON


def origin(matrix: Matrix, plan: Plan, store: Store) -> Origin:
    """Of all stages of the plan."""
    runs = {stage.key: status.done.run for stage in plan.stages
            if (status := store.check(stage.kind, stage.key)).state == "done" and status.done is not None}  # fmt: skip
    devices: dict[str, float] = {}
    for run in runs.values():
        devices[run.device] = devices.get(run.device, 0.0) + run.seconds
    settings = _settings(plan, store)
    return Origin(
        _costs(plan.stages, runs),
        devices,
        len({run.by.host for run in runs.values()}),
        min((_began(run) for run in runs.values()), default=""),
        max((run.when for run in runs.values()), default=""),
        _facts(matrix, plan, runs.values(), settings),
        settings,
    )


def _began(run: Run) -> str:
    return (datetime.fromisoformat(run.when) - timedelta(seconds=run.seconds)).isoformat(timespec="seconds")


def _costs(stages: Sequence[PlannedStage], runs: Mapping[str, Run]) -> list[Cost]:
    kinds: dict[str, list[PlannedStage]] = {}
    for stage in stages:
        kinds.setdefault(stage.kind, []).append(stage)
    costs = []
    for kind, members in kinds.items():
        made = [(runs[stage.key], stage.label) for stage in members if stage.key in runs]
        longest = max(made, key=lambda pair: pair[0].seconds, default=None)
        costs.append(
            Cost(
                kind,
                len(members),
                len(made),
                sum(run.seconds for run, _ in made),
                sum(run.cpu_seconds for run, _ in made),
                longest[0].seconds if longest else 0.0,
                longest[1] if longest else "",
                sum(run.attempt > 1 for run, _ in made),
            )
        )
    return costs


def _settings(plan: Plan, store: Store) -> dict[str, dict[str, list[str]]]:
    """By kind, every setting that its stages read, with the values that it has in this grid; those of the task once."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for stage in plan.stages:
        sheet = store.sheet(stage.kind, stage.key)
        for name, value in _flat(sheet.spec if sheet else {}):
            group = TASK if name.startswith(f"{TASK}.") else stage.kind  # the same for all who read a task's data
            found.setdefault(group, {}).setdefault(name, {})[json.dumps(value, ensure_ascii=False)] = None
    return {kind: {name: _few(list(values)) for name, values in by_name.items()} for kind, by_name in found.items()}


def _flat(spec: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """`training.steps`, 100; where something lies is left out."""
    for name, value in spec.items():
        if name == WHERE:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _few(values: list[str]) -> list[str]:
    return values if len(values) <= MOST_VALUES else [*values[:MOST_VALUES], f"and {len(values) - MOST_VALUES} more"]


def _facts(
    matrix: Matrix, plan: Plan, runs: Iterable[Run], settings: Mapping[str, Mapping[str, list[str]]]
) -> list[tuple[str, list[str]]]:
    """What a co-author needs to have the same numbers again."""
    axes = [axes_text(cell.axes) for cell in plan.cells]
    runs = list(runs)
    versions = sorted({f"{name} {version}" for run in runs for name, version in run.versions.items()})
    digests = sorted({json.loads(value) for by_name in settings.values() for value in by_name.get("digest", [])
                      if value.startswith('"')})  # fmt: skip
    facts = [
        ("command", [without_secrets(shlex.join(["python", "launch.py", "-m", *plan.command]))]),
        ("planned with code", [plan.git or "unknown"]),
        ("results made with code", sorted({run.git or "unknown" for run in runs})),
        ("versions", versions),
        ("threads of a process", sorted({str(run.threads) for run in runs})),
        ("processes of a stage", sorted({str(run.processes) for run in runs})),
        *((axis, sorted({a[axis] for a in axes if a.get(axis)})) for axis in SEED_AXES),
        ("data digests", digests),
        ("left out", matrix.left_out),
    ]
    return [(name, values) for name, values in facts if values]
