"""Rules by which a candidate is picked for a target without its labels, on many drawn matrices at once.

RULES sees the other columns only (leave one target out), and of these the cells abroad.

`choose` is all of them together: for a target t the rule that was best on the others, if the interval of the lead over
`none` lies above 0; else `none`. A rule is tried on each other target u with the labels of u and of t unseen. The best
of several looks better than it is; so the lead at u is that of the rule which was best on the targets but t and u, and
its interval is Student's t over these u. Of FEWEST targets or fewer nothing is said.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import stdtrit

from xling.analysis.findings.candidates import FEWEST, Bools, Offer
from xling.analysis.statistics.bootstrap import Floats, Ints
from xling.analysis.statistics.decisions import ALPHA

ENGLISH = "en"
NEAREST = ("typology", "states", "nn_rank")
CHOOSING = ("elsewhere", "english", "source", *NEAREST, "learned")  # what `choose` takes its rule from
RULES = ("choose", *CHOOSING, "home", "random", "none")
_MOST_APART = 24  # targets: of more, t's labels are seen at u, one of many, and all is a hundred times faster
GAINS = ("regret", "over_random", "over_none")


@dataclass(frozen=True)
class Gate:
    """Of B matrices: the rule that was best on other targets, and the lead over what learns nothing, in points."""

    rules: list[str]
    best: Ints  # (B,) place in `rules`
    lead: Floats
    low: Floats
    high: Floats
    targets: int  # how many others there are

    @property
    def above(self) -> Bools:
        return np.asarray(self.low > 0)


class World:
    """B matrices of an offer, by which rules choose and by which they are evaluated."""

    def __init__(self, offer: Offer, choosing: Floats, evaluating: Floats, home: Floats) -> None:
        self.offer, self.choosing, self.evaluating, self.home = offer, choosing, evaluating, home  # (B, K, T), (B, K)
        self._picks: dict[tuple[str, int, tuple[int, ...]], Ints | None] = {}
        self._scores: dict[tuple[int, ...], Floats] = {}

    @cached_property
    def seen(self) -> Floats:
        """(B, K, T) win rates abroad; 0 for the others."""
        return np.where(self.offer.seen, self.choosing, 0.0)

    def score(self, unseen: tuple[int, ...]) -> Floats:
        """(B, K) how far above the mean of a target's sources a candidate is, mean over the targets but some.

        -inf for what none of them has. What was trained on an unseen target's labels is in no target's mean.
        """
        if unseen not in self._scores:
            self._scores[unseen] = self._score(list(unseen))
        return self._scores[unseen]

    def _score(self, columns: list[int]) -> Floats:
        offer = self.offer
        of = offer.seen & (offer.trained & offer.foreign[:, columns].all(axis=1))[:, None]
        mean = np.einsum("bkt,kt->bt", self.seen, of.astype(float)) / np.maximum(of.sum(axis=0), 1)
        told = offer.seen & of.any(axis=0)
        told[:, columns] = False
        count = told.sum(axis=1)
        total = np.einsum("bkt,kt->bk", self.seen, told.astype(float)) - mean @ told.T
        return np.where(count > 0, total / np.maximum(count, 1), -np.inf)

    def has(self, rule: str, t: int) -> bool:
        """Whether a rule has something to say of a target, whatever the win rates."""
        offer = self.offer
        able = offer.abroad(t)
        if rule == "home":
            return offer.targets[t] in offer.sources and bool(offer.there[self._home(t), t].any())
        if not len(able):
            return False
        if rule == "english":
            return any(offer.sources[k] == ENGLISH for k in able)
        if rule == "source":
            return int((~np.isnan(offer.home[able])).sum()) > 1
        if rule in NEAREST:
            return rule in offer.likeness and bool((~np.isnan(offer.likeness[rule][t, able])).any())
        if rule == "learned":
            return bool((~np.isnan(offer.behaviour[able, t])).any()) and offer.learned((t,)) is not None
        return True

    def pick(self, rule: str, t: int, unseen: Sequence[int] = ()) -> Ints | None:
        """(B,) the candidate that a rule takes for a target without its labels, nor those of other targets unseen."""
        key = rule, t, tuple(sorted({t, *unseen}))
        if key not in self._picks:
            self._picks[key] = self._pick(rule, t, key[2]) if self.has(rule, t) else None
        return self._picks[key]

    def _pick(self, rule: str, t: int, unseen: tuple[int, ...]) -> Ints | None:
        offer, score = self.offer, self.score(unseen)
        able = offer.able(t, unseen)
        trained = able[offer.trained[able]]
        if rule == "none":
            return _largest(score, able[~offer.trained[able]])
        if rule == "home":
            return _largest(score, self._home(t))
        if rule == "elsewhere":
            return _largest(score, able)
        if rule == "english":
            return _largest(score, np.array([k for k in trained if offer.sources[k] == ENGLISH], dtype=np.int64))
        if rule in NEAREST:
            near = offer.likeness[rule][t, trained]
            return _largest(score, trained[near == np.nanmax(near)]) if (~np.isnan(near)).any() else None
        if rule == "learned":
            found = offer.learned(unseen)
            if found is None:
                return None
            weights, rows, columns = found
            weights = weights.reshape(*offer.value.shape, -1)[:, t]
            return _largest(self.choosing[:, rows, columns] @ weights.T, able)
        return self._by_source(trained[~np.isnan(offer.home[trained])], t, unseen)

    def _by_source(self, trained: Ints, t: int, unseen: tuple[int, ...]) -> Ints | None:
        """The best at home; what learns nothing where that does no worse in the source's own column."""
        best, none = _largest(self.home, trained), self.pick("none", t, unseen)
        if best is None or none is None:
            return best
        homes = [self.offer.targets.index(s) if s in self.offer.targets else t for s in self.offer.sources]
        columns = np.array(homes)[best]
        own, rival = (np.take_along_axis(self._column(columns), one[:, None], axis=1)[:, 0] for one in (best, none))
        return np.where((columns != t) & (rival >= own), none, best)

    def _column(self, columns: Ints) -> Floats:
        """(B, K) a column for each of the matrices; holes never win."""
        taken = np.take_along_axis(self.choosing, columns[:, None, None], axis=2)[:, :, 0]
        return np.where(np.isnan(taken), -np.inf, taken)

    def _home(self, t: int) -> Ints:
        source = self.offer.targets[t]
        return np.array([k for k, one in enumerate(self.offer.sources) if one == source], dtype=np.int64)

    def gate(self, t: int) -> Gate | None:
        """None where too few other targets are known, or no rule has something to say."""
        rules = [rule for rule in CHOOSING if self.has(rule, t)]
        others = [u for u in np.flatnonzero(self.offer.known).tolist() if u != t]
        if not rules or self.offer.known.sum() <= FEWEST or self.pick("none", t) is None:
            return None
        leads = np.stack([self._leads(rule, t, others) for rule in rules], axis=2)  # (B, others, rules)
        best = leads.sum(axis=1).argmax(axis=1)
        apart = (leads.sum(axis=1, keepdims=True) - leads).argmax(axis=2)  # best on all of them but one
        tried = np.take_along_axis(leads, apart[:, :, None], axis=2)[:, :, 0]
        lead, error = tried.mean(axis=1), tried.std(axis=1, ddof=1) / math.sqrt(len(others))
        half = error * stdtrit(len(others) - 1, 1 - ALPHA / 2)
        return Gate(rules, best, lead, lead - half, lead + half, len(others))

    def _leads(self, rule: str, t: int, others: Sequence[int]) -> Floats:
        """(B, others) of a rule's picks over what learns nothing, where no label of t was seen.

        Where the rule has nothing to say `elsewhere` speaks for it.
        """
        found = []
        for u in others:
            unseen = (t, u) if len(self.offer.targets) <= _MOST_APART else (u,)
            pick, none = self.pick(rule, u, unseen), self.pick("none", u, unseen)
            pick = self.pick("elsewhere", u, unseen) if pick is None else pick
            assert pick is not None and none is not None  # u is known
            column = self.choosing[:, :, u]
            mine, theirs = (np.take_along_axis(column, one[:, None], axis=1)[:, 0] for one in (pick, none))
            found.append(mine - theirs)
        return np.stack(found, axis=1)

    def chosen(self, t: int) -> Ints | None:
        """(B,) what `choose` takes."""
        gate, none = self.gate(t), self.pick("none", t)
        if gate is None or none is None:
            return None
        picks = np.stack([none if (pick := self.pick(rule, t)) is None else pick for rule in gate.rules], axis=1)
        return np.where(gate.above, np.take_along_axis(picks, gate.best[:, None], axis=1)[:, 0], none)

    def gains(self, t: int) -> Floats:
        """(B, RULES, GAINS) of a target; NaN where a rule has nothing to take."""
        offer, own = self.offer, self.evaluating[:, :, t]
        every = np.flatnonzero(offer.there[:, t])
        best = every[np.argmax(self.choosing[:, every, t], axis=1)]
        mean = own[:, offer.abroad(t)].mean(axis=1)
        top = np.take_along_axis(own, best[:, None], axis=1)[:, 0]
        none = self.pick("none", t)
        found = np.full((len(own), len(RULES), len(GAINS)), np.nan)
        for number, rule in enumerate(RULES):
            pick = self.chosen(t) if rule == "choose" else None if rule == "random" else self.pick(rule, t)
            if pick is None and rule != "random":
                continue
            taken = mean if pick is None else np.take_along_axis(own, pick[:, None], axis=1)[:, 0]
            found[:, number, 0], found[:, number, 1] = top - taken, taken - mean
            if none is not None:
                found[:, number, 2] = taken - np.take_along_axis(own, none[:, None], axis=1)[:, 0]
        return found


def _largest(score: Floats, among: Ints) -> Ints | None:
    """(B,) the candidate with the largest score, the first of equal ones; None where there is none."""
    return among[np.argmax(score[:, among], axis=1)] if len(among) else None
