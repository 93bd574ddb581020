"""Resamples in single precision where that is exact."""

import numpy as np

from xling.analysis.statistics.bootstrap import HUGE, draw, weighted


def test_not_a_bit_differs_from_double_precision():
    random = np.random.default_rng(0)
    clusters = draw([([f"g{i}" for i in range(300)], [""] * 300)])[0]
    shares = 100.0 * random.integers(0, 9, (300, 40)) / 8
    shares[:, 0] += 2**-20  # no multiple of 1/64
    large = np.full((300, 1), 2.0**20)  # too large to be exact in single precision
    rest = random.normal(size=(300, 40))
    sums = np.hstack([shares, large, rest])
    found, plain = weighted(clusters.weights, sums), clusters.weights.astype(np.float64) @ sums
    assert (found[:, :41] == plain[:, :41]).all()
    assert np.abs(found - plain).max() < 1e-9  # of the rest, the order of summation


def test_six_digits_of_very_many_quantities():
    random = np.random.default_rng(0)
    clusters = draw([([f"g{i}" for i in range(300)], [""] * 300)])[0]
    sums = 100 * random.random((300, HUGE + 1))
    found, plain = weighted(clusters.weights, sums), clusters.weights.astype(np.float64) @ sums
    assert 0 < np.abs(found / plain - 1).max() < 1e-6
