"""Which source to pick for a target without its labels: rules, and what each of them costs.

Rules to choose by: for each target t they see the other columns only (leave one target out), and are compared with what
the target's own column would have made of it: regret = win rate of the source that looks best in t, minus that of the
rule's choice. The best of a noisy column looks better than it is (the winner's curse). So choosing and evaluating see
different data: with e a draw of the errors, choose on y + e and evaluate on y - e, which are independent where errors
are normal (Rasines and Young 2023, splitting by randomisation), and average over draws. Each has twice the variance, as
if half of the prompts had been used for it. So a regret is what picking on half of the target's own column would gain
over the rule's pick on half of the others; it is negative where the rule does better than such a column.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xling.analysis.statistics.bootstrap import Floats, Ints
from xling.analysis.statistics.draws import centred
from xling.analysis.tidy.entries import EVERY, Entries, Square
from xling.analysis.tidy.finding import Finding, Row, spread, with_ends
from xling.config.common import is_foreign

_OUTER, _INNER = 300, 60  # draws of the matrix, and of what splits each of them
_FEWEST_OUTER = 100  # of a large matrix
_MOST_NUMBERS = 4_000_000  # in one array
ENGLISH = "en"
RULES = ("elsewhere", "english", "home", "random")


def recommendation(entries: Entries) -> Finding:
    """Expected regret of choosing a source by the other targets, English, home or at random."""
    return entries.finding(
        "recommendation",
        "Which source to pick for a target: what each rule costs",
        ["target_lang", "rule", "source_lang", "win_rate", "best_source_lang", *spread("regret")],
        _costs,
        "regret: points that picking the best source by the target's own column would gain over the rule, without the "
        "winner's curse: choosing and evaluating on independent halves made from the draws. elsewhere: the foreign "
        "source with the best mean over the other targets; english; home; random: the mean of the foreign ones. "
        f"best_source_lang: by the column as it is. `{EVERY}`: mean over targets. Draws: "
        f"{entries.how}.",
        compact=("rule", "target_lang", "regret"),
    )


def _costs(panel: Entries) -> Iterator[Row | str]:
    yield from panel.holes()
    square = panel.square()
    if len(square.targets) < 2 or len(square.sources) < 2:
        yield "one source or one target only: there is nothing to choose by."
        return
    targets = [found for t in range(len(square.targets)) if (found := _target(square, t)) is not None]
    if targets:
        yield from _by_rule(square, targets)
    else:
        yield "no target has two sources and a foreign one."


@dataclass(frozen=True)
class _Target:
    """A target with a choice: places of its sources, and of the foreign ones among them."""

    t: int
    there: Ints
    foreign: Ints


def _by_rule(square: Square, targets: list[_Target]) -> Iterator[Row]:
    estimate = _regrets(square, square.value[None], targets)[0]
    size = max(1, _MOST_NUMBERS // (_INNER * square.value.size))
    count = min(_OUTER, max(_FEWEST_OUTER, 10 * size))
    outer = square.value + square.errors[:count].astype(np.float64)
    draws = np.concatenate([_regrets(square, outer[i : i + size], targets) for i in range(0, len(outer), size)])
    for k, rule in enumerate(RULES):
        there = np.flatnonzero(~np.isnan(estimate[:, k]))
        taken = [_taken(square, targets[number], rule) for number in there]
        for number, (source, win) in zip(there, taken, strict=True):
            best = square.sources[int(np.nanargmax(square.value[:, targets[number].t]))]
            row: Row = {"target_lang": square.targets[targets[number].t], "rule": rule, "source_lang": source}
            row |= {"win_rate": win, "best_source_lang": best}
            yield row | _regret(estimate[number, k], draws[:, number, k])
        if len(there):
            row = {"target_lang": EVERY, "rule": rule, "source_lang": "", "best_source_lang": ""}
            row["win_rate"] = float(np.mean([win for _, win in taken]))
            yield row | _regret(estimate[there, k].mean(), draws[:, there, k].mean(axis=1))


def _regret(value: float, draws: Floats) -> Row:
    return with_ends("regret", float(value), centred(float(value), draws))


def _target(square: Square, t: int) -> _Target | None:
    """None where there is no choice."""
    there = np.flatnonzero(~np.isnan(square.value[:, t]))
    foreign = np.array([s for s in there if is_foreign(square.sources[s], square.targets[t])], dtype=np.int64)
    return _Target(t, there, foreign) if len(there) > 1 and len(foreign) else None


def _taken(square: Square, target: _Target, rule: str) -> tuple[str, float]:
    """The source that a rule picks on the matrix as it is, and its win rate."""
    if rule == "random":
        return "", float(square.value[target.foreign, target.t].mean())
    source = _choice(rule, square, _merits(square.value), target)
    assert source is not None  # it has a regret
    return square.sources[int(source)], float(square.value[int(source), target.t])


def _regrets(square: Square, value: Floats, targets: Sequence[_Target]) -> Floats:
    """(B, targets, rules) expected regrets on matrices (B, S, T); NaN where a rule has nothing to take."""
    errors = square.normal[-_INNER:].astype(np.float64)
    choosing, evaluating = value[:, None] + errors, value[:, None] - errors  # (B, inner, S, T)
    merits = _merits(choosing)
    found = np.full((len(value), len(targets), len(RULES)), math.nan)
    for number, target in enumerate(targets):
        own = evaluating[..., target.t]
        best = target.there[np.argmax(choosing[..., target.there, target.t], axis=-1)]
        top = np.take_along_axis(own, best[..., None], axis=-1)[..., 0]
        for k, rule in enumerate(RULES):
            if rule == "random":
                taken = own[..., target.foreign].mean(axis=-1)
            else:
                source = _choice(rule, square, merits, target)
                if source is None:
                    continue
                taken = np.take_along_axis(own, np.broadcast_to(source, top.shape)[..., None], axis=-1)[..., 0]
            found[:, number, k] = (top - taken).mean(axis=1)
    return found


def _merits(value: Floats) -> tuple[Floats, Floats]:
    """(..., S, T) how far a source is above the mean of a target's column, and the (..., S) sums of that."""
    there = ~np.isnan(value)
    with np.errstate(invalid="ignore"):
        columns = np.where(there, value, 0.0).sum(axis=-2, keepdims=True) / there.sum(axis=-2, keepdims=True)
    above = np.where(there, value - columns, math.nan)
    return above, np.nansum(above, axis=-1)


def _choice(rule: str, square: Square, merits: tuple[Floats, Floats], target: _Target) -> Ints | None:
    """(...,) the source that a rule takes for a target, seeing the other columns only; None where it is not there."""
    if rule != "elsewhere":
        lang = ENGLISH if rule == "english" else square.targets[target.t]
        place = square.sources.index(lang) if lang in square.sources else -1
        return np.array(place) if place in target.there else None
    above, sums = merits
    own = above[..., target.foreign, target.t]
    others = (~np.isnan(square.value)).sum(axis=1)[target.foreign] - 1  # columns of a source beside this one
    score = np.where(others > 0, (sums[..., target.foreign] - own) / np.maximum(others, 1), -math.inf)
    return np.asarray(target.foreign[np.argmax(score, axis=-1)])
