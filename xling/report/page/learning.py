"""How trained policies learnt: reward, KL and quality on validation prompts over the steps, from align stages.

A panel's line is the mean over its cells and seeds at the steps that all of them were measured at, its band from the
least to the greatest of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xling.analysis.matrix.names import panel_place
from xling.analysis.matrix.types import Matrix
from xling.errors import StoreError
from xling.grid.records import Ref
from xling.grid.store import Store
from xling.results.items import validation_rows
from xling.results.plan import PlannedEntry

NAMES = {
    "reward": "Reward, standard deviations",
    "kl": "KL from SFT_t, nats a response",
    "quality": "Judge's score",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One measure of one panel: (steps,) lists that run in parallel."""

    steps: list[int]
    mean: list[float]
    least: list[float]
    greatest: list[float]


@dataclass(frozen=True, slots=True)
class Learning:
    """Of one panel."""

    panel: int
    policies: int  # trained: cells times seeds
    lines: dict[str, Line]  # by the names of NAMES, as far as they were measured


def learning(matrix: Matrix, store: Store, entries: Sequence[PlannedEntry]) -> list[Learning]:
    """Of each panel whose policies were trained."""
    panels = [panel for block in matrix.blocks for panel in block.panels]
    refs: dict[tuple[tuple[str, str], ...], dict[str, Ref]] = {}
    for entry in entries:
        for cell in entry.cells:
            if "align" in cell.stages and cell.status == "done":
                ref = cell.stages["align"]
                refs.setdefault(panel_place(entry.axes), {})[ref.key] = ref
    found = []
    for number, panel in enumerate(panels):
        curves = [
            rows for ref in refs.get(tuple(sorted(panel.axes.items())), {}).values() if (rows := _rows(store, ref))
        ]
        if curves:
            lines = {name: line for name in NAMES if (line := _line(curves, name)) is not None}
            found.append(Learning(number, len(curves), lines))
    return found


def _rows(store: Store, ref: Ref) -> dict[int, dict[str, float]]:
    """step -> measures; empty where the stage has no curve or is damaged."""
    try:
        content = store.content(ref.kind, ref.key, "curve.jsonl")
        return {int(row["step"]): row for row in validation_rows(content, f"{ref.kind}/{ref.key[:12]}")}
    except StoreError:
        return {}


def _line(curves: Sequence[dict[int, dict[str, float]]], name: str) -> Line | None:
    steps = [step for step in sorted(set[int]().union(*curves)) if all(name in curve.get(step, {}) for curve in curves)]
    if not steps:
        return None
    columns = [[curve[step][name] for curve in curves] for step in steps]
    return Line(steps, [sum(c) / len(c) for c in columns], [min(c) for c in columns], [max(c) for c in columns])
