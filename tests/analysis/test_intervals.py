"""The statistics by hand, by brute force and by simulation."""

import math

import numpy as np
import pytest

from xling.analysis.statistics.bootstrap import SHARE, difference, draw, ends_of, resample, weighted
from xling.analysis.statistics.decisions import MOST_PROMPTS, holm, judged, prompts_needed, seeds_needed
from xling.analysis.statistics.draws import errors_of
from xling.analysis.statistics.intervals import Estimate, fold


def layout(groups, datasets=None):
    return draw([(groups, datasets or [""] * len(groups))])[0]


def names(count, prefix="g"):
    return [f"{prefix}{i}" for i in range(count)]


def only(samples):
    (estimate,) = fold(samples)
    assert estimate is not None
    return estimate


# --- point values -----------------------------------------------------------------------------------------


def test_a_score_is_the_macro_average_over_datasets():
    datasets = ["a", "a", "a", "b"]
    values = np.array([[0.0], [0.0], [3.0], [5.0]])
    estimate = only([resample(layout(names(4), datasets), values)])
    assert estimate.value == (1.0 + 5.0) / 2  # not the mean over prompts, which is 2
    assert (estimate.n, estimate.clusters, estimate.seeds) == (4, 4, 1)


def test_prompts_count_alike_whatever_their_cluster():
    values = np.array([[0.0], [0.0], [0.0], [4.0]])
    estimate = only([resample(layout(["x", "x", "x", "y"]), values)])
    assert estimate.value == 1.0
    assert estimate.clusters == 2


def test_prompts_without_a_value_are_left_out_of_their_quantity_alone():
    """As a judge that did not answer leaves them: mean, macro-average and interval are those of the others."""
    random = np.random.default_rng(1)
    groups, datasets = [f"g{i // 2}" for i in range(60)], ["a"] * 40 + ["b"] * 20
    whole = random.random((60, 2))
    holes = whole.copy()
    gone = [0, 1, 2, 17, 41, 59]  # all of one cluster, and halves of others
    holes[gone, 1] = np.nan
    first, second = fold([resample(layout(groups, datasets), holes)])
    assert first == fold([resample(layout(groups, datasets), whole)])[0]
    kept = [i for i in range(60) if i not in gone]
    expected = np.mean([whole[[i for i in kept if datasets[i] == d], 1].mean() for d in "ab"])
    assert second.value == pytest.approx(expected, abs=1e-12)
    alone = only([resample(layout([groups[i] for i in kept], [datasets[i] for i in kept]), whole[kept, 1:])])
    assert (second.low, second.high) == pytest.approx((alone.low, alone.high), abs=0.02)


def test_a_resample_that_draws_no_value_does_not_spoil_the_interval():
    values = np.full((6, 1), np.nan)
    values[2] = 0.75
    estimate = only([resample(layout(names(6)), values)])
    assert (estimate.value, estimate.low, estimate.high) == (0.75, None, None)  # one prompt has no spread
    values[:3], values[3:] = np.nan, 1.0
    assert fold([resample(layout(names(6), ["a"] * 3 + ["b"] * 3), values)]) == [None]  # a dataset has none


def test_the_order_of_prompts_changes_nothing():
    random = np.random.default_rng(0)
    groups, values = [f"g{i // 2}" for i in range(40)], random.normal(size=(40, 3))
    order = random.permutation(40)
    straight = fold([resample(layout(groups), values)])
    shuffled = fold([resample(layout([groups[i] for i in order]), values[order])])
    for one, other in zip(straight, shuffled, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-12)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)


# --- intervals over prompts -------------------------------------------------------------------------------


def test_bootstrap_deviation_is_that_of_the_mean():
    values = np.random.default_rng(1).normal(10, 3, size=(400, 1))
    estimate = only([resample(layout(names(400)), values)])
    assert estimate.se == pytest.approx(values.std() / math.sqrt(400), rel=0.06)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * estimate.se, rel=0.06)


