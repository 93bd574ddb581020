"""How far each optimizer goes from SFT_t, and what that buys: the KL/reward frontier.

x: KL(policy || SFT_t) in nats a response, for best-of-k the bound log k - (k - 1) / k (paper, section 6.2; Beirami et
al. 2024), for trained policies as measured along their test samples. y: the increase over the baseline of the reward
model's score and of the judge's. Over-optimisation of the proxy (Gao et al. 2023) shows where the first rises and the
second falls. Rewards are in standard deviations of RM_s over the baseline's responses, the same for all optimizers of
a cell, so that cells can be averaged. Best-of-k is the expectation over all k-subsets of the pool
(xling/optimizers/best_of_n.py).

Means are over targets and the sources within, of the cells and seeds that all optimizers have, so that no optimizer
is seen on easier cells than another.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from xling.analysis.matrix.across import (
    REFERENCE,
    Cells,
    Kept,
    Mark,
    grouped,
    in_order,
    mean_of_columns,
    over_columns,
    reference_of,
)
from xling.analysis.matrix.column import Column
from xling.analysis.matrix.types import PERCENT, Frontier, FrontierPoint, LearningPoint, Seeds, doublings
from xling.analysis.statistics.bootstrap import Floats, Sample
from xling.errors import StoreError
from xling.optimizers import best_of_n
from xling.results.items import Record, read_array, read_learning
from xling.results.plan import Results, SeedCell

QUANTITIES = ("kl", "reward", "quality", "win")
_SPAN = np.array([[0.0, -np.inf, -np.inf, 0.0], [np.inf, np.inf, np.inf, 100.0]])  # the ends of their scales
Place = tuple[str, str, Seeds]  # source, target, seeds


def marked(kept: Sequence[Kept], column: Column, results: Results) -> list[Kept]:
    """The entries with their places on the frontier, for grids that have several optimizers."""
    number = {tuple(entry.axes.items()): place for place, entry in enumerate(column.entries)}
    return [
        replace(one, marks=_marks(column, number[tuple(one.axes.items())], one.planned.cells, results)) for one in kept
    ]


def _marks(column: Column, number: int, cells: Sequence[SeedCell], results: Results) -> dict[Seeds, list[Mark]]:
    found = {}
    for cell in cells:
        record = column.records[number].get(cell.seeds)
        if record is None or column.own_judge(number, cell.seeds):
            continue
        if record.trained:
            columns = [column.measure(number, cell.seeds, name) for name in QUANTITIES]
            found[cell.seeds] = [Mark(None, _stacked(columns, len(record.items.prompt)))]
        else:
            with contextlib.suppress(StoreError, KeyError):
                scored = _best_of_k(record, column.scales[number].get(cell.seeds), cell, results)
                found[cell.seeds] = scored or [_pick(column, number, cell.seeds, record)]
    return found


def _pick(column: Column, number: int, seeds: Seeds, record: Record) -> Mark:
    """Best-of-n alone, where the judge was asked about the picks and not about the rest of the pool."""
    n, prompts = record.summary.n_samples, len(record.items.prompt)
    columns = [column.measure(number, seeds, name) for name in QUANTITIES[1:]]
    return Mark(n, _stacked([np.full(prompts, record.summary.kl_bound), *columns], prompts))


def _stacked(columns: Sequence[Floats | None], prompts: int) -> Floats:
    return np.stack([np.full(prompts, np.nan) if column is None else column for column in columns], axis=1)


def _best_of_k(record: Record, scale: float | None, cell: SeedCell, results: Results) -> list[Mark]:
    """Best-of-k for k = 1, 2, 4, ... n from the scores of the pool; nothing where only picks were judged."""
    n, items = record.summary.n_samples, record.items
    reward = read_array(results.folder(cell.stages["score"]) / "pool.npy")[:, :n]
    if not record.curve.shape[1] or len(reward) != len(items.prompt):
        return []
    best = best_of_n.Settings()
    if not np.array_equal(items.column("reward"), np.nanmax(reward, axis=1)):  # type: ignore[arg-type]  # None: unequal
        return []  # another optimizer has picked, and the curve is not best-of-k's
    curves: list[Floats | None] = [best_of_n.curve(best, reward, reward)]
    with contextlib.suppress(StoreError, KeyError):  # not every judge scores the whole pool
        quality = read_array(results.folder(cell.stages["verdict"]) / "pool.npy")[:, :n]
        curves.append(best_of_n.curve(best, reward, quality))
    opponents = [items.column("baseline_reward"), items.column("baseline_quality")]
    units = [scale, 1.0]
    increases = [
        (curve - opponent[:, None]) / unit if curve is not None and opponent is not None and unit else None
        for curve, opponent, unit in zip([*curves, None][:2], opponents, units, strict=True)
    ]
    wins = record.curve * PERCENT
    marks = []
    for k in doublings(reward.shape[1]):
        columns = [found[:, k - 1] if found is not None else None for found in (*increases, wins)]
        bound = best_of_n.kl_bound(best, k)
        marks.append(Mark(k, _stacked([np.full(len(reward), bound), *columns], len(reward))))
    return marks


# --- means over cells -------------------------------------------------------------------------------------


def frontiers(kept: Sequence[Kept], results: Results) -> list[Frontier]:
    """One for every judge and reward model that several optimizers (or settings) have been used with."""
    found = []
    for axes, arms in grouped(kept, over="optimizer"):
        shown = _without_smaller_n(arms)
        places = _common(list(shown.values()))
        if places:
            points = [point for name, cells in in_order(shown) for point in _points(name, cells, places)]
            learning = [row for name, cells in in_order(shown) for row in _learning(name, cells, places, results)]
            cells = len({(source, target) for source, target, _ in places})
            found.append(Frontier(axes, cells, points, learning))
    return found


def _without_smaller_n(arms: Mapping[str, Cells]) -> dict[str, Cells]:
    """Best-of-n with a smaller n lies on the curve of the largest."""
    largest = reference_of(arms)
    return {name: cells for name, cells in arms.items() if name == largest or name.split()[0] != REFERENCE}


def _common(arms: Sequence[Cells]) -> list[Place]:
    """Cells and seeds that all arms have, on the same prompts."""
    first, *rest = arms
    return sorted(
        (*place, seeds)
        for place, kept in first.items()
        for seeds in kept.marks
        if all(
            place in other and seeds in other[place].marks and other[place].layouts[seeds] == kept.layouts[seeds]
            for other in rest
        )
    )


def _points(name: str, cells: Cells, places: Sequence[Place]) -> list[FrontierPoint]:
    columns: dict[tuple[str, Seeds], list[Kept]] = {}
    for source, target, seeds in places:
        columns.setdefault((target, seeds), []).append(cells[source, target])
    ks = [mark.k for mark in cells[places[0][:2]].marks[places[0][2]]]
    samples: list[Sample] = []
    for (_, seeds), members in columns.items():
        values = [np.hstack([mark.values for mark in one.marks[seeds]]) for one in members]
        samples.append(members[0].sample(seeds, mean_of_columns(values), np.tile(_SPAN, len(ks))))
    estimates = over_columns(samples)
    width = len(QUANTITIES)
    return [
        FrontierPoint(name, k, kl, *estimates[number * width + 1 : (number + 1) * width])
        for number, k in enumerate(ks)
        if (kl := estimates[number * width]) is not None
    ]


def _learning(name: str, cells: Cells, places: Sequence[Place], results: Results) -> list[LearningPoint]:
    """Over the steps at which every cell of an arm was measured; nothing for best-of-n."""
    curves: dict[str, dict[int, dict[str, float]]] = {}
    for source, target, seeds in places:
        for cell in cells[source, target].planned.cells:
            if cell.seeds == seeds and "align" in cell.stages:
                with contextlib.suppress(StoreError):
                    rows = read_learning(results.folder(cell.stages["align"]))
                    curves[cell.stages["align"].key] = {int(row["step"]): row for row in rows}
    found = [curve for curve in curves.values() if curve]
    points = []
    for step in sorted(set[int]().union(*found).intersection(*found)) if found else []:
        rows = [curve[step] for curve in found]
        if all("reward" in row and "kl" in row for row in rows):
            quality = _mean(rows, "quality") if all("quality" in row for row in rows) else None
            points.append(LearningPoint(name, step, _mean(rows, "reward"), _mean(rows, "kl"), quality))
    return points


def _mean(rows: Sequence[Mapping[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))
