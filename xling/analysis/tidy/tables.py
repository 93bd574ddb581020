"""A matrix as tables for W&B: columns and rows, numbers as numbers, holes as null.

Every table begins with the axes that name a cell; a number x has its 95 % interval in x_low and x_high.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xling.analysis.matrix.names import panel_names
from xling.analysis.matrix.types import MEASURES, Entry, Frontier, Matrix, Opponent, Panel, doublings
from xling.analysis.statistics.intervals import Estimate
from xling.analysis.tidy.finding import spread
from xling.results.plan import ENTRY_AXES

PANEL_AXES = tuple(axis for axis in ENTRY_AXES if axis not in ("source_lang", "target_lang"))
BASELINE = "(baseline)"  # in place of a source: the policy that all cells of a target are judged against
BESIDE = [name for name in MEASURES if name not in ("win", "win_own")]  # the matrix has these


@dataclass(frozen=True)
class Rows:
    """A table: its columns, and rows as long as they are."""

    columns: list[str]
    rows: list[list[Any]]


def tables(matrix: Matrix) -> dict[str, Rows]:
    """All tables of a matrix that have rows, by the name under which they are logged."""
    found = {
        "matrix": matrix_rows(matrix),
        "measures": measure_rows(matrix),
        "language_rates": language_rows(matrix),
        "rm_accuracy": accuracy_rows(matrix),
        "controls": control_rows(matrix),
        "null_bands": band_rows(matrix),
        "best_of_k": curve_rows(matrix),
        "frontier": frontier_rows(matrix),
        "optimizers": optimizer_rows(matrix),
        "judge_agreement": agreement_rows(matrix),
    }
    return {name: table for name, table in found.items() if table.rows}


def three(estimate: Estimate | None) -> list[float | None]:
    """Value, low, high."""
    return [None] * 3 if estimate is None else [estimate.value, estimate.low, estimate.high]


def panels(matrix: Matrix) -> list[Panel]:
    return [panel for block in matrix.blocks for panel in block.panels]


# --- cells ----------------------------------------------------------------------------------------------------


def matrix_rows(matrix: Matrix) -> Rows:
    """matrix.csv."""
    axes = [*ENTRY_AXES, *matrix.other_axes]
    rows: list[list[Any]] = []
    for entry in matrix.entries():
        counts = [0, 0] if entry.win is None else [entry.win.n, entry.win.seeds]
        rows.append([*_place(entry.axes, axes), *three(entry.win), *counts, entry.status, entry.reason])
    rows.sort(key=lambda row: row[: len(axes)])
    return Rows([*axes, "win_rate", "ci_low", "ci_high", "n", "seeds", "status", "reason"], rows)


def measure_rows(matrix: Matrix) -> Rows:
    """Measures beside the win rates, and those of each target's baseline."""
    axes = [*ENTRY_AXES, *matrix.other_axes]
    own = list(dict.fromkeys(measure.name for panel in panels(matrix) for measure in panel.own_measures))
    rows = []
    for panel in panels(matrix):
        for opponent in panel.opponents:
            place = panel.axes | {"source_lang": BASELINE, "target_lang": opponent.target}
            rows.append([*_place(place, axes), *_measured(opponent), None, None, *_own(opponent, own)])
        there = [entry for entry in panel.entries if entry.win is not None]
        rows += [[*_place(e.axes, axes), *_measured(e), e.kl_bound, e.n_samples, *_own(e, own)] for e in there]
    return Rows([*axes, *spread(*BESIDE), "kl_bound", "n_samples", *spread(*own)], rows)


def language_rows(matrix: Matrix) -> Rows:
    """How often the detector errs by which `share_in_language` is told, on the task's own references."""
    names = [*PANEL_AXES, *matrix.other_axes]
    rows: list[list[Any]] = []
    for panel in panels(matrix):
        for one in panel.language_rates:
            row: list[Any] = [*_place(panel.axes, names), one.target, one.detector, ", ".join(one.labels)]
            for share in (one.recognised, one.mistaken):
                row += [*three(share), share.n if share else None]
            rows.append(row)
    found = [column for name in ("recognised", "mistaken") for column in (*spread(name), f"{name}_n")]
    return Rows([*names, "target_lang", "detector", "labels", *found], rows)


def _measured(of: Entry | Opponent) -> list[float | None]:
    return [number for name in BESIDE for number in three(getattr(of, name, None))]


def _own(of: Entry | Opponent, names: Sequence[str]) -> list[float | None]:
    return [number for name in names for number in three(of.own.get(name))]


def _place(axes: Mapping[str, str], names: Sequence[str]) -> list[str]:
    return [axes.get(name, "") for name in names]


def curve_rows(matrix: Matrix) -> Rows:
    """Expected win rate of best-of-k for k = 1, 2, 4 ... n."""
    axes = [*ENTRY_AXES, *matrix.other_axes]
    rows = list[list[Any]]()
    for entry in (entry for panel in panels(matrix) for entry in panel.entries):
        if (curve := entry.curve) is not None:
            ends = {k: (curve.value[k - 1], curve.low[k - 1], curve.high[k - 1]) for k in doublings(len(curve.value))}
            rows += [[*_place(entry.axes, axes), k, *three] for k, three in ends.items()]
    return Rows([*axes, "k", *spread("win_rate")], rows)


