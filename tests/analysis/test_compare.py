"""Two matrices against each other: paired by prompt where they can be, apart where not, refused with what to type."""

import itertools

import numpy as np
import pytest
from matrices import row
from synthetic import SyntheticGrid, five, realistic

from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.paper.compare import compare
from xling.errors import ConfigError

PATTERN = (np.arange(80) % 2).astype(float)


def findings(grid, left, right):
    return {finding.name: finding for finding in compare(grid.store, left, right)}


def two(root, **right):
    """Grids `one` and `other` in one store: the same prompts, the other always a quarter less far from a half."""
    one, other = SyntheticGrid(root, "one"), SyntheticGrid(root, "other")
    for source in ("de", "en", "tr"):
        wins = PATTERN if source == "en" else 1 - PATTERN
        one.cell(source, "de", wins)
        other.cell(source, "de", 0.25 + 0.5 * wins + 0.125, **{"rm_backbone": "frozen_lm", **right})
    one.write()
    return other.write()


def test_the_same_prompts_are_paired(tmp_path):
    found = findings(two(tmp_path), "one", "other")
    cells = found["compare_cells"].table
    assert set(cells["pairing"]) == {"paired"} and cells["difference"].tolist() == [-12.5] * 3
    width = (cells["difference_high"] - cells["difference_low"]).mean()
    assert width == pytest.approx(2 * 1.96 * 25 / np.sqrt(80), rel=0.1)  # the difference is -12.5 -+ 25 by prompt
    means = row(found["compare_means"])
    assert (means["cells"], means["paired"], means["difference"], means["settled_below"]) == (3, 3, -12.5, 3)
    assert "rm_backbone same_as_policy / frozen_lm" in found["compare_means"].note


@pytest.mark.parametrize(
    "right",
    [
        {"prompts": [f"other{i}" for i in range(80)]},  # other prompts
        {"task.seed": 1},  # the same names for other prompts
        {"seed": 1},  # another seed of training
    ],
)
def test_other_prompts_data_or_seeds_are_not_paired(tmp_path, right):
    cells = findings(two(tmp_path, **right), "one", "other")["compare_cells"].table
    assert set(cells["pairing"]) == {"apart"}
    width = (cells["difference_high"] - cells["difference_low"]).mean()
    assert width == pytest.approx(2 * 1.96 * np.hypot(50, 25) / np.sqrt(80), rel=0.1)


@pytest.mark.parametrize("prompts", [None, [f"other{i}" for i in range(6)]])
def test_six_wins_against_six_losses_are_not_certain(tmp_path, prompts):
    """The bootstrap of either says 100 [100..100]; the comparison is no surer than the matrices are."""
    one, other = SyntheticGrid(tmp_path, "one"), SyntheticGrid(tmp_path, "other")
    one.cell("de", "en", np.ones(6))
    other.cell("de", "en", np.zeros(6), rm_backbone="frozen_lm", prompts=prompts)
    win = fold_grid(one.write().store, "one").blocks[0].panels[0].entries[0].win
    cell = row(findings(other.write(), "one", "other")["compare_cells"])
    assert cell["difference"] == 100 and cell["pairing"] == ("apart" if prompts else "paired")
    assert win.low == pytest.approx(100 / (1 + 2.5706**2 / 6), abs=0.1)  # Wilson's of 6 in 6, t(5)
    assert -10 < cell["difference_low"] < win.low and cell["difference_high"] == 100


def test_several_seeds_give_the_difference_between_optimizers_of_the_matrix(tmp_path):
    grid = five(tmp_path)
    matrix = grid.folded()
    found = findings(grid, "toy:optimizer=ppo", "toy:optimizer=best_of_n")
    (table,) = matrix.optimizers
    arm = next(arm for arm in table.arms if arm.name == "ppo")
    for cell in arm.cells:
        ours = row(found["compare_cells"], source_lang=cell.source, target_lang=cell.target)
        expected = cell.versus.estimate
        assert ours["pairing"] == "paired" and ours["difference"] == pytest.approx(expected.value)
        width = ours["difference_high"] - ours["difference_low"]
        assert width == pytest.approx(expected.high - expected.low, rel=0.1)
    ours = row(found["compare_means"])
    assert ours["difference"] == pytest.approx(arm.versus.estimate.value)
    assert ours["difference_high"] - ours["difference_low"] == pytest.approx(
        arm.versus.estimate.high - arm.versus.estimate.low, rel=0.1
    )


