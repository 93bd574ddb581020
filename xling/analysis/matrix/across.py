"""Judges and optimizers compared prompt by prompt: what is kept of columns for that, and the comparisons.

Blocks are made by optimizer and judge. Cells of two blocks that differ in one of these alone are put side by side here.

Optimizers stand on equal terms: the same prompts, the same baseline samples, win rates paired by prompt, each with its
divergence and its difference to best-of-n.

Judges: do they agree with each other, instance by instance and on the ranking of sources; and with people? Instances:
both prefer the response, or both the baseline: 1; one of them has a tie: 0.5; both have one: 1; else 0. That is
1 - |a - b| / 2 with a, b the signs of (win - 0.5). Rankings: for every pair of sources within a target the same of the
signs of the difference of their win rates (means over seeds), all pairs weighing alike; intervals are over prompts, for
the agreement that so many give. In the paper GPT-4 and PaLM-2-L agree on 71 to 75 % of instances and 78 to 100 % of
pairs of sources (section 5.1), where the rule for ties is not stated.
"""

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from msgspec import structs

from xling.analysis.matrix.column import Column, Layout
from xling.analysis.matrix.names import named
from xling.analysis.matrix.types import (
    CHANCE,
    PERCENT,
    Arm,
    ArmCell,
    Block,
    Entry,
    JudgeAccuracy,
    JudgeAgreement,
    OptimizerTable,
    Seeds,
)
from xling.analysis.statistics.bootstrap import POINTS, RESAMPLES, SHARE, Clusters, Floats, Sample, draw, resample
from xling.analysis.statistics.decisions import judged
from xling.analysis.statistics.draws import centred
from xling.analysis.statistics.intervals import Estimate, fold
from xling.errors import StoreError
from xling.grid.records import Ref
from xling.grid.stage import NO_SOURCE
from xling.results.items import read_judge_accuracy
from xling.results.plan import PlannedEntry, Results

REFERENCE = "best_of_n"
LEVEL = 1e-9  # win rates closer than this are level: they were summed in different orders

Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Where one seed of a cell stands on the frontier, prompt by prompt."""

    k: int | None  # of best-of-k
    values: Floats  # (prompts, 4): kl, reward, quality, win as in frontier.py


@dataclass(frozen=True, slots=True)
class Kept:
    """One entry of a panel: its wins under each seed, and how its column is resampled."""

    planned: PlannedEntry
    wins: dict[Seeds, Floats]  # (prompts,) percent, NaN where not judged
    layouts: dict[Seeds, Layout]
    clusters: dict[Seeds, Clusters]
    labels: dict[Seeds, str]
    fresh: bool
    crossed: bool
    n: int  # samples a prompt
    marks: dict[Seeds, list[Mark]] = field(default_factory=dict)

    @property
    def axes(self) -> dict[str, str]:
        return self.planned.axes

    @property
    def place(self) -> tuple[str, str]:
        """(source, target)"""
        return self.axes["source_lang"], self.axes["target_lang"]

    def sample(self, seeds: Seeds, values: Floats, span: Floats, paired: bool = False) -> Sample:
        """Of (prompts, K) values under one of its seeds; span, paired: as of `resample`."""
        labels = self.labels[seeds]
        return resample(self.clusters[seeds], values, labels, self.fresh, self.crossed, span=span, paired=paired)


def keep(column: Column, clusters: dict[Seeds, Clusters]) -> list[Kept]:
    """The finished entries of a column's panels: neither references nor shuffled labels."""
    kept = []
    for number, entry in enumerate(column.entries):
        records = column.records[number]
        if not records or entry.axes["source_lang"] == NO_SOURCE or entry.axes["rm_backbone"].startswith("shuffled_"):
            continue
        wins = {seeds: found for seeds in records if (found := column.measure(number, seeds, "win")) is not None}
        labels = {seeds: column.label(seeds) for seeds in records}
        layouts = {seeds: column.layouts[seeds] for seeds in records}
        n = max(record.summary.n_samples for record in records.values())
        if not wins:
            continue  # judged by its own reward model under every seed
        kept.append(Kept(entry, wins, layouts, clusters, labels, column.fresh, column.recorded, n))
    return kept


