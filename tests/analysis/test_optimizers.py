"""Optimizers side by side: paired with best-of-n by prompt, counted, and placed on the frontier."""

import itertools

import numpy as np
import pytest
from synthetic import N_SAMPLES, OPTIMIZERS, SyntheticGrid, five, validated

from xling.analysis.matrix.fold_grid import fold_grid
from xling.analysis.matrix.types import CHANCE


def folded(grid):
    return fold_grid(grid.write().store, grid.name)


def test_differences_to_best_of_n_are_paired_by_prompt(tmp_path):
    grid = SyntheticGrid(tmp_path)
    pattern = (np.arange(100) % 2).astype(float)
    grid.cell("en", "de", pattern)
    grid.cell("en", "de", 0.25 + 0.5 * pattern, optimizer="ppo", columns={"kl": 1.0 + pattern})
    grid.cell("en", "de", 1 - pattern, optimizer="dpo")
    (table,) = folded(grid).optimizers
    assert table.reference == "best_of_n" and "optimizer" not in table.axes and table.axes["judge"] == "gold"
    best, dpo, ppo = table.arms
    assert [arm.name for arm in table.arms] == ["best_of_n", "dpo", "ppo"]
    (cell,) = ppo.cells
    assert (cell.versus.estimate.value, cell.versus.settled) == (0.0, False)
    assert cell.versus.estimate.se == pytest.approx(2.5, rel=0.1)  # half of that of either win rate, not its root sum
    assert dpo.cells[0].versus.estimate.se == pytest.approx(10, rel=0.1)
    assert (cell.kl.value, cell.kl_bound) == (1.5, None)
    assert best.cells[0].kl is None and best.cells[0].kl_bound == pytest.approx(np.log(4) - 0.75)
    assert best.cells[0].versus is None and best.versus is None


