"""What is kept of columns so that judges and optimizers can be compared prompt by prompt, across blocks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from xling.analysis.matrix.column import Column, Layout, Seeds
from xling.analysis.matrix.names import named
from xling.analysis.statistics.bootstrap import Sample, resample
from xling.analysis.statistics.drawing import Clusters, Floats
from xling.analysis.statistics.intervals import Estimate, fold
from xling.results.plan import NO_SOURCE, PlannedEntry

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
        totals[sample.label] = totals.get(sample.label, 0) + _judged(sample)
    return fold([replace(sample, prompts=totals[sample.label], present=None) for sample in samples])


def _judged(sample: Sample) -> int:
    return sample.prompts if sample.present is None else int(sample.present[0].max())


def mean_of_columns(columns: Sequence[Floats]) -> Floats:
    """(prompts, K) mean of several such arrays over those that are there."""
    stacked = np.stack(columns)
    there = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, stacked, 0.0).sum(axis=0) / there.sum(axis=0))
