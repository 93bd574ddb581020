"""Which source should I pick for a target that I have no matrix for? Rules, and the points that each of them costs.

For each target t the rules see the other columns only (leave one target out), and are compared with what the target's
own column would have made of it: regret = win rate of the source that looks best in t, minus that of the rule's choice.

The best of a noisy column looks better than it is (the winner's curse). So choosing and evaluating see different data:
with e a draw of the errors, choose on y + e and evaluate on y - e, which are independent where errors are normal
(Rasines and Young 2023, splitting by randomisation), and average over draws. Each has twice the variance, as if half of
the prompts had been used for it. So a regret is what picking on half of the target's own column would gain over the
rule's pick on half of the others; it is negative where the rule does better than such a column.
"""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from xling.analysis.drawing import Floats, Ints
from xling.analysis.entries import EVERY, Entries, Row, Square, abroad, words
from xling.analysis.findings import Finding
from xling.analysis.statistics import centred

_OUTER, _INNER = 300, 100  # draws of the matrix, and of what splits each of them
ENGLISH = "en"
RULES = ("others", "english", "home", "random")


def recommendation(entries: Entries) -> Finding:
    """Expected regret of choosing a source by the other targets, English, home or at random."""
    rows: list[Row] = []
    left_out: list[str] = []
    for axes, panel in entries.panels():
        left_out += panel.holes(words(axes))
        square = panel.square()
        if len(square.targets) < 2 or len(square.sources) < 2:
            left_out.append(f"{words(axes)}: one source or one target only: there is nothing to choose by.")
            continue
        found = _rows(square)
        rows += [dict(axes) | row for row in found]
        if not found:
            left_out.append(f"{words(axes)}: no target has two sources and a foreign one.")
    columns = [*entries.axes, "target_lang", "rule", "source_lang", "win_rate", "best_source_lang"]
    return Finding(
        "recommendation",
        "Which source to pick for a target: what each rule costs",
        pd.DataFrame(rows, columns=[*columns, "regret", "regret_low", "regret_high"]),
        "regret: points that picking the best source by the target's own column would gain over the rule, without the "
        "winner's curse: choosing and evaluating on independent halves made from the draws. others: the foreign "
        "source with the best mean over the other targets; english; home; random: the mean of the foreign ones. "
        f"best_source_lang: by the column as it is. `{EVERY}`: mean over targets. Draws: "
        f"{entries.how}.",
        tuple(left_out),
        compact=("rule", "target_lang", "regret"),
    )


def _rows(square: Square) -> list[Row]:
    targets = [t for t in range(len(square.targets)) if _candidates(square, t) is not None]
    if not targets:
        return []
    estimate = _regrets(square, square.value, targets)
    outer = square.errors[:_OUTER].astype(np.float64)
    draws = np.stack([_regrets(square, square.value + errors, targets) for errors in outer])  # (outer, targets, rules)
    rows: list[Row] = []
    for k, rule in enumerate(RULES):
        for number, t in enumerate(targets):
            if not math.isnan(estimate[number, k]):
                rows.append(_row(square, t, rule) | _interval(estimate[number, k], draws[:, number, k]))
        there = ~np.isnan(estimate[:, k])
        if there.any():
            row: Row = {"target_lang": EVERY, "rule": rule, "source_lang": "", "best_source_lang": ""}
            row["win_rate"] = float(np.mean([_taken(square, t, rule)[1] for t in np.array(targets)[there]]))
            rows.append(row | _interval(estimate[there, k].mean(), draws[:, there, k].mean(axis=1)))
    return rows


def _interval(value: float, draws: Floats) -> Row:
    low, high = centred(float(value), draws)
    return {"regret": float(value), "regret_low": low, "regret_high": high}


def _row(square: Square, t: int, rule: str) -> Row:
    source, win = _taken(square, t, rule)
    best = square.sources[int(np.nanargmax(square.value[:, t]))]
    return {
        "target_lang": square.targets[t],
        "rule": rule,
        "source_lang": source,
        "win_rate": win,
        "best_source_lang": best,
    }


def _taken(square: Square, t: int, rule: str) -> tuple[str, float]:
    """What a rule takes on the matrix as it is: (source, its win rate)."""
    _there, foreign = _candidates(square, t) or ([], [])
    if rule == "random":
        return "", float(square.value[foreign, t].mean())
    source = int(_CHOICES[rule](square, square.value[None], t, foreign)[0])
    return square.sources[source], float(square.value[source, t])


def _candidates(square: Square, t: int) -> tuple[list[int], list[int]] | None:
    """(sources there, foreign ones); None where there is no choice."""
    there = [int(s) for s in np.flatnonzero(~np.isnan(square.value[:, t]))]
    foreign = [s for s in there if abroad(square.sources[s], square.targets[t])]
    return (there, foreign) if len(there) > 1 and foreign else None


def _regrets(square: Square, value: Floats, targets: list[int]) -> Floats:
    """(targets, rules) expected regrets on a matrix (S, T); NaN where a rule has nothing to take."""
    errors = square.normal[-_INNER:].astype(np.float64)
    choosing, evaluating = value + errors, value - errors
    found = np.full((len(targets), len(RULES)), math.nan)
    every = np.arange(len(errors))
    for number, t in enumerate(targets):
        there, foreign = _candidates(square, t) or ([], [])
        best = np.array(there)[np.argmax(choosing[:, there, t], axis=1)]
        top = evaluating[every, best, t]
        for k, rule in enumerate(RULES):
            if rule == "random":
                found[number, k] = float((top - evaluating[:, foreign, t].mean(axis=1)).mean())
                continue
            source = _CHOICES[rule](square, choosing, t, foreign)
            if (source >= 0).all() and not math.isnan(square.value[int(source[0]), t]):
                found[number, k] = float((top - evaluating[every, source, t]).mean())
    return found


# --- the rules: (draws,) places of sources, -1 where there is none -------------------------------------------------


def _others(square: Square, choosing: Floats, t: int, foreign: list[int]) -> Ints:
    """The foreign source with the best mean over the other targets, each column less its mean."""
    rest = np.delete(choosing[:, foreign], t, axis=2)
    there = ~np.isnan(rest)
    with np.errstate(invalid="ignore"):
        columns = np.where(there, rest, 0.0).sum(axis=1, keepdims=True) / there.sum(axis=1, keepdims=True)
        score = np.where(there, rest - columns, 0.0).sum(axis=2) / there.sum(axis=2)
    score = np.where(np.isnan(score), -math.inf, score)
    return np.asarray(np.array(foreign)[np.argmax(score, axis=1)])


def _english(square: Square, choosing: Floats, t: int, foreign: list[int]) -> Ints:
    return _fixed(square, ENGLISH, len(choosing))


def _at_home(square: Square, choosing: Floats, t: int, foreign: list[int]) -> Ints:
    return _fixed(square, square.targets[t], len(choosing))


def _fixed(square: Square, lang: str, size: int) -> Ints:
    return np.full(size, square.sources.index(lang) if lang in square.sources else -1)


_CHOICES: dict[str, Callable[[Square, Floats, int, list[int]], Ints]] = {
    "others": _others,
    "english": _english,
    "home": _at_home,
}
