"""Which source is best: ranks, foreign sources against home, and what tells two sources apart.

Ranks: paper, section 6 (Figure 6) and section 5.1. Rank 1 is the highest win rate; win rates that are equal to two
decimals share the best of their ranks (1, 2, 2, 4).

Differences to home are foreign minus home, in points, paired where the draws are (a grid's entries of one column share
their prompts). Pooled sources that hold the target's own language are neither.

Power: how many prompts, and how many seeds, tell two sources apart, for 80 % power, two-sided 5 %.
Prompts: n = (z_.975 + z_.8)^2 v / d^2, v the variance over prompts of the paired difference of two sources' wins under
one seed (their draws of one column, times its prompts, so that clusters of prompts are in it), d the true difference.
That is for these very reward models: training them once more is not in it.
Seeds: the smallest k for which a t-test has that power (noncentral t), from the standard deviation of the difference
between seeds and from its variance over the grid's own prompts, which no seeds narrow. One seed tells nothing about it.
Both are the formulas by which the matrix says what would settle a difference (decisions.py).
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xling.analysis.matrix.names import named
from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.statistics.decisions import MOST_SEEDS, holm, prompts_needed, seeds_needed
from xling.analysis.statistics.draws import (
    DIGITS,
    best_shares,
    centred,
    p_two_sided,
    pair_signs,
    pairs_of,
    percentile,
    ranks,
    share_above,
    spanning,
)
from xling.analysis.statistics.intervals import moderated
from xling.analysis.tidy.entries import EVERY, PLACE, Entries, Square
from xling.analysis.tidy.finding import Finding, Place, Row, place_of, spread, with_ends
from xling.config.common import is_foreign

POINTS = (1, 2, 5)


def source_ranking(entries: Entries) -> Finding:
    """Rank of every source within each target, with the share of draws in which it is the best one."""
    return entries.finding(
        "source_ranking",
        "Sources ranked within each target",
        ["target_lang", "source_lang", *spread("win_rate", "rank"), "p_best"],
        _ranks,
        "rank: 1 is the highest win rate; win rates equal to two decimals share a rank. rank_low, rank_high: the "
        "central 95 % of its ranks over draws. p_best: share of draws in which it is the best source (ties share); "
        "no probability that it is: the top one of six equal sources has about 0.5. "
        "`all`: over cells abroad alone, as being at home is no merit of a source: by its effect beside the targets', "
        f"in a least squares fit to those cells, at the mean target. Draws: {entries.how}. Paper, Figure 6.",
        compact=("source_lang", "target_lang", "rank"),
    )


def _ranks(panel: Entries) -> Iterator[Row | str]:
    yield from panel.holes()
    square = panel.square()
    for target in square.targets:
        sources, value, draws = square.column(target)
        if len(sources) < 2:
            yield f"target {target} has {len(sources)} source, nothing to rank."
        else:
            yield from _ranked(target, sources, value, draws)
    if len(square.targets) > 1:
        yield from _ranked_abroad(square)


def _ranked_abroad(square: Square) -> Iterator[Row | str]:
    """Over all targets, from cells abroad: each source lacks another target, and targets are not equally hard."""
    foreign = [[is_foreign(source, target) for target in square.targets] for source in square.sources]
    s, t = np.nonzero(np.array(foreign) & ~np.isnan(square.value))
    sources, targets = np.unique(s), np.unique(t)
    if len(sources) < 2 or len(targets) < 2:
        return
    of_source, of_target = s[:, None] == sources, t[:, None] == targets
    design = np.hstack([of_source, of_target]).astype(np.float64)
    if np.linalg.matrix_rank(design) < design.shape[1] - 1:
        yield "over all targets: cells abroad compare not all sources with each other, directly or through others."
        return
    effects = np.linalg.pinv(design)
    taken = effects[: len(sources)] + effects[len(sources) :].mean(axis=0)  # (sources, cells): at the mean target
    errors = square.errors[:, s, t].astype(np.float64) @ taken.T
    value = taken @ square.value[s, t]
    yield from _ranked(EVERY, [square.sources[one] for one in sources], value, value + errors)


def _ranked(target: str, sources: Sequence[str], value: Floats, draws: Floats) -> Iterator[Row]:
    placed, drawn = ranks(value, DIGITS), ranks(draws)
    unsure = np.isnan(draws).any()
    shares = np.full(len(sources), math.nan) if unsure else best_shares(draws)
    for s in np.lexsort((np.array(sources), placed)):
        row: Row = {"target_lang": target, "source_lang": sources[s]}
        row |= with_ends("win_rate", value[s], percentile(draws[:, s]))
        row |= with_ends("rank", placed[s], percentile(np.full(1, math.nan) if unsure else drawn[:, s]))
        yield row | {"p_best": shares[s]}


# --- judges -----------------------------------------------------------------------------------------------


def judge_ranking(entries: Entries) -> Finding:
    """Do two judges order the sources of a target alike, over all pairs of sources; three rules for ties."""
    numbers = ["pairs", *spread("agree"), "untied_pairs", "agree_untied", "agree_exactly", "repeated"]
    found = entries.finding(
        "judge_ranking",
        "Do judges rank the sources alike",
        ["judge", "other_judge", "target_lang", *numbers],
        _pairs_of_judges,
        "Percent of the pairs of sources of a target that both judges order alike, win rates rounded to two decimals. "
        "agree: a tie of one judge counts half, of both one. agree_untied: pairs that either has tied are dropped. "
        "agree_exactly: a tie of one judge is a disagreement. repeated: about what one judge would reach with itself "
        "on as many other prompts (mean of the two); judges of the same responses can reach more. Pairs of sources "
        "share sources: their number is no sample size. Intervals: agreement as measured with so many prompts. Draws: "
        f"{entries.how}. Paper, section 5.1.",
        compact=("", "target_lang", "agree"),
        over=("judge",),
    )
    alone = "There is one judge only, or no two that judged two sources of one target."
    return replace(found, left_out=() if len(found.table) else (alone,))


def _pairs_of_judges(group: Entries) -> Iterator[Row]:
    for (first, left), (second, right) in itertools.combinations(_judges(group), 2):
        for row in _agreement(left.square(), right.square()):
            yield {"judge": first, "other_judge": second} | row


def _judges(group: Entries) -> Iterator[tuple[str, Entries]]:
    """Judges with their settings, by name."""
    axes = [axis for axis in group.axes if axis.split(".")[0] == "judge"]
    for values, rows in group.table.groupby(axes, sort=True).indices.items():
        chosen = np.zeros(len(group.table), dtype=np.bool_)
        chosen[rows] = True
        told = dict(zip(axes, values if isinstance(values, tuple) else (values,), strict=True))
        yield named(told, "judge"), group.where(chosen)


def _agreement(one: Square, other: Square) -> Iterator[Row]:
    """A row a target that both judged, then one over all of them."""
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
        yield {"target_lang": target} | _shares(signs[-1])
    if signs:
        every = tuple(np.concatenate(parts, axis=-1) for parts in zip(*signs, strict=True))
        yield {"target_lang": EVERY} | _shares(every)


def _of_sources(column: tuple[list[str], Floats, Floats], shared: Sequence[str]) -> tuple[Floats, Floats]:
    sources, value, draws = column
    places = [sources.index(source) for source in shared]
    return value[places], draws[:, places]


def _shares(signs: tuple[Floats, ...]) -> Row:
    """Agreement in percent under each rule; signs of both judges' pairs: (pairs,), (draws, pairs), and repeated."""
    left, right, drawn_left, drawn_right, left_again, right_again = signs
    half, untied = float(_half(left, right)), float(_untied(left, right))
    row: Row = {"pairs": len(left), "agree_exactly": float(100 * (left == right).mean())}
    row |= with_ends("agree", half, centred(half, _half(drawn_left, drawn_right), 0, 100))
    row |= {"untied_pairs": int(((left != 0) & (right != 0)).sum()), "agree_untied": untied}
    return row | {"repeated": float(_half(left, left_again).mean() + _half(right, right_again).mean()) / 2}


