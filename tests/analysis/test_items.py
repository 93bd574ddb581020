"""Analyses of items: picks of the target's own, the length rule, regimes of data, words, by hand and of grids."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from synthetic import SyntheticGrid, samples_file

from xling.analysis.items.generalisation import generalisation, home_picks, picks, standardised_increase
from xling.analysis.items.length_rule import length_agreement, length_rule
from xling.analysis.items.regimes import sft_data, translate_train_cells
from xling.analysis.items.scored import columns_in, drawn
from xling.analysis.items.within_prompt import ITEMS, SUMS, order_within, prompt_sums, ranked, within_prompt
from xling.analysis.items.word_effects import bag_of_words, cross_fitted, explained_by_words, r_squared, word_counts
from xling.analysis.statistics.bootstrap import draw
from xling.models.ridge import fit, fit_each


def test_picks_and_their_increase_by_hand():
    own = np.array([[0.0, 2.0, 2.0], [3.0, 1.0, np.nan]])
    assert picks(own).tolist() == [1, 0]
    foreign, baseline = np.array([[9.0, 5.0, 9.0], [4.0, 9.0, np.nan]]), np.array([[1.0, 3.0], [5.0, 7.0]])
    spread = np.sqrt(5)  # of 1, 3, 5, 7
    found = standardised_increase(foreign, baseline, picks(own))
    assert found.tolist() == pytest.approx([(5 - 2) / spread, (4 - 6) / spread])
    assert standardised_increase(foreign, np.ones((2, 2)), picks(own)) is None


def increases(values, source, target, seed="0/0", dataset=""):
    rows = {"prompt": [f"p{i}" for i in range(len(values))], "group": [f"{target}{i}" for i in range(len(values))]}
    return pd.DataFrame(rows | {"increase": values}).assign(
        source_lang=source, target_lang=target, seed=seed, dataset=dataset, rm_backbone="rm"
    )


def test_shares_over_pairs_and_their_intervals():
    random = np.random.default_rng(0)
    means = {("de", "de"): 1.0, ("en", "de"): 0.5, ("de", "en"): -0.5, ("en", "en"): 1.0, ("de+en", "en"): 3.0}
    parts = [increases(mean + random.normal(size=200), *pair) for pair, mean in means.items()]
    rows, shares = home_picks(pd.concat(parts))
    found = rows.table.set_index(["source_lang", "target_lang"])
    for pair, mean in means.items():
        assert found.increase_low[pair] - 0.15 < mean < found.increase_high[pair] + 0.15
        assert found.increase_low[pair] < found.increase[pair] < found.increase_high[pair]
    by_models = shares.table.set_index("models")
    assert by_models.pairs.to_dict() == {"foreign": 2, "home": 2}  # de+en has seen English
    assert by_models.share_above_0.to_dict() == {"foreign": 50.0, "home": 100.0}
    assert by_models.share_settled.to_dict() == {"foreign": 50.0, "home": 100.0}
    assert by_models.increase["foreign"] == pytest.approx((found.increase["en", "de"] + found.increase["de", "en"]) / 2)


def test_an_increase_of_nothing_is_above_0_in_about_half_of_the_resamples():
    values = np.random.default_rng(1).normal(size=300)
    _, shares = home_picks(increases(values - values.mean() + 1e-3, "en", "de"))
    row = shares.table.iloc[0]
    assert (row.share_above_0, row.share_above_0_low, row.share_above_0_high, row.share_settled) == (100, 0, 100, 0)


def test_a_share_over_seeds_ends_at_100():
    parts = [
        increases(np.array([1.0, 2.0, 3.0, 2.0]), source, "de", seed) for seed in ("0/0", "0/1") for source in "ab"
    ]
    parts.append(increases(np.array([-1.0, 0.2, -0.3, 0.1]), "c", "de", "0/0"))
    parts.append(increases(np.array([1.0, 0.2, 0.3, 0.1]), "c", "de", "0/1"))
    row = home_picks(pd.concat(parts))[1].table.iloc[0]
    assert row.share_above_0 == pytest.approx((200 / 3 + 100) / 2)
    assert (row.share_above_0_low, row.share_above_0_high) == (0, 100)  # a t with one degree of freedom goes further


def grid_of(tmp_path, targets=("de",), sources=("de", "en"), constant=()):
    grid, random = SyntheticGrid(tmp_path), np.random.default_rng(4)
    for target in targets:
        quality = {"pool": random.normal(size=(40, 4)), "baseline": random.normal(size=(40, 2))}
        for source in sources:
            noisy = {name: values + 0.5 * random.normal(size=values.shape) for name, values in quality.items()}
            if source in constant:
                noisy["baseline"] = np.ones((40, 2))
            grid.cell(source, target, [1.0] * 40, scores=noisy)
    return grid.write()


def test_a_grid_where_both_reward_models_see_the_same_quality(tmp_path):
    grid = grid_of(tmp_path)
    rows, shares = generalisation(grid.store, grid.name)
    found = rows.table.set_index("source_lang")
    assert found.increase["de"] > found.increase["en"] > 0.3 and found.increase_low["en"] > 0
    assert shares.table.share_above_0.tolist() == [100, 100] and rows.left_out == ()


def test_no_home_model_constant_scores_and_no_best_of_n_are_sentences(tmp_path):
    grid = grid_of(tmp_path, targets=("de", "tr"), constant=("en",))
    rows, _ = generalisation(grid.store, grid.name)
    assert list(zip(rows.table.source_lang, rows.table.target_lang, strict=True)) == [("de", "de")]
    assert rows.left_out == (
        "No finished reward model of the target's own for tr.",
        "Scores all alike on the baseline, so that there is no unit: en on de.",
    )
    trained = SyntheticGrid(tmp_path / "trained")
    trained.cell("de", "de", [1.0], optimizer="ppo")
    trained.write()
    rows, shares = generalisation(trained.store, trained.name)
    assert rows.table.empty and shares.table.empty and "judge.lang" in rows.left_out[0]


def test_a_damaged_score_is_named(tmp_path):
    grid = grid_of(tmp_path)
    (damaged,) = (c.stage.parents["score"] for c in grid.cells if c.axes["source_lang"] == "en")
    np.save(grid.store.folder("score", damaged.key) / "pool.npy", np.zeros((3, 3)))
    rows, _ = generalisation(grid.store, grid.name)
    assert rows.table.source_lang.tolist() == ["de"] and "en -> de: The result score/" in rows.left_out[0]


# --- within a prompt -----------------------------------------------------------------------------------------


def ordering(reward, quality, source="en", target="de", seed="0/0", groups=None, datasets=None):
    """A row a prompt, as `order_within` takes them."""
    count = len(reward)
    names = datasets or [""] * count
    rows = {"prompt": [f"p{i}" for i in range(count)], "group": groups or [f"g{i}" for i in range(count)]}
    sums = dict(zip(SUMS, prompt_sums(reward, quality, names).T, strict=True))
    return pd.DataFrame(rows | {"dataset": names} | sums).assign(
        source_lang=source, target_lang=target, seed=seed, rm_backbone="rm"
    )


def in_order(pairs):
    """Share of pairs ((reward, quality), (reward, quality)) of unequal quality in the right order, ties half."""
    found = [np.sign((a[0] - b[0]) * (a[1] - b[1])) / 2 + 0.5 for a, b in pairs if a[1] != b[1]]
    return 100 * np.mean(found)


def test_within_and_between_prompts_are_all_pairs_counted_one_by_one():
    random = np.random.default_rng(0)
    quality = random.integers(0, 4, size=(12, 5)).astype(float)
    reward = np.round(quality + random.normal(size=(12, 5)) + 2 * random.normal(size=(12, 1)), 1)
    quality[2, 3:] = reward[2, 3:] = np.nan  # a prompt has three responses
    row = order_within(ordering(reward, quality))[0].table.iloc[0]
    items = [[(reward[p, i], quality[p, i]) for i in range(5)] for p in range(12)]
    known = [[item for item in row if not np.isnan(item[0])] for row in items]
    pairs = [(a, b) for prompt in known for a, b in itertools.combinations(prompt, 2)]
    assert row.within == pytest.approx(in_order(pairs))
    assert row.pairs == sum(a[1] != b[1] for a, b in pairs)
    across = [(p[i], q[i]) for p, q in itertools.combinations(items, 2) for i in range(5)]
    assert row["between"] == pytest.approx(in_order([pair for pair in across if not np.isnan(sum(map(sum, pair)))]))
    assert row.n == 12


def test_a_reward_that_knows_prompts_alone_is_right_between_them_and_at_chance_within():
    random = np.random.default_rng(1)
    easy, own = 2 * random.normal(size=(400, 1)), random.normal(size=(400, 8))
    quality = easy + own
    rewards = {"en": easy + np.zeros((400, 8)) + 0.1 * random.normal(size=(400, 8)), "de": quality, "tr": own}
    rows, means = order_within(pd.concat([ordering(reward, quality, name) for name, reward in rewards.items()]))
    found = rows.table.set_index("source_lang")
    assert found.within_low["en"] < 50 < found.within_high["en"] and found.between_low["en"] > 80
    assert found.prompt_share["en"] > 99 and found.prompt_share["tr"] < 2
    inside, across = quality.var(axis=1, ddof=1).mean(), quality.mean(axis=1).var(ddof=1)
    apart = across - inside / 8  # of easy, 4; within prompts 1
    assert found.prompt_share["de"] == pytest.approx(100 * apart / (apart + inside))
    assert abs(found.prompt_share["de"] - 80) < 5
    assert found.within["de"] == found.between["de"] == found.within["tr"] == 100 and found.between["tr"] < 75
    both = means.table.set_index("models")
    assert both.within["home"] == 100 and both.within["foreign"] == pytest.approx((found.within["en"] + 100) / 2)


def test_intervals_within_and_between_prompts_hold_the_truth():
    """Four responses to each of 40 documents with two prompts; the truth is that of very many."""
    random = np.random.default_rng(2)

    def drawn_once(documents):
        quality = np.repeat(random.normal(size=(documents, 1)), 2, axis=0) + random.normal(size=(2 * documents, 4))
        lean = np.repeat(random.normal(size=(documents, 1)), 2, axis=0)
        return quality + 1.5 * lean + random.normal(size=(2 * documents, 4)), quality

    truth = order_within(ordering(*drawn_once(4_000)))[0].table.iloc[0]
    groups = [f"g{i // 2}" for i in range(80)]
    found = pd.concat([ordering(*drawn_once(40), source=f"s{k}", groups=groups) for k in range(200)])
    rows = order_within(found)[0].table
    for name in ("within", "between", "prompt_share"):
        held = (rows[f"{name}_low"] <= truth[name]) & (truth[name] <= rows[f"{name}_high"])
        assert 0.88 < held.mean() < 0.99, name


def test_datasets_weigh_alike_and_are_ranked_apart():
    random = np.random.default_rng(3)
    quality = random.normal(size=(30, 3))
    reward = np.where(np.arange(30)[:, None] < 10, quality, -quality)
    table = ordering(reward, quality, datasets=["a"] * 10 + ["b"] * 20)
    row = order_within(table)[0].table.iloc[0]
    assert (row.within, row["between"]) == (50, 50)  # 100 of a, 0 of b
    column, clusters = drawn(columns_in(table, list(SUMS), ITEMS, "prompts", []))[0][0]
    assert (ranked(column, clusters, False).resamples[:, :2] == 50).all()


def test_a_grid_is_ordered_by_what_its_judge_scores(tmp_path):
    random, grid = np.random.default_rng(4), SyntheticGrid(tmp_path)
    quality, other = random.normal(size=(40, 4)), {"baseline": np.zeros((40, 2))}
    for source, reward in (("de", quality), ("en", -quality)):
        grid.cell(source, "de", [1.0] * 40, pool=quality, scores={"pool": reward, **other})
    own = grid.cell("tr", "tr", [1.0] * 40, scores={"pool": quality, **other}, own_judge=True)
    misfit = grid.cell("en", "tr", [1.0] * 40, pool=quality[:, :3], scores={"pool": quality, **other})
    assert own["verdict"] == own["score"] and misfit["verdict"] != misfit["score"]
    rows, means = within_prompt(grid.write().store, grid.name)
    assert dict(zip(rows.table.source_lang, rows.table.within, strict=True)) == {"de": 100, "en": 0}
    assert means.table.within.tolist() == [100, 0]
    assert rows.left_out == ("en -> tr: its rewards and the judge's scores are not of the same responses",)


# --- the length rule -----------------------------------------------------------------------------------------


def decisions(hit, rule, source="en", target="de", seed="0/0"):
    rows = {"group": [f"g{i}" for i in range(len(hit))], "hit": hit, "length_hit": rule}
    return pd.DataFrame(rows).assign(source_lang=source, target_lang=target, seed=seed, recorded="", rm_backbone="rm")


def test_agreement_and_what_is_expected_by_hand():
    rows, means = length_agreement(decisions([1, 1, 1, 0], [1, 1, 0, 0]))
    row = rows.table.iloc[0]
    assert (row.accuracy, row.length_accuracy, row.agreement) == (75, 50, 75)
    assert (row.expected, row.excess, row.n) == (50, 25, 4)  # .75 x .5 + .25 x .5
    assert means.table.models.tolist() == ["all", "foreign"]


def test_a_tie_between_a_pair_counts_half():
    row = length_agreement(decisions([0.5, 1.0], [1.0, 1.0]))[0].table.iloc[0]
    assert (row.accuracy, row.agreement, row.expected, row.excess) == (75, 75, 75, 0)


def test_the_excess_of_independent_deciders_has_0_in_its_interval_and_that_of_a_copy_has_not():
    random = np.random.default_rng(0)
    rule, own = (random.random(400) < 0.7).astype(float), (random.random(400) < 0.6).astype(float)
    copy = np.where(random.random(400) < 0.5, rule, own)
    rows, means = length_agreement(pd.concat([decisions(own, rule), decisions(copy, rule, source="de")]))
    found = rows.table.set_index("source_lang")
    assert found.excess_low["en"] < 0 < found.excess_high["en"]
    assert found.excess_low["de"] > 5
    assert found.home.to_dict() == {"de": True, "en": False}
    every = means.table.set_index("models")
    assert every.excess["all"] == pytest.approx(found.excess.mean())
    assert every.reward_models.to_dict() == {"all": 2, "home": 1, "foreign": 1}


def test_seeds_are_points_unless_they_decide_alike():
    hits = [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 0]]
    several = pd.concat([decisions(hit, [1, 1, 0, 0], seed=f"0/{k}") for k, hit in enumerate(hits)])
    row = length_agreement(several)[0].table.iloc[0]
    assert row.accuracy == 75 and 0 < row.accuracy_low < 30 and 90 < row.accuracy_high < 100  # of four decisions
    alike = pd.concat([decisions(hits[0], [1, 1, 0, 0], seed=f"0/{k}") for k in range(3)])
    again = length_agreement(alike)[0].table.iloc[0]
    once = length_agreement(decisions(hits[0], [1, 1, 0, 0]))[0].table.iloc[0]
    assert again.equals(once) and again.accuracy_low < 75 < again.accuracy_high


def test_a_grid_with_holes_one_source_and_no_rule(tmp_path):
    grid = SyntheticGrid(tmp_path)
    base = {"group": ["a", "b", "c"], "score": [1.0, -1.0, 1.0], "label": [1, 0, 0], "length": [9.0, 3.0, 9.0]}
    ruled = base | {"length_rule": {"threshold": 5.0, "longer_is_better": True}}
    grid.cell("de", "de", [1.0] * 3, heldout=ruled)
    grid.cell("de", "de", [1.0] * 3, heldout=ruled, optimizer="ppo")  # the same reward model
    grid.cell("de", "en", [1.0] * 3, heldout=base)
    grid.cell("de", "tr", [1.0] * 3)
    grid.cell("de", "vi", fails="reward")
    grid.write()
    rows, means = length_rule(grid.store, grid.name)
    assert len(rows.table) == 1 and rows.table.agreement[0] == 100
    assert rows.table.expected[0] == pytest.approx(100 * (4 / 9 + 1 / 9))
    assert rows.left_out == ("Not finished: de -> vi.", "No length rule was fitted for ratings of de -> en.")
    assert means.table.models.tolist() == ["all", "home"]


def test_a_grid_without_held_out_decisions_is_a_sentence(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "en", [1.0])
    grid.write()
    rows, means = length_rule(grid.store, grid.name)
    assert rows.table.empty and means.table.empty and rows.left_out == ("No reward model has held-out decisions.",)


# --- regimes of data -----------------------------------------------------------------------------------------


def test_differences_are_paired_by_prompt(tmp_path):
    grid, pattern = SyntheticGrid(tmp_path), (np.arange(100) % 2).astype(float)
    for target in ("de", "tr"):
        for source, lift in (("en", 0.25), ("ru", 0.0)):
            names = [f"{target}{i}" for i in range(100)]
            grid.cell(source, target, pattern, groups=names, reward_data="organic")
            grid.cell(source, target, 0.5 * pattern + lift, groups=names, reward_data="translated")
    grid.write()
    (found,) = translate_train_cells(grid.store, grid.name)
    rows = found.table.set_index(["source_lang", "target_lang"])
    assert rows.difference["en", "de"] == 0 and rows.difference["ru", "de"] == -25
    assert (rows.win_rate["ru", "de"], rows.organic["ru", "de"]) == (25, 50)
    width = rows.difference_high["ru", "de"] - rows.difference_low["ru", "de"]
    assert width == pytest.approx(2 * 1.96 * 2.5, rel=0.1)  # deviations of 25 points over 100 prompts
    assert rows.difference["all", "de"] == rows.difference["all", "all"] == -12.5
    assert rows.settled.to_dict()["ru", "tr"] and not rows.settled["en", "tr"]
    assert len(rows) == 7 and found.left_out == () and set(found.table.reward_data) == {"translated"}


def test_holes_unjudged_prompts_and_cells_without_a_counterpart(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("en", "de", [1.0, 0.0, None, 1.0], reward_data="organic")
    grid.cell("en", "de", [1.0, 1.0, 1.0, 0.5], reward_data="translated")
    grid.cell("tr", "de", [1.0, 0.0, 1.0, 1.0], reward_data="translated")
    grid.cell("ru", "de", reward_data="organic")
    grid.write()
    (found,) = translate_train_cells(grid.store, grid.name)
    (row,) = found.table.to_dict("records")
    assert row["source_lang"] == "en" and row["n"] == 3
    assert row["difference"] == pytest.approx(100 * (0 + 1 - 0.5) / 3)
    assert found.left_out == (
        "Not finished: ru -> de.",
        "Without a finished cell of reward_data=organic on the same prompts: tr -> de.",
    )


def test_a_grid_without_the_axis_and_one_without_organic_cells_are_sentences(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("en", "de", [1.0])
    (found,) = translate_train_cells(grid.write().store, grid.name)
    assert found.table.empty and "no axis reward_data" in found.left_out[0]
    alone = SyntheticGrid(tmp_path / "alone")
    alone.cell("en", "de", [1.0], reward_data="translated")
    (found,) = translate_train_cells(alone.write().store, alone.name)
    assert found.table.empty and "Nothing with reward_data=organic" in found.left_out[0]


def test_three_regimes_of_demonstrations_with_their_rouge(tmp_path):
    grid = SyntheticGrid(tmp_path)
    reports = {
        "organic": {"validation_rouge_l": 0.4},
        "translated": {"validation_rouge_l": 0.9, "organic_rouge_l": 0.2},
        "round_trip": {"validation_rouge_l": 0.8, "organic_rouge_l": 0.3},
    }
    for seed, (regime, win) in enumerate((("organic", 0.5), ("translated", 0.25), ("round_trip", 0.75))):
        stages = grid.cell("en", "de", [win] * 4, seed=seed, sft_data=regime)
        target = stages["pool"].parents["sft"]
        grid.publish(target, {"sft.json": json.dumps(reports[regime]).encode()})
    for cell in grid.cells:  # seeds made three policies of one language; the regimes are what differs
        cell.axes["seed"] = 0
    found, rouge = sft_data(grid.write().store, grid.name)
    assert found.table.set_index("sft_data").difference.to_dict() == {"round_trip": 25.0, "translated": -25.0}
    assert rouge.table.set_index("sft_data").rouge_l.round(6).to_dict() == {
        "organic": 40.0, "round_trip": 30.0, "translated": 20.0}  # fmt: skip
    assert rouge.table.set_index("sft_data").source_lang["organic"] == ""


# --- word effects --------------------------------------------------------------------------------------------


WORDS = [f"w{number}" for number in range(12)]


def world(documents=60, each=4, noise=0.5, seed=0, target="de", sources=("de", "en")):
    """Scores that are a fixed weight a word, plus noise of known variance for the second source only."""
    random = np.random.default_rng(seed)
    weight = random.normal(size=len(WORDS))
    counts = random.poisson(1.0, (documents * each, len(WORDS)))
    texts = [" ".join(np.repeat(WORDS, row)) or "empty" for row in counts]
    truth = counts @ weight
    rows = []
    for number, source in enumerate(sources):
        score = truth + (number > 0) * noise * truth.std() * random.normal(size=len(truth))
        for row, (text, value) in enumerate(zip(texts, score, strict=True)):
            rows.append((source, target, "0", "", f"{target}{row // each}", text, value))
    columns = ["source_lang", "target_lang", "seed", "dataset", "document", "text", "score"]
    return pd.DataFrame(rows, columns=columns).assign(rm_backbone="rm")


def test_counts_are_of_words_that_two_documents_use():
    counts = word_counts(["Tea, tea! milk", "tea MILK", "salt salt", "milk"], ["a", "b", "c", "c"])
    assert counts.tolist() == [[1, 2], [1, 1], [0, 0], [1, 0]]  # milk (3 documents), tea (2); salt is in one only


def test_r2_by_hand_and_its_resamples():
    clusters = draw([(["a", "a", "b", "b"], [""] * 4)])[0]
    scores, predicted = np.array([[1.0], [2.0], [3.0], [6.0]]), np.array([[1.0], [3.0], [3.0], [4.0]])
    sample = r_squared(clusters, scores, predicted, "0")
    assert sample.means[0] == pytest.approx(1 - 5 / 14)  # errors 0, 1, 0, 4; deviations from 3: 4, 1, 0, 9
    only_a = (clusters.weights == [2, 0]).all(axis=1)
    assert only_a.any() and sample.resamples[only_a] == pytest.approx(1 - 1 / 0.5)


def test_all_columns_at_once_are_the_fits_one_by_one():
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(80, 6)), random.normal(size=(80, 3))
    groups = [f"d{row // 2}" for row in range(80)]
    for own, head in zip(labels.T, fit_each(features, labels, groups), strict=True):
        alone = fit([features], own, groups)
        assert head.penalty == alone.penalty and head.weight == pytest.approx(alone.weight)
        assert (head.bias, head.explained) == pytest.approx((alone.bias, alone.explained))


def test_a_document_is_never_predicted_by_a_fit_that_has_seen_it():
    table = world()
    rows = table[table.source_lang == "de"]
    documents, scores = rows.document.tolist(), rows.score.to_numpy()[:, None]
    counts, own = word_counts(rows.text.tolist(), documents), np.array(documents) == "de7"
    held, fitted = cross_fitted(counts, scores, documents)
    held_then, fitted_then = cross_fitted(counts, scores + 100.0 * own[:, None], documents)
    assert (held[own] == held_then[own]).all() and (held[~own] != held_then[~own]).any()
    assert (fitted[own] != fitted_then[own]).all()


def test_the_truth_is_found_and_native_is_set_against_foreign():
    rows, means = explained_by_words(world(noise=0.5))
    by_source = rows.table.set_index("source_lang")
    assert by_source.r2["de"] > 0.95
    assert by_source.r2_low["en"] < 1 / (1 + 0.25) < by_source.r2_high["en"]  # signal / (signal + noise)
    assert by_source.in_sample["en"] > by_source.r2["en"]
    assert by_source.native.to_dict() == {"de": True, "en": False}
    assert (by_source.n["de"], by_source.documents["de"], by_source.words["de"]) == (240, 60, 12)
    (row,) = means.table.to_dict("records")
    assert row["difference"] == pytest.approx(row["native"] - row["foreign"]) and row["difference_low"] > 0
    assert row["n"] == 1 and rows.left_out == ()


def test_noise_has_no_r2_where_it_is_held_out():
    table = world()
    table["score"] = np.random.default_rng(5).normal(size=len(table))
    rows, _ = explained_by_words(table)
    assert (rows.table.r2 < 0.05).all() and (rows.table.in_sample >= rows.table.r2).all()


def test_what_cannot_be_fitted_is_said():
    table = pd.concat([world(), world(target="tr"), world(documents=5, target="vi", sources=("vi",))])
    table.loc[(table.source_lang == "en") & (table.target_lang == "de"), "score"] = 1.0
    rows, means = explained_by_words(table, ["given"])
    assert set(zip(rows.table.source_lang, rows.table.target_lang, strict=True)) == {
        ("de", "de"), ("de", "tr"), ("en", "tr")}  # fmt: skip
    assert means.table.empty
    said = " ".join(rows.left_out)
    assert "all alike" in said and "vi has fewer than 10 documents" in said and rows.left_out[0] == "given"
    assert "No native reward model for tr." in said and "No foreign reward model for de." in said


def test_a_source_with_other_responses_is_left_out():
    table = world()
    table.loc[table.index[-1], "text"] = "something else"
    rows, _ = explained_by_words(table)
    assert rows.table.source_lang.tolist() == ["de"] and "en -> de: its responses" in rows.left_out[0]


def test_a_grid_is_read_with_its_holes(tmp_path):
    grid, random = SyntheticGrid(tmp_path), np.random.default_rng(3)
    texts = [[" ".join(random.choice(WORDS, 3)) for _ in range(4)] for _ in range(30)]
    length = np.array([[said.count("w1") for said in row] for row in texts], dtype=float)
    for source in ("de", "en", "de+en"):
        scores = {"pool": length, "baseline": np.zeros((30, 2))}
        stages = grid.cell(source, "de", [1.0] * 30, scores=scores)
        grid.publish(stages["pool"], {"samples.jsonl": samples_file(texts)})
    grid.cell("tr", "de")
    grid.untrained("de", "de", [0.5] * 30, rm_backbone="random")
    grid.write()
    rows, means = bag_of_words(grid.store, grid.name)
    assert rows.table.source_lang.tolist() == ["de", "de+en", "en"] and rows.table.n.tolist() == [120] * 3
    assert rows.left_out == ("Not finished: tr -> de.",)
    assert means.table.native[0] == pytest.approx(means.table.foreign[0])  # de+en is neither
    assert explained_by_words(pd.DataFrame())[0].table.empty
