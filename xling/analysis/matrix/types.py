"""The transfer matrix as data: what `fold_grid` returns, matrix.json holds and every report reads; and that file.

Matrix
├── JudgeAgreement, OptimizerTable, Frontier    what panels are compared by
└── Panel          one source x target matrix: a (task, policy, rm_backbone, optimizer, judge, other axes)
    ├── Entry      one row of matrix.csv: a cell folded over its seeds, or a hole with its reason
    ├── Accuracy   the reward model's accuracy on the target's held-out preferences
    ├── LanguageRates  how often the detector errs by which language shares are told
    └── Control    a reference shown beside: random, length, likelihood, gold, shuffled labels

Win rates, accuracies and shares are in percent, differences in points, lengths in tokens, divergences in nats a
response.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Struct

from xling.analysis.statistics.decisions import Difference
from xling.analysis.statistics.intervals import Estimate
from xling.config.common import is_foreign, pooled
from xling.errors import StoreError
from xling.grid import records
from xling.grid.files import sealed_json
from xling.grid.records import MATRIX
from xling.grid.stage import OTHERS
from xling.jsonfiles import unsealed
from xling.results.plan import LanguageRates

CHANCE = 50.0
PERCENT = 100.0
Seeds = tuple[str, str]  # task.seed, seed


@dataclass(frozen=True)
class Scale:
    """Meaning of a number's colour: its distance from `middle`, either way; without a middle its size.

    least: how far from the middle the darkest colour is at least, so that noise looks pale.
    """

    middle: float | None = None
    least: float = 0.0


OF_CHANCE = Scale(CHANCE, least=10.0)  # win rates and accuracies, %
OF_POINTS = Scale(0.0, least=10.0)  # paired differences, points
OF_SIZE = Scale()


@dataclass(frozen=True)
class Measure:
    """A number that is measured in every cell, declared where Entry has its field. All that show it read it here."""

    title: str  # of a table that shows it for every source and target, with the unit
    head: str = ""  # of its column in "Beside the win rates"; empty: it stands in tables of its own alone
    unit: str = "%"
    column: str = ""  # of items.json; empty: it is not folded from items
    note: str = ""  # what the head means
    scale: Scale = OF_SIZE
    digits: int = 1
    increase: bool = False  # over the baseline's column of the same name
    judged: bool = False  # what the judge says: of a reward model's own verdict this is no evidence
    own_table: bool = False  # a table of the report shows it by source and target

    @property
    def factor(self) -> float:
        """From the shares of items.json to percent."""
        return 100.0 if self.unit == "%" else 1.0

    def written(self, value: float) -> str:
        """`71.3`; an increase with its sign."""
        return f"{value:{'+' if self.increase else ''}.{self.digits}f}"


class Curve(Struct, frozen=True):
    """Expected win rate of best-of-k for k = 1..n, unbiased over all k-subsets of the pool."""

    value: list[float]
    low: list[float | None]
    high: list[float | None]


def doublings(n: int) -> list[int]:
    """The k of a curve that are shown: 1, 2, 4, ... below n, and n; none of 0."""
    return sorted({*(2**power for power in range(n.bit_length()) if 2**power <= n), n} - {0})


class Entry(Struct, frozen=True):
    """A matrix entry. `win` is None for a hole, and `reason` says why; `partial` has some seeds missing."""

    axes: dict[str, str]  # all but the seeds, as text
    status: str  # done, partial, own judge, failed, blocked, not run, left out, damaged
    reason: str = ""
    win: Annotated[
        Estimate | None,
        Measure("Win rate, %", "win", column="win", scale=OF_CHANCE, judged=True, own_table=True),
    ] = None
    win_own: Annotated[  # in nothing else: no mean, no difference, no count has it
        Estimate | None,
        Measure("Win rate by the very reward model that was optimised, %", column="win", scale=OF_CHANCE),
    ] = None
    win_here: Annotated[  # on the same prompts under every seed; None: one seed, or each has its own prompts
        Estimate | None,
        Measure(
            "Win rate on these very prompts, with intervals over new seeds, %",
            note="on these very prompts, with intervals over new seeds alone, %",
            scale=OF_CHANCE,
            own_table=True,
        ),
    ] = None
    win_equal_length: Annotated[  # equal_length.py
        Estimate | None,
        Measure(
            "Win rate at equal length, %",
            "equal length",
            note="wins if responses were as long as the baseline's, by one regression a judge and optimizer, %",
            scale=OF_CHANCE,
            own_table=True,
        ),
    ] = None
    win_soft: Annotated[
        Estimate | None,
        Measure(
            "Win rate by the judge's probabilities, %",
            "soft",
            column="win_soft",
            note="by the probabilities of the judge's answers, %",
            scale=OF_CHANCE,
            judged=True,
        ),
    ] = None
    win_hard: Annotated[
        Estimate | None,
        Measure(
            "Win rate by the judge's answers, %",
            "hard",
            column="win_hard",
            note="by the judge's answers alone, %",
            scale=OF_CHANCE,
            judged=True,
        ),
    ] = None
    inconsistent: Annotated[
        Estimate | None,
        Measure(
            "Pairs that their order decides, %",
            "order decides",
            column="inconsistent",
            note="pairs whose two orders the judge decides differently, % of those answered",
            judged=True,
        ),
    ] = None
    unanswered: Annotated[
        Estimate | None,
        Measure(
            "Pairs that the judge left unanswered, %",
            "unanswered",
            column="unanswered",
            note="pairs with an order that the judge did not answer, which are in no other number, %",
            judged=True,
        ),
    ] = None
    share_in_language: Annotated[
        Estimate | None,
        Measure(
            "Responses in the target language, %",
            "lang.",
            column="in_language",
            note="responses in the target language, %",
        ),
    ] = None
    length: Annotated[
        Estimate | None,
        Measure("Length, tokens", "length", "tokens", column="length", note="tokens"),
    ] = None
    eos: Annotated[
        Estimate | None,
        Measure("Responses that ended by themselves, %", "ended", column="eos", note="responses not cut off, %"),
    ] = None
    repetition: Annotated[
        Estimate | None,
        Measure(
            "Repetition: word bigrams said before, %",
            "rep.",
            column="repetition",
            note="word bigrams said before in their response, %",
        ),
    ] = None
    reward: Annotated[
        Estimate | None,
        Measure(
            "Reward, increase over the baseline, standard deviations",
            "reward",
            "SD",
            column="reward",
            note="increase over the baseline by the reward model, in its standard deviations over the baseline's "
            "responses",
            scale=Scale(0.0),
            digits=2,
            increase=True,
        ),
    ] = None
    reward_scale: float | None = None  # that standard deviation, in the reward model's units; mean over seeds
    quality: Annotated[  # paper, section 5.1
        Estimate | None,
        Measure(
            "Judge's score, increase over the baseline",
            "quality",
            "",
            column="quality",
            note="increase over the baseline by the judge's score",
            scale=Scale(0.0),
            digits=2,
            increase=True,
            judged=True,
        ),
    ] = None
    kl: Annotated[  # measured along a trained policy's samples
        Estimate | None,
        Measure(
            "KL from SFT_t, nats a response",
            "KL",
            "nats",
            column="kl",
            note="nats a response from SFT_t, of best-of-n at most",
            digits=2,
        ),
    ] = None
    kl_bound: float | None = None  # log n - (n - 1) / n, in nats; an upper bound for best-of-n
    n_samples: int | None = None
    curve: Curve | None = None
    pairwise: Annotated[  # of recorded responses; ties 0.5
        Estimate | None,
        Measure("Agreement with people on pairs within a prompt, %", scale=OF_CHANCE, own_table=True),
    ] = None
    spearman: float | None = None
    versus_home: Difference | None = None
    versus_best: Difference | None = None  # None for the best itself
    best: bool = False
    tied: bool = False  # not settled to be worse than the best, for all sources of the target together
    keys: list[str] = []  # of the judge stages, in seed order
    judge_langs: list[str] = []  # whose feedback the judging reward model learnt from
    own: dict[str, Estimate] = {}  # measures of the user's own (xling/measures/own.py), in their units

    @property
    def source(self) -> str:
        return self.axes["source_lang"]

    @property
    def target(self) -> str:
        return self.axes["target_lang"]

    @property
    def own_judge(self) -> bool:
        """Under every seed it was judged by the reward model that was optimised."""
        return self.win is None and self.win_own is not None

    @property
    def akin(self) -> str:
        """Languages whose feedback both its reward model and its judge learnt from: the same people's preferences."""
        others = [lang for lang in self.judge_langs if self.source == OTHERS and lang != self.target]
        return pooled(others or [lang for lang in self.judge_langs if not is_foreign(self.source, lang)])

    @property
    def home(self) -> bool:
        return self.source == self.target

    @property
    def abroad(self) -> bool:
        """No part of the source is the target's own language."""
        return is_foreign(self.source, self.target)