def coverage(groups, clustered, simulations=1500, truth=0.0):
    """Share of simulated data sets whose interval covers the truth; prompts of a cluster are correlated."""
    random = np.random.default_rng(2)
    index = np.unique(groups, return_inverse=True)[1]
    shared = random.normal(size=(index.max() + 1, simulations))[index]
    values = truth + shared + random.normal(size=(len(groups), simulations))
    estimates = fold([resample(layout(groups if clustered else names(len(groups))), values)])
    return np.mean([estimate.contains(truth) for estimate in estimates])


def test_clustered_intervals_cover_the_truth_95_times_in_100():
    groups = [f"doc{i}" for i in range(80) for _ in range(1 + i % 4)]  # clusters of 1 to 4 prompts
    assert 0.925 <= coverage(groups, clustered=True) <= 0.965


def test_intervals_that_ignore_clusters_do_not():
    groups = [f"doc{i}" for i in range(80) for _ in range(1 + i % 4)]
    assert coverage(groups, clustered=False) < 0.90


def test_small_binary_samples_cover_too():
    random = np.random.default_rng(3)
    values = (random.random((60, 1500)) < 0.6).astype(float)
    estimates = fold([resample(layout(names(60)), values)])
    assert 0.92 <= np.mean([estimate.contains(0.6) for estimate in estimates]) <= 0.975


def test_macro_average_over_unequal_datasets_covers_the_truth():
    random = np.random.default_rng(4)
    datasets = ["big"] * 150 + ["small"] * 30
    values = np.concatenate([random.normal(0, 1, (150, 1500)), random.normal(2, 2, (30, 1500))])
    estimates = fold([resample(layout(names(180), datasets), values)])
    assert 0.92 <= np.mean([estimate.contains(1.0) for estimate in estimates]) <= 0.97


def test_a_dataset_of_one_prompt_is_in_every_resample():
    datasets = ["big"] * 30 + ["one"]
    sample = resample(layout(names(31), datasets), np.arange(31.0)[:, None])
    assert np.isfinite(sample.resamples).all()


def test_one_cluster_has_no_interval():
    estimate = only([resample(layout(["same"] * 5), np.arange(5.0)[:, None])])
    assert (estimate.value, estimate.low, estimate.high, estimate.se) == (2.0, None, None, None)
    assert not estimate.contains(2.0) and not estimate.above(0.0)


def test_the_same_numbers_every_time():
    values = np.random.default_rng(5).normal(size=(50, 4))
    assert fold([resample(layout(names(50)), values)]) == fold([resample(layout(names(50)), values)])


# --- pairing ----------------------------------------------------------------------------------------------


def test_paired_difference_is_narrower_than_unpaired_when_cells_share_hard_prompts():
    random = np.random.default_rng(6)
    hardness = random.normal(0, 2, 300)
    left, right = (hardness + random.normal(shift, 1, 300) for shift in (0.3, 0.0))
    sample = resample(layout(names(300)), np.stack([left, right], axis=1))
    paired = only([difference(sample, [0], [1])])
    one, other = fold([sample])
    unpaired = math.hypot(one.se, other.se)
    assert paired.value == pytest.approx(one.value - other.value)
    assert paired.se < 0.6 * unpaired
    assert paired.se == pytest.approx(np.std(left - right) / math.sqrt(300), rel=0.06)


def test_columns_that_share_groups_are_drawn_together_and_others_apart():
    parallel = (names(40), [""] * 40)
    subset = (names(40)[5:], [""] * 35)
    elsewhere = (names(40, "other"), [""] * 40)
    first, same, part, apart = draw([parallel, parallel, subset, elsewhere])
    assert (first.weights == same.weights).all()
    by_name = {name: column for column, name in enumerate(sorted(parallel[0]))}
    shared = [by_name[name] for name in sorted(subset[0])]
    assert (part.weights == first.weights[:, shared]).all()
    assert not (first.weights == apart.weights).all()


# --- seeds ------------------------------------------------------------------------------------------------


def seed_sample(value, label, fresh=False, size=10):
    return resample(layout(names(size)), np.full((size, 1), float(value)), label, fresh)


