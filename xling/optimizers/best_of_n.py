"""optimizer=best_of_n: a cell answers with the sample that the reward model likes best; nothing is trained."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from msgspec import Struct

from xling.config.common import Positive
from xling.config.policies import LanguageModel
from xling.errors import ConfigError
from xling.grid.stage import Stage
from xling.optimizers import Stages
from xling.rewards.settings import RewardModel

Array = np.ndarray[Any, np.dtype[Any]]


class Settings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="name", tag="best_of_n"):
    """argmax of the reward over n samples; ties go to the lower sample index."""

    n: Positive | None = None  # None: the whole pool


def check(settings: Settings, policy: LanguageModel, rm: RewardModel) -> None:
    """There must be n samples to pick from."""
    if settings.n is not None and settings.n > policy.n:
        raise ConfigError(
            f"optimizer.n={settings.n} is larger than the pool: policy.n={policy.n}. Raise policy.n or lower "
            "optimizer.n."
        )


def stages(settings: Settings, plan: Stages) -> Stage:
    """The pool, whatever n is: all n are picked from the same samples."""
    return plan.pool()


def picked_from(settings: Settings, pool: int | None) -> int | None:
    return settings.n or pool


def pick(settings: Settings, rewards: Array, prompts: Sequence[str]) -> Array:
    """(prompts, n) -> (prompts,) index of the highest reward; ties go to the lower index, NaN is no sample."""
    picks: Array = np.nanargmax(rewards, axis=1)
    return picks


def curve(settings: Settings, rewards: Array, values: Array) -> Array:
    """(prompts, n) expected value of best-of-k for k = 1..n, over all k-subsets of the pool, without sampling.

    With the samples sorted by reward, the i-th lowest (i = 1..n) is the best of C(i-1, k-1) of the C(n, k) subsets.
    Among equal rewards the lower index counts as higher, as in `pick`; a prompt with fewer samples keeps its last
    value.
    """
    out = np.empty(rewards.shape)
    for row, (by, of) in enumerate(zip(rewards, values, strict=True)):
        samples = np.flatnonzero(~np.isnan(by))
        order = samples[np.lexsort((-samples, by[samples]))]
        expected = subset_weights(len(samples)) @ of[order]
        out[row] = np.concatenate([expected, np.full(rewards.shape[1] - len(expected), expected[-1])])
    return out


@lru_cache(maxsize=64)
def subset_weights(n: int) -> Array:
    """(n, n): row k-1 has C(i-1, k-1) / C(n, k) for i = 1..n, by logarithms."""
    from scipy.special import gammaln  # slow to import, and planning needs none of it

    k, i = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)[None, :]
    with np.errstate(invalid="ignore"):
        log = gammaln(i) - gammaln(k) - gammaln(i - k + 1) - (gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1))
    return np.where(i >= k, np.exp(np.where(i >= k, log, 0.0)), 0.0)


def kl_bound(settings: Settings, n: int) -> float:
    """KL(best-of-n || SFT_t) <= log n - (n - 1) / n nats (paper, section 6.2)."""
    return float(np.log(n) - (n - 1) / n)