def _measures() -> dict[str, Measure]:
    hints = get_type_hints(Entry, include_extras=True)
    return {
        name: part
        for name, hint in hints.items()
        for part in getattr(hint, "__metadata__", ())
        if type(part) is Measure
    }


MEASURES = _measures()  # fields of Entry, in its order
# The same of recorded responses, which no policy's tokenizer has counted.
_OF_RECORDED = MEASURES | {
    "length": replace(MEASURES["length"], title="Length, characters", unit="characters", note="characters")
}


def measures_of(recorded: bool) -> dict[str, Measure]:
    """MEASURES in the units that they have where responses are recorded, or sampled."""
    return _OF_RECORDED if recorded else MEASURES


class Opponent(Struct, frozen=True):
    """Some of the same measures of the baseline, which all cells of a target are judged against."""

    target: str
    share_in_language: Estimate | None
    length: Estimate | None
    eos: Estimate | None
    repetition: Estimate | None
    own: dict[str, Estimate] = {}


class OwnTitle(Struct, frozen=True):
    """A measure of the user's own: what its function is called, and the first line of its docstring."""

    name: str
    title: str


class Mean(Struct, frozen=True):
    """The mean of a row or a column over the entries that are there."""

    estimate: Estimate
    entries: int
    of: int


class Accuracy(Struct, frozen=True):
    """Of a reward model on the target's held-out preferences."""

    source: str
    target: str
    accuracy: Estimate
    auc: Estimate | None  # pointwise labels only, times 100
    versus_majority: Difference | None
    versus_length: Difference | None
    auc_within: Estimate | None = None  # the same of responses of one document; pairs are of one prompt anyway

    @property
    def beats_baselines(self) -> bool:
        """Above every baseline there is, each by paired difference."""
        baselines = [d for d in (self.versus_majority, self.versus_length) if d is not None]
        return bool(baselines) and all(d.estimate.above(0) for d in baselines)