def test_seeds_without_any_spread_over_prompts_give_a_t_interval():
    estimate = only([seed_sample(50, "0"), seed_sample(54, "1"), seed_sample(58, "2")])
    half = 4.302652729911275 * 4 / math.sqrt(3)  # t with 2 degrees of freedom, deviation 4
    assert (estimate.value, estimate.seeds, estimate.n) == (54.0, 3, 10)
    assert estimate.low == pytest.approx(54 - half)
    assert estimate.high == pytest.approx(54 + half)


def test_what_no_seed_decides_has_its_interval_over_prompts():
    """As of a reward model that is fitted in closed form: three seeds of it do not make it certain."""
    values = np.random.default_rng(0).random((40, 2))
    other = values + np.array([0.0, 0.1])
    samples = [resample(layout(names(40)), one, seed) for one, seed in ((values, "0"), (other, "1"))]
    alike, apart = fold(samples)
    alone = fold(samples[:1])[0]
    assert (alike.value, alike.low, alike.high) == (alone.value, alone.low, alone.high) and alike.low < alike.high
    assert alike.seeds == 2 and alike.over_prompts and judged(alike).p == judged(alone).p
    assert apart.seeds == 2 and not apart.crossed and apart.se > alike.se
    errors, freedom = errors_of(samples)
    assert np.quantile(errors[:, 0], 0.025) == pytest.approx(alike.low - alike.value) and freedom[0] == np.inf
    assert 1 <= freedom[1] < 10
    constant = [resample(layout(names(40)), np.ones((40, 1)), seed) for seed in "01"]
    assert only(constant).seeds == 2  # nothing varies: nothing is gained by fewer


def test_training_seeds_are_averaged_within_a_data_seed():
    samples = [seed_sample(40, "0", True), seed_sample(60, "0", True), seed_sample(54, "1", True)]
    estimate = only(samples)
    assert (estimate.value, estimate.seeds) == (52.0, 2)  # (50 + 54) / 2: two points, not three
    assert estimate.n == 20  # each data seed has its own prompts


def test_an_entry_with_one_finished_seed_has_an_interval_over_prompts():
    random = np.random.default_rng(7)
    both = resample(layout(names(50)), random.normal(size=(50, 2)), "0")
    values = random.normal(size=(50, 2))
    values[:, 1] = np.nan
    first, second = fold([both, resample(layout(names(50)), values, "1")])
    assert (first.seeds, second.seeds) == (2, 1)
    assert second.value == pytest.approx(both.means[1])
    assert second.low < second.value < second.high


def test_an_entry_without_records_has_no_estimate():
    assert fold([resample(layout(names(5)), np.full((5, 1), np.nan))]) == [None]


# --- decisions --------------------------------------------------------------------------------------------


def estimate_of(value, se, n=100, clusters=100, seeds=1):
    return Estimate(value, value - 1.96 * se, value + 1.96 * se, se, n, clusters, seeds)


def test_how_many_more_prompts_settle_a_difference():
    found = judged(estimate_of(1.0, 1.0))
    assert not found.settled
    assert found.more == math.ceil(100 * (1.959964 + 0.841621) ** 2) - 100  # 80 % power, as the power table has it
    assert found.more == prompts_needed(100.0, 1.0) - 100
    means = np.random.default_rng(0).normal(1.0, 10 / math.sqrt(100 + found.more), 4000)
    assert np.mean(means > 1.959964 * 10 / math.sqrt(100 + found.more)) == pytest.approx(0.8, abs=0.02)


def test_a_settled_difference_needs_nothing_and_no_difference_needs_the_absurd():
    assert judged(estimate_of(3.0, 1.0)).more is None
    assert judged(estimate_of(3.0, 1.0)).settled
    assert judged(estimate_of(0.0, 1.0)).more is None
    tiny = judged(estimate_of(0.01, 1.0))
    assert not tiny.settled and tiny.more is None
    assert MOST_PROMPTS < 100 * (1.96 / 0.01) ** 2


