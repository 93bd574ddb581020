"""Ranks, correlations and their intervals: by hand, and against scipy."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau, pearsonr, spearmanr

from xling.analysis.statistics.draws import (
    best_shares,
    centred,
    kendall,
    p_two_sided,
    pearson,
    percentile,
    ranks,
    spanning,
    spearman,
)


def test_equal_numbers_share_the_best_of_their_ranks():
    np.testing.assert_array_equal(ranks(np.array([50.0, 60.0, 60.0, 40.0])), [3, 1, 1, 4])
    close = np.array([60.001, 60.004, 59.0])
    np.testing.assert_array_equal(ranks(close), [2, 1, 3])
    np.testing.assert_array_equal(ranks(close, digits=2), [1, 1, 3])
    np.testing.assert_array_equal(ranks(np.array([[1.0, 2.0], [2.0, 1.0]])), [[2, 1], [1, 2]])


def test_the_best_share_their_draws():
    draws = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    np.testing.assert_allclose(best_shares(draws), [0.625, 0.375])


def test_correlations_are_those_of_scipy_with_ties_too():
    random = np.random.default_rng(0)
    left, right = random.integers(0, 5, (20, 7)).astype(float), random.integers(0, 5, (20, 7)).astype(float)
    for ours, theirs in ((kendall, kendalltau), (pearson, pearsonr), (spearman, spearmanr)):
        expected = [theirs(a, b)[0] for a, b in zip(left, right, strict=True)]
        np.testing.assert_allclose(ours(left, right), expected, atol=1e-12)


def test_a_constant_side_has_no_correlation():
    same, other = np.full(4, 2.0), np.arange(4.0)
    for of in (kendall, pearson, spearman):
        assert math.isnan(of(same, other)) and math.isnan(of(other, same))


def test_intervals_by_hand():
    draws = np.arange(1001.0)
    assert percentile(draws) == pytest.approx((25.0, 975.0))
    assert spanning(2000.0, draws) == pytest.approx((25.0, 2000.0))
    assert centred(600.0, draws) == pytest.approx((125.0, 1075.0))  # moved by 100
    assert centred(600.0, draws, 200.0, 1000.0) == (200.0, 1000.0)
    nothing = np.append(draws, math.nan)
    assert all(math.isnan(end) for end in (*percentile(nothing), *centred(1.0, nothing)))


def test_p_counts_the_far_side():
    draws = np.concatenate([np.full(10, -1.0), np.zeros(20), np.full(970, 1.0)])
    assert p_two_sided(draws) == pytest.approx(2 * 0.02)
    assert p_two_sided(np.ones(1000)) == pytest.approx(1 / 1000)
    assert p_two_sided(np.zeros(1000)) == 1.0