def key_without(axes: dict[str, str], *groups: str) -> Key:
    """All axes but those of some groups (`optimizer` and `optimizer.n`), in a fixed order."""
    return tuple(sorted((axis, value) for axis, value in axes.items() if axis.split(".")[0] not in groups))


def grouped(kept: Iterable[Kept], *, over: str) -> list[tuple[dict[str, str], dict[str, dict[tuple[str, str], Kept]]]]:
    """Entries that differ only in the `over` group: the axes they share, and by name and (source, target)."""
    groups: dict[Key, dict[str, dict[tuple[str, str], Kept]]] = {}
    for one in kept:
        shared = key_without(one.axes, over, "source_lang", "target_lang")
        groups.setdefault(shared, {}).setdefault(named(one.axes, over), {})[one.place] = one
    return [(dict(key), found) for key, found in sorted(groups.items()) if len(found) > 1]


def shared_seeds(left: Kept, right: Kept) -> list[Seeds]:
    """Seeds under which both have verdicts on the same prompts."""
    return sorted(s for s in left.wins if s in right.wins and left.layouts[s] == right.layouts[s])


def over_columns(samples: Sequence[Sample]) -> list[Estimate | None]:
    """The mean over columns, seed by seed, then folded over the seeds; columns that share prompts share draws."""
    totals: dict[str, int] = {}
    for sample in samples:
        prompts = sample.prompts if sample.present is None else int(sample.present[0].max())
        totals[sample.label] = totals.get(sample.label, 0) + prompts
    return fold([replace(sample, prompts=totals[sample.label], present=None) for sample in samples])


def mean_of_columns(columns: Sequence[Floats]) -> Floats:
    """(prompts, K) mean of several such arrays over those that are there."""
    stacked = np.stack(columns)
    there = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, stacked, 0.0).sum(axis=0) / there.sum(axis=0))


# --- optimizers ----------------------------------------------------------------------------------------------


Cells = Mapping[tuple[str, str], Kept]


def optimizer_tables(kept: Sequence[Kept], blocks: Sequence[Block]) -> list[OptimizerTable]:
    """A table for every judge and reward model that several optimizers (or settings of one) were asked for with."""
    groups: dict[Key, dict[str, list[Entry]]] = {}
    for entry in (entry for block in blocks for panel in block.panels for entry in panel.entries):
        shared = key_without(entry.axes, "optimizer", "source_lang", "target_lang")
        groups.setdefault(shared, {}).setdefault(named(entry.axes, "optimizer"), []).append(entry)
    finished = {key_without(one.axes): one for one in kept}
    tables = []
    for key, planned in sorted(groups.items()):
        arms = {
            name: {one.place: one for entry in entries if (one := finished.get(key_without(entry.axes)))}
            for name, entries in planned.items()
        }
        if len(arms) > 1:
            reference = reference_of(arms)
            made = [_arm(name, cells, arms.get(reference, {}), planned[name]) for name, cells in in_order(arms)]
            tables.append(OptimizerTable(dict(key), reference, made))
    return tables


def reference_of(arms: Mapping[str, Cells]) -> str:
    """Best-of-n with the largest n; empty where there is none."""
    n = {name: _samples(cells) for name, cells in arms.items() if cells and name.split()[0] == REFERENCE}
    return max(sorted(n), key=lambda name: n[name], default="")


def _samples(cells: Cells) -> int:
    return max((kept.n for kept in cells.values()), default=0)


def in_order(arms: Mapping[str, Cells]) -> list[tuple[str, Cells]]:
    """Best-of-n first, by n; the others by name."""
    return sorted(arms.items(), key=lambda arm: (arm[0].split()[0] != REFERENCE, *_order(arm)))


def _order(arm: tuple[str, Cells]) -> tuple[int, str]:
    name, cells = arm
    return (_samples(cells) if name.split()[0] == REFERENCE else 0, name)


def _arm(name: str, cells: Cells, reference: Cells, planned: Sequence[Entry]) -> Arm:
    paired = {p: one for p, one in cells.items() if p in reference and reference[p] is not one}
    made = []
    for entry in planned:
        place = (entry.source, entry.target)
        made.append(_cell(entry, _differences(paired[place], reference[place]) if place in paired else []))
    above = sum(cell.win is not None and cell.win.above(CHANCE) for cell in made)
    wins, differences = _wins(list(cells.values())), _wins(list(paired.values()), reference)
    mean, versus = (over_columns(samples)[0] if samples else None for samples in (wins, differences))
    return Arm(name, made, above, mean, judged(versus))


