"""The transfer matrix as data: what `fold_grid` returns, `matrix.json` holds and every report reads.

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

from msgspec import Struct

from xling.analysis.statistics.intervals import Difference, Estimate
from xling.grid.records import MATRIX
from xling.results.plan import LanguageRates

CHANCE = 50.0


class Curve(Struct, frozen=True):
    """Expected win rate of best-of-k for k = 1..n, unbiased over all k-subsets of the pool."""

    value: list[float]
    low: list[float | None]
    high: list[float | None]


class Entry(Struct, frozen=True):
    """A matrix entry. `win` is None for a hole, and `reason` says why; `partial` has some seeds missing."""

    axes: dict[str, str]  # all but the seeds, as text
    status: str  # done, partial, own judge, failed, blocked, not run, left out, damaged
    reason: str = ""
    win: Estimate | None = None
    win_own: Estimate | None = None  # by the very reward model that was optimised: no evidence, and in nothing else
    win_lc: Estimate | None = None  # length-controlled (length_control.py)
    win_soft: Estimate | None = None  # by the probabilities of the judge's answers; `win` is what the setting says
    win_hard: Estimate | None = None  # by its answers
    inconsistent: Estimate | None = None  # pairs whose two orders the judge decides differently, of those answered
    unanswered: Estimate | None = None  # pairs with an order that it did not answer, which are in no other number
    share_in_language: Estimate | None = None
    length: Estimate | None = None
    eos: Estimate | None = None  # responses that ended by themselves
    repetition: Estimate | None = None  # word bigrams that have occurred before in their response
    reward: Estimate | None = None  # increase over the baseline, in standard deviations of the baseline's responses
    reward_scale: float | None = None  # that standard deviation, in the reward model's units; mean over seeds
    quality: Estimate | None = None  # increase of the judge's score over the baseline (paper, section 5.1)
    kl: Estimate | None = None  # from SFT_t, measured along a trained policy's samples
    kl_bound: float | None = None  # log n - (n - 1) / n, in nats; an upper bound for best-of-n
    n_samples: int | None = None
    curve: Curve | None = None
    pairwise: Estimate | None = None  # recorded responses: accuracy within a prompt, ties 0.5
    spearman: float | None = None
    versus_home: Difference | None = None
    versus_best: Difference | None = None  # None for the best itself
    best: bool = False
    tied: bool = False  # its difference to the best includes 0
    keys: list[str] = []  # of the judge stages, in seed order

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
    def home(self) -> bool:
        return self.source == self.target

    @property
    def abroad(self) -> bool:
        """No part of the source is the target's own language."""
        return self.target not in self.source.split("+")


class Opponent(Struct, frozen=True):
    """The same measures of the baseline, which all cells of a target are judged against."""

    target: str
    share_in_language: Estimate | None
    length: Estimate | None
    eos: Estimate | None
    repetition: Estimate | None


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

    @property
    def beats_baselines(self) -> bool:
        """Above every baseline there is, each by paired difference."""
        baselines = [d for d in (self.versus_majority, self.versus_length) if d is not None]
        return bool(baselines) and all(d.estimate.above(0) for d in baselines)


class Baseline(Struct, frozen=True):
    """What a rule without a model reaches on the same held-out preferences."""

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
    """What the worst and the best possible picks would win: of the pool, by the judge's own scores."""

    target: str
    floor: Estimate
    ceiling: Estimate


class Count(Struct, frozen=True):
    """k of N finished cells, in words that stand alone; `by_value` counts point estimates instead."""

    name: str
    text: str
    k: int
    of: int
    planned: int
    by_value: int | None = None


class JudgeAccuracy(Struct, frozen=True):
    """Of a judge on a target's held-out human preferences (paper, Table 5)."""

    target: str
    accuracy: Estimate  # percent; a tie counts half
    inconsistent: Estimate | None  # percent of the pairs on which the order of the two responses decides


class JudgeAgreement(Struct, frozen=True):
    """Two judges on the same responses to the same prompts, in percent (judge_agreement.py has the rules for ties)."""

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
    counts: list[Count] = []
    verdicts: list[str] = []  # which differences are settled, and how many more prompts would settle the rest

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
    length_slope: Estimate | None = None  # log-odds of a win per tanh of standardised extra length (length_control.py)


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
