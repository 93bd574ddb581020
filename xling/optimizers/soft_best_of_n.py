"""optimizer=soft_best_of_n: a sample drawn with weight exp(reward / tau); between a random sample and best-of-n.

Verdun et al. 2025 (arXiv 2505.03156, section 2). Large tau is a random sample, small tau is best-of-n. tau is in
deviations of the reward within a prompt, the root mean square over the prompts, so that one tau means the same for
reward models whose numbers are of other sizes, and a prompt whose samples are alike is left to chance.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from xling.config.common import Positive, PositiveFloat
from xling.digests import chance
from xling.optimizers import best_of_n

Array = np.ndarray[Any, np.dtype[Any]]
VERSION = 2  # 1: drew by the places of prompts
ORDERS = 64  # random orders of a pool that the curve is a mean over


class Settings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="soft_best_of_n"):
    """A draw from n samples; the same random number a prompt, whatever the reward."""

    tau: PositiveFloat = 0.5
    n: Positive | None = None  # None: the whole pool


check, stages, picked_from = best_of_n.check, best_of_n.stages, best_of_n.picked_from


def logits(settings: Settings, rewards: Array) -> Array:
    """(prompts, n) logarithms of the samples' weights, up to a constant a prompt; NaN is no sample."""
    scale = np.sqrt(np.nanmean(np.nanvar(rewards, axis=1))) or 1.0
    found: Array = (rewards - np.nanmax(rewards, axis=1, keepdims=True)) / (settings.tau * scale)
    return found


def pick(settings: Settings, rewards: Array, prompts: Sequence[str]) -> Array:
    """(prompts, n) -> (prompts,) index of the sample that is drawn."""
    sums = np.cumsum(np.nan_to_num(np.exp(logits(settings, rewards))), axis=1)
    drawn = np.array([chance(prompt) for prompt in prompts]) * sums[:, -1]
    picks: Array = (sums > drawn[:, None]).argmax(axis=1)
    return picks


def curve(settings: Settings, rewards: Array, values: Array) -> Array:
    """(prompts, n) expected value of a draw from k random samples, k = 1..n: a mean over ORDERS orders of the pool.

    Of the whole pool it is exact, and of one sample the pool's mean; a prompt with fewer samples keeps its last value.
    """
    order = np.random.default_rng(0).permuted(np.tile(np.arange(rewards.shape[1]), (ORDERS, 1)), axis=1)
    out = np.empty(rewards.shape)
    for row, (logit, value) in enumerate(zip(logits(settings, rewards), values, strict=True)):
        there = ~np.isnan(logit)
        count = int(there.sum())
        places = order[there[order]].reshape(ORDERS, count)
        share = np.exp(logit[places] - np.logaddexp.accumulate(logit[places], axis=1))  # of the last of the first k
        means = value[places]
        for k in range(1, count):
            means[:, k] = means[:, k - 1] + share[:, k] * (means[:, k] - means[:, k - 1])
        means[:, 0] = value[there].mean()
        out[row] = np.concatenate([means.mean(axis=0), np.full(rewards.shape[1] - count, means[:, -1].mean())])
    return out


def kl_bound(settings: Settings, n: int) -> float:
    """KL(drawn from n || SFT_t) <= log n nats, as of any pick."""
    return float(np.log(n))
