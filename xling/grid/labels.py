"""Labels that tell the stages of a grid apart: `pool[de] seed=1`, where several seeds are asked for.

A stage's own label says kind and languages. If others of the grid have the same, the axes in which they differ follow,
as far as all cells that need the stage agree on them; so progress, failures, status, logs and trackers name it, and so
it can be typed: `xling logs 'pool[de] seed=1'`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from xling.grid.records import AxisValue
from xling.grid.stage import Cell, Stage

_TOLD = re.compile(r" (?:[^\s\[\]=]+=|#[0-9a-f]{6}$).*", re.DOTALL)


def own_label(label: str) -> str:
    """The label without what tells it apart, which another grid may say in another way."""
    return _TOLD.sub("", label)


def axis_text(value: AxisValue) -> str:
    """A value as it is printed."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def axes_of(
    cells: Iterable[tuple[str, Mapping[str, str]]], parents: dict[str, list[str]]
) -> dict[str, set[tuple[str, str]]]:
    """Key of a stage -> (axis, value) of the cells that need it, as far as these agree.

    cells: key of the stage of its verdicts, and axes; parents: keys by key, those of a stage standing before it.
    """
    known: dict[str, set[tuple[str, str]]] = {}
    for key, axes in cells:
        known[key] = known[key] & axes.items() if key in known else set(axes.items())
    for key in reversed(parents):
        for up in parents[key] if key in known else ():
            known[up] = known[up] & known[key] if up in known else set(known[key])
    return known


def labelled(cells: Sequence[Cell], stages: Mapping[str, Stage]) -> Sequence[Cell]:
    """The cells with stages whose labels differ. stages: all of theirs by key, parents before children."""
    alike: dict[str, list[str]] = {}
    for key, stage in stages.items():
        alike.setdefault(stage.label, []).append(key)
    if len(alike) == len(stages):
        return cells
    axes = axes_of(
        ((cell.stage.key, {axis: axis_text(value) for axis, value in cell.axes.items()}) for cell in cells),
        {key: [up.key for up in stage.parents.values()] for key, stage in stages.items()},
    )
    order = list(dict.fromkeys(axis for cell in cells for axis in cell.axes))
    labels: dict[str, str] = {}
    for label, keys in alike.items():
        found = {key: dict(axes[key]) for key in keys}
        differing = [axis for axis in order if len({own.get(axis) for own in found.values()}) > 1]
        for key, own in found.items():
            told = " ".join(f"{axis}={own[axis]}" for axis in differing if own.get(axis))
            labels[key] = " ".join([label, *told.split()])  # one line, whatever a value is: jobs are called so
        times = Counter(labels[key] for key in keys)
        labels |= {key: f"{labels[key]} #{key[:6]}" for key in keys if times[labels[key]] > 1}
    made: dict[str, Stage] = {}
    for key, stage in stages.items():
        above = {role: made[up.key] for role, up in stage.parents.items()}
        made[key] = Stage(stage.kind, stage.version, labels[key], stage.spec, above, key)
    return [Cell(cell.axes, made[cell.stage.key]) for cell in cells]
