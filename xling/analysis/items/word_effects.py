"""How much of a reward model's scores do words alone explain, at home and abroad (paper, section 5.2)?

A linear regression of RM_s's scores of responses in t on counts of their words. If foreign reward models see less of
word choice than the native one, they may be harder to over-optimise: the paper has R2 = 0.65 of native and 0.63 of
foreign ones (tokenizer, regularisation and held-out fit not stated there).

R2 here is held out: cross-fitted by document, 1 - (squared error of the predictions) / (squared deviation of the
scores). Words: pieces of xling/rewards/bag_of_words.py (case-folded, between spaces; characters in scripts without
spaces); of them the 1,000 that most documents use, and at least two; raw counts. Ridge, its penalty chosen for every
fit by cross-validation over the documents it is fitted to (xling/models/ridge.py).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from xling.analysis.items.scored import (
    SCORED_BY,
    Column,
    Finished,
    Scored,
    by_panel,
    columns_in,
    drawn,
    finished_cells,
    once,
    samples_of,
    table_of,
)
from xling.analysis.matrix.across import over_columns
from xling.analysis.statistics.bootstrap import Clusters, Floats, Sample, cluster_sums
from xling.analysis.statistics.intervals import fold
from xling.analysis.tidy.finding import Finding, Row, columns_of, is_home, some
from xling.config.common import is_foreign
from xling.grid.store import Store
from xling.models.ridge import assign_folds, fit_each, in_order
from xling.results.items import read_array
from xling.rewards.bag_of_words import pieces

MOST_ROWS = 2000  # responses of a target's dataset
MOST_WORDS = 1000
FOLDS = 5
SEED = "bag of words"  # of the sample of documents and of the folds
ITEMS = ("document", "text")
NOTE = (
    f"R2 of a ridge regression of scores on word counts ({MOST_WORDS:,} words at most, each in two documents or more), "
    f"cross-fitted by document in {FOLDS} folds; in_sample: of one fit to all responses. At most {MOST_ROWS:,} "
    "responses of a target's dataset: the first samples of every prompt, or of prompts drawn once. 95 % intervals by "
    "document for given fits, or over seeds."
)
MEANS_NOTE = (
    f"{NOTE} native: trained on the target's own feedback; foreign: on none of it, their mean. Means over the targets' "
    "datasets that have both, which share draws where their documents are parallel (paper: 0.65 and 0.63)."
)


def bag_of_words(store: Store, name: str) -> list[Finding]:
    """Of a grid, on the shared pool or, where policies were trained for every cell, on the baseline's responses."""
    finished = finished_cells(store, name)
    table, left_out = responses(finished)
    return explained_by_words(table, (*finished.holes, *left_out))


def responses(finished: Finished) -> tuple[pd.DataFrame, list[str]]:
    """A row a reward model and response: axes, `seed`, `dataset`, `document`, `text`, `score`."""
    texts: dict[str, dict[str, Any]] = {}

    def read(cell: Scored) -> dict[str, Any] | None:
        role = "pool" if cell.shared_pool else "baseline"
        ref = cell.stages[role]
        if ref.key not in texts:
            sampled = sampled_texts(finished, cell, role)
            columns = {name: sampled[name].to_numpy(dtype=object) for name in ("dataset", *ITEMS)}
            texts[ref.key] = columns | {name: sampled[name].to_numpy() for name in ("row", "column")}
        rows = texts[ref.key]
        scores = read_array(finished.results.folder(cell.stages["score"]) / f"{role}.npy")
        columns = {name: rows[name] for name in ("dataset", *ITEMS)}
        return columns | {"score": scores[rows["row"], rows["column"]]}

    table, misfits = table_of(once(finished.cells, *SCORED_BY), read, *SCORED_BY)
    if not len(table) and not finished.holes:
        misfits.append("No reward model with a source has scored responses.")
    return table, misfits


