"""People's judgements of a grid: win rates of cells, agreement of annotators, agreement with the grid's own judge.

    judgements = judge(key, answers)  # a pure function of the key and of everybody's answers

A prompt's point is the mean of its annotators': 1 the aligned policy's response is better, 0.5 a tie, 0 the
baseline's. Prompts whose two responses are identical are ties that nobody was asked about; where only a part of the
sheet is answered the same part of them counts, the first that were drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct
from rich.text import Text

from xling.analysis.matrix.categories import kappa_sample
from xling.analysis.matrix.names import told_apart
from xling.analysis.statistics.bootstrap import ONE, SHARE, Clusters, Floats, Sample, cluster_sums, draw, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.console import Console
from xling.errors import DataError
from xling.report.tables.markdown import escaped, table_lines
from xling.report.tables.table import Cell, Table, span
from xling.report.tables.terminal import print_table
from xling.sheets.key import CellKey, Key, Pair

ALL = "all"  # in the place of a language: all of them together
VERDICTS = (0.0, 0.5, 1.0)
NOTE = "95 % bootstrap intervals over prompts (where few win or lose, Wilson's); annotators are fixed"


@dataclass(frozen=True, slots=True)
class Answer:
    id: str
    pair: int
    preference: str  # A, B or tie
    point: float  # 1: the aligned policy's response is better; 0.5: a tie; 0
    comment: str


@dataclass(frozen=True, slots=True)
class Answers:
    """One annotator's answers to one sheet, in the sheet's order."""

    annotator: str
    sheet: str
    given: tuple[Answer, ...]
    rows: int  # of the sheet


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


# --- agreement beyond chance, with bootstrap intervals over prompts -----------------------------------------
# Verdicts are nominal: 1 (the aligned policy's response is better), 0.5 (a tie), 0.


def verdict(points: Floats) -> Floats:
    """(N,) points 0..1 -> (N,) verdicts: the side of 0.5 that they are on."""
    return np.asarray((np.sign(points - 0.5) + 1) / 2)


def counts_of(table: Floats) -> Floats:
    """(N, annotators) verdicts, NaN where one did not judge -> (N, 3) how many said each."""
    return np.stack([(table == value).sum(axis=1) for value in VERDICTS], axis=1).astype(np.float64)


def raw_agreement(counts: Floats) -> Floats:
    """(N, 3) -> (N,) share of an item's pairs of annotators that said the same; at least two a row."""
    m = counts.sum(axis=1)
    return np.asarray((counts * (counts - 1)).sum(axis=1) / (m * (m - 1)))


def share_estimate(clusters: Clusters, values: Floats) -> Estimate | None:
    """The mean of (N,) values in 0..1, in percent."""
    [estimate] = fold([resample(clusters, values[:, None] * 100.0, span=SHARE)])
    return estimate


def coincidences(counts: Floats) -> Floats:
    """(N, 3) -> (N, 9) an item's part of the coincidence matrix, row by row.

    o_ck = n_uc n_uk / (m_u - 1) for c != k and n_uc (n_uc - 1) / (m_u - 1) for c = k (Krippendorff 2011, "Computing
    Krippendorff's alpha-reliability", section C); items with fewer than two verdicts have none.
    """
    m = counts.sum(axis=1)
    products = counts[:, :, None] * counts[:, None, :]
    products[:, range(3), range(3)] -= counts
    parts = products / np.maximum(m - 1, 1)[:, None, None]
    return np.asarray(np.where((m >= 2)[:, None, None], parts, 0.0).reshape(len(counts), 9))


def alpha(matrices: Floats) -> Floats:
    """(R, 9) coincidence matrices -> (R,) nominal alpha = 1 - (n - 1) D_o / D_e; NaN where all verdicts are one.

    With n_c the row sums and n their sum: D_o = sum of o_ck over c != k, D_e = sum of n_c n_k over c != k.
    """
    square = matrices.reshape(-1, 3, 3)
    totals = square.sum(axis=2)
    n = totals.sum(axis=1)
    observed = n - np.trace(square, axis1=1, axis2=2)
    expected = n**2 - (totals**2).sum(axis=1)
    known = expected > 1e-9
    return np.where(known, 1 - (n - 1) * observed / np.where(known, expected, 1.0), np.nan)


def alpha_estimate(clusters: Clusters, counts: Floats) -> Estimate | None:
    """Alpha of (N, 3) counts with its bootstrap; None where it is not defined."""
    parts = coincidences(counts)
    point = alpha(parts.sum(axis=0)[None])
    resamples = alpha(clusters.weights.astype(np.float64) @ cluster_sums(clusters, parts))
    kept = np.where(np.isnan(resamples), point, resamples)  # a resample in which all verdicts are one
    [estimate] = fold([Sample(point, kept[:, None], len(counts), clusters.groups, span=ONE[:, None])])
    return estimate


