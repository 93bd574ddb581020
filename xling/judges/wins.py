"""Wins by scores: which responses a cell answers with, and how often a judge's score of them is the higher one.

A response's win is the mean over the m baseline responses of 1 (better), 0.5 (tie), 0 (worse); a prompt's is the mean
over its responses. Scores are NaN where a prompt has fewer samples than another. Numpy alone.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from xling.grid.stage import Context

Array = np.ndarray[Any, np.dtype[np.float64]]
Places = np.ndarray[Any, np.dtype[np.intp]]


class Folded(NamedTuple):
    """What a judge makes of a cell."""

    columns: dict[str, list[Any]]  # of items.json, an entry a prompt that was judged
    curve: Array  # (prompts, n): best-of-k for k = 1..n; (prompts, 0) where not all samples were judged


def by_scores(context: Context, reward: Array, answers: Places, items: Mapping[str, list[Any]]) -> Folded:
    """Columns win, quality and baseline_quality from the `verdict` parent's pool.npy (prompts, n) and baseline.npy
    (prompts, m): every judge that gives each response a score folds by this."""
    quality = np.load(context.parents["verdict"] / "pool.npy")[:, : reward.shape[1]]
    opposed = np.load(context.parents["verdict"] / "baseline.npy")
    wins = win_shares(quality, opposed)
    columns = {
        "win": mean_of(wins, answers),
        "quality": mean_of(quality, answers),
        "baseline_quality": np.nanmean(opposed, axis=1).tolist(),
    }
    return Folded({**items, **columns}, best_of_k_curve(reward, wins))


def answers(reward: Array, trained: bool) -> Places:
    """(prompts, n) rewards -> (prompts, j) places of the responses that are judged: the best one, or all."""
    if trained:
        return np.broadcast_to(np.arange(reward.shape[1]), reward.shape)
    return best(reward)[:, None]


def best(reward: Array) -> Places:
    """(prompts, n) -> (prompts,) index of the highest reward; ties go to the lower index, NaN is no sample."""
    picks: Places = np.nanargmax(reward, axis=1)
    return picks


def mean_of(values: Array, said: Places) -> list[float]:
    """(prompts, n) at `said` (prompts, j), averaged over j."""
    return np.take_along_axis(values, said, axis=1).mean(axis=1).tolist()  # type: ignore[no-any-return]


def win_shares(quality: Array, opponents: Array) -> Array:
    """(prompts, n), (prompts, m) -> (prompts, n): share of the m opponents beaten, ties counting half."""
    difference = quality[:, :, None] - opponents[:, None, :]
    points = np.where(np.isnan(difference), np.nan, (np.sign(difference) + 1) / 2)
    present = ~np.isnan(opponents)
    shares: Array = np.nansum(points, axis=2) / present.sum(axis=1)[:, None]
    return np.where(np.isnan(quality), np.nan, shares)


def best_of_k_curve(reward: Array, wins: Array) -> Array:
    """(prompts, n) expected win of best-of-k for k = 1..n, over all k-subsets of the pool, without sampling.

    With the samples sorted by reward, the i-th lowest (i = 1..n) is the best of C(i-1, k-1) of the C(n, k) subsets.
    Among equal rewards the lower index counts as higher, as in `best`; a prompt with fewer samples keeps its last
    value.
    """
    out = np.empty(reward.shape)
    for row, (rewards, points) in enumerate(zip(reward, wins, strict=True)):
        there = np.flatnonzero(~np.isnan(rewards))
        order = there[np.lexsort((-there, rewards[there]))]
        weights = subset_weights(len(there))
        curve = weights @ points[order]
        out[row] = np.concatenate([curve, np.full(reward.shape[1] - len(curve), curve[-1])])
    return out


@lru_cache(maxsize=64)
def subset_weights(n: int) -> Array:
    """(n, n): row k-1 has C(i-1, k-1) / C(n, k) for i = 1..n, by logarithms."""
    from scipy.special import gammaln  # slow to import, and planning needs none of it

    k, i = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)[None, :]
    with np.errstate(invalid="ignore"):
        log = gammaln(i) - gammaln(k) - gammaln(i - k + 1) - (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
    return np.where(i >= k, np.exp(np.where(i >= k, log, 0.0)), 0.0)