def _cell(entry: Entry, samples: Sequence[Sample]) -> ArmCell:
    versus = judged(fold(samples)[0]) if samples else None
    return ArmCell(entry.source, entry.target, entry.status, entry.win, entry.kl, entry.kl_bound, versus)


def _differences(kept: Kept, other: Kept) -> list[Sample]:
    """Win rate minus the other's, one sample a seed."""
    return [kept.sample(s, (kept.wins[s] - other.wins[s])[:, None], POINTS, True) for s in shared_seeds(kept, other)]


def _wins(kept: Sequence[Kept], minus: Cells | None = None) -> list[Sample]:
    """Means over a target's sources, one sample a target and seed; with `minus` of the paired differences to it."""
    columns: dict[tuple[str, tuple[str, str]], list[Kept]] = {}
    for one in kept:
        for seeds in one.wins if minus is None else shared_seeds(one, minus[one.place]):
            columns.setdefault((one.place[1], seeds), []).append(one)
    samples = []
    for (_, seeds), members in sorted(columns.items(), key=lambda item: item[0]):
        wins = [one.wins[seeds] - (minus[one.place].wins[seeds] if minus else 0.0) for one in members]
        mean = mean_of_columns([column[:, None] for column in wins])
        samples.append(members[0].sample(seeds, mean, POINTS if minus else SHARE, bool(minus)))
    return samples


# --- judges --------------------------------------------------------------------------------------------------


def agreements(kept: Sequence[Kept]) -> list[JudgeAgreement]:
    """Every pair of judges of a grid, by optimizer, reward model and whatever else they share."""
    found = []
    for axes, judges in grouped(kept, over="judge"):
        for first, second in itertools.combinations(sorted(judges), 2):
            compared = _compared(axes, (first, second), judges[first], judges[second])
            if compared is not None:
                found.append(compared)
    return found


def _compared(axes: dict[str, str], names: tuple[str, str], left: Cells, right: Cells) -> JudgeAgreement | None:
    """None where the two have no cell in common."""
    places = [place for place in left if place in right and _seeds(left[place], right[place])]
    targets = sorted({target for _, target in places})
    by_target: dict[str, list[Sample]] = {}
    for target in targets:
        both = [(left[place], right[place]) for place in places if place[1] == target]
        by_target[target] = _instances(both)
    estimates = {target: estimate for target, found in by_target.items() if (estimate := fold(found)[0]) is not None}
    everywhere = over_columns([sample for found in by_target.values() for sample in found]) if by_target else [None]
    if everywhere[0] is None:
        return None
    ranking, pairs = _ranking([[(left[p], right[p]) for p in places if p[1] == target] for target in targets])
    return JudgeAgreement(axes, names, estimates, everywhere[0], ranking, pairs)


def alike(left: Floats, right: Floats) -> Floats:
    """1 for equal signs, 0.5 where one is 0, 0 for opposite ones; NaN where either is."""
    return 1 - np.abs(_sign(left) - _sign(right)) / 2


def _sign(values: Floats) -> Floats:
    return np.asarray(np.sign(np.where(np.abs(values) < LEVEL, 0.0, values)))


def _instances(both: Sequence[tuple[Kept, Kept]]) -> list[Sample]:
    """One sample a seed of a target: agreement in percent, a prompt's being the mean over sources."""
    samples = []
    for seeds in sorted({seeds for left, right in both for seeds in _seeds(left, right)}):
        there = [(left, right) for left, right in both if seeds in _seeds(left, right)]
        columns = [alike(*(wins - CHANCE for wins in _aligned(left, right, seeds)))[:, None] for left, right in there]
        samples.append(there[0][0].sample(seeds, mean_of_columns(columns) * PERCENT, SHARE))
    return samples


