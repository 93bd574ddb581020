"""Agreement of reward models with the length rule, against what their accuracies alone make of it."""

import numpy as np
import pandas as pd
import pytest
from synthetic import SyntheticGrid

from xling.analysis.items.length_rule import length_agreement, length_rule


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
