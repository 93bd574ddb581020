"""Wins by scores: how often a judge's score of the responses that a cell answers with is the higher one.

A response's win is the mean over the m baseline responses of 1 (better), 0.5 (tie), 0 (worse); a prompt's is the mean
over its responses. Scores are NaN where a prompt has fewer samples than another. Numpy alone.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from xling.grid.stage import Context

Array = np.ndarray[Any, np.dtype[np.float64]]
Places = np.ndarray[Any, np.dtype[np.intp]]


class Folded(NamedTuple):
    """What a judge makes of a cell."""

    columns: dict[str, list[Any]]  # of items.json, an entry a prompt that was judged
    wins: Array  # (prompts, n) of all samples; (prompts, 0) where not all were judged


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
    return Folded({**items, **columns}, wins)


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