def _ranking(targets: Sequence[Sequence[tuple[Kept, Kept]]]) -> tuple[Estimate | None, int]:
    """Share of pairs of sources in the same order, percent, over all targets; and how many pairs there are."""
    value, drawn, pairs, prompts, seeds = 0.0, np.zeros(RESAMPLES), 0, 0, 0
    clusters = 0
    for both in targets:
        rates = [_rates(left, right) for left, right in both]
        for (a, b), (c, d) in itertools.combinations(rates, 2):
            value += float(alike(a.means - c.means, b.means - d.means)[0])
            drawn += alike(a.resamples - c.resamples, b.resamples - d.resamples)[:, 0]
            pairs += 1
        prompts += rates[0][0].prompts if len(rates) > 1 else 0
        clusters = max(clusters, rates[0][0].clusters)
        seeds = max([seeds, *(len(_seeds(left, right)) for left, right in both)])
    if not pairs:
        return None, 0
    estimate = as_measured(PERCENT * value / pairs, PERCENT * drawn / pairs, prompts, clusters)
    return (None if estimate is None else structs.replace(estimate, seeds=seeds)), pairs


def as_measured(share: float, drawn: Floats, prompts: int, clusters: int) -> Estimate | None:
    """An agreement on rankings, percent, with the interval that `judge_ranking` gives it; where hardly a resample is
    another, as of few prompts, that of a share of so many clusters."""
    sample = Sample(np.array([share]), drawn[:, None], prompts, clusters, "all seeds", span=SHARE[:, None])
    (found,), (low, high) = fold([sample]), centred(share, drawn, 0.0, PERCENT)
    return found if found is None or found.low is None or low == high else structs.replace(found, low=low, high=high)


def _rates(left: Kept, right: Kept) -> tuple[Sample, Sample]:
    """Both judges' win rates on the prompts that both judged, means over the seeds that both have."""
    samples = [
        left.sample(seeds, np.stack(_aligned(left, right, seeds), axis=1), SHARE) for seeds in _seeds(left, right)
    ]
    means, resamples = (np.mean([getattr(s, part) for s in samples], axis=0) for part in ("means", "resamples"))
    prompts, clusters = samples[0].counts(0)
    first, second = (Sample(means[k : k + 1], resamples[:, k : k + 1], prompts, clusters) for k in (0, 1))
    return first, second


def _seeds(left: Kept, right: Kept) -> list[Seeds]:
    """Seeds under which the two have judged the same responses to some of the same prompts: one may have judged fewer.

    With judge.half=true a cell's own reward model is another one, and picks other responses.
    """
    return sorted(
        s
        for s in left.wins
        if s in right.wins
        and _answered(left, s) == _answered(right, s)
        and not set(left.layouts[s].prompts).isdisjoint(right.layouts[s].prompts)
    )


def _answered(one: Kept, seeds: Seeds) -> list[Ref | None]:
    """The stage that decides the responses that were judged."""
    cells = [cell for cell in one.planned.cells if cell.seeds == seeds]
    return [cell.stages.get(role) for cell in cells for role in ("score", "pool", "baseline")]


def _aligned(left: Kept, right: Kept, seeds: Seeds) -> tuple[Floats, Floats]:
    """(prompts of the left,) wins of both, NaN where one of the two has not judged."""
    own = dict(zip(right.layouts[seeds].prompts, right.wins[seeds].tolist(), strict=True))
    other = np.array([own.get(prompt, np.nan) for prompt in left.layouts[seeds].prompts])
    return np.where(np.isnan(other), np.nan, left.wins[seeds]), np.where(np.isnan(left.wins[seeds]), np.nan, other)


# --- with people ------------------------------------------------------------------------------------------


def judge_accuracy(column: Column, results: Results) -> JudgeAccuracy | None:
    """How often a column's judge is right on the target's held-out preferences; None where that was not checked."""
    stages: dict[str, tuple[Ref, Seeds]] = {}
    for entry in column.entries:
        for cell in entry.cells:
            for role, ref in cell.stages.items():
                if role == "accuracy":
                    stages.setdefault(ref.key, (ref, cell.seeds))
    samples = []
    for ref, seeds in stages.values():
        with contextlib.suppress(StoreError):
            items = read_judge_accuracy(results.folder(ref))
            clusters = draw([(items.group, items.dataset or [""] * len(items.group))])[0]
            turned = items.inconsistent or [None] * len(items.group)
            values = np.array([items.correct, turned], dtype=np.float64).T
            samples.append(resample(clusters, values * PERCENT, column.label(seeds), span=SHARE))
    accuracy, inconsistent = fold(samples) if samples else (None, None)
    return None if accuracy is None else JudgeAccuracy(column.target, accuracy, inconsistent)