def test_with_seeds_it_is_seeds_that_settle():
    half = 12.7062 * 2 / math.sqrt(2)
    found = judged(Estimate(3.0, 3 - half, 3 + half, 2 / math.sqrt(2), 100, 100, 2))
    assert found.more_unit == "seeds"
    assert found.more == seeds_needed(2.0, 3.0) - 2 == 4  # six seeds have 80 % power, two have 12 %


def test_p_value_of_two_deviations():
    half = 1.984217 * 1.5  # t with 99 degrees of freedom
    assert judged(Estimate(3.0, 3 - half, 3 + half, 1.5, 100, 100, 1)).p == pytest.approx(0.0482397, abs=1e-6)
    assert judged(Estimate(0.0, 0.0, 0.0, 0.0, 9, 9, 1)).p == 1.0


def test_false_alarms_come_as_often_as_promised():
    random = np.random.default_rng(8)
    sample = resample(layout(names(120)), random.normal(size=(120, 2000)))
    every = range(0, 2000, 2)
    found = [judged(e) for e in fold([difference(sample, every, [i + 1 for i in every])])]
    assert 0.03 <= np.mean([d.settled for d in found]) <= 0.075
    assert all(d.settled == (d.p < 0.05) == (not d.estimate.contains(0)) for d in found)  # never against its own p


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


# --- seeds that split the same ratings ----------------------------------------------------------------------


def crossed(values, label):
    groups = [str(i) for i in range(len(values))]
    return resample(draw([(groups, [""] * len(groups))])[0], values, label, crossed=True)


def test_seeds_over_the_same_prompts_are_drawn_with_them():
    random = np.random.default_rng(4)
    prompts = random.normal(size=(80, 1))
    alone = fold([crossed(prompts, "0")])[0]
    assert alone is not None and not alone.crossed
    equal = fold([crossed(prompts, str(seed)) for seed in range(3)])[0]
    assert equal is not None and equal.crossed and equal.over_prompts
    assert (equal.value, equal.n, equal.seeds) == (pytest.approx(alone.value), 80, 3)
    assert (equal.low, equal.high) == (pytest.approx(alone.low), pytest.approx(alone.high))  # seeds add nothing here
    shifts = (-0.4, 0.0, 0.7)
    varied = fold([crossed(prompts + shift, str(seed)) for seed, shift in enumerate(shifts)])[0]
    assert varied is not None and varied.value == pytest.approx(alone.value + 0.1)
    assert varied.se is not None and alone.se is not None
    between = np.std(shifts) / np.sqrt(3)  # of a mean of three drawn from the three
    assert varied.se == pytest.approx(np.hypot(alone.se, between), rel=0.05)
    assert judged(varied).more_unit == "prompts"


def test_a_quantity_that_some_seed_lacks_is_of_the_others():
    values = np.random.default_rng(5).normal(size=(40, 2))
    gap = values.copy()
    gap[:, 1] = np.nan
    both, some = fold([crossed(values, "0"), crossed(gap, "1")])
    assert both is not None and some is not None and (both.seeds, some.seeds) == (2, 1)
    assert some.value == pytest.approx(values[:, 1].mean()) and some.low is not None and some.low < some.value
    nothing = fold([crossed(np.full((40, 1), np.nan), str(seed)) for seed in range(2)])
    assert nothing == [None]
    single = fold([crossed(np.ones((1, 1)), str(seed)) for seed in range(2)])[0]
    assert single is not None and single.low is None


# --- prompts that are missing from some quantities --------------------------------------------------------


def test_a_quantity_without_some_prompts_is_the_average_of_the_others():
    groups, datasets = [f"g{i // 2}" for i in range(60)], ["a"] * 20 + ["b"] * 40
    random = np.random.default_rng(0)
    whole, part = random.random(60), random.random(60)
    part[::3] = np.nan
    sample = resample(layout(groups, datasets), np.stack([whole, part, np.full(60, np.nan)], axis=1))
    first, second, nothing = fold([sample])
    assert nothing is None
    assert first == only([resample(layout(groups, datasets), whole[:, None])])
    assert second.value == pytest.approx((np.nanmean(part[:20]) + np.nanmean(part[20:])) / 2)
    assert (first.n, second.n, second.clusters) == (60, 40, 30)
    alone = only(
        [resample(layout([g for g, x in zip(groups, part, strict=True) if x == x]), part[part == part][:, None])]
    )
    assert second.se == pytest.approx(alone.se, rel=0.15)


