"""rm_backbone=consensus: agreement with the other samples, by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from xling.rewards.consensus import agreement, chrf, scores
from xling.tasks.records import Prompt

TABLE = {"a": [9.0, 2.0, 5.0], "b": [4.0, 9.0, 1.0], "c": [6.0, 3.0, 9.0], "x": [7.0, 8.0, 3.0]}


def by_table(responses: Sequence[str], samples: Sequence[str]) -> np.ndarray:
    """Each text once, and not symmetric, as chrF is not."""
    assert len(set(responses)) == len(responses) and len(set(samples)) == len(samples)
    return np.array([[TABLE[one]["abc".index(other)] for other in samples] for one in responses])


def test_a_sample_is_compared_with_all_but_itself_and_an_opponent_with_all() -> None:
    found = agreement(["a", "b", "c", "x", "a"], ["a", "b", "c"], by_table)
    assert found == [(2 + 5) / 2, (4 + 1) / 2, (6 + 3) / 2, (7 + 8 + 3) / 3, (9 + 2 + 5) / 3]


def test_another_sample_with_the_same_words_counts() -> None:
    assert agreement(["a", "b", "a"], ["a", "b", "a"], by_table) == [(2 + 9) / 2, (4 + 4) / 2, (2 + 9) / 2]


def test_nothing_to_compare_with_is_zero() -> None:
    assert agreement(["a", "b"], [], by_table) == [0.0, 0.0]
    assert agreement(["a"], ["a"], by_table) == [0.0]
    prompts = [Prompt(name, "de", name, "text") for name in ("one", "another")]
    score = scores({"one": ["a", "b", "c"]}, by_table)
    assert score(prompts, [["a", "b", "c"], ["c", "x"]]) == [[3.5, 2.5, 4.5], [0.0, 0.0]]


def test_chrf_by_hand() -> None:
    """`abc` against `abd`: of 3, 2 and 1 n-grams 2, 1 and 0 are shared: precision and recall (2/3 + 1/2 + 0) / 3."""
    found = chrf(["abc", "abd", "abcd", ""], ["abd"])[:, 0]
    assert found[:2] == pytest.approx([100 * (2 / 3 + 1 / 2) / 3, 100.0]) and found[3] == 0.0
    precision, recall = (3 / 4 + 1 / 3 + 0 / 2) / 3, (3 / 3 + 1 / 2 + 0) / 3  # a, b and d are shared, and ab
    assert found[2] == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))  # beta 2
