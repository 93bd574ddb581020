"""Best-of-n and its curve against brute force over all subsets; win shares; the KL bound."""

import itertools
from typing import Any

import numpy as np
import pytest

from xling.judges import win_shares
from xling.optimizers import best_of_n

BEST = best_of_n.Settings()
NAN = float("nan")
Array = np.ndarray[Any, np.dtype[np.float64]]


def brute_force(rewards: Array, wins: Array) -> list[float]:
    """Expected win of best-of-k over all k-subsets; ties go to the lower index."""
    there = [i for i in range(len(rewards)) if not np.isnan(rewards[i])]
    out = []
    for k in range(1, len(rewards) + 1):
        subsets = list(itertools.combinations(there, min(k, len(there))))
        picks = [max(subset, key=lambda i: (rewards[i], -i)) for subset in subsets]
        out.append(float(np.mean([wins[i] for i in picks])))
    return out


def drawn(rewards: int | None) -> tuple[Array, Array]:
    """Pools of five: rewards from few values (many ties) or continuous, wins in quarters."""
    rng = np.random.default_rng(0)
    shape = (200, 5)
    points = rng.random(shape) if rewards is None else rng.integers(0, rewards, shape).astype(float)
    return points, rng.integers(0, 5, shape) / 4


@pytest.mark.parametrize("values", [None, 3, 2, 1], ids=["no ties", "ties", "many ties", "all tied"])
def test_the_curve_is_the_mean_over_all_subsets(values: int | None) -> None:
    rewards, wins = drawn(values)
    expected = np.array([brute_force(r, w) for r, w in zip(rewards, wins, strict=True)])
    np.testing.assert_allclose(best_of_n.curve(BEST, rewards, wins), expected, atol=1e-12)


def test_the_curve_of_prompts_with_fewer_samples_keeps_its_last_value() -> None:
    rewards, wins = drawn(3)
    rng = np.random.default_rng(1)
    for row in range(len(rewards)):
        gone = rng.permutation(5)[: row % 5]
        rewards[row, gone] = wins[row, gone] = NAN
    expected = np.array([brute_force(r, w) for r, w in zip(rewards, wins, strict=True)])
    np.testing.assert_allclose(best_of_n.curve(BEST, rewards, wins), expected, atol=1e-12)


def test_the_curve_begins_with_the_mean_and_ends_with_the_pick() -> None:
    rewards, wins = drawn(3)
    curve = best_of_n.curve(BEST, rewards, wins)
    np.testing.assert_allclose(curve[:, 0], wins.mean(axis=1))
    np.testing.assert_allclose(curve[:, -1], wins[np.arange(len(wins)), best_of_n.pick(BEST, rewards)])


@pytest.mark.parametrize("n", [1, 2, 16, 64, 500])
def test_weights_of_each_k_sum_to_one(n: int) -> None:
    weights = best_of_n.subset_weights(n)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(weights[0], 1 / n)
    assert weights[-1].tolist() == pytest.approx([0.0] * (n - 1) + [1.0])


def test_the_best_is_the_first_of_the_highest_and_never_a_missing_one() -> None:
    rewards = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [NAN, -5.0, -6.0], [NAN, NAN, 0.0]])
    assert best_of_n.pick(BEST, rewards).tolist() == [1, 0, 1, 2]


def test_win_shares_by_hand() -> None:
    quality = np.array([[0.5, 0.9, 0.1], [0.5, NAN, 0.5]])
    opponents = np.array([[0.5, 0.2, 0.9, 0.9], [0.5, 0.4, NAN, NAN]])
    shares = win_shares(quality, opponents)
    np.testing.assert_allclose(shares, [[1.5 / 4, (2 + 0.5 * 2) / 4, 0.0], [0.75, NAN, 0.75]])


def test_shares_against_oneself_are_a_half_on_average() -> None:
    """Recorded systems: the opponent is a uniformly random response of the same pool."""
    quality = np.random.default_rng(2).integers(0, 3, (50, 6)).astype(float)
    np.testing.assert_allclose(win_shares(quality, quality).mean(axis=1), 0.5)


def test_two_systems_give_a_floor_of_25_and_a_ceiling_of_75() -> None:
    quality = np.array([[0.2, 0.8]])
    assert win_shares(quality, quality).tolist() == [[0.25, 0.75]]


def test_kl_bound() -> None:
    assert best_of_n.kl_bound(BEST, 1) == 0.0
    assert best_of_n.kl_bound(BEST, 64) == pytest.approx(3.1745, abs=5e-5)
    assert best_of_n.kl_bound(BEST, 2) == pytest.approx(np.log(2) - 0.5)