def test_without_any_judged_prompt_of_a_dataset_there_is_no_macro_average():
    values = np.array([[1.0], [0.0], [np.nan], [np.nan]])
    assert fold([resample(layout(names(4), ["a", "a", "b", "b"]), values)]) == [None]
    single = only([resample(layout(names(4)), np.array([[1.0], [np.nan], [np.nan], [np.nan]]))])
    assert (single.value, single.low, single.n) == (1.0, None, 1)


def test_differences_of_quantities_with_gaps_are_paired():
    random = np.random.default_rng(1)
    values = random.random((200, 1)) + np.array([[0.0, 0.3]])
    values[:50] = np.nan
    sample = resample(layout(names(200)), np.hstack([values, np.zeros((200, 1))]))
    (estimate,) = fold([difference(sample, [1], [0])])
    assert estimate.value == pytest.approx(0.3) and estimate.se < 1e-9
    assert estimate.n == 150


def test_a_short_column_drawn_with_a_longer_one_has_numbers():
    """Of parallel prompts one language has two, another many: some resamples hold neither of the two."""
    short, long = draw([(names(2), ["", ""]), (names(40), [""] * 40)])
    assert (short.weights.sum(axis=1) == 0).any()
    estimate = only([resample(short, np.array([[1.0], [0.0]]))])
    assert estimate.value == 0.5 and 0 <= estimate.low < estimate.high <= 1
    assert long.groups == 40


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("apart", [50.0, 40.0])
def test_six_equal_differences_are_not_certain(seeds: int, apart: float) -> None:
    """One cell ties on every prompt, the other wins: it was -50 [-50..-50], while -60 had Wilson's interval."""
    values = np.stack([np.full(6, 50.0), np.full(6, 50.0 + apart)], axis=1)
    clusters = draw([([f"g{n}" for n in range(6)], [""] * 6)])[0]
    taken = [resample(clusters, values, str(seed), span=np.repeat(SHARE[:, None], 2, axis=1)) for seed in range(seeds)]
    [found] = fold([difference(sample, [0], [1]) for sample in taken])
    assert found.value == -apart and found.low < -apart - 2 < -apart + 2 < found.high


def test_several_seeds_of_one_document_have_no_interval() -> None:
    clusters = draw([(["g"], [""])])[0]
    values = (np.array([[0.0]]), np.array([[100.0]]))
    [found] = fold([resample(clusters, one, str(seed), span=SHARE) for seed, one in enumerate(values)])
    assert (found.value, found.low, found.high, found.se, found.seeds) == (50.0, None, None, None, 2)


# --- single precision where that is exact --------------------------------------------------------------------


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


@pytest.mark.parametrize("of", ["normal", "few values", "constant", "skewed", "in order", "short"])
def test_the_ends_are_those_of_all_values_in_order(of):
    random = np.random.default_rng(0)
    values = {
        "normal": random.normal(size=2000),
        "few values": random.integers(0, 3, 2000) / 7,
        "constant": np.full(2000, 12.5),
        "skewed": random.exponential(size=2000) ** 5,
        "in order": np.arange(2000.0),
        "short": random.normal(size=300),
    }[of]
    for below, above in ((0, len(values) - 2), (49, len(values) - 51), (len(values) // 2, len(values) // 2)):
        ordered = np.sort(values)
        expected = [ordered[at] for at in (below, below + 1, above, above + 1)]
        assert list(ends_of(values, below, above)) == expected


def test_six_digits_of_very_many_quantities():
    random = np.random.default_rng(0)
    clusters = draw([([f"g{i}" for i in range(300)], [""] * 300)])[0]
    sums = 100 * random.random((300, 100))
    found, plain = weighted(clusters.weights, sums, single=True), clusters.weights.astype(np.float64) @ sums
    assert 0 < np.abs(found / plain - 1).max() < 1e-6
