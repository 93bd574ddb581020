"""judge[s,t]: best-of-n by the reward, and which of its picks a judge prefers to the baseline.

No model runs here: rewards and verdict scores (exact quality, people's ratings or the target's own reward model) were
computed by score stages, a language model's verdicts by xling/stages/llm.py. A prompt's win is the mean over its m
baseline responses of 1 (better), 0.5 (tie), 0 (worse).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from scipy.special import gammaln

from xling.config import Task
from xling.grid.stage import Context
from xling.stages.files import Array, Samples, read_samples, write_json


class JudgeSpec(Struct, frozen=True):
    """`n`: how many of the pool's samples are picked from; `task` only for recorded systems, whose people rated."""

    judge: str
    n: int | None
    task: Task | None = None
    digest: str = ""
    lang: str = ""
    win: str = ""  # of judge=llm: soft or hard


def run(context: Context) -> None:
    """Writes items.json, curve.npy and summary.json; for recorded systems pairs.json and spearman.json as well."""
    spec = msgspec.convert(context.spec, JudgeSpec)
    samples = read_samples(context.parents["pool"])
    reward = np.load(context.parents["score"] / "pool.npy")[:, : spec.n]
    if spec.judge == "llm":
        return _by_language_model(context, spec, samples, reward)
    quality = np.load(context.parents["verdict"] / "pool.npy")[:, : spec.n]
    opponents = np.load(context.parents["verdict"] / "baseline.npy")
    wins = win_shares(quality, opponents)
    pick = best(reward)
    rows = np.arange(len(pick))
    items = {
        "prompt": [s.prompt for s in samples],
        "group": [s.group for s in samples],
        "dataset": [s.dataset for s in samples],
        "index": pick.tolist(),
        "win": wins[rows, pick].tolist(),
        "in_language": [s.in_language[i] for s, i in zip(samples, pick, strict=True)],
        "length": [s.lengths[i] for s, i in zip(samples, pick, strict=True)],
        "reward": reward[rows, pick].tolist(),
        "quality": quality[rows, pick].tolist(),
        "baseline_quality": np.nanmean(opponents, axis=1).tolist(),
    }
    write_json(context.out / "items.json", items)
    np.save(context.out / "curve.npy", best_of_k_curve(reward, wins))
    write_json(context.out / "summary.json", _summary(reward.shape[1]))
    if spec.task is not None:
        _agreement(context, spec, spec.task)
    return None


def _by_language_model(context: Context, spec: JudgeSpec, samples: Sequence[Samples], reward: Array) -> None:
    """The same from verdicts of a language model on what was picked; there is no curve, since only that was judged."""
    from xling.stages.llm import fold

    items = fold(context.parents["verdict"], samples, spec.win)
    rows = items.pop("row")
    pick = best(reward)[rows].tolist()
    items |= {
        "index": pick,
        "in_language": [samples[row].in_language[i] for row, i in zip(rows, pick, strict=True)],
        "length": [samples[row].lengths[i] for row, i in zip(rows, pick, strict=True)],
        "reward": [float(reward[row, i]) for row, i in zip(rows, pick, strict=True)],
    }
    write_json(context.out / "items.json", items)
    np.save(context.out / "curve.npy", np.empty((len(rows), 0)))
    write_json(context.out / "summary.json", _summary(reward.shape[1]))


def best(reward: Array) -> np.ndarray[Any, np.dtype[np.intp]]:
    """(prompts, n) -> (prompts,) index of the highest reward; ties go to the lower index, NaN is no sample."""
    picks: np.ndarray[Any, np.dtype[np.intp]] = np.nanargmax(reward, axis=1)
    return picks


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
    k, i = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)[None, :]
    with np.errstate(invalid="ignore"):
        log = gammaln(i) - gammaln(k) - gammaln(i - k + 1) - (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
    return np.where(i >= k, np.exp(np.where(i >= k, log, 0.0)), 0.0)


def kl_bound(n: int) -> float:
    """Upper bound of KL(best-of-n || policy) in nats: log n - (n - 1) / n (paper, section 6.2)."""
    return float(np.log(n) - (n - 1) / n)


def _summary(n: int) -> dict[str, Any]:
    return {"n_samples": n, "kl_bound": kl_bound(n)}


def _agreement(context: Context, spec: JudgeSpec, task: Task) -> None:
    from xling.models.recorded import write_agreement
    from xling.tasks import task_module

    write_agreement(task_module(task).recorded(task, spec.lang, spec.digest), context.parents["score"], context.out)