# --- as tables, the same in the terminal and in judgements.md -----------------------------------------------


def print_judgements(found: Judgements, console: Console | None = None) -> None:
    """Win rates by people beside the judge's, who answered, and how far they agree."""
    console = console or Console()
    console.print(Text(f"Grid '{found.grid}' judged by people, sheets {found.key}: {found.question}", style="bold"))
    console.print(Text(NOTE + ".", style="dim"))
    for table in tables(found):
        print_table(table, console)


def markdown(found: Judgements) -> str:
    """The same as a page; ends with a newline."""
    lines = [f"# {found.grid}, judged by people", "", f"{escaped(found.question)} Sheets {found.key}. {NOTE}.", ""]
    for table in tables(found):
        lines += table_lines(table)
    return "\n".join(lines).rstrip("\n") + "\n"


def tables(found: Judgements) -> list[Table]:
    """Cells, agreement where there is any, annotators."""
    return [
        table
        for table in (_cell_table(found), _agreement_table(found), _judge_table(found), _annotator_table(found))
        if table.rows
    ]


def _cell_table(found: Judgements) -> Table:
    labels = [_label(axes) for axes in told_apart([cell.axes for cell in found.cells])]
    rows = [
        (
            label,
            [
                Cell("no answer", look="hole") if cell.people is None else _number(cell.people, 1),
                _number(cell.judge, 1),
                *map(_count, (cell.judged, cell.unanswered, cell.identical, cell.annotators)),
            ],
        )
        for label, cell in zip(labels, found.cells, strict=True)
    ]
    columns = ["people", "judge", "judged", "unanswered", "identical", "annotators"]
    notes = [
        "people, judge: the aligned policy against the baseline, ties half, over the same prompts",
        "identical: both responses are the same, which counts as a tie",
    ]
    if any(cell.people is not None and cell.judge is None for cell in found.cells):
        notes.append("no judge: it is the very reward model that picked, and no evidence")
    return Table("win_rate", "Win rate, %", "cell", columns, rows, notes)


def _label(axes: dict[str, str]) -> str:
    """`en > tr`, and other axes by name."""
    rest = [f"{name}={value}" for name, value in axes.items() if name not in ("source_lang", "target_lang") and value]
    return ", ".join([f"{axes['source_lang']} > {axes['target_lang']}", *rest])


def _agreement_table(found: Judgements) -> Table:
    rows = [
        (
            one.lang,
            [
                _count(one.annotators),
                _count(one.prompts),
                _number(one.raw, 1),
                _number(one.kappa, 2),
                _number(one.alpha, 2),
            ],
        )
        for one in found.agreement
    ]
    notes = ["kappa: Cohen's, of two annotators; alpha: Krippendorff's, nominal. - where all say the same"]
    columns = ["annotators", "pairs", "agree, %", "kappa", "alpha"]
    title = "Agreement between annotators, on pairs that two or more have judged"
    return Table("agreement_between_annotators", title, "language", columns, rows, notes)


def _judge_table(found: Judgements) -> Table:
    rows = [
        (
            f"{one.judge}, {one.lang}",
            [_count(one.pairs), _number(one.raw, 1), _number(one.decided, 1), _number(one.kappa, 2)],
        )
        for one in found.with_judge
    ]
    notes = ["decided: where neither people nor judge say tie; people's answers to a pair averaged first"]
    columns = ["pairs", "agree, %", "decided, %", "kappa"]
    return Table("agreement_with_the_judge", "Agreement of people with the grid's judge", "judge", columns, rows, notes)


def _annotator_table(found: Judgements) -> Table:
    several = len({one.sheet for one in found.annotators}) > 1
    rows = [(_who(one, several), _habits(one)) for one in found.annotators]
    return Table("annotators", "Annotators", "name", ["answered", "of", "A", "B", "tie"], rows)


def _who(one: Annotator, several: bool) -> str:
    return f"{one.name} ({one.sheet})" if several else one.name


def _habits(one: Annotator) -> list[Cell]:
    return [_count(number) for number in (one.answered, one.rows, one.a, one.b, one.tie)]


def _count(number: int) -> Cell:
    return Cell(str(number))


def _number(estimate: Estimate | None, digits: int) -> Cell:
    if estimate is None:
        return Cell("-")
    between = (
        span(estimate)
        if digits == 1 or estimate.low is None
        else f"{estimate.low:.{digits}f}..{estimate.high:.{digits}f}"
    )
    return Cell(f"{estimate.value:.{digits}f}", between)
