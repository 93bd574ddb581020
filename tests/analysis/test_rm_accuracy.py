"""Accuracy and AUC of reward models against counting by hand and brute force."""

import numpy as np
import pytest

from xling.analysis.matrix.accuracy import correct, length_hits, majority_hits, measure, placements
from xling.analysis.statistics.bootstrap import draw
from xling.results.items import Heldout, LengthRule

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
