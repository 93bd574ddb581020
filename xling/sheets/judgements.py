"""People's judgements of a grid: win rates of cells, agreement of annotators, agreement with the grid's own judge.

    judgements = judge(key, answers)  # a pure function of the key and of everybody's answers

A prompt's point is the mean of its annotators': 1 the aligned policy's response is better, 0.5 a tie, 0 the
baseline's. Prompts whose two responses are identical are ties that nobody was asked about; where only a part of the
sheet is answered the same part of them counts, the first that were drawn.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from xling.analysis.matrix.categories import kappa_sample
from xling.analysis.statistics.bootstrap import SHARE, Clusters, Floats, draw, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.errors import DataError
from xling.sheets.agreement import alpha_estimate, counts_of, raw_agreement, share_estimate, verdict
from xling.sheets.answers import Answers
from xling.sheets.key import CellKey, Key, Pair

ALL = "all"  # in the place of a language: all of them together


class CellResult(Struct, frozen=True):
    """One cell, percent. Both win rates are over the same prompts."""

    axes: dict[str, str]
    people: Estimate | None  # None: nobody has answered a row of it
    judge: Estimate | None  # by the grid's own judge; None: it is the reward model that picked, too
    judged: int  # prompts with an answer
    unanswered: int
    identical: int  # prompts that are ties since both responses are the same, as far as they count
    annotators: int


class Annotator(Struct, frozen=True):
    """Counts of one annotator's answers to one sheet; a share of A far from B's shows a habit."""

    name: str
    sheet: str
    answered: int
    rows: int
    a: int
    b: int
    tie: int


class Agreement(Struct, frozen=True):
    """Between annotators, on the prompts that two or more have judged."""

    lang: str
    annotators: int
    prompts: int
    raw: Estimate | None  # percent
    kappa: Estimate | None  # Cohen's; two annotators only
    alpha: Estimate | None  # Krippendorff's, nominal


class WithJudge(Struct, frozen=True):
    """Between people (the mean of a prompt's annotators) and a judge of the grid, pair by pair."""

    judge: str
    lang: str
    pairs: int
    raw: Estimate | None  # percent, of three: better, tie, worse
    decided: Estimate | None  # percent, where neither says tie
    kappa: Estimate | None  # Cohen's


class Judgements(Struct, frozen=True):
    """All of it, as judgements.json has it."""

    grid: str
    key: str
    question: str
    cells: list[CellResult]
    annotators: list[Annotator]
    agreement: list[Agreement]
    with_judge: list[WithJudge]


def judge(key: Key, answers: Sequence[Answers]) -> Judgements:
    """DataError where one annotator has answered the same pair in two sheets."""
    answers = sorted(answers, key=lambda one: (one.annotator, one.sheet))
    table = points_of(key, answers)
    langs = sorted({key.pairs[pair].lang for cell in key.cells for pair in cell.pairs})
    wanted = [*langs, ALL] if len(langs) > 1 else langs
    return Judgements(
        grid=key.grid,
        key=key.id,
        question=key.question,
        cells=[_cell(cell, key, table) for cell in key.cells],
        annotators=[_annotator(one) for one in answers],
        agreement=[one for lang in wanted if (one := _agreement(lang, key, table))],
        with_judge=[
            found
            for name in sorted({cell.axes["judge"] for cell in key.cells})
            for lang in wanted
            if (found := _with_judge(name, lang, key, table))
        ],
    )


def points_of(key: Key, answers: Sequence[Answers]) -> Floats:
    """(pairs, annotators) points, NaN where an annotator has not judged a pair; annotators by name."""
    names = sorted({one.annotator for one in answers})
    table = np.full((len(key.pairs), len(names)), np.nan)
    for one in answers:
        column = names.index(one.annotator)
        for answer in one.given:
            if not np.isnan(table[answer.pair, column]):
                raise DataError(
                    f"{one.annotator} has answered two sheets with the same pairs ({one.sheet} and another): one "
                    "person is not two annotators. Import one of the two."
                )
            table[answer.pair, column] = answer.point
    return table


def _cell(cell: CellKey, key: Key, table: Floats) -> CellResult:
    asked = [at for at, pair in enumerate(cell.pairs) if not key.pairs[pair].identical]
    answered = ~np.isnan(table)
    judged = [at for at in asked if answered[cell.pairs[at]].any()]
    identical = [at for at, pair in enumerate(cell.pairs) if key.pairs[pair].identical]
    kept = identical[: round(len(identical) * len(judged) / len(asked))] if asked else identical
    people = own = None
    if judged or not asked:
        places = sorted(judged + kept)
        pairs = [key.pairs[cell.pairs[at]] for at in places]
        means = [
            0.5 if pair.identical else _mean(table[cell.pairs[at]]) for at, pair in zip(places, pairs, strict=True)
        ]
        values = np.array([means, [cell.points[at] for at in places]]).T
        people, own = fold([resample(_clusters(pairs, datasets=True), values * 100.0, span=SHARE)])
    annotators = int(answered[[cell.pairs[at] for at in judged]].any(axis=0).sum())
    own = None if cell.own_judge else own
    return CellResult(cell.axes, people, own, len(judged), len(asked) - len(judged), len(kept), annotators)


def _mean(points: Floats) -> float:
    return float(np.nanmean(points))


def _clusters(pairs: Sequence[Pair], datasets: bool = False) -> Clusters:
    return draw([([p.group for p in pairs], [p.dataset if datasets else "" for p in pairs])])[0]


def _annotator(one: Answers) -> Annotator:
    said = [answer.preference for answer in one.given]
    return Annotator(one.annotator, one.sheet, len(said), one.rows, said.count("A"), said.count("B"), said.count("tie"))


def _agreement(lang: str, key: Key, table: Floats) -> Agreement | None:
    several = (~np.isnan(table)).sum(axis=1) >= 2
    rows = [number for number, pair in enumerate(key.pairs) if several[number] and _in(lang, pair)]
    if not rows:
        return None
    found = table[rows]
    people = np.flatnonzero((~np.isnan(found)).any(axis=0))
    clusters, counts = _clusters([key.pairs[pair] for pair in rows]), counts_of(found)
    kappa = None
    if len(people) == 2:
        [kappa] = fold([kappa_sample(clusters, found[:, people[0]], found[:, people[1]])])
    raw = share_estimate(clusters, raw_agreement(counts))
    return Agreement(lang, len(people), len(rows), raw, kappa, alpha_estimate(clusters, counts))


def _with_judge(name: str, lang: str, key: Key, table: Floats) -> WithJudge | None:
    """A pair counts once a verdict, however many cells share both; one that the judge itself has picked, not at all."""
    found = {
        (cell.verdict, pair): point
        for cell in key.cells
        if cell.axes["judge"] == name and not cell.own_judge
        for pair, point in zip(cell.pairs, cell.points, strict=True)
    }
    places = [(v, pair) for v, pair in found if _in(lang, key.pairs[pair]) and _judged(table[pair])]
    if not places:
        return None
    pairs = [key.pairs[pair] for _, pair in places]
    people = verdict(np.array([_mean(table[pair]) for _, pair in places]))
    own = verdict(np.array([found[place] for place in places]))
    clusters = _clusters(pairs)
    both = np.flatnonzero((people != 0.5) & (own != 0.5))
    decided = None
    if len(both):
        decided = share_estimate(_clusters([pairs[i] for i in both]), (people == own)[both].astype(np.float64))
    [kappa] = fold([kappa_sample(clusters, people, own)])
    return WithJudge(
        name, lang, len(pairs), share_estimate(clusters, (people == own).astype(np.float64)), decided, kappa
    )


def _judged(points: Floats) -> bool:
    return bool((~np.isnan(points)).any())


def _in(lang: str, pair: Pair) -> bool:
    return lang in (ALL, pair.lang)
