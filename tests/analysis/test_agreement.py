"""Krippendorff's alpha against published values, and how often its interval holds the truth."""

import numpy as np
import pytest

from xling.analysis.statistics.agreement import alpha

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section E: four observers, twelve units.
OBSERVERS = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
UNITS = [
    (str(number), [float(one) for one in unit if one != "."])
    for number, unit in enumerate(zip(*(line.split() for line in OBSERVERS), strict=True))
]
WIDE = [(group, [10 * one for one in ratings] + [0.01 * number]) for number, (group, ratings) in enumerate(UNITS * 3)]


def test_the_published_example() -> None:
    found = alpha(UNITS)
    assert found is not None and found.measure == "ordinal"
    assert found.value == pytest.approx(0.815, abs=5e-4)  # as published
    assert (found.responses, found.ratings, found.groups) == (11, 40, 11)


def test_many_values_are_an_interval_scale() -> None:
    """By the definition, pair by pair."""
    found = alpha(WIDE)
    assert found is not None and found.measure == "interval"
    rated = [ratings for _, ratings in WIDE if len(ratings) > 1]
    every = [one for ratings in rated for one in ratings]
    n = len(every)
    within = sum(sum((a - b) ** 2 for a in ratings for b in ratings) / (len(ratings) - 1) for ratings in rated) / n
    chance = sum((a - b) ** 2 for a in every for b in every) / (n * (n - 1))
    assert found.value == pytest.approx(1 - within / chance)
    for unit in (1e-7, 1e200):  # in which nothing changes
        again = alpha([(group, [unit * one for one in ratings]) for group, ratings in WIDE])
        assert again is not None and (again.value, again.low) == (pytest.approx(found.value), pytest.approx(found.low))


def test_ends_of_the_scale_and_what_cannot_be_had() -> None:
    agreed = alpha([("a", [1, 1]), ("b", [2, 2, 2]), ("c", [1])])
    assert agreed is not None and (agreed.value, agreed.high, agreed.responses) == (1, 1, 2)
    assert agreed.low == pytest.approx(0.025**0.5)  # two documents that agree say little of others; it was 1
    many = alpha([(str(number), [number % 3] * 2) for number in range(100)])
    assert many is not None and many.low == pytest.approx(0.025**0.01)
    same = alpha([("a", [1, 1]), ("b", [1, 1])])
    assert same is not None and same.value is None and same.low is None
    one = alpha([("a", [1, 2]), ("a", [2, 2])])
    assert one is not None and one.value is not None and one.low is None
    assert alpha([("a", [1.0])]) is None


def test_the_interval_over_documents_holds_the_truth() -> None:
    """Raters share a document's and a response's quality: with equal parts of noise alpha tends to 0.5."""
    random, held = np.random.default_rng(0), 0
    for _ in range(100):
        quality = np.repeat(random.normal(size=40), 5) * 0.6 + random.normal(size=200) * 0.8
        ratings = quality[:, None] + random.normal(size=(200, 3))
        found = alpha([(str(number // 5), list(three)) for number, three in enumerate(ratings)])
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= 0.5 <= found.high
    assert held >= 88  # of 100; at 95 % fewer come once in 300 runs
