"""Agreement by hand, and against the published example of Krippendorff's alpha."""

import numpy as np
import pytest

from xling.analysis.statistics.bootstrap import Clusters, draw
from xling.sheets.judgements import (
    alpha,
    alpha_estimate,
    coincidences,
    counts_of,
    raw_agreement,
    share_estimate,
    verdict,
)

NAN = float("nan")


def clusters(n: int) -> Clusters:
    return draw([([str(i) for i in range(n)], [""] * n)])[0]


def test_alpha_of_krippendorffs_binary_example() -> None:
    """Two observers, ten articles, "Computing Krippendorff's alpha-reliability" (2011), section A: alpha = 0.095."""
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    table = np.array([first, second], dtype=float).T
    assert alpha(coincidences(counts_of(table)).sum(axis=0)[None]) == pytest.approx(0.095, abs=5e-4)


def test_alpha_of_three_annotators_with_gaps_by_hand() -> None:
    """Four items. Coincidences o_ck = pairs / (m - 1), verdicts 0, .5, 1:

    item 1 (1, 1, 1): o_11 = 6 / 2 = 3       item 2 (1, 0): o_10 = o_01 = 1
    item 3 (0, 0, .5): o_00 = 2 / 2 = 1, o_0. = o_.0 = 2 / 2 = 1      item 4: one verdict, none
    n_0 = 3, n_. = 1, n_1 = 4, n = 8; D_o = 4, D_e = 64 - 9 - 1 - 16 = 38; alpha = 1 - 7 x 4 / 38.
    """
    table = np.array([[1, 1, 1], [1, NAN, 0], [0, 0, 0.5], [NAN, 1, NAN]])
    counts = counts_of(table)
    assert counts.tolist() == [[0, 0, 3], [1, 0, 1], [2, 1, 0], [0, 0, 1]]
    assert alpha(coincidences(counts).sum(axis=0)[None]) == pytest.approx(1 - 7 * 4 / 38)
    assert raw_agreement(counts[:3]).tolist() == pytest.approx([1, 0, 1 / 3])


def test_alpha_is_one_zero_or_undefined() -> None:
    agreeing = np.array([[1, 1], [0, 0], [0.5, 0.5]] * 20)
    found = alpha_estimate(clusters(60), counts_of(agreeing))
    assert found is not None and (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(2 / (1 + 2.00100**2 / 60) - 1, abs=1e-4)  # Wilson's on the scale from -1 to 1
    random = np.random.default_rng(0).integers(0, 3, (2000, 2)) / 2
    chance = alpha_estimate(clusters(2000), counts_of(random))
    assert chance is not None and chance.contains(0.0) and chance.se is not None and chance.se < 0.03
    assert alpha_estimate(clusters(10), counts_of(np.ones((10, 2)))) is None


def test_shares_are_in_percent_with_an_interval() -> None:
    found = share_estimate(clusters(4), np.array([1.0, 1.0, 1.0, 0.0]))
    assert found is not None and found.value == 75.0
    assert (found.low, found.high) == pytest.approx((16.15, 97.90), abs=0.01)  # Wilson's of 3 in 4, t(3) = 3.1824


def test_verdicts_are_sides_of_a_half() -> None:
    assert verdict(np.array([0.0, 0.25, 0.5, 0.75, 1.0])).tolist() == [0, 0, 0.5, 1, 1]
