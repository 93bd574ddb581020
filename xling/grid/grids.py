"""Which grids a root has, their plans as they stand, and a stage of one by its label."""

from contextlib import suppress

import msgspec

from xling.console import SHOWN
from xling.errors import ConfigError, did_you_mean
from xling.grid import files
from xling.grid.records import PlanFile, PlannedStage, read_plan
from xling.grid.store import Store
from xling.jsonfiles import decode


def planned(store: Store, name: str) -> PlanFile:
    """A grid's plan.json as it stands, of whatever format; one without cells if none can be read."""
    with suppress(OSError, msgspec.DecodeError):
        return decode((store.grid_folder(name) / "plan.json").read_bytes(), PlanFile)
    return PlanFile(name=name, cells=[], stages=[])


def read_grid(store: Store, name: str) -> PlanFile:
    """The plan.json of a grid by its name; errors as of `read_plan`."""
    return read_plan(store.grid_folder(name), PlanFile)


def grids(store: Store) -> list[str]:
    """Names of the root's grids, the one planned last first."""
    found = []
    for path in files.matching(store.root / "grids", "*/plan.json"):
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):  # deleted meanwhile, private, or nowhere
            found.append((path.stat().st_mtime, path.parent.name))
    return [name for _, name in sorted(found, reverse=True)]


def chosen_grid(store: Store, name: str | None) -> str:
    """The grid that is named, or the latest; ConfigError with the nearest name if there is none."""
    known = grids(store)
    if not known:
        raise ConfigError(f"There is no grid in '{store.root}'. Fill one with `xling run`, or give --root PATH.")
    if name is None:
        return known[0]
    if name in known:
        return name
    shown = ", ".join(known[:10])
    raise ConfigError(f"There is no grid '{name}' in '{store.root}'. There are: {shown}.{did_you_mean(name, known)}")


def stage_at(plan: PlanFile, handle: str) -> PlannedStage:
    """A stage by its index or its label; ConfigError says what there is."""
    if handle.isdigit() and int(handle) < len(plan.stages):
        return plan.stages[int(handle)]
    labels = {stage.label: stage for stage in plan.stages}
    begun = [stage for stage in plan.stages if stage.label.startswith(f"{handle} ")]
    same = [stage for stage in plan.stages if stage.label == handle] or begun
    if len(same) == 1:
        return same[0]
    if same:
        found = [f"{plan.stages.index(stage)} {stage.label}" for stage in same]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise ConfigError(
            f"'{handle}' is {len(found)} stages of grid {plan.name}: {', '.join(found[:SHOWN])}{more}. Give the index "
            "or the whole label of one."
        )
    raise ConfigError(
        f"'{handle}' is no stage of grid {plan.name}: give an index from 0 to {len(plan.stages) - 1}, as "
        f"`xling status --all` shows them, or a label.{did_you_mean(handle, labels)}"
    )
