"""Accuracy of reward models by category of a benchmark (M-RewardBench), and the kappa of a language against English.

A category's accuracy is the mean of its subsets, weighted as the authors weight them (RewardBench's example counts,
xling/tasks/m_rewardbench.py); a language's is the plain mean of its categories, as in their analysis/plot_utils.py. A
tie counts 0.5; the authors' script for classifiers counts it as wrong.
Kappa (Cohen 1960): what the reward model prefers in a language (chosen, rejected, neither) against what it prefers
among the same ids in English. Both have bootstrap intervals over prompts, within subsets; seeds are folded as anywhere.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct

from xling.analysis.matrix.types import PERCENT, Seeds
from xling.analysis.statistics.bootstrap import ONE, SHARE, Clusters, Floats, Sample, cluster_sums, draw, resample
from xling.analysis.statistics.intervals import Estimate, fold
from xling.errors import StoreError
from xling.results.items import Subsets, read_array, read_subsets
from xling.results.plan import PlannedEntry, Results

ENGLISH = "en"
MEAN = "mean"  # of the categories: a language's accuracy
Axes = dict[str, str]


class CategoryAccuracy(Struct, frozen=True):
    """One reward model (and target) on one category, or on all of them; percent."""

    axes: Axes
    category: str
    accuracy: Estimate


class Agreement(Struct, frozen=True):
    """Cohen's kappa of a language's preferences against those in English, -1 to 1."""

    axes: Axes
    kappa: Estimate


class Categories(Struct, frozen=True):
    """All of a grid, in the order of the axes."""

    accuracy: list[CategoryAccuracy]
    agreement: list[Agreement]


@dataclass
class _Judged:
    """One entry's verdicts by seed, over the prompts that `subsets` names."""

    axes: Axes
    subsets: Subsets
    correct: dict[Seeds, Floats] = field(default_factory=dict)  # (prompts,) 1, 0.5, 0


def fold_categories(entries: Sequence[PlannedEntry], results: Results) -> Categories:
    """Accuracy by category of finished cells on a benchmark; empty lists for grids on anything else."""
    found = [one for entry in entries if (one := _judged(entry, results)) is not None]
    found.sort(key=lambda one: list(one.axes.values()))
    by_subsets: dict[tuple[str, ...], list[_Judged]] = {}
    for one in found:
        by_subsets.setdefault((*one.subsets.prompt, *one.subsets.subset), []).append(one)
    accuracy = [row for members in by_subsets.values() for row in _accuracy(members)]
    accuracy.sort(key=lambda row: list(row.axes.values()))
    english = {_without_target(one.axes): one for one in found if one.axes["target_lang"] == ENGLISH}
    abroad = [one for one in found if one.axes["target_lang"] != ENGLISH]
    agreement = [_agreement(one, english[key]) for one in abroad if (key := _without_target(one.axes)) in english]
    return Categories(accuracy, [row for row in agreement if row is not None])


def _judged(entry: PlannedEntry, results: Results) -> _Judged | None:
    """An entry's verdicts; None where no cell is done, or its prompts have no subsets. Damaged results are left out."""
    judged: _Judged | None = None
    for cell in entry.cells:
        if cell.status != "done" or not {"pool", "score", "verdict"} <= set(cell.stages):
            continue
        with contextlib.suppress(StoreError):
            subsets = read_subsets(results.folder(cell.stages["pool"]))
            if subsets is None:
                return None
            judged = judged or _Judged(entry.axes, subsets)
            scores, ratings = (
                read_array(results.folder(cell.stages[role]) / "pool.npy") for role in ("score", "verdict")
            )
            if subsets == judged.subsets and len(scores) == len(subsets.prompt):
                judged.correct[cell.seeds] = preferred(scores, ratings)
    return judged if judged and judged.correct else None


def preferred(scores: Floats, ratings: Floats) -> Floats:
    """(prompts,) 1 where the better rated of two responses has the higher score, 0.5 for a tie, 0 where not."""
    rows = np.arange(len(scores))
    better, worse = np.nanargmax(ratings, axis=1), np.nanargmin(ratings, axis=1)
    shares: Floats = (np.sign(scores[rows, better] - scores[rows, worse]) + 1) / 2
    return shares


def _without_target(axes: Axes) -> tuple[tuple[str, str], ...]:
    return tuple((axis, value) for axis, value in axes.items() if axis != "target_lang")


# --- accuracy -----------------------------------------------------------------------------------------------


