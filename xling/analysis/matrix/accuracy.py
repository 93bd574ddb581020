"""Reward-model accuracy on a target's held-out preferences, against majority and length.

As the paper's Tables 18 and 19. Pointwise: a response is called good where its score is above 0; AUC needs no
threshold. Pairs: the chosen response must score higher, ties count 0.5. All reward models of a target see the
same items, so every comparison is paired.

Ratings are mostly of responses to different documents, pairs to one prompt. A reward model that is right about the
former may only know which documents are easy, and what picks among responses to one prompt needs the latter; so the AUC
of ratings is there twice, over all of them and over those of one document.
"""

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from xling.analysis.matrix.types import PERCENT, Accuracy, Baseline, Seeds
from xling.analysis.statistics.bootstrap import (
    SHARE,
    Clusters,
    Floats,
    Sample,
    cluster_sums,
    difference,
    draw,
    resample,
)
from xling.analysis.statistics.decisions import Difference, judged
from xling.analysis.statistics.intervals import Estimate, fold
from xling.errors import StoreError
from xling.results.items import Heldout, read_heldout, read_notes
from xling.results.plan import PlannedEntry, Results


class Measured(Struct, frozen=True):
    """Accuracy of several reward models on one target; None where there is no record."""

    accuracy: list[Estimate | None]
    auc: list[Estimate | None]
    auc_within: list[Estimate | None]
    versus_majority: list[Difference | None]
    versus_length: list[Difference | None]
    majority: Estimate | None
    length: Estimate | None
    hits: list[Sample]  # one a seed: the accuracies of the models, then majority and length


def measure_column(
    target: str, entries: Sequence[PlannedEntry], numbers: Sequence[int], recorded: bool, results: Results
) -> tuple[list[Accuracy | None], Baseline | None, list[Sample]]:
    """Accuracy of a column's entries `numbers` whose score stage has held-out scores, in the column's order.

    The samples are of the entries `numbers`, in their order. recorded: seeds split the same people's ratings.
    """
    measured: list[Accuracy | None] = [None] * len(entries)
    found = measure([_scores(entries[number], results) for number in numbers], recorded)
    if found is None:
        return measured, None, []
    aucs = found.auc, found.auc_within
    models = zip(numbers, found.accuracy, *aucs, found.versus_majority, found.versus_length, strict=True)
    for number, accuracy, auc, auc_within, versus_majority, versus_length in models:
        if accuracy is not None:
            source = entries[number].axes["source_lang"]
            measured[number] = Accuracy(source, target, accuracy, auc, versus_majority, versus_length, auc_within)
    return measured, Baseline(target, found.majority, found.length), found.hits


def _scores(entry: PlannedEntry, results: Results) -> dict[Seeds, Heldout]:
    """The entry's held-out scores by seed; a damaged score has no accuracy (the store's own check reports it)."""
    found: dict[Seeds, Heldout] = {}
    for cell in entry.cells:
        if cell.status == "done" and "score" in cell.stages:
            with contextlib.suppress(StoreError):
                record = read_heldout(results.folder(cell.stages["score"]))
                if record is not None:
                    found[cell.seeds] = record
    return found


def unknown_languages(entries: Sequence[PlannedEntry], results: Results) -> list[str]:
    """Languages that a reward model's frozen encoder was not made for, as the score stages noted."""
    unknown: set[str] = set()
    for entry in entries:
        for cell in entry.cells:
            if cell.status == "done" and "score" in cell.stages:
                with contextlib.suppress(StoreError):
                    unknown.update(read_notes(results.folder(cell.stages["score"])).unknown_languages)
    return sorted(unknown)


def measure(heldout: Sequence[Mapping[Seeds, Heldout]], recorded: bool = False) -> Measured | None:
    """`heldout`: for each reward model, its scores under each seed; `recorded`: of the same people's ratings.

    None where there are none at all.
    """
    first = {seeds: record for found in reversed(heldout) for seeds, record in found.items()}
    if not first:
        return None
    hits, aucs, within = [], [], []
    for seeds, record in sorted(first.items()):
        clusters = draw([(record.group, [""] * len(record.group))])[0]
        models = [_comparable(found.get(seeds), record) for found in heldout]
        columns = [correct(model) for model in models] + [majority_hits(record), length_hits(record)]
        values = np.stack([_or_nan(column, len(record.group)) for column in columns], axis=1) * PERCENT
        hits.append(resample(clusters, values, "/".join(seeds), crossed=recorded, span=SHARE))
        if not record.pairwise:
            aucs.append(_auc_sample(clusters, models, "/".join(seeds)))
            within.append(_within_sample(clusters, models, np.array(record.label) > 0, "/".join(seeds)))
    count = len(heldout)
    estimates = fold(hits)
    every = list(range(count))
    return Measured(
        estimates[:count],
        fold(aucs) if aucs else [None] * count,
        fold(within) if within else [None] * count,
        _compared(hits, every, count, estimates),
        _compared(hits, every, count + 1, estimates),
        estimates[count],
        estimates[count + 1],
        hits,
    )


def _comparable(record: Heldout | None, first: Heldout) -> Heldout | None:
    """The record, where it is on the same items as the first."""
    same = record is not None and record.group == first.group and record.label == first.label
    return record if same else None


def _compared(
    hits: Sequence[Sample], models: list[int], baseline: int, estimates: Sequence[Estimate | None]
) -> list[Difference | None]:
    if estimates[baseline] is None:
        return [None] * len(models)
    differences = fold([difference(sample, models, [baseline] * len(models)) for sample in hits])
    return [judged(found) for found in differences]


