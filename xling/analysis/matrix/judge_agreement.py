"""Do judges agree: with each other, instance by instance and on the ranking of sources; and with people.

Instances: both prefer the response, or both the baseline: 1; one of them has a tie: 0.5; both have one: 1; else 0.
That is 1 - |a - b| / 2 with a, b the signs of (win - 0.5). Rankings: for every pair of sources within a target the same
of the signs of the difference of their win rates (means over seeds), all pairs weighing alike; intervals are over
prompts. In the paper GPT-4 and PaLM-2-L agree on 71 to 75 % of instances and 78 to 100 % of pairs of sources
(section 5.1), where the rule for ties is not stated.
"""

import contextlib
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from xling.analysis.matrix.across import Kept, grouped, mean_of_columns, over_columns
from xling.analysis.matrix.column import PERCENT, Column, Seeds
from xling.analysis.matrix.types import CHANCE, JudgeAccuracy, JudgeAgreement
from xling.analysis.statistics.bootstrap import SHARE, Sample, resample
from xling.analysis.statistics.drawing import RESAMPLES, Floats, draw
from xling.analysis.statistics.intervals import Estimate, fold
from xling.errors import StoreError
from xling.grid.planfile import Ref
from xling.results.items import read_judge_accuracy
from xling.results.plan import Results

LEVEL = 1e-9  # win rates closer than this are level: they were summed in different orders
Cells = Mapping[tuple[str, str], Kept]


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
    share = np.array([PERCENT * value / pairs])
    sample = Sample(share, PERCENT * drawn[:, None] / pairs, prompts, clusters, "all seeds", span=SHARE[:, None])
    (estimate,) = fold([sample])
    return (None if estimate is None else replace(estimate, seeds=seeds)), pairs


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
    """What decides the responses that were judged."""
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
