"""Does a reward model order the responses to one prompt, which is all that picking among them asks of it?

Accuracy on held-out ratings compares responses to different documents: who has only learnt which documents are easy is
right there, and picks at random. Here rewards are put beside what the judge scores by (gold quality, people's ratings,
the target's own reward model), on the responses of the cell's pool:

    within        of two responses to one prompt, how often the better one has the higher reward (ties half)
    between       the same of responses to different prompts
    prompt_share  of the rewards' variance, how much lies between prompts: s_b / (s_b + s_w), the components of variance
                  of a one-way random model, by the method of moments (Searle, Casella and McCulloch 1992, section 3.6)

within and between are areas under the ROC curve, for a quality of any number of grades (Harrell's C); pairs of equal
quality do not count, every other one counts the same. within is of all pairs; between of responses at the same place
in the pool, of every two prompts up to MOST_OTHERS + 1 and of evenly chosen ones beyond.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from xling.analysis.items.scored import (
    Column,
    Finished,
    Measured,
    Scored,
    by_model,
    by_panel,
    columns_in,
    drawn,
    finished_cells,
    once,
    over_models,
    prompts_of,
    table_of,
)
from xling.analysis.matrix.types import PERCENT
from xling.analysis.statistics.bootstrap import SHARE, Clusters, Floats, Ints, Sample, cluster_sums
from xling.analysis.tidy.finding import Finding, Row, is_home, some
from xling.config.common import is_foreign
from xling.errors import StoreError
from xling.grid import joined
from xling.grid.records import Ref
from xling.grid.store import Store
from xling.judges import judges_its_own
from xling.results.items import read_array

MOST_OTHERS = 32  # steps to other prompts, whose responses at the same place are compared
ITEMS = ("prompt", "group", "dataset")
SUMS = ("right", "pairs", "right_between", "pairs_between", "n", "total", "squares", "prompts_squares")  # of a prompt
MEASURES = ("within", "between", "prompt_share")
NOTE = (
    "Percent of pairs of responses that the reward orders as the judge's scores do, ties half, pairs of equal quality "
    "left out (AUC x 100; 50: chance). within: responses to one prompt, among which best-of-n picks; between: to "
    "different prompts, as accuracy on held-out ratings compares them. prompt_share: percent of the reward's variance "
    "that lies between prompts, where it helps no pick. Means over datasets. 95 % intervals by document, or over seeds."
)


def within_prompt(store: Store, name: str) -> list[Finding]:
    """Of a grid whose judge scores single responses; what could not be read is in `left_out`."""
    finished = finished_cells(store, name)
    table, left_out = compared(finished)
    return order_within(table, (*finished.holes, *left_out))


def compared(finished: Finished) -> tuple[pd.DataFrame, list[str]]:
    """A row a reward model and prompt: axes but the optimizer's, `seed`, `prompt`, `group`, `dataset` and SUMS."""
    prompts: dict[Ref, pd.DataFrame] = {}
    by_pairs: list[str] = []

    def read(cell: Scored) -> dict[str, Any] | None:
        if judges_its_own(cell.stages):
            return None
        verdict = finished.results.folder(cell.stages["verdict"]) / "pool.npy"
        if not joined.exists(verdict):
            by_pairs.append(cell.axes["judge"])
            return None
        ref = cell.stages["baseline"]  # of the same prompts, and read by the other analyses too
        if ref not in prompts:
            prompts[ref] = prompts_of(finished.results, ref)
        reward, quality = read_array(finished.results.folder(cell.stages["score"]) / "pool.npy"), read_array(verdict)
        if reward.shape != quality.shape or len(reward) != len(prompts[ref]):
            raise StoreError("its rewards and the judge's scores are not of the same responses")
        rows = {name: prompts[ref][name].to_numpy(dtype=object) for name in ITEMS}
        sums = prompt_sums(reward, quality, rows["dataset"])
        return rows | dict(zip(SUMS, sums.T, strict=True))

    table, misfits = table_of(once(finished.cells, "optimizer"), read, "optimizer")
    if by_pairs:
        misfits.append(f"Judges of pairs give no response a score of its own: {some(by_pairs)}.")
    elif not len(table) and not finished.holes:
        misfits.append("No reward model with a source has scored responses that the judge has scored.")
    return table, misfits


def prompt_sums(reward: Floats, quality: Floats, dataset: Sequence[str]) -> Floats:
    """(prompts, SUMS) of (prompts, n) rewards and qualities, NaN where a prompt has fewer responses."""
    there = ~(np.isnan(reward) | np.isnan(quality))
    known = np.where(there, reward - np.mean(reward[there]) if there.any() else 0.0, 0.0)
    n = there.sum(axis=1)
    total = known.sum(axis=1)
    out = np.zeros((len(reward), len(SUMS)))
    for column in range(1, reward.shape[1]):
        out[:, :2] += _ordered(reward[:, :column], quality[:, :column], reward[:, [column]], quality[:, [column]])
    names = np.asarray(dataset, dtype=object)
    for name in dict.fromkeys(names.tolist()):
        own = np.flatnonzero(names == name)
        for step in _steps(len(own)):
            others = np.roll(own, -step)
            found = _ordered(reward[own], quality[own], reward[others], quality[others])
            out[own, 2:4] += found
            out[others, 2:4] += found
    out[:, 4:] = np.stack([n, total, (known**2).sum(axis=1), total**2 / np.maximum(n, 1)], axis=1)
    return out


