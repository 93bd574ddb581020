"""Which source is best: ranks of sources within a target, how sure they are, and whether judges agree on them.

Paper, section 6 (Figure 6) and section 5.1. Rank 1 is the highest win rate; win rates that are equal to two decimals
share the best of their ranks (1, 2, 2, 4).
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from xling.analysis.matrix.names import named, values_of
from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.statistics.draws import DIGITS, best_shares, centred, pair_signs, percentile, ranks
from xling.analysis.tidy.entries import EVERY, Entries, Row, Square
from xling.analysis.tidy.finding import Finding


def source_ranking(entries: Entries) -> Finding:
    """Rank of every source within each target, with the share of draws in which it is the best one."""
    rows: list[Row] = []
    left_out: list[str] = []
    for axes, panel in entries.panels():
        left_out += panel.holes(values_of(axes))
        square = panel.square()
        for target in square.targets:
            sources, value, draws = square.column(target)
            if len(sources) < 2:
                left_out.append(f"{values_of(axes)}: target {target} has {len(sources)} source, nothing to rank.")
                continue
            rows += _ranked(dict(axes), target, sources, value, draws)
        rows += _over_targets(dict(axes), square)
    columns = [*entries.axes, "target_lang", "source_lang", "win_rate", "win_rate_low", "win_rate_high"]
    columns += ["rank", "rank_low", "rank_high", "p_best"]
    return Finding(
        "source_ranking",
        "Sources ranked within each target",
        pd.DataFrame(rows, columns=columns),
        "rank: 1 is the highest win rate; win rates equal to two decimals share a rank. rank_low, rank_high: the "
        "central 95 % of its ranks over draws. p_best: share of draws in which it is the best source (ties share); "
        "no probability that it is: the top one of six equal sources has about 0.5. "
        f"`all`: by the mean over the targets that all sources have. Draws: {entries.how}. Paper, Figure 6.",
        tuple(left_out),
        compact=("source_lang", "target_lang", "rank"),
    )


def _over_targets(axes: Row, square: Square) -> list[Row]:
    """The sources by their mean over the targets that all of them have."""
    whole = ~np.isnan(square.value).any(axis=0)
    if whole.sum() < 2 or len(square.sources) < 2:
        return []
    value = square.value[:, whole].mean(axis=1)
    return _ranked(
        axes, EVERY, square.sources, value, value + square.errors[:, :, whole].mean(axis=2, dtype=np.float64)
    )


def _ranked(axes: Row, target: str, sources: Sequence[str], value: Floats, draws: Floats) -> list[Row]:
    placed, drawn = ranks(value, DIGITS), ranks(draws)
    unsure = np.isnan(draws).any()
    shares = np.full(len(sources), math.nan) if unsure else best_shares(draws)
    rows = []
    for s in np.lexsort((np.array(sources), placed)):
        low, high = percentile(draws[:, s])
        first, last = percentile(np.full(1, math.nan) if unsure else drawn[:, s])
        row: Row = {"target_lang": target, "source_lang": sources[s], "win_rate": value[s], "rank": placed[s]}
        row |= {"win_rate_low": low, "win_rate_high": high, "rank_low": first, "rank_high": last}
        rows.append(axes | row | {"p_best": shares[s]})
    return rows


# --- judges -----------------------------------------------------------------------------------------------


def judge_ranking(entries: Entries) -> Finding:
    """Do two judges order the sources of a target alike, over all pairs of sources; three rules for ties."""
    rows: list[Row] = []
    for axes, group in entries.panels("judge"):
        for (first, left), (second, right) in itertools.combinations(_judges(group), 2):
            rows += _agreement(axes | {"judge": first, "other_judge": second}, left, right)
    axes_left = [axis for axis in entries.axes if axis.split(".")[0] != "judge"]
    columns = [*axes_left, "judge", "other_judge", "target_lang", "pairs", "agree", "agree_low", "agree_high"]
    columns += ["untied_pairs", "agree_untied", "agree_exactly", "repeated"]
    one = () if rows else ("There is one judge only, or no two that judged two sources of one target.",)
    return Finding(
        "judge_ranking",
        "Do judges rank the sources alike",
        pd.DataFrame(rows, columns=columns),
        "Percent of the pairs of sources of a target that both judges order alike, win rates rounded to two decimals. "
        "agree: a tie of one judge counts half, of both one. agree_untied: pairs that either has tied are dropped. "
        "agree_exactly: a tie of one judge is a disagreement. repeated: about what one judge would reach with itself "
        "on as many other prompts (mean of the two); judges of the same responses can reach more. Pairs of sources "
        "share sources: their number is no sample size. Intervals: agreement as measured with so many prompts. Draws: "
        f"{entries.how}. Paper, section 5.1.",
        one,
        compact=("", "target_lang", "agree"),
    )


def _judges(group: Entries) -> Iterator[tuple[str, Entries]]:
    """Judges with their settings, by name."""
    axes = [axis for axis in group.axes if axis.split(".")[0] == "judge"]
    for values, rows in group.table.groupby(axes, sort=True).indices.items():
        chosen = np.zeros(len(group.table), dtype=np.bool_)
        chosen[rows] = True
        told = dict(zip(axes, values if isinstance(values, tuple) else (values,), strict=True))
        yield named(told, "judge"), group.where(chosen)


def _agreement(axes: dict[str, str], left: Entries, right: Entries) -> Iterator[Row]:
    """A row a target that both judged, then one over all of them."""
    one, other = left.square(), right.square()
    signs: list[tuple[Floats, ...]] = []
    for target in one.targets:
        if target not in other.targets:
            continue
        mine, theirs = one.column(target), other.column(target)
        shared = [source for source in mine[0] if source in theirs[0]]
        if len(shared) < 2:
            continue
        values, draws = zip(*(_of_sources(side, shared) for side in (mine, theirs)), strict=True)
        again = [value + math.sqrt(2) * (drawn - value) for value, drawn in zip(values, draws, strict=True)]
        kept = [pair_signs(side, DIGITS) for side in values] + [pair_signs(side) for side in (*draws, *again)]
        signs.append(tuple(kept))
        yield dict(axes) | {"target_lang": target} | _shares(signs[-1])
    if signs:
        every = tuple(np.concatenate(parts, axis=-1) for parts in zip(*signs, strict=True))
        yield dict(axes) | {"target_lang": EVERY} | _shares(every)


def _of_sources(column: tuple[list[str], Floats, Floats], shared: Sequence[str]) -> tuple[Floats, Floats]:
    sources, value, draws = column
    places = [sources.index(source) for source in shared]
    return value[places], draws[:, places]


def _shares(signs: tuple[Floats, ...]) -> Row:
    """Agreement in percent under each rule; signs of both judges' pairs: (pairs,), (draws, pairs), and repeated."""
    left, right, drawn_left, drawn_right, left_again, right_again = signs
    half, untied = float(_half(left, right)), float(_untied(left, right))
    row: Row = {"pairs": len(left), "agree": half, "agree_exactly": float(100 * (left == right).mean())}
    row["agree_low"], row["agree_high"] = centred(half, _half(drawn_left, drawn_right), 0, 100)
    row |= {"untied_pairs": int(((left != 0) & (right != 0)).sum()), "agree_untied": untied}
    return row | {"repeated": float(_half(left, left_again).mean() + _half(right, right_again).mean()) / 2}


def _half(left: Floats, right: Floats) -> Floats:
    return np.asarray(100 * (1 - np.abs(left - right) / 2).mean(axis=-1))


def _untied(left: Floats, right: Floats) -> Floats:
    there = (left != 0) & (right != 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * ((left == right) & there).sum(axis=-1) / there.sum(axis=-1))