def _accuracy(members: Sequence[_Judged]) -> list[CategoryAccuracy]:
    """Entries on the same prompts, all categories; comparisons between them are paired."""
    subsets = members[0].subsets
    clusters = draw([(subsets.prompt, subsets.subset)])[0]
    seeds = sorted({seed for one in members for seed in one.correct})
    missing = np.full(len(subsets.prompt), np.nan)
    values = {seed: np.stack([one.correct.get(seed, missing) for one in members], axis=1) * PERCENT for seed in seeds}
    rows = []
    for category, shares in subset_shares(subsets).items():
        samples = [resample(clusters, values[seed], "/".join(seed), shares=shares, span=SHARE) for seed in seeds]
        for one, estimate in zip(members, fold(samples), strict=True):
            if estimate is not None:
                own = _counted(estimate, subsets, category)
                rows.append(CategoryAccuracy(one.axes, category, own))
    return rows


def _counted(estimate: Estimate, subsets: Subsets, category: str) -> Estimate:
    """The estimate with the number of prompts that it is over."""
    n = len(subsets.prompt) if category == MEAN else subsets.category.count(category)
    return Estimate(estimate.value, estimate.low, estimate.high, estimate.se, n, n, estimate.seeds)


def subset_shares(subsets: Subsets) -> dict[str, Floats]:
    """Category -> (subsets,) weights in the order of the subsets' names; the last is the mean of the categories.

    Weights within a category are the benchmark's, or the number of prompts where a subset has none.
    """
    names = sorted(set(subsets.subset))
    category, weight = {}, dict.fromkeys(names, 0.0)
    for subset, own, stated in zip(subsets.subset, subsets.category, subsets.weight, strict=True):
        category[subset] = own
        weight[subset] = stated if stated is not None else weight[subset] + 1
    found: dict[str, Floats] = {}
    for one in sorted(set(category.values())):
        raw = np.array([weight[name] if category[name] == one else 0.0 for name in names])
        found[one] = raw / raw.sum()
    if len(found) > 1:
        found[MEAN] = np.mean(list(found.values()), axis=0)
    return found


# --- agreement ----------------------------------------------------------------------------------------------


def _agreement(one: _Judged, english: _Judged) -> Agreement | None:
    """Over the ids that both have, seed by seed."""
    place = {prompt: row for row, prompt in enumerate(english.subsets.prompt)}
    shared = [(row, place[prompt]) for row, prompt in enumerate(one.subsets.prompt) if prompt in place]
    seeds = sorted(set(one.correct) & set(english.correct))
    if not shared or not seeds:
        return None
    here, there = (list(rows) for rows in zip(*shared, strict=True))
    names = [one.subsets.prompt[row] for row in here]
    clusters = draw([(names, [one.subsets.subset[row] for row in here])])[0]
    samples = [
        kappa_sample(clusters, one.correct[seed][here], english.correct[seed][there], "/".join(seed)) for seed in seeds
    ]
    [estimate] = fold(samples)
    return None if estimate is None else Agreement(one.axes, estimate)


def kappa_sample(clusters: Clusters, left: Floats, right: Floats, label: str = "") -> Sample:
    """Kappa of two (N,) labellings by 1, 0.5 and 0, and its bootstrap; NaN where chance alone would always agree.

    kappa = (p_o - p_e) / (1 - p_e), with p_o the share of equal labels and p_e the sum over labels of the product of
    their shares; in each resample from drawn sums.
    """
    labels = (0.0, 0.5, 1.0)
    columns = [np.equal(left, right), *(np.equal(side, label) for side in (left, right) for label in labels)]
    values = np.stack(columns, axis=1).astype(np.float64)
    sums = cluster_sums(clusters, values)
    drawn = clusters.weights.astype(np.float64)
    point = kappa(sums.sum(axis=0)[None] / len(values))
    resamples = kappa((drawn @ sums) / (drawn @ clusters.counts)[:, None])
    kept = np.where(np.isnan(resamples), point, resamples)  # a resample in which all labels are one
    return Sample(point, kept[:, None], len(values), clusters.groups, label, span=ONE[:, None])


def kappa(shares: Floats) -> Floats:
    """(R, 7) shares: equal, then each label on the left, then on the right -> (R,) kappa."""
    expected = (shares[:, 1:4] * shares[:, 4:7]).sum(axis=1)
    room = 1 - expected
    known = room > 1e-12
    return np.where(known, (shares[:, 0] - expected) / np.where(known, room, 1.0), np.nan)