def correct(record: Heldout | None) -> Floats | None:
    """(items,) 1 where the reward model is right, 0.5 for a tie between a pair, else 0."""
    if record is None:
        return None
    if record.pairwise:
        return _wins(np.array(record.chosen), np.array(record.rejected))
    return np.equal(np.array(record.score) > 0, np.array(record.label) > 0).astype(np.float64)


def majority_hits(record: Heldout) -> Floats | None:
    """(items,) for always calling the more frequent label; pairs have none."""
    if record.pairwise:
        return None
    positive = np.array(record.label) > 0
    return np.equal(positive, float(positive.mean()) >= 0.5).astype(np.float64)


def length_hits(record: Heldout) -> Floats | None:
    """(items,) for the rule fitted on training lengths; None for pointwise scores without a rule.

    Pairs without a rule: all longer or all shorter, whichever is right more often on these very pairs, which
    favours the baseline.
    """
    rule = record.length_rule
    if record.pairwise:
        longer = _wins(np.array(record.chosen_length), np.array(record.rejected_length))
        up = rule.longer_is_better if rule else float(longer.mean()) >= 0.5
        return longer if up else 1 - longer
    if rule is None:
        return None
    called_good = np.equal(np.array(record.length) > rule.threshold, rule.longer_is_better)
    return np.equal(called_good, np.array(record.label) > 0).astype(np.float64)


def _wins(left: Floats, right: Floats) -> Floats:
    return np.greater(left, right) + 0.5 * np.equal(left, right)


def _or_nan(column: Floats | None, size: int) -> Floats:
    return np.full(size, np.nan) if column is None else column


# --- AUC --------------------------------------------------------------------------------------------------


def placements(score: Floats, positive: npt.NDArray[np.bool_]) -> Floats:
    """(items,) structural components: for a positive the share of negatives below it, for a negative that of
    positives above it, ties half. Their mean over either class is the AUC (DeLong et al. 1988)."""
    good, bad = np.sort(score[positive]), np.sort(score[~positive])
    below = (np.searchsorted(bad, score, "left") + np.searchsorted(bad, score, "right")) / (2 * len(bad))
    under = (np.searchsorted(good, score, "left") + np.searchsorted(good, score, "right")) / (2 * len(good))
    return np.where(positive, below, 1 - under)


def _auc_sample(clusters: Clusters, models: Sequence[Heldout | None], label: str) -> Sample:
    """AUC (times 100) and its first-order cluster bootstrap (Obuchowski 1997): mean placement of positives
    plus that of negatives minus the AUC, each a ratio of drawn sums, so that no resample is sorted again. It is no
    surer than its rarer class is large: twice that is the most clusters that its interval is over."""
    size = len(clusters.order)
    columns = np.full((size, len(models)), np.nan)
    positive = np.zeros(size, dtype=np.bool_)
    for number, model in enumerate(models):
        if model is not None:
            positive = np.array(model.label) > 0
            if positive.any() and not positive.all():
                columns[:, number] = placements(np.array(model.score), positive) * PERCENT
    auc = columns[positive].mean(axis=0) if positive.any() else np.full(len(models), np.nan)
    weights = clusters.weights.astype(np.float64)
    resamples, most = -np.broadcast_to(auc, (len(weights), len(models))), clusters.groups
    for side in (positive, ~positive):
        sums = cluster_sums(clusters, columns * side[:, None])
        counts = cluster_sums(clusters, side[:, None].astype(np.float64))
        drawn = weights @ counts  # a resample may hold no item of this class
        resamples = resamples + np.where(drawn > 0, (weights @ sums) / np.maximum(drawn, 1), auc)
        most = min(most, 2 * int((counts > 0).sum()))
    span = np.broadcast_to(SHARE[:, None], (2, len(models)))
    return Sample(auc, resamples, size, most, label, span=span)


def _within_sample(
    clusters: Clusters, models: Sequence[Heldout | None], positive: npt.NDArray[np.bool_], label: str
) -> Sample:
    """AUC (times 100) over pairs of a good and a bad response of one group, every pair alike; sums over groups are
    drawn. NaN where no group has both."""
    groups = np.split(clusters.order, clusters.starts[1:])
    sides = [(own[positive[own]], own[~positive[own]]) for own in groups]
    good = np.concatenate([np.repeat(better, len(worse)) for better, worse in sides])
    bad = np.concatenate([np.tile(worse, len(better)) for better, worse in sides])
    pairs = np.array([len(better) * len(worse) for better, worse in sides], dtype=np.float64)
    of_row = np.repeat(np.arange(len(groups)), pairs.astype(np.int64))
    right = np.full((len(groups), len(models)), np.nan)
    for number, model in enumerate(models):
        if model is not None:
            score = np.array(model.score)
            right[:, number] = np.bincount(of_row, _wins(score[good], score[bad]), minlength=len(groups))
    weights = clusters.weights.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        auc = PERCENT * right.sum(axis=0) / pairs.sum()
        drawn = PERCENT * (weights @ right) / (weights @ pairs)[:, None]
    resamples = np.where(np.isnan(drawn), auc, drawn)  # a resample without any pair
    span = np.broadcast_to(SHARE[:, None], (2, len(models)))
    return Sample(auc, resamples, len(good), int((pairs > 0).sum()), label, span=span)
