"""Foreign reward models on what the target's own picked."""

import numpy as np
import pandas as pd
import pytest
from synthetic import SyntheticGrid

from xling.analysis.items.generalisation import generalisation, home_picks, picks, standardised_increase


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
