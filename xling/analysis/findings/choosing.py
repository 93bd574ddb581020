"""What to use for a target that has no labels: which source's reward model, or none of them; and what each rule costs.

Regret = win rate of what looks best in the target's own column, minus that of the rule's choice. The best of a noisy
column looks better than it is (the winner's curse). So choosing and evaluating see different data: with e a draw of the
errors, choose on y + e and evaluate on y - e, which are independent where errors are normal (Rasines and Young 2023,
splitting by randomisation), and average over draws. Each has twice the variance, as if half of the prompts had been
used for it. So a regret is what picking on half of the target's own column would gain over the rule's pick on half of
the others; it is negative where the rule does better than such a column.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from xling.analysis.findings.candidates import FEWEST, OVER, Offer, offer_of
from xling.analysis.findings.rules import GAINS, RULES, World
from xling.analysis.statistics.bootstrap import Floats
from xling.analysis.statistics.draws import centred
from xling.analysis.tidy.entries import EVERY, Entries
from xling.analysis.tidy.finding import Finding, Row, spread, with_ends
from xling.grid.stage import NO_SOURCE

_OUTER, _INNER = 200, 40  # draws of the matrix, and of what splits each of them
_FEWEST_OUTER, _FEWEST_INNER = 50, 6  # of a large matrix
_MOST_NUMBERS = 2_000_000  # in one array
_MOST_WORK = 100_000_000  # candidates x targets x targets x draws
NEW = "another"  # stands for a target that is not in the grid


def recommendation(entries: Entries) -> Finding:
    """What each rule costs, target by target."""
    return entries.finding(
        "recommendation",
        "Which source to pick for a target without its labels: what each rule costs",
        [
            "target_lang",
            "rule",
            "source_lang",
            "pick",
            "win_rate",
            "best_source_lang",
            "best",
            *spread(*GAINS),
            "targets",
        ],
        _costs,
        "Points. regret: what picking the best by the target's own column would gain over the rule, without the "
        "winner's curse: choosing and evaluating on independent halves made from the draws. over_random: over the mean "
        "of the foreign sources; over_none: over what learns nothing and does best elsewhere. choose: the rule that "
        "was best elsewhere, or none. elsewhere: the best mean on other targets, abroad; english; source: the most "
        "accurate at home; typology, states, nn_rank: the nearest language; learned: from scores of the target's "
        "responses; random: the mean of the foreign sources; none: what learns nothing; home: with its own labels. "
        f"best: by the column as it is. `{EVERY}`: mean over targets. Draws: {entries.how}.",
        compact=("rule", "target_lang", "regret"),
        over=OVER,
    )


def choice(entries: Entries, new: str = "") -> Finding:
    """What to use for each target, as if it had no labels, and for one that is not in the grid (`new`)."""
    return entries.finding(
        "choice",
        "What to use for a target without its labels",
        ["target_lang", "use", "rule", "source_lang", "pick", *spread("over_none"), "none", "targets"],
        lambda panel: _chosen(panel, new),
        "use: a source, or none of them. rule: the best one on the other targets. over_none: there, by how many points "
        "the pick of a rule so chosen beats what learns nothing (`none`), each target left out of choosing the rule; "
        "the interval is Student's t over those targets. A source is used if it lies above 0. "
        f"`{NEW}`: a language that is not in the grid.",
        over=OVER,
    )


def _costs(panel: Entries) -> Iterator[Row | str]:
    yield from panel.holes()
    offer = offer_of(panel)
    if isinstance(offer, str):
        yield offer
        return
    yield from offer.missing
    yield from _by_rule(offer)


def _chosen(panel: Entries, new: str) -> Iterator[Row | str]:
    offer = offer_of(panel, new or NEW)
    if isinstance(offer, str):
        yield offer
        return
    yield from offer.missing
    world = World(offer, offer.value[None], offer.value[None], offer.home[None])
    said = False
    for t in range(len(offer.targets)):
        found, picks, rival = world.gate(t), world.chosen(t), world.pick("none", t)
        if found is None or picks is None or rival is None:
            continue
        said, pick, none = True, int(picks[0]), int(rival[0])
        use = "none" if offer.sources[pick] == NO_SOURCE else "source"
        row: Row = {"target_lang": offer.targets[t], "use": use, "rule": found.rules[int(found.best[0])]}
        row |= {"source_lang": offer.sources[pick], "pick": offer.names[pick], "none": offer.names[none]}
        yield (row | with_ends("over_none", found.lead[0], (found.low[0], found.high[0])) | {"targets": found.targets})
    if not said:
        count = int(offer.known.sum())
        yield (
            f"with results of {count} target{'' if count == 1 else 's'} nothing can be learnt about which source to "
            f"use: it takes {FEWEST + 1}, so that there are {FEWEST} others to try a rule on. Until then trust none of "
            "them."
        )


# --- costs ------------------------------------------------------------------------------------------------------


def _by_rule(offer: Offer) -> Iterator[Row]:
    targets = [t for t in range(len(offer.targets)) if len(offer.abroad(t)) and offer.there[:, t].any()]
    work = max(1, offer.value.size * len(offer.targets))
    outer = min(_OUTER, len(offer.errors), max(_FEWEST_OUTER, _MOST_WORK // (work * _INNER)))
    inner = min(_INNER, len(offer.normal), max(_FEWEST_INNER, _MOST_WORK // (work * outer)))
    estimate = _expected(offer, offer.value[None], offer.home[None], targets, inner)[0]
    size = max(1, _MOST_NUMBERS // (inner * offer.value.size))
    values, homes = offer.value + offer.errors[:outer], offer.home + offer.home_errors[:outer]
    draws = np.concatenate(
        [_expected(offer, values[i : i + size], homes[i : i + size], targets, inner) for i in range(0, outer, size)]
    )  # (outer, targets, RULES, GAINS)
    if offer.unsure:
        draws = np.full_like(draws, np.nan)
    real = World(offer, offer.value[None], offer.value[None], offer.home[None])
    for number, rule in enumerate(RULES):
        there = np.flatnonzero(~np.isnan(estimate[:, number, 0]))
        taken = [_taken(real, targets[place], rule) for place in there]
        for place, (source, pick, win) in zip(there, taken, strict=True):
            t = targets[place]
            best = int(np.nanargmax(offer.value[:, t]))
            row: Row = {"target_lang": offer.targets[t], "rule": rule, "source_lang": source, "pick": pick}
            row |= {"win_rate": win, "best_source_lang": offer.sources[best], "best": offer.names[best]}
            yield row | _numbers(estimate[place, number], draws[:, place, number])
        if len(there):
            row = dict.fromkeys(("source_lang", "pick", "best_source_lang", "best"), "")
            row |= {"target_lang": EVERY, "rule": rule, "win_rate": float(np.mean([win for *_, win in taken]))}
            mean, drawn = estimate[there, number].mean(axis=0), draws[:, there, number].mean(axis=1)
            yield row | _numbers(mean, drawn) | {"targets": len(there)}


def _numbers(values: Floats, draws: Floats) -> Row:
    row: Row = {}
    for place, name in enumerate(GAINS):
        row |= with_ends(name, float(values[place]), centred(float(values[place]), draws[:, place]))
    return row


def _taken(real: World, t: int, rule: str) -> tuple[str, str, float]:
    """The source and the candidate that a rule picks on the matrix as it is, and its win rate."""
    offer = real.offer
    if rule == "random":
        return "", "", float(offer.value[offer.abroad(t), t].mean())
    pick = real.chosen(t) if rule == "choose" else real.pick(rule, t)
    assert pick is not None  # it has a regret
    k = int(pick[0])
    return offer.sources[k], offer.names[k], float(offer.value[k, t])


def _expected(offer: Offer, values: Floats, homes: Floats, targets: Sequence[int], inner: int) -> Floats:
    """(B, targets, RULES, GAINS) expected over the splits of B matrices (B, K, T)."""
    errors = offer.normal[-inner:]
    shape = (-1, *offer.value.shape)
    choosing, evaluating = ((values[:, None] + sign * errors).reshape(shape) for sign in (1, -1))
    world = World(offer, choosing, evaluating, np.repeat(homes, len(errors), axis=0))
    found = np.stack([world.gains(t) for t in targets], axis=1)
    return np.asarray(found.reshape(len(values), len(errors), *found.shape[1:]).mean(axis=1))
