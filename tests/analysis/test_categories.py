"""Accuracy by category and kappa against English: by hand, and through the files beside the matrix."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from xling.analysis.matrix.categories import (
    MEAN,
    Agreement,
    Categories,
    CategoryAccuracy,
    fold_categories,
    kappa_sample,
    preferred,
    subset_shares,
)
from xling.analysis.statistics.bootstrap import draw
from xling.analysis.statistics.intervals import Estimate, fold
from xling.grid.records import Ref
from xling.jsonfiles import write_json
from xling.report.files import write_categories
from xling.results.items import Subsets
from xling.results.plan import PlannedEntry, SeedCell

SUBSETS = Subsets(
    prompt=[str(n) for n in range(12)],
    category=["Reasoning"] * 8 + ["Chat"] * 4,
    subset=["math-prm"] * 2 + ["hep-python"] * 6 + ["alpacaeval-easy"] * 4,
    weight=[984.0] * 2 + [164.0] * 6 + [100.0] * 4,
)


def test_ties_count_half_and_order_does_not_matter() -> None:
    scores = np.array([[2.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    ratings = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert preferred(scores, ratings).tolist() == [1.0, 0.0, 0.5]


def test_shares_are_the_benchmarks_within_a_category_and_equal_between_them() -> None:
    shares = subset_shares(SUBSETS)  # subsets in the order of their names: alpacaeval-easy, hep-python, math-prm
    assert shares["Chat"].tolist() == [1.0, 0.0, 0.0]
    assert shares["Reasoning"] == pytest.approx([0.0, 164 / 1148, 984 / 1148])
    assert shares[MEAN] == pytest.approx([0.5, 82 / 1148, 492 / 1148])
    unweighted = Subsets(SUBSETS.prompt, SUBSETS.category, SUBSETS.subset, [None] * 12)
    assert subset_shares(unweighted)["Reasoning"] == pytest.approx([0.0, 6 / 8, 2 / 8])


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 1, 0, 0], [0, 0, 1, 1], -1.0),
        ([1, 1, 0, 0], [1, 0, 1, 0], 0.0),
        # labels 4 + 1 + 1 of six on the left, 3 + 2 + 1 on the right: 12 + 2 + 1 of 36 agree by chance
        ([1, 1, 1, 0, 0.5, 1], [1, 1, 0, 0, 0.5, 1], (5 / 6 - 15 / 36) / (1 - 15 / 36)),
    ],
)
def test_kappa_by_hand(left: Sequence[float], right: Sequence[float], expected: float) -> None:
    clusters = draw([([str(n) for n in range(len(left))], [""] * len(left))])[0]
    [estimate] = fold([kappa_sample(clusters, np.array(left, dtype=float), np.array(right, dtype=float))])
    assert estimate is not None and estimate.value == pytest.approx(expected)
    assert estimate.low is not None and estimate.low <= expected


def test_kappa_of_preferences_that_never_differ_is_not_known() -> None:
    clusters = draw([(["a", "b"], ["", ""])])[0]
    assert fold([kappa_sample(clusters, np.ones(2), np.ones(2))]) == [None]


class Folder:
    """The results of stages, as files in folders named by their keys."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, ref: Ref) -> Path:
        return self.root / ref.kind / ref.key

    def add(self, kind: str, key: str, **arrays: object) -> Ref:
        folder = self.root / kind / key
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in arrays.items():
            if isinstance(value, np.ndarray):
                np.save(folder / f"{name}.npy", value)
            else:
                write_json(folder / f"{name}.json", value)
        return Ref(kind, key)


def entry(results: Folder, lang: str, wrong: Sequence[int]) -> PlannedEntry:
    columns = {name: getattr(SUBSETS, name) for name in ("prompt", "category", "subset", "weight")}
    scores = np.tile([1.0, 0.0], (12, 1))
    scores[list(wrong)] = [0.0, 1.0]
    stages = {
        "pool": results.add("recorded", lang, subsets=columns),
        "score": results.add("score", lang, pool=scores),
        "verdict": results.add("gold", lang, pool=np.tile([1.0, 0.0], (12, 1))),
    }
    axes = {"task": "m_rewardbench", "rm_backbone": "bag_of_words", "source_lang": "de", "target_lang": lang}
    return PlannedEntry(axes, (SeedCell(("", "0"), Ref("judge", lang), stages, "done", ""),))


def test_a_grid_on_a_benchmark(tmp_path: Path) -> None:
    results = Folder(tmp_path / "stages")
    entries = [entry(results, "en", [0, 8]), entry(results, "tr", [0, 2, 3, 8])]
    found = fold_categories(entries, results)  # type: ignore[arg-type]
    by_place = {(row.axes["target_lang"], row.category): row.accuracy for row in found.accuracy}
    assert by_place["en", "Chat"].value == 75 and by_place["en", "Chat"].n == 4
    reasoning = 100 * (984 * 1 / 2 + 164 * 4 / 6) / 1148
    assert by_place["tr", "Reasoning"].value == pytest.approx(reasoning)
    assert by_place["tr", MEAN].value == pytest.approx((75 + reasoning) / 2) and by_place["tr", MEAN].n == 12
    [agreement] = found.agreement
    chance = (10 * 8 + 2 * 4) / 144
    assert agreement.axes["target_lang"] == "tr"
    assert agreement.kappa.value == pytest.approx((10 / 12 - chance) / (1 - chance))

    write_categories(tmp_path, found, [])
    rows = list(csv.DictReader((tmp_path / "accuracy_by_category.csv").read_text().splitlines()))
    assert [(row["target_lang"], row["category"]) for row in rows[:3]] == [
        ("en", "Chat"),
        ("en", "Reasoning"),
        ("en", "mean"),
    ]
    assert rows[0]["accuracy"] == "75.00" and float(rows[0]["ci_low"]) < 75 and rows[0]["n"] == "4"
    [kappa] = csv.DictReader((tmp_path / "english_agreement.csv").read_text().splitlines())
    assert kappa["target_lang"] == "tr" and kappa["kappa"] == "0.5714"
    text = (tmp_path / "accuracy_by_category.md").read_text()
    assert "## bag_of_words from de" in text and "| all but en | 75.0 |" in text and "| en | 75.0 (" in text


def test_nothing_is_written_for_other_grids(tmp_path: Path) -> None:
    write_categories(tmp_path, Categories([], []), [])
    assert list(tmp_path.iterdir()) == []


def test_the_null_band_is_in_the_csv_and_not_among_the_tables(tmp_path: Path) -> None:
    axes = {"rm_backbone": "shuffled_1:bag_of_words", "source_lang": "de", "target_lang": "en"}
    estimate = Estimate(50.0, 40.0, 60.0, 5.0, 12, 12, 1)
    write_categories(tmp_path, Categories([CategoryAccuracy(axes, MEAN, estimate)], [Agreement(axes, estimate)]), [])
    assert "shuffled_1" in (tmp_path / "accuracy_by_category.csv").read_text()
    assert "shuffled_1" not in (tmp_path / "accuracy_by_category.md").read_text()