class Baseline(Struct, frozen=True):
    """Accuracy of a rule without a model on the same held-out preferences."""

    target: str
    majority: Estimate | None
    length: Estimate | None


class Band(Struct, frozen=True):
    """Null band of one cell: the same reward model trained on permuted labels."""

    source: str
    target: str
    values: list[float]  # win rates, one a permutation
    mean: float
    beaten: bool  # the real reward model lies above every permutation
    versus_mean: Difference | None  # the real one minus the mean of the permutations, paired


class Control(Struct, frozen=True):
    """A reference that has no source language, per target: random, length, likelihood, gold ..."""

    axes: dict[str, str]  # rm_backbone and its settings
    entries: list[Entry]
    accuracy: list[Accuracy]

    @property
    def name(self) -> str:
        return self.axes["rm_backbone"]


class Bounds(Struct, frozen=True):
    """Win rates of the worst and the best possible picks from the pool, by the judge's own scores."""

    target: str
    floor: Estimate
    ceiling: Estimate


class Count(Struct, frozen=True):
    """k of N finished cells, in words that stand alone; `by_value` counts point estimates instead.

    below: how many lie on the other side, where the words are of cells above something.
    """

    name: str
    text: str
    k: int
    of: int
    planned: int
    by_value: int | None = None
    below: int | None = None


class JudgeAccuracy(Struct, frozen=True):
    """Of a judge on a target's held-out human preferences (paper, Table 5)."""

    target: str
    accuracy: Estimate  # percent; a tie counts half
    inconsistent: Estimate | None  # percent of the pairs on which the order of the two responses decides


class JudgeAgreement(Struct, frozen=True):
    """Two judges on the same responses to the same prompts, in percent (across.py has the rules for ties)."""

    axes: dict[str, str]  # what the two have in common
    judges: tuple[str, str]
    by_target: dict[str, Estimate]  # instance by instance
    instances: Estimate  # mean over targets
    ranking: Estimate | None  # pairs of sources within a target that both order alike
    source_pairs: int  # how many pairs that is over


class ArmCell(Struct, frozen=True):
    """One optimizer (with its settings) in one source and target."""

    source: str
    target: str
    status: str
    win: Estimate | None
    kl: Estimate | None  # measured
    kl_bound: float | None  # of best-of-n
    versus: Difference | None  # win rate minus the reference's, paired by prompt


class Arm(Struct, frozen=True):
    """An optimizer with the settings that a grid sweeps."""

    name: str
    cells: list[ArmCell]
    above_50: int  # cells whose interval lies above 50
    mean: Estimate | None  # of the win rates, over targets and the sources within
    versus: Difference | None  # mean paired difference to the reference, over the cells that both have


class OptimizerTable(Struct, frozen=True):
    """The optimizers of a grid against the same baseline samples."""

    axes: dict[str, str]
    reference: str  # the arm that differences are to; empty: there is no best-of-n
    arms: list[Arm]


class FrontierPoint(Struct, frozen=True):
    """How far from SFT_t, and what that brought: means over targets and the sources within."""

    arm: str
    k: int | None  # of best-of-k; None: a trained policy
    kl: Estimate  # nats a response; best-of-k: the bound log k - (k - 1) / k
    reward: Estimate | None  # RM_s, increase over the baseline in its standard deviations
    quality: Estimate | None  # the judge's score, increase over the baseline
    win: Estimate | None  # percent