def test_ranks_of_sources_by_target_and_over_all(tmp_path):
    grid = realistic(tmp_path, ("de", "en", "es", "tr"), prompts=60, controls=False)
    found = findings(grid.write(), "toy", "toy")["compare_ranks"]
    assert found.table["kendall"].tolist() == [1.0] * 5 and found.table["target_lang"].tolist()[-1] == "all"
    assert row(found, target_lang="all")["sources"] == 4
    assert (found.table["kendall_high"] == 1).all() and (found.table["kendall_low"] < 1).all()
    cells = findings(grid, "toy", "toy")["compare_cells"].table
    assert (cells[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)  # paired with itself


def test_a_grid_against_the_table_of_the_paper_that_suits_it(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for optimizer, source in itertools.product(("best_of_n", "ppo"), ("de", "en", "es")):
        grid.cell(source, "en", PATTERN, optimizer=optimizer, task="seahorse")
    found = findings(grid.write(), "toy", "paper")
    right = ["win_rate_summarization_palm_bon", "win_rate_summarization_palm_ppo"]
    assert found["compare_means"].table["right"].tolist() == right
    assert row(found["compare_cells"], source_lang="de", right=right[0])["win_right"] == 50.8
    assert set(found["compare_cells"].table["pairing"]) == {"apart"}
    named = findings(grid, "toy:optimizer=ppo", "paper:win_rate_summarization_human_bon")
    assert row(named["compare_cells"], source_lang="de")["win_right"] == 61.0
    assert row(named["compare_means"])["cells"] == 3


def test_a_task_that_is_not_the_paper_s_needs_a_table(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("en", "en", PATTERN)
    with pytest.raises(ConfigError, match=r"win_rate_dialog_palm_bon; .*choose one with paper:TABLE"):
        compare(grid.write().store, "toy", "paper")


def test_two_tables_of_the_paper(tmp_path):
    grid = realistic(tmp_path, ("de",), prompts=10, controls=False).write()
    left, right = "paper:win_rate_summarization_palm_bon", "paper:win_rate_summarization_gpt4_bon"
    assert row(findings(grid, left, right)["compare_means"])["cells"] == 36


def test_holes_and_few_sources_are_said(tmp_path):
    grid = two(tmp_path)
    holed = SyntheticGrid(tmp_path, "holed")
    holed.cell("de", "de", PATTERN)
    holed.cell("en", "de", fails="reward", rm_backbone="failing")
    holed.cell("de", "en", PATTERN)
    found = findings(grid, "one", holed.write().name + ":rm_backbone=same_as_policy")
    assert any("de: fewer than 3 sources" in line for line in found["compare_ranks"].left_out)
    assert found["compare_ranks"].table.empty
    with pytest.raises(ConfigError, match=r"nothing in common to compare: sources .*; targets .* and de"):
        compare(grid.store, "one", "holed:rm_backbone=failing")


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ("one", "nope", r"no grid 'nope'.*There are: "),
        ("one", "paper:nope", r"no matrix 'nope'. There are: win_rate_summarization_palm_bon"),
        ("one:judge=llm", "other", r"'one' has no judge 'llm'. There are: gold\."),
        (
            "one:colour=red",
            "other",
            r"'colour=red' chooses nothing of 'one'. Type AXIS=VALUE with one of the axes task",
        ),
        ("one:judge", "other", r"'judge' chooses nothing of 'one'"),
    ],
)
def test_unknown_sides_are_refused_with_those_there_are(tmp_path, left, right, message):
    grid = two(tmp_path)
    with pytest.raises(ConfigError, match=message):
        compare(grid.store, left, right)


def test_where_several_panels_are_alike_one_has_to_be_chosen(tmp_path):
    grid = SyntheticGrid(tmp_path, "betas")
    for beta in (0.1, 0.2):
        grid.cell("de", "de", PATTERN, **{"optimizer.beta": beta})
    two(tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"cannot be compared as they are\. .*like it \(optimizer.beta=0.1; optimizer.beta=0.2\); choose one with",
    ):
        compare(grid.write().store, "one", "betas")
    found = findings(grid, "one", "betas:optimizer.beta=0.2")
    assert row(found["compare_means"])["cells"] == 1
