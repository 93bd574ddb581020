"""Translated data against organic data, paired by prompt."""

import json

import numpy as np
import pytest
from synthetic import SyntheticGrid

from xling.analysis.items.regimes import sft_data, translate_train_cells


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
