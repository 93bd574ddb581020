"""Weights that nothing reads any more are dropped: keep_weights=none, or a list of the kinds that keep theirs.

Trained models are nearly all of a grid's bytes, and each is read by a few stages. When the last of those has its
result, the files that its kind names as weights go (`Kind.weights`); what figures and provenance are made of stays, and
the marker says what is gone (`Done.dropped`). The result goes on counting as done. A command that has to run a stage
which reads such weights trains them again, under the same key: the plan says so, or a runner that meets them dropped.

They stay while any grid of the root that has the stage in its plan keeps its kind's weights, or has a reader of it
without a result, or at work; while one starts from them as a checkpoint; or while somebody makes the result. The plans
on disk decide, not the process that asks.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from xling.errors import ConfigError, StoreError, did_you_mean
from xling.grid import claim
from xling.grid.grids import grids, read_grid
from xling.grid.host import Process, this_process
from xling.grid.records import PlanFile
from xling.grid.stage import Kind
from xling.grid.store import Store

Result = tuple[str, str]  # kind, key


def dropped_kinds(value: Any, kinds: Mapping[str, Kind]) -> list[str]:
    """Of the setting keep_weights (all, none, or kinds that keep theirs): the kinds whose weights are dropped."""
    known = [name for name, kind in kinds.items() if kind.weights]
    kept = {"all": known, "none": []}.get(value) if isinstance(value, str) else value
    if isinstance(value, str) and value in known:
        kept = [value]
    if not isinstance(kept, Sequence) or any(name not in known for name in kept):
        wrong = (
            next((str(name) for name in kept if name not in known), "") if isinstance(kept, Sequence) else str(value)
        )
        shown = "null" if value is None else str(value).replace("'", "").replace(" ", "")
        raise ConfigError(
            f"keep_weights={shown} does not fit: type all, none, or a list of kinds of stages that keep their weights, "
            f"of {', '.join(known)}, such as keep_weights=[{','.join(known[:-1])}]."
            f"{did_you_mean(wrong, ['all', 'none', *known])}"
        )
    return [name for name in known if name not in kept]


def drop(store: Store, kinds: Mapping[str, Kind], asked: Iterable[Result], now: PlanFile | None = None) -> int:
    """Drop the weights of those of some results that nothing reads any more; returns their bytes.

    now: a grid's plan that is not written yet. Nothing is dropped where a plan cannot be read, and no error of the disk
    is one of the caller's: they are there for the next who asks.
    """
    results, freed, who = list(asked), 0, this_process()
    if not results:
        return 0
    with contextlib.suppress(StoreError, ConfigError, OSError):
        plans = [_read(store, name) for name in grids(store) if now is None or name != now.name]
        readers, keepers = _readers([*plans, *([now] if now else [])])
        for result in results:
            if result not in keepers and result in readers and all(_has_read(store, *one) for one in readers[result]):
                with contextlib.suppress(StoreError, OSError):  # somebody else's, who lets nobody write
                    freed += _dropped(store, kinds[result[0]].weights, result, who)
    return freed


def drop_of(store: Store, kinds: Mapping[str, Kind], name: str) -> int:
    """The same of a whole grid, for the end of mode=force: before it, readers of before are done."""
    with contextlib.suppress(StoreError, ConfigError, OSError):
        plan = _read(store, name)
        return drop(store, kinds, [(stage.kind, stage.key) for stage in plan.stages if stage.kind in plan.drops])
    return 0


def keepers(store: Store, now: PlanFile) -> list[str]:
    """Other grids of the root that keep weights which a plan would drop."""
    refs, found = {(stage.kind, stage.key) for stage in now.stages if stage.kind in now.drops}, list[str]()
    for name in grids(store):
        with contextlib.suppress(StoreError, ConfigError, OSError):
            if name != now.name and not refs.isdisjoint(_readers([_read(store, name)])[1]):
                found.append(name)
    return found


def _readers(plans: Iterable[PlanFile]) -> tuple[dict[Result, set[Result]], set[Result]]:
    """Each result's readers in the plans, and the results of which some plan keeps the weights, or starts from them."""
    readers: dict[Result, set[Result]] = {}
    keepers = set[Result]()
    for plan in plans:
        refs = [(stage.kind, stage.key) for stage in plan.stages]
        keepers.update(ref for ref in refs if ref[0] not in plan.drops)
        keepers.update((ref.kind, ref.key) for ref in plan.starts)
        for stage, ref in zip(plan.stages, refs, strict=True):
            for above in stage.parents:
                readers.setdefault(refs[above], set()).add(ref)
    return readers, keepers


def _has_read(store: Store, kind: str, key: str) -> bool:
    return store.state(kind, key) == "done" and not os.path.lexists(store.beside(kind, key, ".claim"))


def _dropped(store: Store, patterns: Collection[str], result: Result, who: Process) -> int:
    """By whoever has the result's claim, so that nobody makes it meanwhile."""
    path = store.beside(*result, ".claim")
    if claim.take(path, who) is not None:
        return 0
    try:
        return store.drop(*result, patterns)
    finally:
        claim.release(path, who)


def _read(store: Store, name: str) -> PlanFile:
    status = os.stat(store.grid_folder(name) / "plan.json")
    return _remembered(store.root, name, (status.st_ino, status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=64)
def _remembered(root: Any, name: str, _: tuple[int, int, int]) -> PlanFile:
    return read_grid(Store(root), name)