# --- beside the cells -----------------------------------------------------------------------------------------


def accuracy_rows(matrix: Matrix) -> Rows:
    """Reward-model accuracy on held-out preferences."""
    names = [*PANEL_AXES, *matrix.other_axes]
    rows = [
        [*_place(panel.axes, names), a.source, a.target, *three(a.accuracy), a.auc.value if a.auc else None,
         *three(a.auc_within), *three(a.versus_majority.estimate if a.versus_majority else None)]
        for panel in panels(matrix) for a in panel.accuracy
    ]  # fmt: skip
    columns = ["source_lang", "target_lang", *spread("accuracy"), "auc", *spread("auc_within", "versus_majority")]
    return Rows([*names, *columns], rows)


def control_rows(matrix: Matrix) -> Rows:
    """References without a source, and reward models on shuffled labels."""
    names = [*ENTRY_AXES, *matrix.other_axes]
    entries = [entry for block in matrix.blocks for control in block.controls for entry in control.entries]
    entries += [entry for block in matrix.blocks for entry in block.shuffled]
    rows = [[*_place(e.axes, names), *three(e.win), e.win.n] for e in entries if e.win is not None]
    return Rows([*names, *spread("win_rate"), "n"], rows)


def band_rows(matrix: Matrix) -> Rows:
    """The trained reward model against its null band of shuffled labels."""
    names = [*PANEL_AXES, *matrix.other_axes]
    rows = []
    for panel in panels(matrix):
        cells = panel.at()
        for band in panel.bands:
            entry = cells.get((band.source, band.target))
            win = entry.win.value if entry and entry.win else None
            ends = [min(band.values), band.mean, max(band.values), len(band.values)]
            rows.append([*_place(panel.axes, names), band.source, band.target, win, *ends, band.beaten])
    columns = ["source_lang", "target_lang", "win_rate", "band_low", "band_mean", "band_high", "permutations", "beaten"]
    return Rows([*names, *columns], rows)


def frontier_rows(matrix: Matrix) -> Rows:
    """frontier.csv: KL against reward, quality and win rate."""
    names = [*PANEL_AXES, *matrix.other_axes]
    measures = ("kl", "reward", "quality", "win")
    rows = [
        [*_place(frontier.axes, names), point.arm, point.k,
         *(number for name in measures for number in three(getattr(point, name)))]
        for frontier in matrix.frontiers for point in frontier.points
    ]  # fmt: skip
    return Rows([*names, "arm", "k", *spread(*measures)], rows)


def frontier_lines(frontier: Frontier) -> dict[str, tuple[list[float], list[float]]]:
    """Arm -> KL and win rate of its points, by KL."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for point in sorted(frontier.points, key=lambda point: point.kl.value):
        if point.win is not None:
            xs, ys = lines.setdefault(point.arm, ([], []))
            xs.append(point.kl.value)
            ys.append(point.win.value)
    return lines


def optimizer_rows(matrix: Matrix) -> Rows:
    """The optimizers, mean over cells, and their difference to best-of-n."""
    names = [*PANEL_AXES, *matrix.other_axes]
    rows = [
        [*_place(table.axes, names), arm.name, *three(arm.mean), table.reference,
         *three(arm.versus.estimate if arm.versus else None), arm.above_50, len(arm.cells)]
        for table in matrix.optimizers for arm in table.arms
    ]  # fmt: skip
    return Rows([*names, "arm", *spread("win_rate"), "reference", *spread("versus"), "above_50", "cells"], rows)


def agreement_rows(matrix: Matrix) -> Rows:
    """How far two judges agree, in percent, instance by instance and in the order of sources."""
    names = [*PANEL_AXES, *matrix.other_axes]
    rows = [
        [*_place(one.axes, names), *one.judges, *three(one.instances), *three(one.ranking), one.source_pairs]
        for one in matrix.agreement
    ]
    return Rows([*names, "judge_a", "judge_b", *spread("instances", "ranking"), "source_pairs"], rows)


def counts(matrix: Matrix) -> dict[str, int]:
    """Numbers for the run's summary, by panel where there are several."""
    shown = panels(matrix)
    rows = matrix.entries()
    found = {"cells": len(rows), "holes": sum(entry.win is None and not entry.own_judge for entry in rows)}
    for name, panel in zip(panel_names([panel.axes for panel in shown]), shown, strict=True):
        prefix = f"{name}/" if len(shown) > 1 else ""
        for count in panel.counts:
            found[f"{prefix}{count.name}"] = count.k
            found[f"{prefix}{count.name}_of"] = count.of
            if count.below is not None:
                found[f"{prefix}{count.name}_below"] = count.below
    for table in matrix.optimizers if len(matrix.optimizers) == 1 else []:
        found |= {f"above_50/{arm.name}": arm.above_50 for arm in table.arms}
    return found