def _half(left: Floats, right: Floats) -> Floats:
    return np.asarray(100 * (1 - np.abs(left - right) / 2).mean(axis=-1))


def _untied(left: Floats, right: Floats) -> Floats:
    there = (left != 0) & (right != 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(100 * ((left == right) & there).sum(axis=-1) / there.sum(axis=-1))


# --- home and abroad ----------------------------------------------------------------------------------------


def cross_vs_home(entries: Entries) -> Finding:
    """For each target how many foreign sources beat the home source, and by how much they do on average."""
    settled = ["settled_better", "settled_worse"]
    return entries.finding(
        "cross_vs_home",
        "Foreign sources against the home source",
        ["target_lang", "home_win_rate", "foreign", *spread("better"), *settled, *spread("difference")],
        _counts_of_targets,
        "better: foreign sources whose win rate is above the home source's (two decimals), of `foreign`; its interval "
        "is over draws. settled: their difference's 95 % interval excludes 0, not corrected for their number. "
        f"difference: mean of foreign minus home, points. Draws: {entries.how}.",
    )


def _counts_of_targets(panel: Entries) -> Iterator[Row | str]:
    yield from panel.holes()
    square = panel.square()
    found = [(target, _differences(square, target)) for target in square.targets]
    yield from (why for _, why in found if isinstance(why, str))
    columns = [(target, column) for target, column in found if not isinstance(column, str)]
    yield from ({"target_lang": target} | _counted([column]) for target, column in columns)
    if columns:
        yield {"target_lang": EVERY} | _counted([column for _, column in columns])


def home_differences(entries: Entries) -> Finding:
    """Every foreign source minus home, with p, and Holm's correction within a matrix."""
    return entries.finding(
        "home_differences",
        "Every foreign source minus the home source",
        ["target_lang", "source_lang", *spread("difference"), "p_better", "p", "p_holm"],
        _each_difference,
        "Points. p_better: share of draws in which the foreign source is the better one. p: two-sided, as the matrix "
        "has it; where it has none (of `all`, and of the paper) from the draws, and at least 1 over their number. "
        "p_holm: after Holm's correction for the foreign sources and targets of the matrix; `all`, the mean over "
        f"targets, is not corrected. Draws: {entries.how}.",
        compact=("source_lang", "target_lang", "difference"),
    )


def _each_difference(panel: Entries) -> Iterator[Row | str]:
    yield from panel.holes()
    square, known = panel.square(), _matrix_p(panel)
    rows: list[Row] = []
    means: dict[str, list[tuple[float, Floats]]] = {}
    for target in square.targets:
        found = _differences(square, target)
        if isinstance(found, str):
            yield found
            continue
        for source, value, drawn in zip(found.sources, found.value, found.draws.T, strict=True):
            row: Row = {"target_lang": target, "source_lang": source} | _tested(value, drawn)
            rows.append(row | {"p": known.get((source, target), row["p"])})
            means.setdefault(source, []).append((value, drawn))
    tested = [row for row in rows if not math.isnan(float(row["p"]))]
    for row, adjusted in zip(tested, holm([float(row["p"]) for row in tested]), strict=True):
        row["p_holm"] = adjusted
    yield from rows
    for source, over_targets in means.items():
        mean, drawn = (np.mean(side, axis=0) for side in zip(*over_targets, strict=True))
        yield {"target_lang": EVERY, "source_lang": source} | _tested(float(mean), drawn)


def _matrix_p(panel: Entries) -> dict[tuple[str, str], float]:
    """(source, target) -> p of its difference to home, where the matrix has one: a t, which draws have too few for."""
    if "home_p" not in panel.table:
        return {}
    there = panel.table[panel.table["home_p"].notna()]
    return {(row.source_lang, row.target_lang): float(row.home_p) for row in there.itertuples()}


def _tested(value: float, draws: Floats) -> Row:
    row = with_ends("difference", value, percentile(draws))
    return row | {"p": p_two_sided(draws), "p_better": share_above(draws)}


@dataclass(frozen=True)
class _Foreign:
    """The foreign sources of a target, minus home."""

    home: float  # its win rate
    sources: list[str]
    value: Floats  # (sources,)
    draws: Floats  # (draws, sources)


def _differences(square: Square, target: str) -> _Foreign | str:
    """A sentence where there is nothing to compare."""
    sources, value, draws = square.column(target)
    foreign = [s for s, source in enumerate(sources) if is_foreign(source, target)]
    if target not in sources:
        return f"target {target} has no home source to compare with."
    if not foreign:
        return f"target {target} has no foreign source."
    home = sources.index(target)
    difference = value[foreign] - value[home]
    return _Foreign(value[home], [sources[s] for s in foreign], difference, draws[:, foreign] - draws[:, [home]])


def _counted(columns: Sequence[_Foreign]) -> Row:
    value = np.concatenate([np.round(column.value, DIGITS) for column in columns])
    draws = np.concatenate([column.draws for column in columns], axis=1)
    ends = np.array([percentile(drawn) for drawn in draws.T])
    better = float((value > 0).sum())
    drawn = np.where(np.isnan(draws).any(axis=1), math.nan, (draws > 0).sum(axis=1))
    row: Row = {"home_win_rate": float(np.mean([column.home for column in columns])), "foreign": len(value)}
    row |= {"settled_better": float((ends[:, 0] > 0).sum()), "settled_worse": float((ends[:, 1] < 0).sum())}
    row |= with_ends("better", better, spanning(better, drawn))
    return row | with_ends("difference", float(value.mean()), percentile(draws.mean(axis=1)))


# --- power ----------------------------------------------------------------------------------------------------


def power(entries: Entries) -> Finding:
    """Prompts and seeds needed for typical differences, and for those seen."""
    places = {
        place: (column, k) for column, (members, *_) in enumerate(entries.prompts) for k, place in enumerate(members)
    }

    fewest_seeds: list[int] = []

    def rows_of(panel: Entries) -> Iterator[Row | str]:
        columns: list[_Pairs] = []
        win = panel.table["win_rate"].to_numpy()
        axes = [*entries.axes, *PLACE]
        names = [place_of(dict(zip(axes, row, strict=True))) for row in panel.table[axes].itertuples(index=False)]
        for target, members in panel.table.groupby("target_lang", sort=True).indices.items():
            there = [int(row) for row in members if not math.isnan(win[row])]
            covariance = _covariance(entries, places, [names[row] for row in there]) if there else None
            if covariance is None or len(there) < 2:
                yield f"target {target}: fewer than two sources with an interval."
                continue
            columns.append(_pairs(panel, there, *covariance))
            yield from ({"target_lang": target} | row for row in _needs(columns[-1:]))
        if columns:
            yield from ({"target_lang": EVERY} | row for row in _needs(columns))
            fewest_seeds.append(columns[0].seeds)

    found = entries.finding(
        "power",
        "How many prompts or seeds tell two sources apart",
        ["target_lang", "unit", "difference", "points", "needed", "have", "sd"],
        rows_of,
        "80 % power, two-sided 5 %, for a true difference of 1, 2 and 5 points, and for those seen between the sources "
        "of a target (the median pair, the best two; noise inflates them, so that these needs are too low). prompts: "
        "under one seed, RM training not included; seeds: with the prompts of the grid. Empty: no number would do, or "
        f"more than {MOST_SEEDS} seeds. sd: of the paired difference, over prompts or between seeds, typical pair. "
        f"Draws: {entries.how}.",
        compact=("difference", "target_lang", "needed"),
    )
    if min(fewest_seeds, default=2) > 1:
        return found
    return replace(found, left_out=(*found.left_out, "with one seed how many seeds would be needed cannot be told."))


@dataclass(frozen=True)
class _Pairs:
    """All pairs of a target's sources: their differences, and the variances of these."""

    differences: Floats
    best_two: float
    n: int
    seeds: int
    prompts: Floats  # variances over prompts, of one of them
    between: Floats  # between seeds; NaN: of one seed
    fixed: Floats  # over the grid's own prompts: no seeds narrow it


def _pairs(
    panel: Entries, rows: Sequence[int], covariance: Floats, n: float, between: tuple[Floats, Floats, int] | None
) -> _Pairs:
    table = panel.table.iloc[list(rows)]
    left, right = pairs_of(len(rows))
    win = table["win_rate"].to_numpy()
    prompts = n * _of_pairs(covariance, left, right)
    over_seeds, fixed = np.full(len(left), math.nan), np.zeros(len(left))
    if between is not None:
        of_mean, of_seeds = (_of_pairs(found, left, right) for found in between[:2])
        seeds = between[2]
        shared = np.clip((prompts / n - of_mean) / (seeds - 1), 0.0, of_mean)
        over_seeds, fixed = seeds * moderated(of_seeds, of_mean, shared, seeds)[0], of_mean - shared
    best_two = float(np.diff(np.sort(win)[-2:])[0])
    return _Pairs(
        np.abs(win[left] - win[right]), best_two, round(n), int(table["seeds"].min()), prompts, over_seeds, fixed
    )


def _of_pairs(covariance: Floats, left: Sequence[int], right: Sequence[int]) -> Floats:
    """(pairs,) variances of differences; of equal ones rounding makes less than 0."""
    variance = np.diag(covariance)
    return np.maximum(variance[left] + variance[right] - 2 * covariance[left, right], 0.0)


def _covariance(
    entries: Entries, places: dict[Place, tuple[int, int]], names: Sequence[Place]
) -> tuple[Floats, float, tuple[Floats, Floats, int] | None] | None:
    """(K, K) over the prompts of one seed, of entries by name, and how many prompts; None: not known of all.

    With them, of entries of one column with several seeds, what Draws has of these.

    Entries of different columns are independent.
    """
    if any(name not in places for name in names):
        return None
    column, number = (np.array(side) for side in zip(*(places[name] for name in names), strict=True))
    found = np.zeros((len(names), len(names)))
    known = sorted(set(column.tolist()))
    for one in known:
        own = np.flatnonzero(column == one)
        found[np.ix_(own, own)] = entries.prompts[one][1][np.ix_(number[own], number[own])]
    several = entries.seeds[known[0]] if len(known) == 1 and entries.seeds else None
    if several is not None:
        members = np.ix_(number, number)
        several = several[0][members], several[1][members], several[2]
    return found, max(entries.prompts[one][2] for one in known), several


def _needs(columns: Sequence[_Pairs]) -> list[Row]:
    """A row a difference and unit; over several columns the typical variance is the mean, a number seen the median."""
    prompts = float(np.mean(np.concatenate([column.prompts for column in columns])))
    between = math.sqrt(float(np.mean(np.concatenate([column.between for column in columns]))))
    fixed = float(np.mean(np.concatenate([column.fixed for column in columns])))
    asked = {f"{points} point{'s' if points > 1 else ''}": float(points) for points in POINTS}
    asked["median pair"] = float(np.median(np.concatenate([column.differences for column in columns])))
    asked["best two"] = float(np.median([column.best_two for column in columns]))
    rows: list[Row] = []
    for name, points in asked.items():
        row: Row = {"unit": "prompts", "difference": name, "points": points, "sd": math.sqrt(prompts)}
        rows.append(row | {"needed": prompts_needed(prompts, points), "have": min(c.n for c in columns)})
    for name, points in asked.items() if not math.isnan(between) else ():
        row = {"unit": "seeds", "difference": name, "points": points, "sd": between}
        rows.append(row | {"needed": seeds_needed(between, points, fixed), "have": min(c.seeds for c in columns)})
    return rows
