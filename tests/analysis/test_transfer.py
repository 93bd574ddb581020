"""benchmarks/transfer.py: n is chosen by the source alone, and what is chosen is told on other documents."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from transfer import CHOSEN, line, picked

FIRST = np.array([True] * 4 + [False] * 4)


def curve(first: list[float], second: list[float]) -> np.ndarray:
    """Four documents of each half, n = 1, 2, 3."""
    return np.array([first] * 4 + [second] * 4)


def test_n_is_chosen_at_home_on_one_half_and_told_on_the_other() -> None:
    at_home, abroad = curve([50, 80, 60], [50, 10, 90]), curve([50, 0, 100], [51, 52, 53])
    row = {"0": {("en", "en"): at_home, ("en", "tr"): abroad}}
    found = picked(row, CHOSEN, FIRST, ~FIRST)
    assert found["0"]["en", "tr"].tolist() == [52.0] * 4 and found["0"]["en", "en"].tolist() == [10.0] * 4
    assert picked(row, 16, FIRST, FIRST | True)["0"]["en", "tr"].tolist() == [100.0] * 4 + [53.0] * 4  # at most all
    assert picked({"0": {("others", "tr"): abroad}}, CHOSEN, FIRST, ~FIRST) == {}  # no home, no choice


def test_counts_and_differences_are_of_cells_abroad() -> None:
    low, high = np.array([0.0, 100.0] * 4), np.full(8, 100.0)
    row = {seed: {("en", "en"): high, ("en", "tr"): low, ("tr", "en"): high} for seed in "012"}
    words = line("one", 4, row, {seed: {("-", "tr"): low, ("-", "en"): low} for seed in "012"}).split(" | ")
    assert words[:2] == ["| one", "4"] and words[2].startswith("100.0 [") and words[3].startswith("75.0 [")
    assert words[4] == "1, 0 of 2" and words[5].startswith("+25.0 [")