class LearningPoint(Struct, frozen=True):
    """Means over cells of what was measured on validation prompts after a step."""

    arm: str
    step: int
    reward: float
    kl: float
    quality: float | None  # exact; None where the task does not know it


class Frontier(Struct, frozen=True):
    """KL against reward and quality, over the cells and seeds that all optimizers have."""

    axes: dict[str, str]
    cells: int
    points: list[FrontierPoint]
    learning: list[LearningPoint]


class Panel(Struct, frozen=True):
    """One source x target matrix with all that belongs beside it."""

    axes: dict[str, str]  # all but source, target and seeds
    sources: list[str]
    targets: list[str]
    entries: list[Entry]
    row_means: dict[str, Mean]
    column_means: dict[str, Mean]
    row_means_abroad: dict[str, Mean]
    column_means_abroad: dict[str, Mean]
    bounds: list[Bounds]
    accuracy: list[Accuracy]
    accuracy_baselines: list[Baseline]
    bands: list[Band]
    versus: dict[str, dict[str, dict[str, Difference]]]  # reference -> source -> target: trained minus it
    pairs_versus: dict[str, dict[str, dict[str, Difference]]] = {}  # the same of agreement on pairs within a prompt
    opponents: list[Opponent] = []
    language_rates: list[LanguageRates] = []  # none in grids that were planned before they were measured
    unknown_languages: list[str] = []  # those that the reward model's encoder does not know
    own_measures: list[OwnTitle] = []
    counts: list[Count] = []
    verdicts: list[str] = []  # which differences are settled, and how many more prompts would settle the rest

    @property
    def recorded(self) -> bool:
        """Responses are recorded systems', which people rated."""
        return any(entry.pairwise is not None for entry in self.entries)

    def at(self) -> dict[tuple[str, str], Entry]:
        """Entries by (source, target)."""
        return {(entry.source, entry.target): entry for entry in self.entries}


class Block(Struct, frozen=True):
    """Panels and controls that share prompts and opponents: they differ in the reward model only."""

    axes: dict[str, str]
    panels: list[Panel]
    controls: list[Control]
    shuffled: list[Entry]  # reward models on permuted labels: what the panels' bands are made of
    judge_accuracy: list[JudgeAccuracy] = []
    length_slope: Estimate | None = None  # log-odds of a win per tanh of standardised extra length (equal_length.py)


class Matrix(Struct, frozen=True):
    """The fold of all finished cells of a grid."""

    name: str
    blocks: list[Block]
    other_axes: list[str]  # swept axes beside the fixed ones, seeds left out
    left_out: list[str]  # languages that a glob matched and the task has not, with the reason
    provenance: dict[str, str | list[str] | int | None]
    interval_note: str
    agreement: list[JudgeAgreement] = []  # of grids with several judges
    optimizers: list[OptimizerTable] = []  # of grids with several optimizers, or settings of one
    frontiers: list[Frontier] = []
    format: int = MATRIX

    def entries(self) -> list[Entry]:
        """Every row of matrix.csv: panels and controls, unsorted."""
        rows = []
        for block in self.blocks:
            for panel in block.panels:
                rows += panel.entries
            for control in block.controls:
                rows += control.entries
            rows += block.shuffled
        return rows


# --- matrix.json ---------------------------------------------------------------------------------------------


def matrix_json(matrix: Matrix) -> bytes:
    """Everything, sorted keys, floats to six decimals; sealed."""
    return sealed_json(_rounded(msgspec.json.encode(matrix)), indent=1)


def read_matrix(folder: Path) -> Matrix:
    """The matrix that `write_matrix` wrote; StoreError if there is none or it does not fit."""
    path = folder / "matrix.json"
    try:
        content = path.read_bytes()
        found = records.format_of(content, default=records.MATRIX)  # it had no number at first
        if found is not None:
            records.check_format(str(path), found, records.MATRIX, f"run 'xling reduce {folder.name}'")
        return unsealed(content, type=Matrix)
    except FileNotFoundError:
        raise StoreError(f"{path} is not there; make it with 'xling reduce {folder.name}'.") from None
    except msgspec.DecodeError as error:
        raise StoreError(f"{path} is not a matrix ({error}); run 'xling reduce {folder.name}'.") from error


def _rounded(encoded: bytes) -> Any:
    """The same with floats rounded; the parser calls nothing but for floats, of which big grids have millions."""
    return json.loads(encoded, parse_float=lambda digits: round(float(digits), 6) + 0.0)