def sampled_texts(finished: Finished, cell: Scored, role: str) -> pd.DataFrame:
    """`dataset`, `document`, `text` of at most MOST_ROWS responses a dataset, and where they stand (row, column)."""
    samples = samples_of(finished.results, cell.stages[role])
    rows = []
    for dataset in dict.fromkeys(one.dataset for one in samples):
        own = [(row, one) for row, one in enumerate(samples) if one.dataset == dataset]
        kept = set(in_order((one.group for _, one in own), SEED)[:MOST_ROWS])
        own = [(row, one) for row, one in own if one.group in kept][:MOST_ROWS]
        each = max(1, MOST_ROWS // len(own))
        rows += [
            (dataset, one.group, text, row, column)
            for row, one in own
            for column, text in enumerate(one.responses[:each])
        ]
    return pd.DataFrame(rows, columns=["dataset", *ITEMS, "row", "column"])


# --- the regression -----------------------------------------------------------------------------------------


def word_counts(texts: Sequence[str], documents: Sequence[str]) -> Floats:
    """(texts, words) counts of the words that most documents use; ties in the order of the alphabet."""
    said = [Counter(pieces(text)) for text in texts]
    uses: dict[str, set[str]] = {}
    for words, document in zip(said, documents, strict=True):
        for word in words:
            uses.setdefault(word, set()).add(document)
    common = sorted((word for word, where in uses.items() if len(where) > 1), key=lambda word: (-len(uses[word]), word))
    place = {word: number for number, word in enumerate(common[:MOST_WORDS])}
    counts = np.zeros((len(texts), len(place)))
    for row, words in enumerate(said):
        for word, count in words.items():
            if word in place:
                counts[row, place[word]] = count
    return counts


def cross_fitted(counts: Floats, scores: Floats, documents: Sequence[str]) -> tuple[Floats, Floats]:
    """(texts, K) predictions of every column of scores: from fits without the text's document, and of a fit to all."""
    held, fold_of = np.empty_like(scores), assign_folds(documents, FOLDS, SEED)
    folds, names = np.array([fold_of[document] for document in documents]), np.array(documents, dtype=object)
    for number in range(FOLDS):
        out = folds == number
        heads = fit_each(counts[~out], scores[~out], names[~out].tolist())
        held[out] = np.stack([head.predict([counts[out]]) for head in heads], axis=1)
    heads = fit_each(counts, scores, names.tolist())
    return held, np.stack([head.predict([counts]) for head in heads], axis=1)


def r_squared(clusters: Clusters, scores: Floats, predicted: Floats, label: str) -> Sample:
    """1 - SSE / SST of every column and of its resamples: sums over documents are drawn, nothing is fitted again."""
    centred = scores - scores.mean(axis=0)
    parts = [(scores - predicted) ** 2, centred, centred**2]
    sums = [cluster_sums(clusters, part) for part in parts]
    weights = clusters.weights.astype(np.float64)
    means = _explained([part.sum(axis=0) for part in sums], clusters.counts.sum())
    resamples = _explained([weights @ part for part in sums], (weights @ clusters.counts)[:, None])
    resamples = np.where(np.isnan(resamples) | np.isinf(resamples), means, resamples)  # a resample of equal scores
    span = np.broadcast_to(np.array([[-np.inf], [1.0]]), (2, len(means)))
    return Sample(means, resamples, len(scores), clusters.groups, label, span=span)


def _explained(sums: Sequence[Floats], n: Any) -> Floats:
    """Of sums of squared errors, of scores and of their squares over n texts."""
    squared_error, total, squares = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - squared_error / (squares - total**2 / n)  # type: ignore[no-any-return]


# --- the analysis -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fit:
    """One target's dataset under one seed."""

    column: Column
    held: Sample  # R2 of each source
    in_sample: Floats
    words: int
    documents: int


def explained_by_words(table: pd.DataFrame, left_out: Sequence[str] = ()) -> list[Finding]:
    """`bag_of_words`, a row a reward model, target and dataset; `bag_of_words_means`, native and foreign.

    table: a row a reward model and response with `source_lang`, `target_lang`, any other axes, `seed`, `dataset`,
    `document`, `text` and `score`. Reward models of a target score the same responses; one that does not is left out.
    """
    misfits = list(left_out)

    def rows_of(part: pd.DataFrame) -> tuple[list[Row], list[Row]]:
        fits = _fits(part, misfits)
        return _by_model(fits), _native_and_foreign(fits, misfits)

    inner = ("target_lang", "source_lang", "seed", "dataset", *ITEMS, "score")
    rows, means = by_panel(table, inner, rows_of)
    title = "What words explain of the rewards of native and foreign reward models"
    return [
        Finding("bag_of_words", "What words explain of rewards", rows, NOTE, tuple(misfits)),
        Finding("bag_of_words_means", title, means, MEANS_NOTE, tuple(misfits)),
    ]


def _fits(part: pd.DataFrame, misfits: list[str]) -> list[_Fit]:
    ready = []
    for column in columns_in(part, "score", ITEMS, "responses", misfits, apart=["dataset"]):
        where = f"{column.target} {column.dataset}".strip()
        alike = [not np.ptp(scores) > 0 for scores in column.values.T]
        if any(alike):
            constant = [source for source, same in zip(column.sources, alike, strict=True) if same]
            misfits.append(
                f"Scores of {where} that are all alike or missing, so that R2 has no meaning: {some(constant)}."
            )
        kept = [number for number, same in enumerate(alike) if not same]
        if column.items["document"].nunique() < 2 * FOLDS:
            misfits.append(f"{where} has fewer than {2 * FOLDS} documents, too few to hold some out.")
        elif kept:
            sources = [column.sources[number] for number in kept]
            ready.append(replace(column, sources=sources, values=column.values[:, kept]))
    columns, fresh = drawn(ready, "document")
    return [_fit(column, clusters, fresh) for column, clusters in columns]


def _fit(column: Column, clusters: Clusters, fresh: bool) -> _Fit:
    documents = column.items["document"].tolist()
    counts = word_counts(column.items["text"].tolist(), documents)
    held, own = cross_fitted(counts, column.values, documents)
    sample = replace(r_squared(clusters, column.values, held, column.seed), fresh=fresh)
    in_sample = r_squared(clusters, column.values, own, column.seed).means
    return _Fit(column, sample, in_sample, counts.shape[1], len(set(documents)))


def _by_model(fits: Sequence[_Fit]) -> list[Row]:
    rows: list[Row] = []
    for target, dataset in dict.fromkeys((fit.column.target, fit.column.dataset) for fit in fits):
        own = [fit for fit in fits if (fit.column.target, fit.column.dataset) == (target, dataset)]
        for source in sorted({source for fit in own for source in fit.column.sources}):
            there = [(fit, fit.column.sources.index(source)) for fit in own if source in fit.column.sources]
            estimate = fold([_only(fit.held, [place]) for fit, place in there])[0]
            row: Row = {"source_lang": source, "target_lang": target, "dataset": dataset}
            row |= {"native": is_home(source, target), **columns_of("r2", estimate)}
            row["in_sample"] = float(np.mean([fit.in_sample[place] for fit, place in there]))
            rows.append(row | {"n": own[0].held.prompts, "documents": own[0].documents, "words": own[0].words})
    return rows


def _only(sample: Sample, places: Sequence[int]) -> Sample:
    """The mean of some quantities, as the one quantity of a sample."""
    means, resamples = sample.means[places].mean(keepdims=True), sample.resamples[:, places].mean(axis=1, keepdims=True)
    return replace(
        sample, means=means, resamples=resamples, span=sample.span if sample.span is None else sample.span[:, :1]
    )


def _native_and_foreign(fits: Sequence[_Fit], misfits: list[str]) -> list[Row]:
    samples, in_sample, used = [], [], set()
    lacking: Mapping[str, set[str]] = {"native": set(), "foreign": set()}
    for fit in fits:
        target, dataset = fit.column.target, fit.column.dataset
        native, foreign = fit.column.members(is_home), fit.column.members(is_foreign)
        for kind, members in (("native", native), ("foreign", foreign)):
            if not members:
                lacking[kind].add(f"{target} {dataset}".strip())
        if native and foreign:
            sides = [_only(fit.held, native), _only(fit.held, foreign)]
            means = np.concatenate([side.means for side in sides])
            resamples = np.hstack([side.resamples for side in sides])
            means = np.append(means, means[0] - means[1])
            resamples = np.column_stack([resamples, resamples[:, 0] - resamples[:, 1]])
            span = np.array([[-np.inf] * 3, [1.0, 1.0, np.inf]])
            samples.append(replace(fit.held, means=means, resamples=resamples, span=span))
            in_sample.append([fit.in_sample[native].mean(), fit.in_sample[foreign].mean()])
            used.add((target, dataset))
    misfits += [f"No {kind} reward model for {some(sorted(names))}." for kind, names in lacking.items() if names]
    if not samples:
        return []
    row: Row = {}
    for name, estimate in zip(("native", "foreign", "difference"), over_columns(samples), strict=True):
        row |= columns_of(name, estimate)
    inside = dict(zip(("native_in_sample", "foreign_in_sample"), np.mean(in_sample, axis=0).tolist(), strict=True))
    return [row | inside | {"n": len(used)}]
