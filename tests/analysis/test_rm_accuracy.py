"""Accuracy and AUC of reward models against counting by hand and brute force; accuracy and kappa by category."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from xling.analysis.matrix.accuracy import correct, length_hits, majority_hits, measure, placements
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
from xling.results.items import Heldout, LengthRule, Subsets
from xling.results.plan import PlannedEntry, SeedCell

SEED = ("", "0")


def pointwise(score, label, length=None, rule=None, group=None):
    count = len(score)
    return Heldout(group or [f"g{i}" for i in range(count)], score, label, length or [1.0] * count, length_rule=rule)


def pairs(chosen, rejected, chosen_length, rejected_length, rule=None):
    return Heldout(
        [f"g{i}" for i in range(len(chosen))],
        chosen=chosen,
        rejected=rejected,
        chosen_length=chosen_length,
        rejected_length=rejected_length,
        length_rule=rule,
    )


def brute_auc(score, positive, weights):
    """Weighted share of (positive, negative) pairs in the right order, ties half."""
    good, bad = score[positive][:, None], score[~positive][None, :]
    weight = weights[positive][:, None].astype(float) * weights[~positive][None, :]
    return float((weight * ((good > bad) + 0.5 * (good == bad))).sum() / weight.sum())


def test_a_score_above_zero_says_good():
    record = pointwise([1.0, -1.0, 0.0, 2.0], [1, 1, 0, 0])
    assert correct(record).tolist() == [1, 0, 1, 0]  # 0 is not above 0


def test_majority_is_that_of_the_held_out_labels():
    assert majority_hits(pointwise([0.0] * 4, [0, 0, 0, 1])).tolist() == [1, 1, 1, 0]
    assert majority_hits(pointwise([0.0] * 4, [1, 1, 1, 0])).tolist() == [1, 1, 1, 0]
    assert majority_hits(pairs([1.0], [0.0], [1], [1])) is None


def test_length_rule_has_a_threshold_and_a_direction():
    longer, shorter = LengthRule(True, 5.0), LengthRule(False, 5.0)
    lengths = [4.0, 5.0, 6.0, 7.0]
    assert length_hits(pointwise([0.0] * 4, [0, 1, 1, 0], lengths, longer)).tolist() == [1, 0, 1, 0]
    assert length_hits(pointwise([0.0] * 4, [0, 1, 1, 0], lengths, shorter)).tolist() == [0, 1, 0, 1]


def test_pairs_count_ties_half():
    record = pairs([2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [9, 3, 4], [3, 9, 4], LengthRule(True))
    assert correct(record).tolist() == [1, 0, 0.5]
    assert length_hits(record).tolist() == [1, 0, 0.5]


def test_pairs_without_a_rule_get_the_better_direction():
    shorter_wins = pairs([1.0] * 3, [0.0] * 3, [1, 2, 9], [5, 5, 5])
    assert length_hits(shorter_wins).tolist() == [1, 1, 0]


def test_placements_average_to_the_auc_with_ties():
    random = np.random.default_rng(0)
    score, positive = np.round(random.normal(size=60), 1), random.random(60) < 0.4
    expected = brute_auc(score, positive, np.ones(60))
    found = placements(score, positive)
    assert found[positive].mean() == pytest.approx(expected)
    assert found[~positive].mean() == pytest.approx(expected)


def test_auc_interval_agrees_with_resampling_whole_clusters():
    random = np.random.default_rng(1)
    label = (random.random(90) < 0.5).astype(int)
    score = random.normal(size=90) + label
    group = [f"doc{i // 3}" for i in range(90)]
    found = measure([{SEED: pointwise(list(score), list(label), group=group)}]).auc[0]
    clusters = draw([(group, [""] * 90)])[0]
    row = {name: at for at, name in enumerate(sorted(set(group)))}
    items = clusters.weights[:600, [row[name] for name in group]]
    brute = [100 * brute_auc(score, label > 0, weights) for weights in items]
    assert found.value == pytest.approx(100 * brute_auc(score, label > 0, np.ones(90)))
    assert found.se == pytest.approx(np.std(brute, ddof=1), rel=0.08)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(brute, [2.5, 97.5])), abs=1.5)


def test_auc_intervals_cover_the_truth():
    random = np.random.default_rng(2)
    label = np.arange(100) % 2
    truth = 100 * 0.7602499389065233  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    models = [{SEED: pointwise(list(random.normal(size=100) + label), label.tolist())} for _ in range(600)]
    found = measure(models).auc
    assert 0.91 <= np.mean([estimate.contains(truth) for estimate in found]) <= 0.98


def test_an_auc_is_no_surer_than_its_rarer_class_is_large():
    """Of 2 good ones in 20 the interval was as narrow as of 10 in 20, and held the truth 77 times in 100."""
    low = {}
    for good in (2, 10):
        label = np.arange(20) < good
        score = np.where(label, 1.0, -1.0) + np.linspace(0, 0.1, 20)
        found = measure([{SEED: pointwise(list(score), list(label.astype(float)))}]).auc[0]
        assert found.value == found.high == 100
        low[good] = found.low
    assert low[2] < 40 < 75 < low[10]


def test_within_a_document_only_pairs_of_its_own_responses_count():
    """A reward that knows which documents are good is right about all ratings, and at chance within a document."""
    random = np.random.default_rng(5)
    easy = np.repeat(random.random(150) < 0.5, 4)
    label = random.random(600) < np.where(easy, 0.8, 0.2)
    own = random.normal(size=600)
    group = [f"doc{i // 4}" for i in range(600)]
    documents = pointwise(list(2.0 * easy + 0.1 * own), label.tolist(), group=group)
    inside = pointwise(list(own + 3.0 * label), label.tolist(), group=group)
    found = measure([{SEED: documents}, {SEED: inside}])
    assert found.auc[0].low > 70 and found.auc_within[0].contains(50)
    assert found.auc_within[1].low > 95
    scores = np.array(inside.score).reshape(-1, 4)
    pairs = [
        (good > bad) + 0.5 * (good == bad)
        for row, own in zip(scores, label.reshape(-1, 4), strict=True)
        for good in row[own]
        for bad in row[~own]
    ]
    assert found.auc_within[1].value == pytest.approx(100 * np.mean(pairs)) and found.auc_within[1].n == len(pairs)
    assert found.auc_within[0].clusters == sum(0 < row.sum() < 4 for row in label.reshape(-1, 4))


def test_intervals_within_a_document_cover_the_truth():
    random = np.random.default_rng(6)
    label, group = np.arange(160) % 4 < 2, [f"doc{i // 4}" for i in range(160)]
    models = []
    for _ in range(300):
        lean, noise = np.repeat(random.normal(size=40), 4), random.normal(size=160)
        models.append({SEED: pointwise(list(3 * lean + noise + label), label.tolist(), group=group)})
    truth = 100 * 0.7602499389065233  # as above: what a document leans to falls out
    assert 0.91 <= np.mean([estimate.contains(truth) for estimate in measure(models).auc_within]) <= 0.98


def test_ratings_of_different_documents_and_pairs_have_no_auc_within():
    assert measure([{SEED: pointwise([1.0, -1.0, 0.5], [1, 0, 0])}]).auc_within == [None]
    assert measure([{SEED: pairs([1.0], [0.0], [1], [1])}]).auc_within == [None]


def test_one_class_alone_has_an_accuracy_but_no_auc():
    found = measure([{SEED: pointwise([1.0, -1.0], [1, 1])}])
    assert found.accuracy[0].value == 50.0
    assert found.auc == [None]


def test_models_are_compared_with_the_baselines_item_by_item():
    label = [1, 0] * 50
    rule = LengthRule(True, 5.0)
    lengths = [6.0 if good else 4.0 for good in label[:60]] + [4.0 if good else 6.0 for good in label[60:]]
    perfect = pointwise([1.0 if good else -1.0 for good in label], label, lengths, rule)
    useless = pointwise([1.0] * 100, label, lengths, rule)
    found = measure([{SEED: perfect}, {SEED: useless}])
    assert (found.majority.value, found.length.value) == (50.0, 60.0)
    assert found.versus_majority[0].estimate.value == 50.0 and found.versus_majority[0].settled
    assert found.versus_length[0].estimate.value == 40.0
    assert found.versus_majority[1].estimate.value == 0.0 and not found.versus_majority[1].settled


def test_scores_on_other_items_are_not_compared():
    one = pointwise([1.0, -1.0], [1, 0])
    other = pointwise([1.0, -1.0], [0, 1])
    assert measure([{SEED: one}, {SEED: other}]).accuracy[1] is None
    assert measure([{}, {}]) is None


# --- by category ---------------------------------------------------------------------------------------------


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
