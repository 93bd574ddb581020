"""Foreign sources against the target's own: how many beat it, by how much, and how sure that is.

Differences are foreign minus home, in points, paired where the draws are (a grid's entries of one column share their
prompts). Pooled sources that hold the target's own language are neither.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from xling.analysis.matrix.names import values_of
from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.statistics.draws import DIGITS, p_two_sided, percentile, spanning
from xling.analysis.statistics.intervals import holm
from xling.analysis.tidy.entries import EVERY, Entries, Row, Square
from xling.analysis.tidy.finding import Finding
from xling.config.common import is_foreign


def cross_vs_home(entries: Entries) -> Finding:
    """For each target how many foreign sources beat the home source, and by how much they do on average."""
    rows: list[Row] = []
    left_out: list[str] = []
    for axes, panel in entries.panels():
        square = panel.square()
        found = [(target, _differences(square, target)) for target in square.targets]
        left_out += panel.holes(values_of(axes)) + [
            f"{values_of(axes)}: {why}" for _, why in found if isinstance(why, str)
        ]
        columns = [(target, one) for target, one in found if not isinstance(one, str)]
        rows += [dict(axes) | {"target_lang": target} | _counted([one]) for target, one in columns]
        if columns:
            rows.append(dict(axes) | {"target_lang": EVERY} | _counted([one for _, one in columns]))
    columns_of = [*entries.axes, "target_lang", "home_win_rate", "foreign", "better", "better_low", "better_high"]
    columns_of += ["settled_better", "settled_worse", "difference", "difference_low", "difference_high"]
    return Finding(
        "cross_vs_home",
        "Foreign sources against the home source",
        pd.DataFrame(rows, columns=columns_of),
        "better: foreign sources whose win rate is above the home source's (two decimals), of `foreign`; its interval "
        "is over draws. settled: their difference's 95 % interval excludes 0, not corrected for their number. "
        f"difference: mean of foreign minus home, points. Draws: {entries.how}.",
        tuple(left_out),
    )


def home_differences(entries: Entries) -> Finding:
    """Every foreign source minus home, with p, and Holm's correction within a matrix."""
    rows: list[Row] = []
    left_out: list[str] = []
    for axes, panel in entries.panels():
        left_out += panel.holes(values_of(axes))
        square = panel.square()
        own: list[Row] = []
        known = _matrix_p(panel)
        means: dict[str, list[tuple[float, Floats]]] = {}
        for target in square.targets:
            found = _differences(square, target)
            if isinstance(found, str):
                left_out.append(f"{values_of(axes)}: {found}")
                continue
            for source, value, drawn in zip(found.sources, found.value, found.draws.T, strict=True):
                row: Row = dict(axes) | {"target_lang": target, "source_lang": source} | _tested(value, drawn)
                own.append(row | {"p": known.get((source, target), row["p"])})
                means.setdefault(source, []).append((value, drawn))
        told = [row for row in own if not math.isnan(float(row["p"]))]
        for row, adjusted in zip(told, holm([float(row["p"]) for row in told]), strict=True):
            row["p_holm"] = adjusted
        rows += own
        for source, one in means.items():
            mean, drawn = (np.mean(side, axis=0) for side in zip(*one, strict=True))
            rows.append(dict(axes) | {"target_lang": EVERY, "source_lang": source} | _tested(float(mean), drawn))
    columns = [*entries.axes, "target_lang", "source_lang", "difference", "difference_low", "difference_high"]
    return Finding(
        "home_differences",
        "Every foreign source minus the home source",
        pd.DataFrame(rows, columns=[*columns, "p_better", "p", "p_holm"]),
        "Points. p_better: share of draws in which the foreign source is the better one. p: two-sided, as the matrix "
        "has it; where it has none (of `all`, and of the paper) from the draws, and at least 1 over their number. "
        "p_holm: after Holm's correction for the foreign sources and targets of the matrix; `all`, the mean over "
        f"targets, is not corrected. Draws: {entries.how}.",
        tuple(left_out),
        compact=("source_lang", "target_lang", "difference"),
    )


def _matrix_p(panel: Entries) -> dict[tuple[str, str], float]:
    """(source, target) -> p of its difference to home, where the matrix has one: a t, which draws have too few for."""
    if "home_p" not in panel.table:
        return {}
    there = panel.table[panel.table["home_p"].notna()]
    return {(row.source_lang, row.target_lang): float(row.home_p) for row in there.itertuples()}


def _tested(value: float, draws: Floats) -> Row:
    low, high = percentile(draws)
    row: Row = {"difference": value, "difference_low": low, "difference_high": high, "p": p_two_sided(draws)}
    return row | {"p_better": math.nan if np.isnan(draws).any() else _above(draws)}


class _Column:
    """Foreign minus home of one target."""

    def __init__(self, home: float, sources: Sequence[str], value: Floats, draws: Floats) -> None:
        self.home, self.sources, self.value, self.draws = home, sources, value, draws  # (F,), (draws, F)


def _differences(square: Square, target: str) -> _Column | str:
    """A sentence where there is nothing to compare."""
    sources, value, draws = square.column(target)
    foreign = [s for s, source in enumerate(sources) if is_foreign(source, target)]
    if target not in sources:
        return f"target {target} has no home source to compare with."
    if not foreign:
        return f"target {target} has no foreign source."
    home = sources.index(target)
    difference = value[foreign] - value[home]
    return _Column(value[home], [sources[s] for s in foreign], difference, draws[:, foreign] - draws[:, [home]])


def _counted(columns: Sequence[_Column]) -> dict[str, float]:
    value = np.concatenate([np.round(column.value, DIGITS) for column in columns])
    draws = np.concatenate([column.draws for column in columns], axis=1)
    ends = np.array([percentile(drawn) for drawn in draws.T])
    better = float((value > 0).sum())
    drawn = np.where(np.isnan(draws).any(axis=1), math.nan, (draws > 0).sum(axis=1))
    row = {"home_win_rate": float(np.mean([column.home for column in columns])), "foreign": len(value)}
    row |= {"better": better, "settled_better": float((ends[:, 0] > 0).sum())}
    row |= {"settled_worse": float((ends[:, 1] < 0).sum()), "difference": float(value.mean())}
    row["better_low"], row["better_high"] = spanning(better, drawn)
    row["difference_low"], row["difference_high"] = percentile(draws.mean(axis=1))
    return row


def _above(draws: Floats) -> float:
    return float((draws > 0).mean() + 0.5 * (draws == 0).mean())