def test_cells_above_50_and_means_over_cells_and_seeds(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for optimizer, lift in (("best_of_n", 0.0), ("ppo", 0.25)):
        for (source, target), seed in itertools.product(itertools.product(("de", "en"), repeat=2), range(3)):
            base = 0.5 if source == target else 0.25
            wins = np.full(8, base + lift) + np.array([0.0, 0.05 * seed] * 4)
            prompts = [f"{target}{i}" for i in range(8)]
            grid.cell(source, target, wins, seed=seed, optimizer=optimizer, prompts=prompts)
    grid.cell("ru", "de", optimizer="ppo", fails="align")
    (table,) = folded(grid).optimizers
    best, ppo = table.arms
    assert (best.above_50, ppo.above_50) == (0, 2)
    assert best.mean.value == pytest.approx(100 * (0.375 + 0.025)) and best.mean.seeds == 3
    assert ppo.mean.n == 16
    assert ppo.versus.estimate.value == pytest.approx(25) and ppo.versus.settled
    assert [(c.source, c.status) for c in ppo.cells if c.win is None] == [("ru", "blocked")]


def test_settings_of_one_optimizer_are_arms_and_the_largest_n_is_the_reference(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for n, win in ((2, 0.5), (4, 0.75)):
        grid.cell("de", "de", [win] * 4, **{"optimizer.n": n})
    for beta in (0.1, 1.0):
        grid.cell("de", "de", [0.5] * 4, optimizer="rloo", **{"optimizer.beta": beta})
    (table,) = folded(grid).optimizers
    names = [arm.name for arm in table.arms]
    assert names == ["best_of_n n=2", "best_of_n n=4", "rloo beta=0.1", "rloo beta=1.0"]
    assert table.reference in ("best_of_n n=2", "best_of_n n=4")


def test_without_best_of_n_nothing_is_subtracted_and_one_optimizer_makes_no_table(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for optimizer in ("ppo", "rloo"):
        grid.cell("de", "de", [1.0, 0.5], optimizer=optimizer)
    (table,) = folded(grid).optimizers
    assert table.reference == "" and all(arm.versus is None for arm in table.arms)
    alone = SyntheticGrid(tmp_path, "alone")
    alone.cell("de", "de", [1.0, 0.5])
    matrix = folded(alone)
    assert matrix.optimizers == [] and matrix.frontiers == []


def test_an_optimizer_that_failed_everywhere_is_shown_as_such(tmp_path):
    grid = SyntheticGrid(tmp_path)
    grid.cell("de", "de", [1.0, 0.5])
    grid.cell("de", "de", optimizer="grpo", fails="align")
    matrix = folded(grid)
    (table,) = matrix.optimizers
    best, failed = table.arms
    assert (failed.name, failed.mean, failed.versus, failed.above_50) == ("grpo", None, None, 0)
    assert [cell.status for cell in failed.cells] == ["blocked"] and best.mean.value == 75
    assert matrix.frontiers == []  # nothing to compare


# --- the frontier -----------------------------------------------------------------------------------------


def pool_grid(root):
    """Two prompts, four samples; the reward likes what the judge likes in the first prompt only."""
    grid = SyntheticGrid(root)
    scores = {"pool": np.array([[1.0, 2, 3, 4], [1.0, 2, 3, 4]]), "baseline": np.array([[0.0, 4.0], [0.0, 4.0]])}
    quality = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    columns = {"baseline_reward": [2.0, 2.0], "baseline_quality": [0.2, 0.2]}
    picks = columns | {"reward": [4.0, 4.0], "quality": [0.4, 0.1]}
    curve = np.linspace(0.5, 1.0, N_SAMPLES) * np.ones((2, 1))
    grid.cell("en", "de", [1.0, 1.0], pool=quality, scores=scores, columns=picks, curve=curve)
    return grid, scores, columns


def test_points_of_best_of_k_by_hand(tmp_path):
    grid, scores, columns = pool_grid(tmp_path)
    own = columns | {"reward": [6.0, 2.0], "quality": [0.3, 0.3], "kl": [1.0, 3.0]}
    grid.cell("en", "de", [0.5, 1.0], scores=scores, columns=own, optimizer="ppo")
    (frontier,) = folded(grid).frontiers
    found = {(point.arm, point.k): point for point in frontier.points}
    assert list(found) == [("best_of_n", 1), ("best_of_n", 2), ("best_of_n", 4), ("ppo", None)]
    one, two, four, ppo = found.values()
    assert [point.kl.value for point in found.values()] == pytest.approx([0, np.log(2) - 0.5, np.log(4) - 0.75, 2])
    # the standard deviation of the baseline's rewards is 2; a mean of 2.5, of the best of two 20/6, of four 4
    assert [point.reward.value for point in (one, two, four)] == pytest.approx([0.25, (20 / 6 - 2) / 2, 1.0])
    assert [point.quality.value for point in (one, two, four)] == pytest.approx([0.05, 0.05, 0.05])
    assert [point.win.value for point in (one, two, four)] == pytest.approx([50, 100 * (0.5 + 0.5 / 3), 100])
    assert (ppo.reward.value, ppo.quality.value, ppo.win.value) == pytest.approx((1.0, 0.1, 75))
    assert four.quality.low < 0.05 < four.quality.high  # the prompts differ
    assert frontier.cells == 1


def test_the_last_point_of_the_curve_is_the_entry(tmp_path):
    grid, scores, columns = pool_grid(tmp_path)
    grid.cell("en", "de", [0.5, 1.0], scores=scores, columns=columns, optimizer="ppo")
    matrix = folded(grid)
    entry = matrix.blocks[0].panels[0].entries[0]
    last = matrix.frontiers[0].points[2]
    assert (entry.reward.value, entry.quality.value) == pytest.approx((last.reward.value, last.quality.value))
    assert (entry.reward.low, entry.quality.high) == pytest.approx((last.reward.low, last.quality.high))
    assert entry.reward_scale == 2


def test_a_judge_of_picks_alone_gives_best_of_n_alone(tmp_path):
    """As judge=llm, which is asked about some prompts and no other sample of the pool."""
    grid = SyntheticGrid(tmp_path)
    scores = {"pool": np.ones((5, N_SAMPLES)), "baseline": np.array([[0.0, 2.0]] * 5)}
    kwargs = {"judge": "llm", "curve": np.empty((3, 0)), "scores": scores}
    grid.cell("en", "de", [1.0, 1.0, 0.5], columns={"reward": [1.0, 2.0, 3.0], "quality": [None] * 3}, **kwargs)
    grid.cell("en", "de", [1.0, 0.5, 0.5], optimizer="ppo", **kwargs)
    best, ppo = folded(grid).frontiers[0].points
    assert (best.k, best.reward.value, best.quality) == (N_SAMPLES, 2.0, None)
    assert (best.win.value, ppo.win.value) == pytest.approx((250 / 3, 200 / 3))


def test_the_frontier_is_over_cells_that_all_optimizers_have(tmp_path):
    grid = SyntheticGrid(tmp_path)
    for target, win in (("de", 0.25), ("en", 1.0)):
        prompts = [f"{target}{i}" for i in range(4)]
        grid.cell("de", target, [win] * 4, prompts=prompts)
    grid.cell("de", "de", [0.75] * 4, prompts=[f"de{i}" for i in range(4)], optimizer="rloo")
    (frontier,) = folded(grid).frontiers
    assert frontier.cells == 1
    assert [point.win.value for point in frontier.points] == [25, 25, 25, 75]  # en is not in it


def test_learning_curves_are_means_over_the_steps_that_all_cells_have(tmp_path):
    grid = SyntheticGrid(tmp_path)
    rows = [{"step": step, "loss": 1.0} | validated(step, 0.5) for step in (10, 20, 30)] + [{"step": 31, "loss": 2.0}]
    for source, curve in (("de", rows), ("en", [{"step": s} | validated(s, 1.5) for s in (10, 30)])):
        grid.cell(source, "de", [0.5, 1.0])
        grid.cell(source, "de", [0.5, 1.0], optimizer="ppo", learning=curve)
    (frontier,) = folded(grid).frontiers
    assert [(row.arm, row.step, row.reward, row.quality) for row in frontier.learning] == [
        ("ppo", 10, 1.0, 10.0),
        ("ppo", 30, 1.0, 30.0),
    ]


def test_five_optimizers_three_by_three_and_two_seeds(tmp_path):
    matrix = folded(five(tmp_path, seeds=(0, 1), prompts=20))
    (table,) = matrix.optimizers
    assert [arm.name for arm in table.arms] == list(OPTIMIZERS)
    for arm, block in zip(table.arms, matrix.blocks, strict=True):
        entries = block.panels[0].entries
        assert arm.above_50 == sum(entry.win.low > CHANCE for entry in entries)
        assert {(c.source, c.target): c.win.value for c in arm.cells} == {
            (e.source, e.target): e.win.value for e in entries
        }
    assert matrix.frontiers[0].cells == 9