def _steps(prompts: int) -> Ints:
    """How far away the prompts stand that are compared: all, or MOST_OTHERS evenly over the dataset."""
    return np.unique(np.linspace(1, prompts - 1, min(prompts - 1, MOST_OTHERS)).astype(np.int64))


def _ordered(reward: Floats, quality: Floats, other: Floats, others_quality: Floats) -> Floats:
    """(prompts, 2) pairs in the right order (ties half), and pairs whose qualities differ."""
    better = np.sign(quality - others_quality)
    agree = np.sign(reward - other) * better
    counts = ~np.isnan(agree) & (better != 0)
    return np.stack([np.where(counts, (agree + 1) / 2, 0.0).sum(axis=1), counts.sum(axis=1)], axis=1)


# --- the analysis -------------------------------------------------------------------------------------------


def order_within(table: pd.DataFrame, left_out: Sequence[str] = ()) -> list[Finding]:
    """`within_prompt`, a row a reward model and target; `within_prompt_means`, over those at home and from abroad.

    table: a row a reward model and prompt with `source_lang`, `target_lang`, any other axes, `seed`, ITEMS and SUMS.
    """
    misfits = list(left_out)

    def rows_of(part: pd.DataFrame) -> tuple[list[Row], list[Row]]:
        columns, fresh = drawn(columns_in(part, list(SUMS), ITEMS, "prompts", misfits))
        samples = [(column, ranked(column, clusters, fresh)) for column, clusters in columns]
        return _by_model(samples), over_models(samples, MEASURES, {"home": is_home, "foreign": is_foreign})

    rows, means = by_panel(table, ("target_lang", "source_lang", "seed", *ITEMS, *SUMS), rows_of)
    title = "Do rewards order the responses to one prompt"
    means_note = f"{NOTE} home: trained on the target's own feedback; foreign: on none of it, their mean."
    return [
        Finding("within_prompt", title, rows, NOTE, tuple(misfits)),
        Finding("within_prompt_means", f"{title}, means over targets", means, means_note, tuple(misfits)),
    ]


def ranked(column: Column, clusters: Clusters, fresh: bool) -> Sample:
    """MEASURES (times 100) of a column's sources, a measure after the other.

    Sums over documents are drawn. A sum over pairs of prompts is drawn to first order, as (w_p + w_q - 1) times it.
    """
    rows = cluster_sums(clusters, column.values.reshape(len(column.values), -1))
    weights, parts = clusters.weights.astype(np.float64), []
    for dataset in np.unique(clusters.dataset):
        own = clusters.dataset == dataset
        whole = rows[own].sum(axis=0)
        sums = np.vstack([whole, weights[:, own] @ rows[own]]).reshape(-1, len(column.sources), len(SUMS))
        prompts = np.concatenate([[clusters.counts[own].sum()], weights[:, own] @ clusters.counts[own]])
        found = _measures(sums, whole.reshape(len(column.sources), len(SUMS)), prompts)
        parts.append(np.where(np.isnan(found), found[0], found))  # a resample without any pair says nothing
    values = PERCENT * np.mean(parts, axis=0)
    span = np.broadcast_to(SHARE[:, None], (2, values.shape[1]))
    return Sample(values[0], values[1:], len(column.values), clusters.groups, column.seed, fresh, span=span)


def _measures(sums: Floats, whole: Floats, prompts: Floats) -> Floats:
    """(B, sources, SUMS) sums over prompts, (B,) of them -> (B, 3 sources) shares."""
    right, pairs, right_between, pairs_between, n, total, squares, prompts_squares = np.moveaxis(sums, 2, 0)
    _, _, all_right, all_pairs, *_ = whole.T
    k = prompts[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        within, between = right / pairs, (2 * right_between - all_right) / (2 * pairs_between - all_pairs)
        inside = (squares - prompts_squares) / (n - k)
        across = (prompts_squares - total**2 / n) / (k - 1)
        apart = np.maximum(across - inside, 0.0) / (n / k)
        return np.hstack([within, between, apart / (apart + inside)])


def _by_model(samples: Sequence[Measured]) -> list[Row]:
    """With the pairs within prompts of its first seed."""
    pairs: dict[tuple[str, str], int] = {}
    for column, _ in samples:
        own = column.values[:, :, SUMS.index("pairs")].sum(axis=0)
        for source, count in zip(column.sources, own.tolist(), strict=True):
            pairs.setdefault((source, column.target), int(count))
    rows = by_model(samples, MEASURES)
    return [row | {"pairs": pairs[row["source_lang"], row["target_lang"]]} for row in rows]
